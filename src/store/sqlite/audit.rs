//! Audit rows in SQLite: a batch is one statement, and therefore one transaction.

use adit_actors::audit::{AuditRow, AuditStore, AuditStoreError, Chore, DueRow, Half, RowStatus};
use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::types::uuid::fmt::Hyphenated;
use sqlx::{Row, Sqlite};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{SqliteStore, modifier};
use crate::store::{audit_rows, failure, timestamp};

/// The rows of a batch.
macro_rules! insert {
    () => {
        "
    INSERT INTO activity_logs (id, adit_attempt_nonce, adit_body_hmac, workspace_id, activity_type, method, summary,
                               request_body, response_body, duration_ms, status, error_detail, created_at)
    SELECT value ->> 'id', value ->> 'attempt_nonce', unhex(value ->> 'body_hmac'), value ->> 'workspace_id', 'exec',
           'POST /workspaces/:id/exec', value ->> 'summary', value -> 'request_body', value -> 'response_body',
           value ->> 'duration_ms', value ->> 'status', value ->> 'error_detail', value ->> 'created_at'
    FROM json_each(?1)
    WHERE true -- without it the parser takes ON for a join"
    };
}

const BEGIN: &str = concat!(insert!(), audit_rows::begin_on_conflict!());

const FINISH: &str = concat!(insert!(), audit_rows::finish_on_conflict!());

/// Commits a page to the log, of the same value as before: a statement that writes no row would not even notice that
/// the disk is full.
const COMMIT_NOTHING: &str = "PRAGMA user_version = 0";

/// Still running, and begun longer ago than `?1`.
macro_rules! is_orphan {
    () => {
        "activity_type = 'exec' AND status = 'running' AND created_at < strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ?1)"
    };
}

/// Ended, and begun longer ago than `?1`. The attempts of one Idempotency-Key in one workspace have one HMAC. All of them stay
/// until the last is old: a key's attempts are counted from the first, so without that one the command would run again.
macro_rules! is_expired {
    () => {
        "activity_type = 'exec' AND status <> 'running'
          AND created_at < strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ?1)
          AND NOT EXISTS (
              SELECT 1 FROM activity_logs AS later
              WHERE later.activity_type = 'exec' AND later.adit_body_hmac = old.adit_body_hmac
                AND later.workspace_id = old.workspace_id
                AND (later.status = 'running'
                     OR later.created_at >= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ?1)))"
    };
}

/// SQLite thinks that half of the execs run, and would rather read all of them in the order that is asked for.
macro_rules! by_running {
    () => {
        " INDEXED BY activity_logs_adit_running"
    };
}
pub(super) use by_running;

/// Of `old`: `?2` and `?3` time and id of the row to go on after, `?4` how many.
macro_rules! due {
    ($index:expr, $condition:expr) => {
        concat!(
            "
    SELECT created_at, id, workspace_id FROM activity_logs AS old",
            $index,
            "
    WHERE ",
            $condition,
            "
      AND (created_at, id) > (?2, ?3)
    ORDER BY created_at, id LIMIT ?4"
        )
    };
}

pub(super) const ORPHANS: &str = due!(by_running!(), is_orphan!());

pub(super) const EXPIRED: &str = due!("", is_expired!());

/// `?2` ids. What nobody knows any more (output, duration, timing) is null in the settled `Exec`: a zero would be a claim.
/// The summary's words are those of a final row that knows no end (`audit_row` of `adit-actors`).
pub(super) const SETTLE: &str = concat!(
    "
    UPDATE activity_logs SET
        status = 'error',
        summary = CASE WHEN summary LIKE '%: running'
            THEN substr(summary, 1, length(summary) - length('running')) || 'ended, how is not known'
            ELSE summary END,
        error_detail = 'the service stopped before this exec was settled',
        response_body = json_object(
            'exec_id', id, 'state', 'ended', 'ran', 'unknown', 'outcome', 'unknown', 'ended_by', 'crash',
            'exit_code', NULL, 'signal', NULL, 'error', NULL, 'started_at', created_at, 'duration_ms', NULL,
            'timeout_s', request_body ->> 'timeout_s', 'streams', NULL, 'kill', NULL, 'tunnel', NULL,
            'timing_ms', NULL, 'audit', json_object('id', id, 'committed', json('true')), 'aws_request_ids', NULL)
    WHERE id IN (SELECT value FROM json_each(?2)) AND ",
    is_orphan!(),
    "
    RETURNING id"
);

/// `?2` ids.
pub(super) const DELETE: &str = concat!(
    "
    DELETE FROM activity_logs AS old
    WHERE id IN (SELECT value FROM json_each(?2)) AND ",
    is_expired!(),
    "
    RETURNING id"
);

/// One row as the statement reads it. Absent members become NULL.
#[derive(Serialize)]
struct Parameters<'a> {
    id: Uuid,
    attempt_nonce: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hmac: Option<String>,
    workspace_id: Uuid,
    status: &'static str,
    summary: &'a str,
    request_body: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_body: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_detail: Option<&'a str>,
    created_at: String,
}

