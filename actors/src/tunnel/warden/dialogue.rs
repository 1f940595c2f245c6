//! What is said between Adit and a warden, as a plain struct. The instance is not Adit's: anything may come from there.

use uuid::Uuid;

use super::Receipt;

/// The program.
const SCRIPT: &str = include_str!("warden.sh");
/// Longest line that means something is `ended` with an exec id, signals and a number of ten digits: 68 bytes.
const LONGEST_LINE: usize = 128;
/// What a login's own start-up files may print before `ready`, in bytes. One that prints more is not a shell with a motd.
const NOISE_LIMIT: usize = 65_536;

/// Something that a warden said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It runs and takes orders.
    Ready,
    /// It has ended an exec, as far as it could.
    Ended { exec_id: Uuid, receipt: Receipt },
    /// Whatever runs there, it is no warden.
    Nonsense,
}

/// Understands one warden's output. What is no line of the protocol means nothing.
#[derive(Debug)]
pub(crate) struct Dialogue {
    greeting: String,
    line: Vec<u8>,
    /// The present line is longer than any that means something.
    is_overlong: bool,
    is_ready: bool,
    noise: usize,
}

impl Dialogue {
    /// With a warden that was started with [`command_line`] and this nonce.
    pub(crate) fn new(nonce: &str) -> Self {
        Self {
            greeting: format!("ready {nonce}"),
            line: Vec::new(),
            is_overlong: false,
            is_ready: false,
            noise: 0,
        }
    }

    /// Takes the next bytes of its standard output, in order.
    pub(crate) fn hear(&mut self, data: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        for byte in data {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.is_overlong) {
                    said.extend(self.understand(&line));
                }
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(*byte);
            } else {
                self.is_overlong = true;
            }
            if !self.is_ready {
                self.noise += 1;
                if self.noise == NOISE_LIMIT {
                    said.push(Said::Nonsense);
                }
            }
        }
        said
    }

    fn understand(&mut self, line: &[u8]) -> Option<Said> {
        let line = std::str::from_utf8(line).ok()?;
        if !self.is_ready {
            self.is_ready = self.noise < NOISE_LIMIT && line == self.greeting;
            return self.is_ready.then_some(Said::Ready);
        }
        let mut words = line.strip_prefix("ended ")?.split(' ');
        let exec_id: Uuid = words.next()?.parse().ok()?;
        let sent = match words.next()? {
            "-" => vec![],
            "TERM" => vec!["TERM"],
            "KILL" => vec!["KILL"],
            "TERM,KILL" => vec!["TERM", "KILL"],
            _ => return None,
        };
        let left = words.next()?.parse().ok()?;
        let receipt = Receipt { sent, left };
        words.next().is_none().then_some(Said::Ended { exec_id, receipt })
    }
}

/// The order to end an exec. `session` is the process id of its shell, where that is known.
pub(crate) fn order(exec_id: Uuid, session: Option<u32>) -> String {
    format!("end {exec_id} {}\n", session.unwrap_or(0))
}

/// What the login shell is to run. `nonce` and `mark` are letters and digits.
pub(crate) fn command_line(nonce: &str, mark: &str) -> String {
    let quoted = SCRIPT.replace('\'', "'\\''");
    format!("exec sh -c '{quoted}' adit-warden {nonce} {mark}")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    const ID: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

    fn ended(sent: &[&'static str], left: u32) -> Vec<Said> {
        vec![Said::Ended {
            exec_id: ID,
            receipt: Receipt {
                sent: sent.to_vec(),
                left,
            },
        }]
    }

    #[test]
    fn lines() {
        let table = [
            (format!("ended {ID} TERM 0\n"), ended(&["TERM"], 0)),
            (format!("ended {ID} TERM,KILL 17\n"), ended(&["TERM", "KILL"], 17)),
            (
                format!("ended {ID} KILL 4294967295\n"),
                ended(&["KILL"], u32::MAX),
            ),
            (format!("ended {ID} - 0\n"), ended(&[], 0)),
            (format!("ended {ID} - 0"), vec![]),
            (format!("ended {ID} KILL,TERM 0\n"), vec![]),
            (format!("ended {ID} TERM -1\n"), vec![]),
            (format!("ended {ID} TERM 4294967296\n"), vec![]),
            (format!("ended {ID} TERM 0 0\n"), vec![]),
            (format!("ended {ID}  TERM 0\n"), vec![]),
            (format!("ended {ID} TERM\n"), vec![]),
            (format!(" ended {ID} TERM 0\n"), vec![]),
            (format!("ended {ID} TERM 0\r\n"), vec![]),
            ("ended nobody TERM 0\n".to_owned(), vec![]),
            ("ready abc\n".to_owned(), vec![]),
            (format!("{}ended {ID} TERM 0\n", "x".repeat(1_000)), vec![]),
            (format!("{}\nended {ID} - 0\n", "x".repeat(1_000)), ended(&[], 0)),
        ];
        for (line, said) in table {
            for size in [1, 7, 4_096] {
                let mut dialogue = Dialogue::new("abc");
                assert_eq!(dialogue.hear(b"ready abc\n"), [Said::Ready]);
                let pieces = line.as_bytes().chunks(size);
                let heard: Vec<Said> = pieces.flat_map(|piece| dialogue.hear(piece)).collect();
                assert_eq!(heard, said, "{line:?}");
            }
        }
    }

    #[test]
    fn nothing_counts_before_the_greeting() {
        let mut dialogue = Dialogue::new("abc");
        let early = format!("welcome\nready xyz\nready\nended {ID} TERM 0\nready ab");
        assert_eq!(dialogue.hear(early.as_bytes()), []);
        assert_eq!(dialogue.hear(b"c\n"), [Said::Ready]);
    }

    #[test]
    fn a_login_that_prints_without_end_is_no_warden() {
        let mut dialogue = Dialogue::new("abc");
        let noise = vec![b'y'; NOISE_LIMIT + 10];
        assert_eq!(dialogue.hear(&noise), [Said::Nonsense], "once");
        assert_eq!(dialogue.hear(b"\nready abc\n"), [], "and for good");
    }

    /// Through a shell, as the login shell gets it.
    #[test]
    fn the_command_line_runs_the_script() {
        let output = Command::new("/bin/sh")
            .args(["-c", &command_line("abc", "0123")])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(Dialogue::new("abc").hear(&output.stdout), [Said::Ready]);
        assert!(output.status.success());
    }

    proptest! {
        #[test]
        fn whatever_is_printed_is_survived(
            pieces in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                Just(b"ready abc\n".to_vec()),
                Just(format!("ended {ID} TERM 0\n").into_bytes()),
            ], 0..40),
        ) {
            let mut dialogue = Dialogue::new("abc");
            let said: Vec<Said> = pieces.iter().flat_map(|piece| dialogue.hear(piece)).collect();
            prop_assert!(dialogue.line.len() <= LONGEST_LINE);
            let is_receipt = |said: &Said| matches!(said, Said::Ended { exec_id, .. } if *exec_id == ID);
            prop_assert!(said.iter().skip(1).all(is_receipt), "{:?}", said);
            prop_assert!(said.first().is_none_or(|said| *said == Said::Ready));
        }
    }
}
