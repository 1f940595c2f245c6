//! The audit rows, read by a connection of the test's own.

use std::path::Path;

use serde_json::Value;
use sqlx::postgres::PgConnection;
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

const SELECT: &str = "
    SELECT CAST(id AS TEXT), CAST(workspace_id AS TEXT), activity_type, method, status, CAST(request_body AS TEXT),
           CAST(response_body AS TEXT), CAST(duration_ms AS BIGINT), error_detail
    FROM activity_logs
    ORDER BY created_at, id";

/// All rows in a file of SQLite's, oldest first.
pub(crate) async fn all(store: &Path) -> Vec<Row> {
    let mut connection = SqliteConnectOptions::new()
        .filename(store)
        .read_only(true)
        .connect()
        .await
        .unwrap();
    let rows = sqlx::query_as(SELECT).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    read(rows)
}

/// All rows in a database of PostgreSQL's, oldest first.
pub(crate) async fn all_of(database: &mut PgConnection) -> Vec<Row> {
    read(sqlx::query_as(SELECT).fetch_all(database).await.unwrap())
}

fn read(rows: Vec<Columns>) -> Vec<Row> {
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
