//! Rows of a crashed service that are old enough to be settled.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::store::{TestStore, file};

impl TestStore {
    /// Makes the rows that say `running` an hour older.
    pub(crate) async fn age_running_rows(&self) {
        match self {
            Self::Sqlite(directory) => {
                let options = SqliteConnectOptions::new().filename(file(directory));
                let mut connection = options.connect().await.unwrap();
                let age = "UPDATE activity_logs
                    SET created_at = strftime('%Y-%m-%dT%H:%M:%f000Z', created_at, '-1 hour')
                    WHERE status = 'running'";
                sqlx::query(age).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Self::Postgres(database) => {
                let age = "UPDATE activity_logs SET created_at = created_at - interval '1 hour'
                    WHERE status = 'running'";
                let mut connection = database.connect().await;
                sqlx::query(age).execute(&mut connection).await.unwrap();
            }
        }
    }
}
