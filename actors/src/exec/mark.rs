//! Takes Adit's own marked line out of a program's standard error, exactly.
//!
//! The line comes first unless the login shell's own start-up files print something before it, which belongs to the
//! program's output and passes. What comes after it is the program's, byte for byte.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use uuid::Uuid;

use super::command;

/// How much standard error may come before the mark, in bytes. Start-up files that print more than this are not
/// ours to search for ever; the mark then counts as absent.
const SEARCH_LIMIT: usize = 65_536;
/// A process id has at most 7 digits on Linux (PID_MAX_LIMIT is 4,194,304); twice that is generous.
const PID_LINE_LIMIT: usize = 16;

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
/// Searching --mark--> PidLine --newline--> CwdMark (only with `cwd`) --> Passing
///     |                  |
///     +--- limit --------+--- not a number ---> Passing, nothing found
/// ```
#[derive(Debug)]
pub(crate) struct MarkFilter {
    state: State,
    mark: Vec<u8>,
    expects_cwd: bool,
    held: BytesMut,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Searching { seen: usize },
    PidLine,
    CwdMark,
    Passing,
}

impl MarkFilter {
    pub(crate) fn new(exec_id: Uuid, expects_cwd: bool) -> Self {
        let mark = format!("{} ", command::mark(exec_id)).into_bytes();
        Self {
            state: State::Searching { seen: 0 },
            mark,
            expects_cwd,
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
            let (step_found, go_on) = self.step(&mut passed);
            // A directory that can't be entered is the stronger news of the two.
            found = step_found.or(found);
            if !go_on {
                return (passed.freeze(), found);
            }
        }
    }

    /// Standard error is over: what was held back is output after all.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.state = State::Passing;
        self.held.split().freeze()
    }

    /// One transition; the flag says whether another may follow at once.
    fn step(&mut self, passed: &mut BytesMut) -> (Option<Finding>, bool) {
        match self.state {
            State::Searching { seen } => (None, self.search(seen, passed)),
            State::PidLine => self.read_pid(passed),
            State::CwdMark => (
                self.read_cwd(passed),
                self.state == State::Passing && !self.held.is_empty(),
            ),
            State::Passing => {
                passed.unsplit(self.held.split());
                (None, false)
            }
        }
    }

    fn search(&mut self, seen: usize, passed: &mut BytesMut) -> bool {
        if let Some(start) = memmem::find(&self.held, &self.mark) {
            passed.unsplit(self.held.split_to(start));
            drop(self.held.split_to(self.mark.len()));
            self.state = State::PidLine;
            return true;
        }
        let keep = longest_suffix_that_begins(&self.held, &self.mark);
        let release = self.held.len() - keep;
        passed.unsplit(self.held.split_to(release));
        let seen = seen + release;
        self.state = if seen > SEARCH_LIMIT {
            State::Passing
        } else {
            State::Searching { seen }
        };
        self.state == State::Passing
    }

    fn read_pid(&mut self, passed: &mut BytesMut) -> (Option<Finding>, bool) {
        let Some(end) = memchr::memchr(b'\n', &self.held) else {
            if self.held.len() > PID_LINE_LIMIT {
                self.state = State::Passing;
                passed.extend_from_slice(&self.mark);
                return (None, true);
            }
            return (None, false);
        };
        let line = self.held.split_to(end + 1);
        let digits = line
            .strip_suffix(b"\n")
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(pid) = digits.and_then(|digits| digits.parse().ok()) else {
            self.state = State::Passing;
            passed.extend_from_slice(&self.mark);
            passed.unsplit(line);
            return (None, true);
        };
        self.state = if self.expects_cwd {
            State::CwdMark
        } else {
            State::Passing
        };
        (Some(Finding::Started { pid }), true)
    }

    fn read_cwd(&mut self, passed: &mut BytesMut) -> Option<Finding> {
        let name = self.mark.strip_suffix(b" ").unwrap_or_default();
        let expected = [name, command::CWD_SUFFIX.as_bytes()].concat();
        if self.held.starts_with(&expected) {
            drop(self.held.split_to(expected.len()));
            self.state = State::Passing;
            return Some(Finding::CwdNotFound);
        }
        if !expected.starts_with(&self.held) {
            self.state = State::Passing;
            passed.unsplit(self.held.split());
        }
        None
    }
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

    const ID: Uuid = Uuid::from_u128(7);

    fn run(input: &[u8], chunks: &[usize], expects_cwd: bool) -> (Vec<u8>, Vec<Finding>) {
        let mut filter = MarkFilter::new(ID, expects_cwd);
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
        let mark = command::mark(ID);
        let table: Vec<(String, bool, &str, Vec<Finding>)> = vec![
            (
                format!("{mark} 42\nhello"),
                false,
                "hello",
                vec![Finding::Started { pid: 42 }],
            ),
            (
                format!("{mark} 42\n"),
                true,
                "",
                vec![Finding::Started { pid: 42 }],
            ),
            (
                format!("{mark} 42\nadit-no"),
                true,
                "adit-no",
                vec![Finding::Started { pid: 42 }],
            ),
            (
                format!("{mark} 42\n{mark}-cwd\n"),
                true,
                "",
                vec![Finding::CwdNotFound],
            ),
            (
                format!("motd\n{mark} 1\nx\n"),
                false,
                "motd\nx\n",
                vec![Finding::Started { pid: 1 }],
            ),
            ("no mark at all".to_owned(), false, "no mark at all", vec![]),
            (mark.clone(), false, &mark, vec![]),
        ];
        for (input, expects_cwd, output, findings) in table {
            let (passed, found) = run(input.as_bytes(), &[], expects_cwd);
            assert_eq!(String::from_utf8(passed).unwrap(), output, "{input:?}");
            assert_eq!(found, findings, "{input:?}");
        }
        let broken = format!("{mark} not a number\nrest");
        assert_eq!(
            run(broken.as_bytes(), &[], false),
            (broken.clone().into_bytes(), vec![])
        );
        let endless = format!("{mark} 11111111111111111111111111");
        assert_eq!(
            run(endless.as_bytes(), &[3], false),
            (endless.clone().into_bytes(), vec![])
        );
    }

    #[test]
    fn search_ends_at_the_limit() {
        let noise = vec![b'x'; SEARCH_LIMIT + 1];
        let late = [noise.as_slice(), format!("{} 5\n", command::mark(ID)).as_bytes()].concat();
        assert_eq!(run(&late, &[SEARCH_LIMIT + 1], false), (late.clone(), vec![]));
    }

    proptest! {
        #[test]
        fn only_the_line_is_taken_out(
            before in prop::collection::vec(any::<u8>(), 0..80),
            after in prop::collection::vec(any::<u8>(), 0..80),
            chunks in prop::collection::vec(1usize..50, 1..8),
            expects_cwd: bool,
        ) {
            let input = [before.as_slice(), format!("{} 77\n", command::mark(ID)).as_bytes(), &after].concat();
            let (passed, found) = run(&input, &chunks, expects_cwd);
            prop_assert_eq!(passed, [before, after].concat());
            prop_assert_eq!(found, vec![Finding::Started { pid: 77 }]);
        }
    }
}
