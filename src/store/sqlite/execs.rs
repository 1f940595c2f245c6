//! Execs read back from their audit rows.

use adit_actors::audit::RowStatus;
use sqlx::sqlite::{Sqlite, SqlitePool, SqliteRow};
use sqlx::types::Json;
use sqlx::types::uuid::fmt::Hyphenated;
use sqlx::{QueryBuilder, Row};
use uuid::Uuid;

use super::failure::{unavailable, undecodable};
use crate::store::{ExecQuery, StoreError, StoredExec, timestamp};

const SELECT: &str = "
    SELECT id, workspace_id, status, summary, request_body, response_body, error_detail, created_at, adit_body_hmac
    FROM activity_logs WHERE activity_type = 'exec'";

pub(super) async fn show(
    pool: &SqlitePool,
    exec_id: Uuid,
    workspace_id: Option<Uuid>,
) -> Result<Option<StoredExec>, StoreError> {
    let mut statement = QueryBuilder::<Sqlite>::new(SELECT);
    statement.push(" AND id = ").push_bind(exec_id.hyphenated());
    if let Some(workspace_id) = workspace_id {
        statement
            .push(" AND workspace_id = ")
            .push_bind(workspace_id.hyphenated());
    }
    let found = statement
        .build()
        .fetch_optional(pool)
        .await
        .and_then(|row| row.as_ref().map(exec).transpose());
    found.map_err(|error| unavailable("show an exec", error))
}

/// The statement says only what is asked for: with `? IS NULL OR ...` no index would fit.
pub(super) async fn list(pool: &SqlitePool, query: &ExecQuery) -> Result<Vec<StoredExec>, StoreError> {
    let failed = |error| unavailable("list execs", error);
    let mut statement = QueryBuilder::<Sqlite>::new(SELECT);
    if let Some(workspace_id) = query.workspace_id {
        statement
            .push(" AND workspace_id = ")
            .push_bind(workspace_id.hyphenated());
    }
    if let Some(status) = query.status {
        statement.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(since) = query.since {
        statement
            .push(" AND created_at >= ")
            .push_bind(timestamp::to_text(since).map_err(encode_error).map_err(failed)?);
    }
    if let Some((created_at, id)) = query.after {
        statement
            .push(" AND (created_at, id) < (")
            .push_bind(
                timestamp::to_text(created_at)
                    .map_err(encode_error)
                    .map_err(failed)?,
            )
            .push(", ")
            .push_bind(id.hyphenated())
            .push(")");
    }
    statement
        .push(" ORDER BY created_at DESC, id DESC LIMIT ")
        .push_bind(query.limit);
    let found = statement
        .build()
        .fetch_all(pool)
        .await
        .and_then(|rows| rows.iter().map(exec).collect());
    found.map_err(failed)
}

fn encode_error(error: time::error::Format) -> sqlx::Error {
    sqlx::Error::Encode(error.into())
}

fn exec(row: &SqliteRow) -> Result<StoredExec, sqlx::Error> {
    let status: &str = row.try_get("status")?;
    let json = |column| -> Result<_, sqlx::Error> {
        Ok(row
            .try_get::<Option<Json<_>>, _>(column)?
            .map(|Json(value)| value))
    };
    Ok(StoredExec {
        id: row.try_get::<Hyphenated, _>("id")?.into(),
        workspace_id: row.try_get::<Hyphenated, _>("workspace_id")?.into(),
        status: RowStatus::of(status)
            .ok_or_else(|| undecodable("status", format!("`{status}` is no status of an exec").into()))?,
        summary: row.try_get("summary")?,
        request_body: json("request_body")?,
        response_body: json("response_body")?,
        error_detail: row.try_get("error_detail")?,
        created_at: timestamp::from_text(row.try_get("created_at")?)
            .map_err(|error| undecodable("created_at", error.into()))?,
        body_hmac: row
            .try_get::<Option<&[u8]>, _>("adit_body_hmac")?
            .map(TryInto::try_into)
            .transpose()
            .map_err(|error: std::array::TryFromSliceError| undecodable("adit_body_hmac", error.into()))?,
    })
}
