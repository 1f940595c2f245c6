//! What a caller asks to run, validated.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::command;
use crate::instance::InstanceTarget;

/// Most words in an argv.
pub const MAX_WORDS: usize = 1_024;
/// Timeout when none is asked for, in seconds.
pub const DEFAULT_TIMEOUT_S: u32 = 30;
/// Longest timeout; a longer one asked for becomes this, in seconds.
pub const MAX_TIMEOUT_S: u32 = 120;
/// Most bytes of stdin, decoded.
pub const MAX_STDIN_BYTES: usize = 1_048_576;

/// What to run, as the caller gave it. [`ExecRequest::validate`] is the only way on.
#[derive(Clone, Default)]
pub struct ExecRequestParts {
    /// The argv.
    pub cmd: Vec<String>,
    /// Timeout in seconds; 0 means the default.
    pub timeout_s: u64,
    /// Directory to run in; the login's home when absent.
    pub cwd: Option<String>,
    /// Variables to add to the environment.
    pub env: BTreeMap<String, String>,
    /// Standard input; empty means that it is at end of file.
    pub stdin: Bytes,
}

/// A valid request. Holds what the command line is made of; prints nothing of it.
#[derive(Clone)]
pub struct ExecRequest {
    pub(crate) cmd: Vec<String>,
    pub(crate) timeout_s: u32,
    pub(crate) cwd: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) stdin: Bytes,
}

/// Why a request is not valid.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum InvalidRequest {
    /// A field breaks its rule.
    #[error("`{field}` {problem}")]
    Field {
        /// The field, as a path into the body: `cmd`, `cmd[3]`, `env.NAME`.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The quoted command line is longer than an instance accepts.
    #[error("the quoted command line is {bytes} bytes long; at most {limit} can be run")]
    CommandTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl InvalidRequest {
    fn field(field: impl Into<String>, problem: &'static str) -> Self {
        Self::Field {
            field: field.into(),
            problem,
        }
    }
}

impl ExecRequest {
    /// Checks every rule and clamps the timeout.
    ///
    /// # Errors
    /// The first rule that is broken, with the field that breaks it.
    pub fn validate(parts: ExecRequestParts) -> Result<Self, InvalidRequest> {
        check_words(&parts.cmd)?;
        if let Some(cwd) = &parts.cwd {
            check_cwd(cwd)?;
        }
        for (name, value) in &parts.env {
            check_variable(name, value)?;
        }
        if parts.stdin.len() > MAX_STDIN_BYTES {
            return Err(InvalidRequest::field("stdin", "is longer than 1,048,576 bytes"));
        }
        let request = Self {
            cmd: parts.cmd,
            timeout_s: clamp_timeout(parts.timeout_s),
            cwd: parts.cwd,
            env: parts.env,
            stdin: parts.stdin,
        };
        command::check(&request)?;
        Ok(request)
    }

    /// The timeout as applied, in seconds.
    #[must_use]
    pub fn timeout_s(&self) -> u32 {
        self.timeout_s
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout_s))
    }

    /// Feeds `sink`, piece by piece, the whole request in a form that no other request has: before each part stands its
    /// length, or whether it is there. HMACs over this form are stored, so it must stay as it is.
    pub fn feed_canonical_form(&self, mut sink: impl FnMut(&[u8])) {
        let Self {
            cmd,
            timeout_s,
            cwd,
            env,
            stdin,
        } = self;
        feed_length(cmd.len(), &mut sink);
        for word in cmd {
            feed_part(word.as_bytes(), &mut sink);
        }
        feed_length(env.len(), &mut sink);
        for (name, value) in env {
            feed_part(name.as_bytes(), &mut sink);
            feed_part(value.as_bytes(), &mut sink);
        }
        sink(&[u8::from(cwd.is_some())]);
        feed_part(cwd.as_deref().unwrap_or_default().as_bytes(), &mut sink);
        feed_part(stdin, &mut sink);
        sink(&timeout_s.to_be_bytes());
    }
}

fn feed_part(part: &[u8], sink: &mut impl FnMut(&[u8])) {
    feed_length(part.len(), sink);
    sink(part);
}

fn feed_length(length: usize, sink: &mut impl FnMut(&[u8])) {
    // What a validated request holds is far shorter than 2^64.
    sink(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
}

impl fmt::Debug for ExecRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ExecRequest")
            .field("words", &self.cmd.len())
            .field("timeout_s", &self.timeout_s)
            .field("stdin_bytes", &self.stdin.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ExecRequestParts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ExecRequestParts")
            .field("words", &self.cmd.len())
            .finish_non_exhaustive()
    }
}

fn check_words(words: &[String]) -> Result<(), InvalidRequest> {
    if words.first().is_none_or(String::is_empty) {
        return Err(InvalidRequest::field(
            "cmd",
            "needs at least one word, and the first must not be empty",
        ));
    }
    if words.len() > MAX_WORDS {
        return Err(InvalidRequest::field("cmd", "has more than 1,024 words"));
    }
    match words.iter().position(|word| word.contains('\0')) {
        Some(index) => Err(InvalidRequest::field(
            format!("cmd[{index}]"),
            "contains a NUL character",
        )),
        None => Ok(()),
    }
}

