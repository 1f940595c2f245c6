//! How often an instance has refused logins lately, over all logins there.
//!
//! OpenSSH 9.8 and later penalises the source address of refused logins (`PerSourcePenalties`: 5 s each, enforced from
//! 15 s on), and behind an endpoint that address is everybody's: three quick refusals could lock out an operator too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Refused logins that reach an instance within [`WINDOW`]: below what sshd penalises.
const LIMIT: usize = 2;
const WINDOW: Duration = Duration::from_secs(60);

/// The refusals of one instance, shared by the supervisors of its logins. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedLogins(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    recent: VecDeque<Instant>,
    under_way: usize,
}

/// Whether a login may begin.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It may, and counts as under way until this is dropped.
    Yours(LoginUnderWay),
    /// Others are under way, and if they were refused this one would be too many.
    Wait,
    /// Too many were refused; none begins before this time.
    Blocked(Instant),
}

/// A login that may yet be refused.
#[derive(Debug)]
pub(crate) struct LoginUnderWay(RefusedLogins);

impl Drop for LoginUnderWay {
    fn drop(&mut self) {
        let mut counts = self.0.lock();
        counts.under_way = counts.under_way.saturating_sub(1);
    }
}

impl RefusedLogins {
    /// Asks for the right to begin a login.
    pub(crate) fn turn(&self, now: Instant) -> Turn {
        if let Some(end) = self.blocked_until(now) {
            return Turn::Blocked(end);
        }
        let mut counts = self.lock();
        let refused = counts.recent.iter().filter(|at| now < **at + WINDOW).count();
        if refused + counts.under_way >= LIMIT {
            return Turn::Wait;
        }
        counts.under_way += 1;
        Turn::Yours(LoginUnderWay(self.clone()))
    }

    /// The instance refused a login.
    pub(crate) fn add(&self, now: Instant) {
        let mut counts = self.lock();
        counts.recent.push_back(now);
        while counts.recent.len() > LIMIT {
            counts.recent.pop_front();
        }
    }

    /// Until when no login may be tried, if that is after `now`.
    pub(crate) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        let counts = self.lock();
        let oldest = counts.recent.front().filter(|_| counts.recent.len() == LIMIT)?;
        let end = *oldest + WINDOW;
        (now < end).then_some(end)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_a_minute() {
        let refused = RefusedLogins::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        refused.add(at(0));
        assert_eq!(refused.blocked_until(at(1)), None);
        refused.add(at(10));
        assert_eq!(refused.blocked_until(at(10)), Some(at(60)));
        assert_eq!(refused.blocked_until(at(60)), None);
        refused.clone().add(at(60));
        assert_eq!(
            refused.blocked_until(at(61)),
            Some(at(70)),
            "the one at 10 s still counts"
        );
    }

    #[tokio::test]
    async fn those_under_way_count_as_if_they_were_refused() {
        let refused = RefusedLogins::default();
        let now = Instant::now();
        let Turn::Yours(first) = refused.turn(now) else {
            panic!("nothing stands against it");
        };
        let Turn::Yours(second) = refused.turn(now) else {
            panic!("two may be refused");
        };
        assert!(matches!(refused.turn(now), Turn::Wait));
        drop(first);
        let third = refused.turn(now);
        assert!(matches!(third, Turn::Yours(_)), "the first was accepted");
        refused.add(now);
        drop((second, third));
        assert!(matches!(refused.turn(now), Turn::Yours(_)));
        refused.add(now);
        assert!(matches!(refused.turn(now), Turn::Blocked(_)));
    }
}
