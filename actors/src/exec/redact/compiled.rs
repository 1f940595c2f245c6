//! Patterns at work on an argv.

use std::ops::Range;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};
use tokio::time::Instant;

use super::Failure;
use super::patterns::{Found, NAMED_INSIDE, NAMED_WORD, NEVER_A_SECRET, OPTION, PIECES, Pattern, Shape};

/// A mark, as [`Compiled::rewritten`] writes it.
const MARK: &str = r"\[REDACTED:[A-Z0-9_]+\]";

/// Patterns, ready to use. Not one `RegexSet` of all: on long argvs that is slower by ten times, as its automaton does
/// not fit into its cache.
pub(super) struct Compiled {
    searches: Vec<Search>,
    never_a_secret: Regex,
    mark: Regex,
}

/// One way in which a secret of one pattern may stand.
struct Search {
    regex: Regex,
    label: &'static str,
    only: fn(Found<'_>) -> bool,
    /// Whether it takes the rest of a word: then a list (`password=x&user=y`) is left to the others.
    takes_rest: bool,
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
            for (source, takes_rest) in sources_of(&pattern.shape) {
                searches.push(Search {
                    regex: compile(&source)?,
                    label: pattern.label,
                    only: pattern.only,
                    takes_rest,
                });
            }
        }
        Ok(Self {
            searches,
            never_a_secret: compile(NEVER_A_SECRET)?,
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
        if words.iter().any(|word| word.contains('\0')) {
            return Err(Failure::Borders);
        }
        loop {
            let text = joined(&words);
            let secrets = self.secrets(&text, deadline)?;
            if secrets.is_empty() {
                return Ok(words);
            }
            words = split(&self.rewritten(&text, secrets)?, &words)?;
        }
    }

    /// What is to be replaced, in the order of the list.
    fn secrets(&self, text: &str, deadline: Instant) -> Result<Vec<Secret>, Failure> {
        let marks: Vec<_> = self
            .mark
            .find_iter(text.as_bytes())
            .map(|mark| mark.range())
            .collect();
        let mut secrets = Vec::new();
        for (rank, search) in self.searches.iter().enumerate() {
            in_time(deadline)?;
            // Finds need room for their groups; most searches find nothing.
            if !search.regex.is_match(text.as_bytes()) {
                continue;
            }
            for captures in search.regex.captures_iter(text.as_bytes()) {
                in_time(deadline)?;
                let mut groups = captures.iter().flatten();
                let Some(whole) = groups.next() else { continue };
                for group in groups {
                    let range = widened(group.range(), &marks);
                    let found = Found {
                        whole: piece(text, whole.range())?,
                        secret: piece(text, group.range())?,
                    };
                    if !is_mark(&range, &marks) && self.is_secret(search, found) {
                        secrets.push(Secret { range, rank });
                    }
                }
            }
        }
        Ok(secrets)
    }

    fn is_secret(&self, search: &Search, found: Found<'_>) -> bool {
        let never = self.never_a_secret.is_match(found.secret.as_bytes());
        let left_to_others = search.takes_rest && is_list(found.secret);
        !never && !left_to_others && (search.only)(found)
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

fn compile(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source).unicode(false).build()
}

/// A shape as regular expressions, and whether each takes the rest of a word.
fn sources_of(shape: &Shape) -> Vec<(String, bool)> {
    let sources = match shape {
        Shape::Named(names) => vec![
            (NAMED_WORD.replace("NAMES", names), true),
            (NAMED_INSIDE.replace("NAMES", names), false),
        ],
        Shape::Option(program, option) => OPTION
            .iter()
            .map(|source| {
                (
                    source.replace("PROGRAM", program).replace("OPTION", option),
                    false,
                )
            })
            .collect(),
        Shape::Text(source) => vec![((*source).to_owned(), false)],
    };
    sources
        .into_iter()
        .map(|(source, takes_rest)| {
            let whole = PIECES
                .iter()
                .fold(source, |source, (name, piece)| source.replace(name, piece));
            (whole, takes_rest)
        })
        .collect()
}

/// Whether a shell reads the word at `index`: it follows `-c`, `-lc`, `-ec`.
fn is_script(cmd: &[String], index: usize) -> bool {
    let option = index.checked_sub(1).and_then(|before| cmd.get(before));
    option
        .and_then(|option| option.strip_prefix('-')?.strip_suffix('c'))
        .is_some_and(|others| others.bytes().all(|letter| letter.is_ascii_alphabetic()))
}

/// The argv as `patterns.rs` describes it.
fn joined(cmd: &[String]) -> String {
    let mut text = String::with_capacity(cmd.iter().map(|word| word.len() + 2).sum());
    for (index, word) in cmd.iter().enumerate() {
        text.push('\0');
        if is_script(cmd, index) {
            text.push('\n');
        }
        text.push_str(word);
    }
    text
}

/// Undoes [`joined`] for a text made from `cmd`; fails when a pattern took a border.
fn split(text: &str, cmd: &[String]) -> Result<Vec<String>, Failure> {
    let mut pieces = text.split('\0').skip(1);
    let words = cmd
        .iter()
        .enumerate()
        .map(|(index, _)| {
            let piece = pieces.next()?;
            let word = if is_script(cmd, index) {
                piece.strip_prefix('\n')?
            } else {
                piece
            };
            Some(word.to_owned())
        })
        .collect::<Option<Vec<_>>>()
        .ok_or(Failure::Borders)?;
    if pieces.next().is_some() {
        Err(Failure::Borders)
    } else {
        Ok(words)
    }
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
