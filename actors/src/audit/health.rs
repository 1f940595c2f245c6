//! What one half's writer knows of the store.

use std::time::Duration;

use tokio::time::Instant;

/// First pause after a failure; doubles up to the second number.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The next pause after this one; the first after none.
pub(super) fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Whether the store takes rows.
///
/// ```text
///            rows failed               probe failed, no answer
///   Well ────────────────▶ Doubted ────────────────────────────▶ Failing ⟲ the same again: a longer pause
///    ▲ ▲                      │                                      │
///    │ └──────────────────────┘ committed                            │
///    └──────────── committed ────────────────────────────────────────┘      no answer: from Well at once
/// ```
///
/// Doubt is for failures that may be those of a row alone. It ends with the next probe, which is written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreHealth {
    /// It committed what it was given last.
    Well,
    /// It answered that it did not write what it was given; whether it would write anything else is not known.
    Doubted {
        /// When it was handed what failed first.
        since: Instant,
    },
    /// It would not write anything, or does not answer.
    Failing {
        /// When it was handed what failed first.
        since: Instant,
        /// Before `retry_at`.
        pause: Duration,
        /// When it is probed next.
        retry_at: Instant,
    },
}

/// What was seen of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observation {
    /// It committed rows, or a probe passed.
    Committed,
    /// It answered that it did not write some rows.
    RowsFailed,
    /// It did not answer, or a probe failed.
    Failed,
}

impl StoreHealth {
    /// What is known after an observation of something that was handed over at `handed_over` and ended at `now`.
    pub(super) fn after(self, observation: Observation, handed_over: Instant, now: Instant) -> Self {
        match (self, observation) {
            (_, Observation::Committed) => Self::Well,
            (Self::Well, Observation::RowsFailed) => Self::Doubted { since: handed_over },
            (Self::Doubted { .. } | Self::Failing { .. }, Observation::RowsFailed) => self,
            (Self::Well, Observation::Failed) => Self::failing(handed_over, FIRST_PAUSE, now),
            (Self::Doubted { since }, Observation::Failed) => Self::failing(since, FIRST_PAUSE, now),
            (Self::Failing { since, pause, .. }, Observation::Failed) => {
                Self::failing(since, longer(pause), now)
            }
        }
    }

    fn failing(since: Instant, pause: Duration, now: Instant) -> Self {
        Self::Failing {
            since,
            pause,
            retry_at: now + pause,
        }
    }

    /// Since when it would not write anything.
    pub(super) fn failing_since(self) -> Option<Instant> {
        match self {
            Self::Failing { since, .. } => Some(since),
            Self::Well | Self::Doubted { .. } => None,
        }
    }

    /// When it is to be probed: at once while it is doubted, never while it is well.
    pub(super) fn probe_at(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Well => None,
            Self::Doubted { .. } => Some(now),
            Self::Failing { retry_at, .. } => Some(retry_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_observation_in_every_state() {
        use Observation::{Committed, Failed, RowsFailed};

        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let failing = |since, pause, now| StoreHealth::failing(since, Duration::from_millis(pause), now);
        let (well, doubted) = (StoreHealth::Well, StoreHealth::Doubted { since: at(0) });
        let (handed_over, now) = (at(100), at(200));
        for (before, observation, after) in [
            (well, Committed, well),
            (well, RowsFailed, StoreHealth::Doubted { since: handed_over }),
            (well, Failed, failing(handed_over, 50, now)),
            (doubted, Committed, well),
            (doubted, RowsFailed, doubted),
            (doubted, Failed, failing(at(0), 50, now)),
            (failing(at(0), 50, at(10)), Committed, well),
            (failing(at(0), 50, at(10)), RowsFailed, failing(at(0), 50, at(10))),
            (failing(at(0), 50, at(10)), Failed, failing(at(0), 100, now)),
            (failing(at(0), 800, at(10)), Failed, failing(at(0), 1000, now)),
        ] {
            assert_eq!(
                before.after(observation, handed_over, now),
                after,
                "{before:?} after {observation:?}"
            );
        }
    }
}
