//! The audit rows, read from the file by a connection of the test's own.

use std::path::Path;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use uuid::Uuid;

/// One row of `activity_logs`.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) workspace_id: Uuid,
    pub(crate) activity_type: String,
    pub(crate) method: Option<String>,
    pub(crate) status: String,
    pub(crate) request_body: Value,
    pub(crate) response_body: Option<Value>,
    pub(crate) duration_ms: Option<i64>,
    pub(crate) error_detail: Option<String>,
}

type Columns = (
    String,
    String,
    String,
    Option<String>,
    String,
    String,
    Option<String>,
    Option<i64>,
    Option<String>,
);

/// All rows, oldest first.
pub(crate) async fn all(store: &Path) -> Vec<Row> {
    let mut connection = SqliteConnectOptions::new()
        .filename(store)
        .read_only(true)
        .connect()
        .await
        .unwrap();
    let rows: Vec<Columns> = sqlx::query_as(
        "SELECT id, workspace_id, activity_type, method, status, request_body, response_body, duration_ms, error_detail
         FROM activity_logs ORDER BY created_at, id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    rows.into_iter()
        .map(|row| Row {
            id: row.0.parse().unwrap(),
            workspace_id: row.1.parse().unwrap(),
            activity_type: row.2,
            method: row.3,
            status: row.4,
            request_body: serde_json::from_str(&row.5).unwrap(),
            response_body: row.6.map(|text| serde_json::from_str(&text).unwrap()),
            duration_ms: row.7,
            error_detail: row.8,
        })
        .collect()
}
