//! The body of an exec request: bytes to [`ExecRequest`], with an answer for each way in which it can be wrong.

use std::collections::BTreeMap;
use std::fmt;

use adit_actors::exec::request::MAX_STDIN_BYTES;
use adit_actors::exec::{ExecRequest, ExecRequestParts, InvalidRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::http::problem::{Problem, ProblemCode};

/// Longest detail of a problem, but for the field's name: serde quotes what it found, which may be most of the body.
const MAX_DETAIL: usize = 300;
/// Longest name of a field in a detail. Callers may name a variable, or a field that does not exist, as they like.
const MAX_NAME: usize = 64;

/// A valid body.
#[derive(Debug)]
pub(crate) struct ExecBody {
    /// What to run.
    pub(crate) request: ExecRequest,
    /// Whether the head and a `started` frame leave as soon as the process runs.
    pub(crate) announce: bool,
}

/// Reads and checks the body.
pub(crate) fn parse(body: &[u8]) -> Result<ExecBody, Problem> {
    // serde would take a struct's fields from an array too, in order.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::invalid("the body must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let fields: Fields = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        invalid_json(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| invalid_json(".", &error))?;
    let announce = fields.announce.unwrap_or(false);
    let request = ExecRequest::validate(fields.into_parts()?).map_err(refused)?;
    Ok(ExecBody { request, announce })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    cmd: Words,
    timeout_s: Option<Seconds>,
    cwd: Option<String>,
    env: Option<Variables>,
    stdin: Option<String>,
    stdin_b64: Option<String>,
    announce: Option<bool>,
}

impl Fields {
    fn into_parts(self) -> Result<ExecRequestParts, Problem> {
        let stdin = match (self.stdin, self.stdin_b64) {
            (Some(_), Some(_)) => {
                return Err(Problem::invalid("`stdin` and `stdin_b64` can't both be given"));
            }
            (Some(text), None) => Bytes::from(text),
            (None, Some(base64)) => decode_stdin(&base64)?,
            (None, None) => Bytes::new(),
        };
        Ok(ExecRequestParts {
            cmd: self.cmd.0,
            timeout_s: self.timeout_s.map_or(0, |seconds| seconds.0),
            cwd: self.cwd,
            env: self.env.map(|variables| variables.0).unwrap_or_default(),
            stdin,
        })
    }
}

/// Its length is checked here, where it is known by which name it was sent.
fn decode_stdin(base64: &str) -> Result<Bytes, Problem> {
    let stdin = STANDARD
        .decode(base64)
        .map_err(|_| Problem::invalid("`stdin_b64` is not base64 (RFC 4648 section 4, with padding)"))?;
    if stdin.len() > MAX_STDIN_BYTES {
        return Err(Problem::invalid("`stdin_b64` is longer than 1,048,576 bytes"));
    }
    Ok(stdin.into())
}

fn refused(error: InvalidRequest) -> Problem {
    match error {
        InvalidRequest::Field { field, problem } => {
            Problem::invalid(format!("`{}` {problem}", shorten(&field, MAX_NAME)))
        }
        InvalidRequest::CommandTooLong { .. } => {
            Problem::new(ProblemCode::CmdTooLong).with_detail(error.to_string())
        }
    }
}

fn invalid_json(path: &str, error: &serde_json::Error) -> Problem {
    let error_text = shorten(&error.to_string(), MAX_DETAIL);
    Problem::invalid(match error.classify() {
        Category::Data if path == "." => error_text,
        Category::Data => format!("`{}`: {error_text}", shorten(path, MAX_NAME)),
        Category::Syntax | Category::Eof | Category::Io => {
            format!("the body is not valid JSON: {error_text}")
        }
    })
}

/// Leaves out what is in the middle: what is wrong stands before what was quoted, and what was expected behind it.
fn shorten(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let half = most / 2;
    let (first, last) = (text.chars().take(half), text.chars().skip(count - half));
    first.chain("...".chars()).chain(last).collect()
}

/// `cmd`. Stops at the first word too many, so that a body of millions of words costs no memory.
struct Words(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordsVisitor)
    }
}

struct WordsVisitor;

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of strings")
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Words, E> {
        Err(E::custom(
            "must be an array of strings, one a word: Adit gives no implicit shell. \
             For a shell line write [\"sh\", \"-c\", \"LINE\"]",
        ))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Words, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = sequence.next_element()? {
            if words.len() == adit_actors::exec::request::MAX_WORDS {
                return Err(de::Error::custom("has more than 1,024 words"));
            }
            words.push(word);
        }
        Ok(Words(words))
    }
}

/// `timeout_s`.
struct Seconds(u64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecondsVisitor)
    }
}

struct SecondsVisitor;

impl Visitor<'_> for SecondsVisitor {
    type Value = Seconds;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number of seconds, 0 or more")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Seconds, E> {
        Ok(Seconds(seconds))
    }
}

/// `env`. A name that stands twice is refused: which value would count is anyone's guess.
struct Variables(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(VariablesVisitor)
    }
}

struct VariablesVisitor;

impl<'de> Visitor<'de> for VariablesVisitor {
    type Value = Variables;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Variables, A::Error> {
        let mut variables = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            if variables.contains_key(&name) {
                return Err(de::Error::custom(format_args!(
                    "the name `{name}` stands there twice"
                )));
            }
            variables.insert(name, value);
        }
        Ok(Variables(variables))
    }
}