impl<'a> Parameters<'a> {
    fn of(row: &'a AuditRow) -> Result<Self, AuditStoreError> {
        audit_rows::check(row)?;
        Ok(Self {
            id: row.id,
            attempt_nonce: row.attempt_nonce,
            body_hmac: row.body_hmac.map(hexadecimal),
            workspace_id: row.workspace_id,
            status: row.status.as_str(),
            summary: &row.summary,
            request_body: &row.request_body,
            response_body: row.response_body.as_ref(),
            duration_ms: row.duration_ms,
            error_detail: row.error_detail.as_deref(),
            created_at: text(row.created_at)?,
        })
    }
}

fn text(time: OffsetDateTime) -> Result<String, AuditStoreError> {
    timestamp::to_text(time).map_err(|error| AuditStoreError::Rejected(error.into()))
}

/// JSON has no bytes.
fn hexadecimal(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl AuditStore for SqliteStore {
    async fn write(&self, half: Half, rows: &[AuditRow]) -> Result<Vec<Uuid>, AuditStoreError> {
        if rows.is_empty() {
            self.probe().await?;
            return Ok(Vec::new());
        }
        let written = ids(batch(half, rows)?.fetch_all(&self.writer).await)?;
        Ok(audit_rows::owned_by_others(rows, &written))
    }

    async fn due(
        &self,
        chore: Chore,
        after: Option<DueRow>,
        limit: u32,
    ) -> Result<Vec<DueRow>, AuditStoreError> {
        let (sql, age) = match chore {
            Chore::Settle(age) => (ORPHANS, age),
            Chore::Delete(age) => (EXPIRED, age),
        };
        let after = after.unwrap_or(audit_rows::BEFORE_ALL);
        let found = sqlx::query(sql)
            .bind(modifier(age))
            .bind(text(after.created_at)?)
            .bind(after.id.hyphenated())
            .bind(limit)
            .fetch_all(&self.readers)
            .await;
        found
            .and_then(|rows| rows.iter().map(audit_rows::due_row).collect())
            .map_err(failure::audit)
    }

    async fn perform(&self, chore: Chore, ids: &[Uuid]) -> Result<Vec<Uuid>, AuditStoreError> {
        let (sql, age) = match chore {
            Chore::Settle(age) => (SETTLE, age),
            Chore::Delete(age) => (DELETE, age),
        };
        let listed = serde_json::to_string(ids).map_err(|error| AuditStoreError::Rejected(error.into()))?;
        let statement = sqlx::query(sql).bind(modifier(age)).bind(listed);
        self::ids(statement.fetch_all(&self.writer).await)
    }
}

impl SqliteStore {
    /// Does what a begin and a final row need, for a workspace that is there, and takes it back. Nobody but Adit has rules for
    /// its rows here, so any workspace will do.
    async fn probe(&self) -> Result<(), AuditStoreError> {
        let mut transaction = self
            .writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(failure::audit)?;
        let picked = sqlx::query_scalar::<_, Hyphenated>("SELECT id FROM workspaces LIMIT 1")
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failure::audit)?;
        if let Some(picked) = picked {
            let row = probe_row(picked.into());
            for half in [Half::Begin, Half::Finish] {
                batch(half, std::slice::from_ref(&row))?
                    .execute(&mut *transaction)
                    .await
                    .map_err(failure::audit)?;
            }
        }
        transaction.rollback().await.map_err(failure::audit)?;
        let committed = sqlx::query(COMMIT_NOTHING).execute(&self.writer).await;
        committed.map_err(failure::audit)?;
        Ok(())
    }
}

fn probe_row(workspace_id: Uuid) -> AuditRow {
    AuditRow {
        id: Uuid::new_v4(),
        attempt_nonce: Uuid::new_v4(),
        body_hmac: None,
        workspace_id,
        status: RowStatus::Running,
        summary: "probe".to_owned(),
        request_body: Value::Null,
        response_body: None,
        duration_ms: None,
        error_detail: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

/// The statement that writes a batch.
fn batch(half: Half, rows: &[AuditRow]) -> Result<Query<'static, Sqlite, SqliteArguments>, AuditStoreError> {
    let parameters = rows.iter().map(Parameters::of).collect::<Result<Vec<_>, _>>()?;
    let json = serde_json::to_string(&parameters).map_err(|error| AuditStoreError::Rejected(error.into()))?;
    let sql = match half {
        Half::Begin => BEGIN,
        Half::Finish => FINISH,
    };
    Ok(sqlx::query(sql).bind(json))
}

fn ids(rows: Result<Vec<SqliteRow>, sqlx::Error>) -> Result<Vec<Uuid>, AuditStoreError> {
    let id = |row: &SqliteRow| row.try_get::<Hyphenated, _>("id").map(Uuid::from);
    rows.and_then(|rows| rows.iter().map(id).collect())
        .map_err(failure::audit)
}
