//! Wall time, from one place.
//!
//! Durations and deadlines use `tokio::time::Instant`, which tests can pause. Wall time is needed only for what
//! people and rows read; it comes from here and nowhere else, so that a test can fix it.

use std::fmt;
use std::sync::Arc;

use time::OffsetDateTime;

/// Source of wall time for records. Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> OffsetDateTime + Send + Sync>,
}

impl Clock {
    /// The machine's own clock, in UTC.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place where wall time is read")]
        Self {
            read: Arc::new(OffsetDateTime::now_utc),
        }
    }

    /// A clock that asks `read` each time. For tests.
    #[must_use]
    pub fn from_fn(read: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read) }
    }

    /// The current wall time.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        (self.read)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Clock")
    }
}
