//! Execs in PostgreSQL, read back from their audit rows.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::PostgresStore;
use super::connections::Statement;
use crate::store::execs::SHOW;
use crate::store::failure::unavailable;
use crate::store::{ExecQuery, StoreError, StoredExec};

pub(super) async fn show(
    store: &PostgresStore,
    exec_id: Uuid,
    workspace_id: Option<Uuid>,
) -> Result<Option<StoredExec>, StoreError> {
    let statement = || sqlx::query(SHOW).bind(exec_id).bind(workspace_id);
    let found = store.requests.rows(statement).await;
    found
        .and_then(|rows| rows.first().map(StoredExec::of).transpose())
        .map_err(|error| unavailable("show an exec", error))
}

pub(super) async fn list(store: &PostgresStore, query: &ExecQuery) -> Result<Vec<StoredExec>, StoreError> {
    let found = store.requests.rows(|| statement(query)).await;
    found
        .and_then(|rows| rows.iter().map(StoredExec::of).collect())
        .map_err(|error| unavailable("list execs", error))
}

/// All five parameters are bound, whichever of them the text names. It is planned anew each time: a plan for all values
/// would take any two times for neighbours, and sort what lies between them.
fn statement(query: &ExecQuery) -> Statement<'static> {
    let (after_time, after_id) = query.after.unzip();
    // The text is put together from constants.
    sqlx::query(AssertSqlSafe(query.statement("")))
        .bind(query.workspace_id)
        .bind(query.since)
        .bind(after_time)
        .bind(after_id)
        .bind(i64::from(query.limit))
        .persistent(false)
}
