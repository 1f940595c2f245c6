//! A row that waits to be written, and what the one who waits for it may be told.

use tokio::time::Instant;

use super::store::AuditRow;

/// Names a row within the writer.
pub(crate) type Ticket = u64;

/// How a row fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Committed.
    Committed,
    /// The id's row belongs to another try or another writer, and is as it was.
    Taken,
    /// It was never handed to the store, or the store answered that it did not write it: it is certainly not there.
    NotWritten,
    /// A write was tried and not acknowledged: it may be there.
    Uncertain,
}

/// A row that is not committed.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    pub(super) row: AuditRow,
    /// When it is given up; a final row never is.
    pub(super) deadline: Option<Instant>,
    /// The store did not answer when it was given it.
    pub(super) may_be_there: bool,
    /// The store could not write it although nothing else was with it.
    pub(super) failed_alone: bool,
    /// Acknowledged while its write was in flight, at its deadline.
    pub(super) is_told: bool,
}

impl Pending {
    /// What is to be told of it when the store can't or won't write it.
    pub(super) fn unwritten(&self) -> Verdict {
        if self.may_be_there {
            Verdict::Uncertain
        } else {
            Verdict::NotWritten
        }
    }

    /// When it is to be given up, unless that was told already.
    pub(super) fn due(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.is_told)
    }

    /// Whether it is to be given up now.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.due().is_some_and(|deadline| deadline <= now)
    }
}
