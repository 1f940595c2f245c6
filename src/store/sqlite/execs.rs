//! Execs in SQLite, read back from their audit rows.

use adit_actors::audit::RowStatus;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePool;
use uuid::Uuid;

use super::audit::by_running;
use crate::store::execs::SHOW;
use crate::store::failure::unavailable;
use crate::store::{ExecQuery, StoreError, StoredExec, timestamp};

pub(super) async fn show(
    pool: &SqlitePool,
    exec_id: Uuid,
    workspace_id: Option<Uuid>,
) -> Result<Option<StoredExec>, StoreError> {
    let found = sqlx::query(SHOW)
        .bind(exec_id.hyphenated())
        .bind(workspace_id.map(Uuid::hyphenated))
        .fetch_optional(pool)
        .await
        .and_then(|row| row.as_ref().map(StoredExec::of).transpose());
    found.map_err(|error| unavailable("show an exec", error))
}

pub(super) async fn list(pool: &SqlitePool, query: &ExecQuery) -> Result<Vec<StoredExec>, StoreError> {
    fetch(pool, query)
        .await
        .map_err(|error| unavailable("list execs", error))
}

pub(super) fn statement(query: &ExecQuery) -> String {
    query.statement(match query.status {
        Some(RowStatus::Running) => by_running!(),
        Some(RowStatus::Ok | RowStatus::Error | RowStatus::Timeout) | None => "",
    })
}

async fn fetch(pool: &SqlitePool, query: &ExecQuery) -> Result<Vec<StoredExec>, sqlx::Error> {
    let (after_time, after_id) = query.after.unzip();
    let text = |time: Option<_>| {
        time.map(timestamp::to_text)
            .transpose()
            .map_err(|error| sqlx::Error::Encode(error.into()))
    };
    // The text is put together from constants.
    let rows = sqlx::query(AssertSqlSafe(statement(query)))
        .bind(query.workspace_id.map(Uuid::hyphenated))
        .bind(text(query.since)?)
        .bind(text(after_time)?)
        .bind(after_id.map(Uuid::hyphenated))
        .bind(query.limit)
        .fetch_all(pool)
        .await?;
    rows.iter().map(StoredExec::of).collect()
}
