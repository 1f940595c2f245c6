//! Patterns at work on an argv.

use std::ops::Range;
use std::time::Duration;

use regex::bytes::{Captures, Regex, RegexBuilder};
use tokio::time::Instant;

use super::Failure;
use super::only::is_about_a_secret;
use super::patterns::{Found, Pattern, Shape};
use super::reach::{Reach, holds_commands, next_in};
use super::shapes::{
    A_COMMAND, NAMED_INSIDE, NAMED_WORD, NEVER_A_SECRET, OPTION, PAIR, PIECES, PROGRAM_INSIDE, PROGRAM_WORD,
};
use super::words::Text;

/// A mark, as [`Compiled::rewritten`] writes it.
const MARK: &str = r"\[REDACTED:[A-Z0-9_]+\]";

/// Patterns, ready to use. Not one `RegexSet` of all: on long argvs that is slower by ten times, as its automaton does
/// not fit into its cache.
pub(super) struct Compiled {
    searches: Vec<Search>,
    never_a_secret: Regex,
    a_command: Regex,
    mark: Regex,
}

/// One way in which a secret of one pattern may stand.
struct Search {
    regex: Regex,
    /// What must stand before it, and how far that holds.
    behind: Option<(Regex, Reach)>,
    label: &'static str,
    only: fn(Found<'_>) -> bool,
    kind: Kind,
}

/// What else a find must be held against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It has a name, and takes the rest of a word: then a list (`password=x&user=y`) or a script is left to the others.
    NamedWord,
    /// It has a name.
    NamedInside,
    Other,
}

/// A search before it is compiled.
struct Source {
    regex: String,
    behind: Option<(String, Reach)>,
    kind: Kind,
}

/// A secret in the text.
struct Secret {
    range: Range<usize>,
    /// Place of the pattern in the list: the lowest gives the label.
    rank: usize,
}

impl Compiled {
    /// # Errors
    /// A pattern that does not compile.
    pub(super) fn new(patterns: &[Pattern]) -> Result<Self, regex::Error> {
        let mut searches = Vec::new();
        for pattern in patterns {
            for Source { regex, behind, kind } in sources_of(&pattern.shape) {
                let behind = behind
                    .map(|(before, reach)| Ok((compile(&before)?, reach)))
                    .transpose()?;
                searches.push(Search {
                    regex: compile(&regex)?,
                    behind,
                    label: pattern.label,
                    only: pattern.only,
                    kind,
                });
            }
        }
        Ok(Self {
            searches,
            never_a_secret: compile(NEVER_A_SECRET)?,
            a_command: compile(A_COMMAND)?,
            mark: compile(MARK)?,
        })
    }

    /// The argv with its secrets replaced by marks; as many words as before.
    ///
    /// It goes on until nothing is found any more, as a mark may give its neighbours another look. So redacting what
    /// is redacted changes nothing. It ends because each round takes text that is in no mark, or joins marks.
    ///
    /// # Errors
    /// Every [`Failure`] but a panic.
    pub(super) fn redact(&self, cmd: &[String], budget: Duration) -> Result<Vec<String>, Failure> {
        let deadline = Instant::now() + budget;
        let mut words = cmd.to_vec();
        loop {
            let text = Text::of(&words)?;
            let secrets = self.secrets(&text, deadline)?;
            if secrets.is_empty() {
                return Ok(words);
            }
            words = text.split(&self.rewritten(&text.text, secrets)?)?;
        }
    }

    /// What is to be replaced, in the order of the list.
    fn secrets(&self, text: &Text, deadline: Instant) -> Result<Vec<Secret>, Failure> {
        let bytes = text.text.as_bytes();
        let marks: Vec<_> = self.mark.find_iter(bytes).map(|mark| mark.range()).collect();
        let mut secrets = Vec::new();
        for (rank, search) in self.searches.iter().enumerate() {
            in_time(deadline)?;
            let reach = search.reach(bytes);
            let mut at = 0;
            while let Some(captures) = search.next(bytes, &reach, &mut at) {
                in_time(deadline)?;
                let mut groups = captures.iter().flatten();
                let Some(whole) = groups.next() else { break };
                // A class like `[^x]` matches a byte, which may be the last one of a character.
                let start = text.text.floor_char_boundary(whole.start());
                let mut before = None;
                for group in groups {
                    let before = *before.get_or_insert(piece(&text.text, start..group.start())?);
                    let secret = piece(&text.text, group.range())?;
                    let range = widened(group.range(), &marks);
                    if !is_mark(&range, &marks)
                        && self.is_secret(search, Found { before, secret }, group.start(), text)
                    {
                        secrets.push(Secret { range, rank });
                    }
                }
            }
        }
        Ok(secrets)
    }

    fn is_secret(&self, search: &Search, found: Found<'_>, place: usize, text: &Text) -> bool {
        let secret = found.secret.as_bytes();
        let never = self.never_a_secret.is_match(secret)
            || (self.a_command.is_match(secret) && text.is_in_script(place));
        let left_to_others =
            search.kind == Kind::NamedWord && (is_list(found.secret) || is_script(found, place, text));
        let of_another = search.kind != Kind::Other && is_about_a_secret(found);
        !never && !left_to_others && !of_another && (search.only)(found)
    }

