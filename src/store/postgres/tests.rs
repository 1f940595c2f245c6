//! The store suite on PostgreSQL, and what only PostgreSQL has: sessions, servers that hang, and grants.

#[path = "../../../tests/support/postgres.rs"]
mod database;

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Row};
use tokio::sync::Mutex;

use super::{PostgresStore, migrate};
use crate::store::suite::{Activity, Database, Harness, defaults, store_suite};

struct Past {
    connection: Mutex<PgConnection>,
    _database: database::Database,
}

#[async_trait]
impl Database for Past {
    async fn execute(&self, statement: &str) {
        assert!(self.try_execute(statement).await, "{statement}");
    }

    async fn try_execute(&self, statement: &str) -> bool {
        let mut connection = self.connection.lock().await;
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await
            .is_ok()
    }

    async fn activities(&self) -> Vec<Activity> {
        let mut connection = self.connection.lock().await;
        sqlx::query("SELECT * FROM activity_logs ORDER BY created_at, id")
            .fetch_all(&mut *connection)
            .await
            .unwrap()
            .iter()
            .map(activity)
            .collect()
    }
}

fn activity(row: &PgRow) -> Activity {
    Activity {
        id: row.get("id"),
        workspace_id: row.get("workspace_id"),
        activity_type: row.get("activity_type"),
        method: row.get("method"),
        summary: row.get("summary"),
        request_body: row
            .get::<Option<Json<_>>, _>("request_body")
            .map(|Json(body)| body),
        response_body: row
            .get::<Option<Json<_>>, _>("response_body")
            .map(|Json(body)| body),
        duration_ms: row.get("duration_ms"),
        status: row.get("status"),
        error_detail: row.get("error_detail"),
    }
}

async fn harness() -> Harness {
    let database = database::Database::create().await;
    let options = database.url().parse().unwrap();
    migrate(&options).await.unwrap();
    let store = PostgresStore::open(&options, 4, defaults()).await.unwrap();
    Harness {
        store: Arc::new(store),
        database: Box::new(Past {
            connection: Mutex::new(database.connect().await),
            _database: database,
        }),
    }
}

store_suite!(harness);