fn check_cwd(cwd: &str) -> Result<(), InvalidRequest> {
    if !cwd.starts_with('/') {
        return Err(InvalidRequest::field("cwd", "must be an absolute path"));
    }
    if cwd.contains('\0') {
        return Err(InvalidRequest::field("cwd", "contains a NUL character"));
    }
    Ok(())
}

fn check_variable(name: &str, value: &str) -> Result<(), InvalidRequest> {
    let mut characters = name.chars();
    let starts_well = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    if !starts_well || !characters.all(|rest| rest.is_ascii_alphanumeric() || rest == '_') {
        return Err(InvalidRequest::field(
            format!("env.{name}"),
            "is not a name of the form [A-Za-z_][A-Za-z0-9_]*",
        ));
    }
    if value.contains('\0') {
        return Err(InvalidRequest::field(
            format!("env.{name}"),
            "contains a NUL character",
        ));
    }
    Ok(())
}

fn clamp_timeout(asked: u64) -> u32 {
    match u32::try_from(asked) {
        Ok(0) => DEFAULT_TIMEOUT_S,
        Ok(seconds) => seconds.min(MAX_TIMEOUT_S),
        Err(_) => MAX_TIMEOUT_S,
    }
}

/// Everything an exec needs to know of its admission. Made by the HTTP handler once all checks have passed.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// Id of the exec and of its audit row.
    pub exec_id: Uuid,
    /// Workspace it runs for.
    pub workspace_id: Uuid,
    /// Where it runs.
    pub target: InstanceTarget,
    /// What it runs.
    pub request: ExecRequest,
    /// Who asked.
    pub caller: Caller,
    /// The asking peer's address.
    pub remote_addr: Option<IpAddr>,
    /// The caller's own id for the request.
    pub request_id: Option<String>,
    /// HMAC of the request under its Idempotency-Key, where it has one. The row is then begun before a channel is asked
    /// for: another replica may own the exec's id.
    pub body_hmac: Option<[u8; 32]>,
}

/// Who asked for an exec, as the audit row names it. Never the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Kind of the token.
    pub kind: CallerKind,
    /// Id of the token.
    pub id: Uuid,
    /// First 8 characters of the token.
    pub prefix: String,
    /// Name of the token, where it has one.
    pub name: Option<String>,
}

/// Kinds of token that may ask for an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerKind {
    /// Opens one workspace.
    Workspace,
    /// Opens every workspace of an org.
    Org,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{ExecRequest, ExecRequestParts, clamp_timeout};

    fn canonical_form(parts: &ExecRequestParts) -> Vec<u8> {
        let mut form = Vec::new();
        ExecRequest::validate(parts.clone())
            .unwrap()
            .feed_canonical_form(|piece| form.extend_from_slice(piece));
        form
    }

    /// Few and short words, so that two requests are often alike but for where one part ends and the next begins.
    fn parts() -> impl Strategy<Value = ExecRequestParts> {
        (
            prop::collection::vec("[ab]{1,2}", 1..4),
            prop::sample::select(vec![0_u64, 30, 31]),
            prop::option::of("/[ab]{0,1}"),
            prop::collection::btree_map("[ab]{1,2}", "[ab]{0,2}", 0..3),
            "[ab]{0,2}",
        )
            .prop_map(|(cmd, timeout_s, cwd, env, stdin)| ExecRequestParts {
                cmd,
                timeout_s,
                cwd,
                env,
                stdin: Bytes::from(stdin),
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_096, ..ProptestConfig::default() })]

        #[test]
        fn two_requests_have_one_form_only_if_they_ask_for_the_same(one in parts(), other in parts()) {
            let asks_for = |parts: &ExecRequestParts| {
                let ExecRequestParts { cmd, timeout_s, cwd, env, stdin } = parts.clone();
                (cmd, clamp_timeout(timeout_s), cwd, env, stdin)
            };
            prop_assert_eq!(
                canonical_form(&one) == canonical_form(&other),
                asks_for(&one) == asks_for(&other)
            );
        }
    }

    #[test]
    fn a_part_that_ends_elsewhere_makes_another_form() {
        let plain = |words: &[&str]| ExecRequestParts {
            cmd: words.iter().map(|word| (*word).to_owned()).collect(),
            ..ExecRequestParts::default()
        };
        let with_variable = |name: &str, value: &str| ExecRequestParts {
            env: [(name.to_owned(), value.to_owned())].into(),
            ..plain(&["a"])
        };
        let forms = [
            plain(&["a"]),
            plain(&["ab"]),
            plain(&["a", "b"]),
            plain(&["a", "b", ""]),
            with_variable("b", ""),
            with_variable("b", "c"),
            with_variable("bc", ""),
            ExecRequestParts {
                cwd: Some("/".to_owned()),
                ..plain(&["a"])
            },
            ExecRequestParts {
                stdin: Bytes::from_static(b"/"),
                ..plain(&["a"])
            },
            ExecRequestParts {
                timeout_s: 31,
                ..plain(&["a"])
            },
        ]
        .map(|parts| canonical_form(&parts));
        for (number, form) in forms.iter().enumerate() {
            assert!(!forms[..number].contains(form), "request {number}");
        }
    }
}