    /// Secrets that overlap become one mark.
    fn rewritten(&self, text: &str, mut secrets: Vec<Secret>) -> Result<String, Failure> {
        secrets.sort_by_key(|secret| secret.range.start);
        let mut apart: Vec<Secret> = Vec::with_capacity(secrets.len());
        for secret in secrets {
            match apart.last_mut() {
                Some(last) if secret.range.start < last.range.end => {
                    last.range.end = last.range.end.max(secret.range.end);
                    last.rank = last.rank.min(secret.rank);
                }
                _ => apart.push(secret),
            }
        }
        let mut rewritten = String::with_capacity(text.len());
        let mut end = 0;
        for Secret { range, rank } in apart {
            rewritten.push_str(piece(text, end..range.start)?);
            let label = self.searches.get(rank).map_or("", |search| search.label);
            rewritten.push_str("[REDACTED:");
            rewritten.push_str(label);
            rewritten.push(']');
            end = range.end;
        }
        rewritten.push_str(piece(text, end..text.len())?);
        Ok(rewritten)
    }
}

impl Search {
    /// Where it may find something; empty when that is nowhere.
    fn reach(&self, text: &[u8]) -> Vec<Range<usize>> {
        let reach = match &self.behind {
            Some((before, reach)) => reach.of(before, text),
            None => std::iter::once(0..text.len()).collect(),
        };
        // Finds need room for their groups; most searches find nothing.
        if !reach.is_empty() && self.regex.is_match(text) {
            reach
        } else {
            Vec::new()
        }
    }

    /// The next find in `reach` from `at` on, which moves behind it.
    fn next<'t>(&self, text: &'t [u8], reach: &[Range<usize>], at: &mut usize) -> Option<Captures<'t>> {
        loop {
            let from = next_in(reach, *at)?;
            let captures = self.regex.captures_at(text, from)?;
            let whole = captures.get_match();
            if next_in(reach, whole.start()) == Some(whole.start()) {
                *at = whole.end().max(whole.start() + 1);
                return Some(captures);
            }
            *at = whole.start();
        }
    }
}

fn compile(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source).unicode(false).build()
}

/// A shape as regular expressions.
fn sources_of(shape: &Shape) -> Vec<Source> {
    let source = |regex: String, behind: Option<(String, Reach)>, kind| Source {
        regex: whole(regex),
        behind: behind.map(|(before, reach)| (whole(before), reach)),
        kind,
    };
    let arguments = |program: &str, regexes: [String; 2]| {
        let programs = [(PROGRAM_WORD, Reach::Rest), (PROGRAM_INSIDE, Reach::Command)];
        let behind = programs.map(|(before, reach)| Some((before.replace("PROGRAM", program), reach)));
        let sources = regexes.into_iter().zip(behind);
        sources
            .map(|(regex, behind)| source(regex, behind, Kind::Other))
            .collect()
    };
    match shape {
        Shape::Named(names) => vec![
            source(NAMED_WORD.replace("NAMES", names), None, Kind::NamedWord),
            source(NAMED_INSIDE.replace("NAMES", names), None, Kind::NamedInside),
        ],
        Shape::Option(program, option) => {
            arguments(program, OPTION.map(|regex| regex.replace("OPTION", option)))
        }
        Shape::Pair(program, option, first) => arguments(
            program,
            PAIR.map(|regex| regex.replace("OPTION", option).replace("FIRST", first)),
        ),
        Shape::After(before, regex) => {
            let behind = Some(((*before).to_owned(), Reach::Rest));
            vec![source((*regex).to_owned(), behind, Kind::Other)]
        }
        Shape::Text(regex) => vec![source((*regex).to_owned(), None, Kind::Other)],
    }
}

/// A source with its pieces in place.
fn whole(source: String) -> String {
    PIECES
        .iter()
        .fold(source, |source, (name, piece)| source.replace(name, piece))
}

/// `range` with all of the marks that it cuts. `marks` are in order and apart.
fn widened(range: Range<usize>, marks: &[Range<usize>]) -> Range<usize> {
    let first = marks.get(marks.partition_point(|mark| mark.end <= range.start));
    let after = marks.partition_point(|mark| mark.start < range.end);
    let last = after.checked_sub(1).and_then(|last| marks.get(last));
    let start = first.map_or(range.start, |mark| mark.start.min(range.start));
    let end = last.map_or(range.end, |mark| mark.end.max(range.end));
    start..end
}

fn is_mark(range: &Range<usize>, marks: &[Range<usize>]) -> bool {
    let found = marks.binary_search_by_key(&range.start, |mark| mark.start);
    found.is_ok_and(|index| marks.get(index) == Some(range))
}

/// `x&user=y`, `x user=y`: the rest of a form or list whose first value is `x`.
fn is_list(rest: &str) -> bool {
    rest.split(['&', ' ']).skip(1).any(|field| {
        let (name, value) = field.split_once('=').unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-[]".contains(&byte);
        !name.is_empty() && name.bytes().all(plain) && !value.is_empty()
    })
}

/// `x ./deploy && y` behind `NAME=`: what some program gives to a shell, so that only `x` is the value.
fn is_script(found: Found<'_>, place: usize, text: &Text) -> bool {
    let word = place - found.before.len();
    let is_option = found.before.starts_with("\0-");
    let reads_as_script = found.secret.contains([' ', '\t', '\n']) && holds_commands(found.secret);
    !is_option && reads_as_script && !text.is_taken_whole(word)
}

/// A piece of the text; never by indexing, whose panic prints the text.
fn piece(text: &str, range: Range<usize>) -> Result<&str, Failure> {
    text.get(range).ok_or(Failure::Character)
}

fn in_time(deadline: Instant) -> Result<(), Failure> {
    if Instant::now() >= deadline {
        Err(Failure::OutOfTime)
    } else {
        Ok(())
    }
}
