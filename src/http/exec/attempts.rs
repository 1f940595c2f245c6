//! Which attempt of an Idempotency-Key counts, and what its row says to a request that comes with the key.

use adit_actors::audit::RowStatus;
use subtle::ConstantTimeEq as _;

use crate::store::StoredExec;

/// What an attempt's row says.
#[derive(Debug, PartialEq)]
pub(crate) enum Attempt {
    /// It certainly did not run, so another attempt may.
    Failed,
    /// There is no row: the attempt is to be had.
    Free,
    /// It runs, or nobody has settled yet how it ended.
    InProgress(Box<StoredExec>),
    /// It is over, and ran or may have run.
    Ended(Box<StoredExec>),
    /// It was asked for something else.
    Mismatch,
}

/// Judges an attempt's row for a request with this HMAC. A row that has none was not asked for under a key.
pub(crate) fn judge(row: Option<StoredExec>, hmac: &[u8; 32]) -> Attempt {
    let Some(row) = row else {
        return Attempt::Free;
    };
    let is_same = row.body_hmac.is_some_and(|stored| bool::from(stored.ct_eq(hmac)));
    let ran = || row.response_body.as_ref().and_then(|exec| exec.get("ran"));
    if !is_same {
        Attempt::Mismatch
    } else if row.status == RowStatus::Running {
        Attempt::InProgress(row.into())
    } else if ran().is_some_and(|ran| ran == "no") {
        Attempt::Failed
    } else {
        Attempt::Ended(row.into())
    }
}

/// Finds the first attempt that did not fail. All before it did, as an attempt is made only when the one before has failed;
/// so it is found in as many steps as the number of attempts has digits, twice over: a caller that tries every few seconds
/// while its instance is away may leave thousands.
#[derive(Debug, Default)]
pub(crate) struct AttemptSearch {
    /// How many attempts are known to have failed: all below this.
    failed: u32,
    /// The first attempt that is known not to have.
    other: Option<u32>,
}

impl AttemptSearch {
    /// The attempt to look at next; `None` once the last one that did not fail is the first.
    pub(crate) fn next(&self) -> Option<u32> {
        match self.other {
            None => Some(self.failed.saturating_mul(2).saturating_sub(1).max(self.failed)),
            Some(other) if other <= self.failed => None,
            Some(other) => Some(self.failed.midpoint(other)),
        }
    }

    /// Notes what the attempt, which [`Self::next`] gave, has come to.
    pub(crate) fn note(&mut self, attempt: u32, has_failed: bool) {
        if has_failed {
            self.failed = attempt.saturating_add(1);
        } else {
            self.other = Some(attempt);
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_actors::audit::RowStatus;
    use adit_actors::exec::{EndedBy, Outcome, Ran};

    use super::{Attempt, AttemptSearch, judge};
    use crate::http::test_support::{ended, exited, stored};

    #[test]
    fn a_row_is_judged_by_its_request_first() {
        let hmac = [7; 32];
        let failed = ended(Outcome::Failed, EndedBy::Exit, Ran::No);
        let cancelled = ended(Outcome::Cancelled, EndedBy::ClientGone, Ran::No);
        let lost = ended(Outcome::TunnelLost, EndedBy::TunnelLost, Ran::Unknown);
        let timeout = ended(Outcome::Timeout, EndedBy::Timeout, Ran::Yes);
        let table = [
            (RowStatus::Running, None, Some(hmac), "in progress"),
            (RowStatus::Ok, Some(exited(3)), Some(hmac), "ended"),
            (RowStatus::Timeout, Some(timeout), Some(hmac), "ended"),
            (RowStatus::Error, Some(lost), Some(hmac), "ended"),
            (RowStatus::Error, None, Some(hmac), "ended"),
            (RowStatus::Error, Some(failed.clone()), Some(hmac), "failed"),
            (RowStatus::Error, Some(cancelled), Some(hmac), "failed"),
            (RowStatus::Running, None, Some([8; 32]), "mismatch"),
            (RowStatus::Error, Some(failed), Some([8; 32]), "mismatch"),
            (RowStatus::Ok, Some(exited(0)), None, "mismatch"),
        ];
        for (status, exec, own, expected) in table {
            let mut row = stored(status, exec.as_ref());
            row.body_hmac = own;
            let expected = match expected {
                "in progress" => Attempt::InProgress(row.clone().into()),
                "ended" => Attempt::Ended(row.clone().into()),
                "failed" => Attempt::Failed,
                _ => Attempt::Mismatch,
            };
            assert_eq!(judge(Some(row), &hmac), expected);
        }
        assert_eq!(judge(None, &hmac), Attempt::Free);
    }

    #[test]
    fn the_first_attempt_that_did_not_fail_is_found_in_few_steps() {
        for (failed, most) in [
            (0, 1),
            (1, 2),
            (2, 4),
            (3, 4),
            (100, 16),
            (5_000, 28),
            (u32::MAX - 1, 66),
        ] {
            let mut search = AttemptSearch::default();
            let mut seen = Vec::new();
            while let Some(attempt) = search.next() {
                assert!(!seen.contains(&attempt), "{attempt} is looked at twice: {seen:?}");
                seen.push(attempt);
                search.note(attempt, attempt < failed);
            }
            assert_eq!(search.other, Some(failed));
            assert!(seen.len() <= most, "{} look-ups: {seen:?}", seen.len());
        }
    }
}
