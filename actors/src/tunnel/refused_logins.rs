//! How often an instance has refused logins lately, over all logins there.
//!
//! OpenSSH 9.8 and later penalises the source address of refused logins (`PerSourcePenalties`: 5 s each, enforced from
//! 15 s on), and behind an endpoint that address is everybody's: three quick refusals could lock out an operator too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Refused logins that reach an instance within [`WINDOW`]: below what sshd penalises.
const LIMIT: usize = 2;
const WINDOW: Duration = Duration::from_secs(60);

/// The refusals of one instance, shared by the supervisors of its logins. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedLogins(Arc<Mutex<VecDeque<Instant>>>);

impl RefusedLogins {
    /// The instance refused a login.
    pub(crate) fn add(&self, now: Instant) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(now);
        while recent.len() > LIMIT {
            recent.pop_front();
        }
    }

    /// Until when no login may be tried, if that is after `now`.
    pub(crate) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = recent.front().filter(|_| recent.len() == LIMIT)?;
        let end = *oldest + WINDOW;
        (now < end).then_some(end)
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
}
