//! What holds for audit rows in every store, whatever its SQL.

use std::collections::HashSet;

use adit_actors::audit::{AuditRow, AuditStoreError, DueRow};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::row::{Columns, required};

/// What becomes of a begin row whose id is there. It replaces only what decides that the row is its own, so one that comes
/// late changes nothing. The ids returned are those that are now there and this try's own.
macro_rules! begin_on_conflict {
    () => {
        "
    ON CONFLICT (id) DO UPDATE SET adit_attempt_nonce = excluded.adit_attempt_nonce
    WHERE activity_logs.activity_type = 'exec'
      AND activity_logs.adit_attempt_nonce = excluded.adit_attempt_nonce
    RETURNING id"
    };
}

/// The same for a final row, which replaces whatever its own try or the sweep wrote.
macro_rules! finish_on_conflict {
    () => {
        "
    ON CONFLICT (id) DO UPDATE SET
        adit_body_hmac = excluded.adit_body_hmac,
        workspace_id = excluded.workspace_id,
        method = excluded.method,
        summary = excluded.summary,
        request_body = excluded.request_body,
        response_body = excluded.response_body,
        duration_ms = excluded.duration_ms,
        status = excluded.status,
        error_detail = excluded.error_detail,
        created_at = excluded.created_at
    WHERE activity_logs.activity_type = 'exec'
      AND activity_logs.adit_attempt_nonce = excluded.adit_attempt_nonce
    RETURNING id"
    };
}
pub(super) use {begin_on_conflict, finish_on_conflict};

/// No exec was admitted so early.
pub(super) const BEFORE_ALL: DueRow = DueRow {
    created_at: OffsetDateTime::UNIX_EPOCH,
    id: Uuid::nil(),
    workspace_id: Uuid::nil(),
};

/// A row of which `created_at`, `id` and `workspace_id` were selected.
pub(super) fn due_row(row: &impl Columns) -> Result<DueRow, sqlx::Error> {
    Ok(DueRow {
        created_at: required("created_at", row.time("created_at"))?,
        id: required("id", row.uuid("id"))?,
        workspace_id: required("workspace_id", row.uuid("workspace_id"))?,
    })
}

/// Refuses a row whose text or JSON holds NUL: PostgreSQL has no place for it, and SQLite would cut the text there.
pub(super) fn check(row: &AuditRow) -> Result<(), AuditStoreError> {
    let texts_hold_nul = row.summary.contains('\0')
        || row
            .error_detail
            .as_ref()
            .is_some_and(|detail| detail.contains('\0'));
    if texts_hold_nul || holds_nul(&row.request_body) || row.response_body.as_ref().is_some_and(holds_nul) {
        return Err(AuditStoreError::Rejected(
            format!("row `{}` holds a NUL character", row.id).into(),
        ));
    }
    Ok(())
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

/// Ids of `rows` that are not among those `written`: what stands there is another try's or another writer's.
pub(super) fn owned_by_others(rows: &[AuditRow], written: &[Uuid]) -> Vec<Uuid> {
    let written: HashSet<_> = written.iter().collect();
    rows.iter()
        .map(|row| row.id)
        .filter(|id| !written.contains(id))
        .collect()
}
