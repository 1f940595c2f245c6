//! The boundary to the store: what a row is and what writing it promises.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::tunnel::Source;

/// One row of `activity_logs`, whole. Begin and finish both write the whole row.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Id of the exec.
    pub id: Uuid,
    /// Names the one try that this row is of. Two replicas may want the same id, as an Idempotency-Key makes it; only the
    /// one whose nonce stands in the row owns it, and a begin that is written again after a lost acknowledgement knows
    /// itself by it.
    pub attempt_nonce: Uuid,
    /// HMAC-SHA256 of the request under its Idempotency-Key, where it has one.
    pub body_hmac: Option<[u8; 32]>,
    /// Workspace it ran for.
    pub workspace_id: Uuid,
    /// Where the row stands.
    pub status: RowStatus,
    /// One line for people.
    pub summary: String,
    /// Who asked for what.
    pub request_body: Value,
    /// The `Exec`, once it has ended.
    pub response_body: Option<Value>,
    /// Milliseconds the exec took, once it has ended.
    pub duration_ms: Option<i32>,
    /// Error code and cause, if something went wrong.
    pub error_detail: Option<String>,
    /// When the exec was admitted.
    pub created_at: OffsetDateTime,
}

/// `status` of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowStatus {
    /// Begun and not finished.
    Running,
    /// The program exited, whatever its code.
    Ok,
    /// Anything else.
    Error,
    /// It ran into its timeout.
    Timeout,
}

impl RowStatus {
    /// Every status, for tables and for reading a column.
    pub const ALL: [Self; 4] = [Self::Running, Self::Ok, Self::Error, Self::Timeout];

    /// The status of a column's text.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// The text in the column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
        }
    }
}

/// A write failed.
#[derive(Debug, Error)]
pub enum AuditStoreError {
    /// The store can't be reached or takes no rows at all; the same batch may succeed later. Whether it was committed is unknown.
    #[error("writing audit rows did not reach the store")]
    Unavailable(#[source] Source),
    /// The store is there and could not write the batch: a lock that another writer holds, a trigger of the host's.
    /// Nothing was written; the same rows may be written later, or without one of them.
    #[error("the store could not write audit rows")]
    Failed(#[source] Source),
    /// The store refuses at least one row of the batch (a deleted workspace, NUL in a text); nothing was written.
    #[error("the store refuses an audit row")]
    Rejected(#[source] Source),
}

/// Which half of an exec's row a batch writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// The row before the command runs. Never replaces anything.
    Begin,
    /// The whole row after the end. Replaces the row of its own try, whatever that says.
    Finish,
}

/// What is done to old rows of execs, never to another writer's. Ages are by the store's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Rows that still say `running` although they began longer ago than this become `error` with outcome `unknown`, ended by
    /// `crash`.
    Settle(Duration),
    /// Rows of execs that have ended and began longer ago than this are deleted; those of one Idempotency-Key only when none of
    /// them is younger or runs.
    Delete(Duration),
}

/// A row that a chore is due for. They are dealt with in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueRow {
    /// When its exec was admitted.
    pub created_at: OffsetDateTime,
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub workspace_id: Uuid,
}

/// Where audit rows are kept. The two halves are written independently: a burst of one must not hold up the other.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Commits all `rows` in one transaction, or none. All are of the same half and no id stands twice. Writing the same
    /// row twice leaves one. Returns the ids whose rows belong to another try or another writer: those rows are as they
    /// were. An empty batch is a probe: it does what a real one would, leaves nothing, and fails where no row could be
    /// written.
    ///
    /// # Errors
    /// [`AuditStoreError`] says whether trying again can help.
    async fn write(&self, half: Half, rows: &[AuditRow]) -> Result<Vec<Uuid>, AuditStoreError>;

    /// The first `limit` rows after the row `after` that `chore` is due for, the oldest first.
    ///
    /// # Errors
    /// [`AuditStoreError::Unavailable`] when the store can't be reached.
    async fn due(
        &self,
        chore: Chore,
        after: Option<DueRow>,
        limit: u32,
    ) -> Result<Vec<DueRow>, AuditStoreError>;

    /// Does `chore` to those of the rows `ids` that it is due for, in one transaction, and returns their ids. Rows that
    /// others hold locked are left as they are where the store can tell.
    ///
    /// # Errors
    /// [`AuditStoreError`]; one row that the store refuses is enough, and then none is changed.
    async fn perform(&self, chore: Chore, ids: &[Uuid]) -> Result<Vec<Uuid>, AuditStoreError>;
}
