//! Execs read back from their audit rows: which to read, the SQL of it, and what a row means.

use adit_actors::audit::RowStatus;
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::row::{Columns, required, undecodable};

/// An exec's row as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredExec {
    /// Id of the exec.
    pub id: Uuid,
    /// Workspace it ran for.
    pub workspace_id: Uuid,
    /// Where the row stands.
    pub status: RowStatus,
    /// One line for people.
    pub summary: Option<String>,
    /// Who asked for what.
    pub request_body: Option<Value>,
    /// The `Exec` and what only operators may see of it, once it has ended.
    pub response_body: Option<Value>,
    /// Error code and cause, if something went wrong; only for operators.
    pub error_detail: Option<String>,
    /// When the exec was admitted.
    pub created_at: OffsetDateTime,
    /// HMAC of the request under its Idempotency-Key, where it had one.
    pub body_hmac: Option<[u8; 32]>,
}

/// Which execs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct ExecQuery {
    /// Only this workspace's.
    pub workspace_id: Option<Uuid>,
    /// Only those whose row stands so.
    pub status: Option<RowStatus>,
    /// Only those admitted at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Only what comes after this one, which need not be there any more.
    pub after: Option<(OffsetDateTime, Uuid)>,
    /// At most so many.
    pub limit: u32,
}

/// `$1` id of the exec, `$2` the workspace it must be of, or NULL.
pub(super) const SHOW: &str = "
    SELECT id, workspace_id, status, summary, request_body, response_body, error_detail, created_at, adit_body_hmac
    FROM activity_logs WHERE activity_type = 'exec' AND id = $1 AND ($2 IS NULL OR workspace_id = $2)";

impl ExecQuery {
    /// `$1` workspace, `$2` since, `$3` and `$4` time and id of the last one of the page before, `$5` limit. The statement holds
    /// only the conditions that were asked for: with `$1 IS NULL OR ...` no index would fit. The status stands there itself,
    /// as SQLite can't tell whether a parameter is in an index that holds some statuses only. `hint` stands behind the table's name.
    pub(super) fn statement(&self, hint: &str) -> String {
        let status = self
            .status
            .map(|status| format!(" AND status = '{}'", status.as_str()));
        let conditions = [
            self.workspace_id.map(|_| " AND workspace_id = $1"),
            status.as_deref(),
            self.since.map(|_| " AND created_at >= $2"),
            self.after.map(|_| " AND (created_at, id) < ($3, $4)"),
        ];
        let mut statement = format!(
            "SELECT id, workspace_id, status, summary, request_body, response_body, error_detail, created_at,
                    adit_body_hmac
             FROM activity_logs{hint} WHERE activity_type = 'exec'",
        );
        statement.extend(conditions.into_iter().flatten());
        statement.push_str(" ORDER BY created_at DESC, id DESC LIMIT $5");
        statement
    }
}

impl StoredExec {
    pub(super) fn of(row: &impl Columns) -> Result<Self, sqlx::Error> {
        let status = required("status", row.text("status"))?;
        let body_hmac = row.bytes("adit_body_hmac")?.map(TryInto::try_into).transpose();
        Ok(Self {
            id: required("id", row.uuid("id"))?,
            workspace_id: required("workspace_id", row.uuid("workspace_id"))?,
            status: RowStatus::of(&status)
                .ok_or_else(|| undecodable("status", format!("`{status}` is no status of an exec")))?,
            summary: row.text("summary")?,
            request_body: row.json("request_body")?,
            response_body: row.json("response_body")?,
            error_detail: row.text("error_detail")?,
            created_at: required("created_at", row.time("created_at"))?,
            body_hmac: body_hmac.map_err(|_| undecodable("adit_body_hmac", "it has not 32 bytes"))?,
        })
    }
}
