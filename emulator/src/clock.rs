//! The emulator's wall clock: real time plus an offset that tests may move.
//!
//! Keys age by wall time, which `tokio::time::pause` does not reach. It must know nothing of what is timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;

/// Wall time as the emulator sees it. Clones share the offset.
#[derive(Debug, Clone, Default)]
pub struct WallClock {
    offset_milliseconds: Arc<AtomicI64>,
}

impl WallClock {
    /// A clock that shows real time until it is moved.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock ahead. Keys pushed before grow older by as much.
    pub fn advance(&self, by: Duration) {
        let milliseconds = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset_milliseconds
            .fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// The time that this clock shows, UTC.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        Self::real_now() + self.offset()
    }

    /// Real time, whatever the offset: other processes sign and judge by it.
    pub(crate) fn real_now() -> OffsetDateTime {
        #[expect(clippy::disallowed_methods, reason = "this is the injected clock")]
        OffsetDateTime::now_utc()
    }

    /// How far this clock is ahead of the real one.
    pub(crate) fn offset(&self) -> time::Duration {
        time::Duration::milliseconds(self.offset_milliseconds.load(Ordering::Relaxed))
    }
}
