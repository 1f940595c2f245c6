//! The store suite on PostgreSQL, and what only PostgreSQL has: sessions, a host platform, long migrations, and plans.

mod adoption;
#[path = "../../../../tests/support/postgres.rs"]
mod database;
mod migrating;
mod plans;
mod sessions;
#[path = "../../../../tests/support/wait.rs"]
mod wait;

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
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
            .map(Activity::of)
            .collect()
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
