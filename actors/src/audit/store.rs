//! The boundary to the store: what a row is and what writing it promises.

use std::time::Duration;

use async_trait::async_trait;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The store can't be reached or is busy; the same batch may succeed later. Whether it was committed is unknown.
    #[error("writing audit rows did not reach the store")]
    Unavailable(#[source] Source),
    /// The store refuses at least one row of the batch (a deleted workspace, NUL in a text); nothing was written.
    #[error("the store refuses an audit row")]
    Rejected(#[source] Source),
}

/// Where audit rows are kept.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Commits all `rows` in one transaction, or none. Writing the same row twice leaves one. A `Running` row never
    /// replaces a row that is there already; a final row replaces whatever is there under its id, provided that it
    /// is an exec's.
    ///
    /// # Errors
    /// [`AuditStoreError`] says whether trying again can help.
    async fn write(&self, rows: &[AuditRow]) -> Result<(), AuditStoreError>;

    /// Settles rows that still say `running` although they began more than `older_than` ago by the store's own clock:
    /// they become `error` with outcome `unknown`, ended by `crash`. Returns their ids.
    ///
    /// # Errors
    /// [`AuditStoreError::Unavailable`] when the store can't be reached.
    async fn sweep(&self, older_than: Duration) -> Result<Vec<Uuid>, AuditStoreError>;
}
