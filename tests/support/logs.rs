//! Everything that the process logs, kept in memory for tests that look for what must not be there.

use std::io;
use std::sync::{LazyLock, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

static LOG: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

/// Adit's own crates as talkative as they can be, all others as the service runs them by default.
const FILTER: &str = "info,adit=trace,adit_actors=trace,adit_emulator=trace";

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        LOG.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

/// Begins to keep the log. Of many tests in one process the first one's call counts.
pub(crate) fn capture() {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(FILTER))
        .with_writer(|| Writer)
        .with_ansi(false)
        .try_init()
        .ok(); // fails when it has been called before, and then the log is kept already
}

/// The log of all tests of this process so far.
pub(crate) fn text() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

/// Its warnings and errors, one a line.
pub(crate) fn warnings() -> String {
    let is_one = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let lines = text();
    lines
        .lines()
        .filter(is_one)
        .map(|line| format!("{line}\n"))
        .collect()
}
