//! Audit rows in SQLite: a batch is one statement, and therefore one transaction.

use std::time::Duration;

use adit_actors::audit::{AuditRow, AuditStore, AuditStoreError, Half};
use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use sqlx::types::uuid::fmt::Hyphenated;
use uuid::Uuid;

use super::{SqliteStore, failure};
use crate::store::timestamp;

/// A begin row never replaces anything; a final row replaces what is there. An id that belongs to another writer's
/// row fails the whole batch, by the NOT NULL of `activity_type`: doing nothing would lose the exec's row silently.
const WRITE: &str = "
    INSERT INTO activity_logs (id, workspace_id, activity_type, method, summary, request_body, response_body,
                               duration_ms, status, error_detail, created_at)
    SELECT value ->> 'id', value ->> 'workspace_id', 'exec', 'POST /workspaces/:id/exec', value ->> 'summary',
           value -> 'request_body', value -> 'response_body', value ->> 'duration_ms', value ->> 'status',
           value ->> 'error_detail', value ->> 'created_at'
    FROM json_each(?1)
    WHERE true -- without it the parser takes ON for a join
    ON CONFLICT (id) DO UPDATE SET
        activity_type = CASE WHEN activity_logs.activity_type = 'exec' THEN 'exec' END,
        workspace_id = excluded.workspace_id,
        method = excluded.method,
        summary = excluded.summary,
        request_body = excluded.request_body,
        response_body = excluded.response_body,
        duration_ms = excluded.duration_ms,
        status = excluded.status,
        error_detail = excluded.error_detail,
        created_at = excluded.created_at
    WHERE excluded.status <> 'running' OR activity_logs.activity_type <> 'exec'";

/// What nobody knows any more (output, duration, timing) is left out of the settled `Exec`: a zero would be a claim.
/// The summary's words are those of a final row that knows no end (`audit_row` of `adit-actors`).
const SWEEP: &str = "
    UPDATE activity_logs SET
        status = 'error',
        summary = CASE WHEN summary LIKE '%: running'
            THEN substr(summary, 1, length(summary) - length('running')) || 'ended, how is not known'
            ELSE summary END,
        error_detail = 'the service stopped before this exec was settled',
        response_body = json_object(
            'exec_id', id, 'state', 'ended', 'ran', 'unknown', 'outcome', 'unknown', 'ended_by', 'crash',
            'exit_code', NULL, 'signal', NULL, 'error', NULL, 'started_at', created_at,
            'timeout_s', request_body ->> 'timeout_s', 'kill', NULL, 'tunnel', NULL,
            'audit', json_object('id', id, 'committed', json('true')))
    WHERE activity_type = 'exec' AND status = 'running'
      AND created_at < strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ?1)
    RETURNING id";

/// One row as the statement reads it. Absent members become NULL.
#[derive(Serialize)]
struct Parameters<'a> {
    id: Uuid,
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
        // PostgreSQL has no place for NUL in text or JSON; SQLite would cut the text there. Neither may happen.
        let texts_hold_nul = row.summary.contains('\0')
            || row
                .error_detail
                .as_ref()
                .is_some_and(|detail| detail.contains('\0'));
        if texts_hold_nul || holds_nul(&row.request_body) || row.response_body.as_ref().is_some_and(holds_nul)
        {
            return Err(AuditStoreError::Rejected(
                format!("row `{}` holds a NUL character", row.id).into(),
            ));
        }
        Ok(Self {
            id: row.id,
            workspace_id: row.workspace_id,
            status: row.status.as_str(),
            summary: &row.summary,
            request_body: &row.request_body,
            response_body: row.response_body.as_ref(),
            duration_ms: row.duration_ms,
            error_detail: row.error_detail.as_deref(),
            created_at: timestamp::to_text(row.created_at)
                .map_err(|error| AuditStoreError::Rejected(error.into()))?,
        })
    }
}

/// Depth is bounded: `serde_json` parses no deeper than 128, and Adit's own rows have four levels.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[async_trait]
impl AuditStore for SqliteStore {
    async fn write(&self, _half: Half, rows: &[AuditRow]) -> Result<Vec<Uuid>, AuditStoreError> {
        let parameters = rows.iter().map(Parameters::of).collect::<Result<Vec<_>, _>>()?;
        let batch =
            serde_json::to_string(&parameters).map_err(|error| AuditStoreError::Rejected(error.into()))?;
        sqlx::query(WRITE)
            .bind(batch)
            .execute(&self.writer)
            .await
            .map_err(failure::audit)?;
        Ok(Vec::new())
    }

    async fn sweep(&self, older_than: Duration) -> Result<Vec<Uuid>, AuditStoreError> {
        sqlx::query(SWEEP)
            .bind(format!("-{:.3} seconds", older_than.as_secs_f64()))
            .fetch_all(&self.writer)
            .await
            .map_err(failure::audit)?
            .iter()
            .map(|row| {
                row.try_get::<Hyphenated, _>("id")
                    .map(Uuid::from)
                    .map_err(failure::audit)
            })
            .collect()
    }

    async fn delete_ended(&self, _age: Duration, _limit: u32) -> Result<u64, AuditStoreError> {
        unimplemented!()
    }
}
