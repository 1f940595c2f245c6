//! Takes Adit's own marked line out of a program's standard error, exactly.
//!
//! The line comes first unless the login shell's own start-up files print something before it, which belongs to the
//! program's output and passes, even when it shows the mark as a shell does that traces its commands (`set -x`, `set -v`).
//! What comes after it is the program's, byte for byte.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::command;

/// How much standard error may come before the mark, in bytes. Start-up files that print more than this are not
/// ours to search for ever; the mark then counts as absent.
const SEARCH_LIMIT: usize = 65_536;
/// What follows the mark is short: a process id has at most 7 digits on Linux (PID_MAX_LIMIT is 4,194,304).
const LINE_LIMIT: usize = 16;

/// What the filter found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The shell runs our line; the program will have this process id and lead its process group.
    Started {
        /// Process id of the shell, which `exec` keeps.
        pid: u32,
    },
    /// The directory could not be entered; the program was not run.
    CwdNotFound,
}

/// The filter. Feed it all of standard error in order, then [`MarkFilter::finish`].
///
/// ```text
///           -------mark------>
/// Searching                    Line --start or `cwd`--> Passing
///     |     <-----neither-----
///     +-----limit-----> Passing, nothing found
/// ```
#[derive(Debug)]
pub(crate) struct MarkFilter {
    state: State,
    mark: Vec<u8>,
    held: BytesMut,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Searching { seen: usize },
    Line { seen: usize },
    Passing,
}

impl State {
    /// Once so many bytes were no line of ours.
    fn after(seen: usize) -> Self {
        if seen > SEARCH_LIMIT {
            Self::Passing
        } else {
            Self::Searching { seen }
        }
    }
}

impl MarkFilter {
    pub(crate) fn new(mark: &str) -> Self {
        Self {
            state: State::Searching { seen: 0 },
            mark: mark.as_bytes().to_vec(),
            held: BytesMut::new(),
        }
    }

    /// Takes the next bytes; returns what of the program's output can be passed on now, and what was found.
    pub(crate) fn push(&mut self, data: Bytes) -> (Bytes, Option<Finding>) {
        if self.state == State::Passing {
            return (data, None);
        }
        self.held.extend_from_slice(&data);
        let mut passed = BytesMut::new();
        let mut found = None;
        loop {
            let goes_on = match self.state {
                State::Searching { seen } => self.search(seen, &mut passed),
                State::Line { seen } => {
                    let line = self.read_line(seen, &mut passed);
                    found = line.flatten();
                    line == Some(None)
                }
                State::Passing => false,
            };
            if !goes_on {
                break;
            }
        }
        if self.state == State::Passing {
            passed.unsplit(self.held.split());
        }
        (passed.freeze(), found)
    }

    /// Standard error is over: what was held back is output after all.
    pub(crate) fn finish(&mut self) -> Bytes {
        let mut rest = BytesMut::new();
        if matches!(self.state, State::Line { .. }) {
            rest.extend_from_slice(&self.mark);
        }
        rest.unsplit(self.held.split());
        self.state = State::Passing;
        rest.freeze()
    }

    /// Whether the mark is there; what comes before it is passed on.
    fn search(&mut self, seen: usize, passed: &mut BytesMut) -> bool {
        if let Some(start) = memmem::find(&self.held, &self.mark) {
            passed.unsplit(self.held.split_to(start));
            drop(self.held.split_to(self.mark.len()));
            self.state = State::Line { seen: seen + start };
            return true;
        }
        let keep = longest_suffix_that_begins(&self.held, &self.mark);
        let release = self.held.len() - keep;
        passed.unsplit(self.held.split_to(release));
        self.state = State::after(seen + release);
        false
    }

    /// What the line says, once it is whole; nothing if the mark was no beginning of ours, and is passed on.
    fn read_line(&mut self, seen: usize, passed: &mut BytesMut) -> Option<Option<Finding>> {
        let end = memchr::memchr(b'\n', &self.held);
        if end.is_none() && self.held.len() <= LINE_LIMIT {
            return None;
        }
        let found = end.and_then(|end| self.held.get(..end)).and_then(finding);
        if let (Some(_), Some(end)) = (found, end) {
            drop(self.held.split_to(end + 1));
            self.state = State::Passing;
        } else {
            passed.extend_from_slice(&self.mark);
            self.state = State::after(seen + self.mark.len());
        }
        Some(found)
    }
}

/// What stands between the mark and the end of its line.
fn finding(rest: &[u8]) -> Option<Finding> {
    if rest == command::CWD_SUFFIX.as_bytes() {
        return Some(Finding::CwdNotFound);
    }
    let digits = std::str::from_utf8(rest.strip_prefix(b" ")?).ok()?;
    digits.parse().ok().map(|pid| Finding::Started { pid })
}

