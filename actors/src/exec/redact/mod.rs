//! Secrets in an argv, replaced by marks before it goes into a row.
//!
//! It is a list of patterns, so it finds what looks like a secret or stands where secrets stand, and nothing else. What
//! it can't be sure to have read it does not let through: whatever goes wrong, [`FAILED`] stands for the whole argv.

mod compiled;
mod only;
mod patterns;
mod quiet;
mod reach;
mod shapes;
#[cfg(test)]
mod tests;
mod words;

use std::sync::LazyLock;
use std::time::Duration;

use thiserror::Error;

use self::compiled::Compiled;
use self::patterns::PATTERNS;
use crate::tunnel::chain;

/// What stands for an argv that could not be redacted.
const FAILED: &str = "[redaction failed]";

/// Longest time for one argv. The arbiter of its exec stands still meanwhile. A short one takes 10 to 40 microseconds, one
/// of 120 kB (128 KiB is the longest that can be run) 20 ms without a secret and up to 75 ms with 15,000 of them, the
/// slowest known. That is optimized and on an idle core: a busy one has taken twice as long, and a debug build twice
/// as long again. Past that, something is wrong.
const BUDGET: Duration = Duration::from_millis(500);

/// Why an argv could not be redacted. Never quotes it.
#[derive(Debug, Error)]
enum Failure {
    /// Every redaction fails then; a test holds against it.
    #[error("a pattern does not compile")]
    Pattern(#[source] regex::Error),
    #[error("it panicked at {place}")]
    Panicked { place: String },
    #[error("it took longer than {} ms", BUDGET.as_millis())]
    OutOfTime,
    #[error("a find ends inside a character")]
    Character,
    #[error("the borders of the words are lost")]
    Borders,
}

/// The list, compiled when it is first used.
static COMPILED: LazyLock<Result<Compiled, regex::Error>> = LazyLock::new(|| Compiled::new(PATTERNS));

/// Compiles the patterns, which takes some tens of milliseconds that no exec should wait for. The engine calls it as it
/// starts.
pub(crate) fn prepare() {
    LazyLock::force(&COMPILED);
}

/// `cmd` with its secrets replaced by `[REDACTED:LABEL]`, word for word; or [`FAILED`] alone.
///
/// Takes some microseconds when nothing looks like a secret, and never longer than about [`BUDGET`]. Redacting what
/// is redacted changes nothing.
pub(crate) fn redact(cmd: &[String]) -> Vec<String> {
    closed(|| match &*COMPILED {
        Ok(compiled) => compiled.redact(cmd, BUDGET),
        Err(error) => Err(Failure::Pattern(error.clone())),
    })
}

/// Fails closed, panics included.
fn closed(attempt: impl FnOnce() -> Result<Vec<String>, Failure>) -> Vec<String> {
    let attempted = quiet::catch(attempt).unwrap_or_else(|place| Err(Failure::Panicked { place }));
    attempted.unwrap_or_else(|failure| {
        tracing::error!(
            error = chain(&failure),
            "a command could not be redacted, and its row does not show it"
        );
        vec![FAILED.to_owned()]
    })
}
