//! How far a program's name, or whatever else must stand before a secret, holds for what stands behind it.
//!
//! Found once for a whole text, so that each of a program's options is seen, however many there are, and in one pass.

use std::ops::Range;

use regex::bytes::Regex;

/// How far it holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach {
    /// To the end of the text.
    Rest,
    /// In a script: as far as the command goes, outside of its quotes.
    Command,
}

impl Reach {
    /// Where something may stand that must stand behind `before`: in order and apart, empty when `before` is nowhere.
    pub(super) fn of(self, before: &Regex, text: &[u8]) -> Vec<Range<usize>> {
        match self {
            // From inside of it, as it may end with the border that the next word begins with.
            Self::Rest => before
                .find(text)
                .map(|found| found.start() + 1..text.len())
                .into_iter()
                .collect(),
            Self::Command => commands(text, before.find_iter(text).map(|found| found.end())),
        }
    }
}

/// The first place at or after `from` that is in `reach`.
pub(super) fn next_in(reach: &[Range<usize>], from: usize) -> Option<usize> {
    let range = reach.get(reach.partition_point(|range| range.end <= from))?;
    Some(range.start.max(from))
}

/// Whether a shell would take `text` for more than one command.
pub(super) fn holds_commands(text: &str) -> bool {
    let mut scan = Scan::default();
    scan.enter();
    let next = text.bytes().skip(1).map(Some).chain([None]);
    text.bytes().zip(next).any(|(byte, next)| {
        scan.step(byte, next);
        !scan.is_alive()
    })
}

/// The places outside of quotes as seen from one of `starts`, which are in order, up to the end of its command.
fn commands(text: &[u8], starts: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut starts = starts.peekable();
    let mut scan = Scan::default();
    let mut places: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if !scan.is_alive() {
            let Some(start) = starts.peek() else { break };
            at = at.max(*start);
        }
        if starts.next_if(|start| *start <= at).is_some() {
            scan.enter();
        }
        let Some(byte) = text.get(at) else { break };
        if scan.outside {
            match places.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => places.push(at..at + 1),
            }
        }
        scan.step(*byte, text.get(at + 1).copied());
        at += 1;
    }
    places
}

/// Where a text stands as seen from each of several beginnings at once: what is in quotes for one may be outside for
/// another (`su mysql -c "mysql -p..."`). All that are in one place go on as one, so it is one pass for all.
#[derive(Default)]
struct Scan {
    outside: bool,
    in_single: bool,
    in_double: bool,
    last: u8,
}

impl Scan {
    /// One more beginning is here.
    fn enter(&mut self) {
        self.outside = true;
    }

    fn is_alive(&self) -> bool {
        self.outside || self.in_single || self.in_double
    }

    fn step(&mut self, byte: u8, next: Option<u8>) {
        match byte {
            b'\'' => std::mem::swap(&mut self.outside, &mut self.in_single),
            b'"' => std::mem::swap(&mut self.outside, &mut self.in_double),
            b'\n' if self.last == b'\\' => {}
            // `2>&1`, `&>file`.
            b'&' if self.last == b'>' || next == Some(b'>') => {}
            b'\n' | b';' | b'|' | b'&' => self.outside = false,
            0 => *self = Self::default(),
            _ => {}
        }
        self.last = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_where_a_shell_ends_it() {
        let table = [
            ("no x", ""),
            ("x a b; c", " a b;"),
            ("x a 2>&1 b | c", " a 2>&1 b |"),
            ("x a &>b c & d", " a &>b c &"),
            ("x a \\\n b\nc", " a \\\n b\n"),
            ("x 'a; b' c & d", " ' c &"),
            ("x \"a' b\" c", " \" c"),
            ("x a\0b", " a\0"),
            // From the first one `y` is in quotes, from the second it is not.
            ("x \"x y\" z; y", " \" y\" z;"),
            ("a; x b; c; x d", " b; d"),
        ];
        let before = Regex::new(r"(?-u:\bx\b)").unwrap();
        for (text, expected) in table {
            let text = text.trim_start_matches("no x");
            let places = Reach::Command.of(&before, text.as_bytes());
            let shown: String = places.into_iter().map(|place| text.get(place).unwrap()).collect();
            assert_eq!(shown, expected, "{text:?}");
        }
    }

    #[test]
    fn the_next_place_is_in_reach() {
        let reach = [2..4, 6..8];
        let next: Vec<_> = (0..9).map(|from| next_in(&reach, from)).collect();
        let some = |place| Some(place);
        assert_eq!(
            next,
            [
                some(2),
                some(2),
                some(2),
                some(3),
                some(6),
                some(6),
                some(6),
                some(7),
                None
            ]
        );
    }

    #[test]
    fn one_command_and_more() {
        for (text, expected) in [
            ("a b", false),
            ("'a; b' \"c | d\"", false),
            ("a; b", true),
            ("a && b", true),
            ("a | b", true),
            ("a\nb", true),
            ("it's a; b", false),
        ] {
            assert_eq!(holds_commands(text), expected, "{text:?}");
        }
    }
}