/// Length of the longest suffix of `data` that is a proper prefix of `pattern`.
fn longest_suffix_that_begins(data: &[u8], pattern: &[u8]) -> usize {
    let longest = data.len().min(pattern.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|length| {
            pattern
                .get(..*length)
                .is_some_and(|prefix| data.ends_with(prefix))
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARK: &str = "adit-00000000000000000000000000000007";

    fn run(input: &[u8], chunks: &[usize]) -> (Vec<u8>, Vec<Finding>) {
        let mut filter = MarkFilter::new(MARK);
        let mut rest = input;
        let mut passed = Vec::new();
        let mut found = Vec::new();
        let mut sizes = chunks.iter().copied().cycle();
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
            let (chunk, tail) = rest.split_at(size);
            rest = tail;
            let (data, finding) = filter.push(Bytes::copy_from_slice(chunk));
            passed.extend_from_slice(&data);
            found.extend(finding);
        }
        passed.extend_from_slice(&filter.finish());
        (passed, found)
    }

    #[test]
    fn table() {
        let started = |pid| vec![Finding::Started { pid }];
        let table: Vec<(String, String, Vec<Finding>)> = vec![
            (format!("{MARK} 42\nhello"), "hello".into(), started(42)),
            (format!("{MARK} 42\n"), String::new(), started(42)),
            (
                format!("{MARK} 42\n{MARK}-cwd\n"),
                format!("{MARK}-cwd\n"),
                started(42),
            ),
            (format!("{MARK}-cwd\n"), String::new(), vec![Finding::CwdNotFound]),
            (format!("motd\n{MARK} 1\nx\n"), "motd\nx\n".into(), started(1)),
            (
                format!("+ printf '{MARK} %s\\n' 1\n{MARK} 1\n+ exec x\n"),
                format!("+ printf '{MARK} %s\\n' 1\n+ exec x\n"),
                started(1),
            ),
            (
                format!(
                    "{{ printf '{MARK}-cwd\\n' >&2; exit 1; }}; printf '{MARK} %s\\n' \"$$\" >&2\n{MARK}-cwd\n"
                ),
                format!("{{ printf '{MARK}-cwd\\n' >&2; exit 1; }}; printf '{MARK} %s\\n' \"$$\" >&2\n"),
                vec![Finding::CwdNotFound],
            ),
            ("no mark at all".into(), "no mark at all".into(), vec![]),
            (MARK.into(), MARK.into(), vec![]),
            (format!("{MARK} 4"), format!("{MARK} 4"), vec![]),
            (
                format!("{MARK} not a number\nrest"),
                format!("{MARK} not a number\nrest"),
                vec![],
            ),
            (
                format!("{MARK} 11111111111111111111"),
                format!("{MARK} 11111111111111111111"),
                vec![],
            ),
        ];
        for (input, output, findings) in table {
            for chunks in [&[][..], &[1], &[3, 50]] {
                let (passed, found) = run(input.as_bytes(), chunks);
                assert_eq!(String::from_utf8(passed).unwrap(), output, "{input:?}");
                assert_eq!(found, findings, "{input:?}");
            }
        }
    }

    /// With all that a program can know of its exec.
    #[test]
    fn a_program_cannot_write_the_mark() {
        use crate::exec::request::{ExecRequest, ExecRequestParts};
        let script =
            "printf 'adit-%s-cwd\\n' \"$ADIT_EXEC_ID\" >&2; tr '\\0' ' ' </proc/$$/cmdline >&2; env >&2";
        let request = ExecRequest::validate(ExecRequestParts {
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            cwd: Some("/".to_owned()),
            ..ExecRequestParts::default()
        })
        .unwrap();
        let mark = command::new_mark();
        let line = command::line(&request, uuid::Uuid::from_u128(7), "t", &mark);
        let output = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(line)
            .output()
            .unwrap();
        let mut filter = MarkFilter::new(&mark);
        let (passed, found) = filter.push(Bytes::from(output.stderr));
        assert!(matches!(found, Some(Finding::Started { .. })));
        assert!(memmem::find(&passed, b"ADIT_EXEC_ID=").is_some());
        assert_eq!(memmem::find(&passed, mark.as_bytes()), None);
    }

    #[test]
    fn marks_that_are_no_line_count_for_the_limit() {
        let noise = MARK.repeat(SEARCH_LIMIT / MARK.len() + 2);
        let late = format!("{noise}\n{MARK} 5\n").into_bytes();
        let (passed, found) = run(&late, &[4_096]);
        assert_eq!((passed == late, found), (true, vec![]));
    }

    #[test]
    fn search_ends_at_the_limit() {
        let noise = vec![b'x'; SEARCH_LIMIT + 1];
        let late = [noise.as_slice(), format!("{} 5\n", MARK).as_bytes()].concat();
        assert_eq!(run(&late, &[SEARCH_LIMIT + 1]), (late.clone(), vec![]));
    }

    proptest! {
        #[test]
        fn only_the_line_is_taken_out(
            before in prop::collection::vec(any::<u8>(), 0..80),
            after in prop::collection::vec(any::<u8>(), 0..80),
            chunks in prop::collection::vec(1usize..50, 1..8),
        ) {
            let input = [before.as_slice(), format!("{} 77\n", MARK).as_bytes(), &after].concat();
            let (passed, found) = run(&input, &chunks);
            prop_assert_eq!(passed, [before, after].concat());
            prop_assert_eq!(found, vec![Finding::Started { pid: 77 }]);
        }
    }
}
