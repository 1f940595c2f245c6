//! How long an endpoint keeps a tunnel, and what an exec may still ask of it.

use std::time::Duration;

use tokio::time::Instant;

/// Life that an exec leaves unused at the end of its tunnel, for its kill (5 s), its draining (2 s) and clocks.
const LONGEST_MARGIN: Duration = Duration::from_secs(15);
/// Longest time before a tunnel is of no use to the longest exec, at which its successor is dialled: about the sum of the
/// deadlines on the way to a login.
const LONGEST_LEAD: Duration = Duration::from_secs(60);

/// The life of one tunnel. AWS ends it 3,600 s after its start, or sooner when `maxTunnelDuration` says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    opened_at: Instant,
    duration: Duration,
    ready_at: Option<Instant>,
}

impl Life {
    pub(crate) fn new(opened_at: Instant, duration: Duration) -> Self {
        Self {
            opened_at,
            duration,
            ready_at: None,
        }
    }

    /// The login is done.
    pub(crate) fn ready(self, now: Instant) -> Self {
        Self {
            ready_at: Some(now),
            ..self
        }
    }

    /// When the endpoint ends it.
    pub(crate) fn ends_at(&self) -> Instant {
        self.opened_at + self.duration
    }

    /// 15 s, or a quarter of the duration when that is less.
    fn margin(&self) -> Duration {
        LONGEST_MARGIN.min(self.duration / 4)
    }

    /// Until when an exec with this timeout may be put on it: its timeout and the margin before the end. An exec that asks
    /// for more than any tunnel of this duration has gets a fresh one: it may be put on it within a margin after the login,
    /// however long that took.
    pub(crate) fn serves_until(&self, timeout: Duration) -> Instant {
        let margin = self.margin();
        let needed = (timeout + margin).min(self.duration.saturating_sub(margin));
        let by_need = self.opened_at + self.duration.saturating_sub(needed);
        let fresh = self.ready_at.map_or(by_need, |ready_at| ready_at + margin);
        by_need.max(fresh.min(self.useless_from()))
    }

    /// Whether an exec with this timeout may be put on it now.
    pub(crate) fn serves(&self, timeout: Duration, now: Instant) -> bool {
        now < self.serves_until(timeout)
    }

    /// When its successor is dialled, so that it is ready before this one stops serving such execs: a minute ahead, or an
    /// eighth of the duration when that is less.
    pub(crate) fn successor_due(&self, timeout: Duration) -> Instant {
        let serving = self
            .serves_until(timeout)
            .saturating_duration_since(self.opened_at);
        let lead = LONGEST_LEAD.min(self.duration / 8);
        self.opened_at + serving.saturating_sub(lead)
    }

    /// From when it serves no exec at all, however short.
    pub(crate) fn useless_from(&self) -> Instant {
        self.opened_at + self.duration.saturating_sub(self.margin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_an_exec_may_ask_of_a_tunnel() {
        let opened = Instant::now();
        // duration, timeout, then in seconds of age: successor due, serves until, useless from
        let table = [
            (3_600, 120, 3_405, 3_465, 3_585),
            (3_600, 30, 3_495, 3_555, 3_585),
            (60, 10, 27, 35, 45),
            (60, 120, 7, 15, 45),
            (8, 1, 4, 5, 6),
            (8, 120, 1, 2, 6),
            (1, 30, 0, 0, 0),
        ];
        for (duration, timeout, due, serves, useless) in table {
            let life = Life::new(opened, Duration::from_secs(duration));
            let timeout = Duration::from_secs(timeout);
            let age = |at: Instant| (at - opened).as_secs();
            assert_eq!(
                (
                    age(life.successor_due(timeout)),
                    age(life.serves_until(timeout)),
                    age(life.useless_from())
                ),
                (due, serves, useless),
                "{duration} s, {timeout:?}"
            );
            assert!(life.serves(timeout, opened), "a fresh one serves everybody");
            assert!(!life.serves(timeout, life.serves_until(timeout)));
        }
    }

    #[tokio::test]
    async fn a_tunnel_that_was_long_in_coming_serves_those_who_waited_for_it() {
        let opened = Instant::now();
        let ready_at = opened + Duration::from_secs(20);
        let life = Life::new(opened, Duration::from_secs(60)).ready(ready_at);
        let long = Duration::from_secs(30);
        assert!(life.serves(long, ready_at));
        assert_eq!(life.serves_until(long), ready_at + Duration::from_secs(15));
        assert!(
            ready_at < life.successor_due(long),
            "and is not succeeded at once"
        );
        let late = life.ready(opened + Duration::from_secs(40));
        assert_eq!(late.serves_until(long), late.useless_from());
    }
}
