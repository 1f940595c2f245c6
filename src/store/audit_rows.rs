//! What holds for audit rows in every store, whatever its SQL.

use std::collections::HashSet;

use adit_actors::audit::{AuditRow, AuditStoreError};
use serde_json::Value;
use uuid::Uuid;

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
