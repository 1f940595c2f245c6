//! A PostgreSQL database for one test, on the server that `scripts/test` starts for all of them.

use std::future::Future;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use uuid::Uuid;

/// The URL of the server that all tests share; its user may make and drop databases.
const SERVER: &str = "ADIT_TEST_POSTGRES";

/// An empty database with a name of its own. Dropped at the end, whoever is still connected to it.
#[derive(Debug)]
pub(crate) struct Database {
    server: PgConnectOptions,
    name: String,
}

impl Database {
    /// Makes one on the shared server.
    pub(crate) async fn create() -> Self {
        let server =
            std::env::var(SERVER).unwrap_or_else(|_| panic!("`{SERVER}` is not set; run scripts/test"));
        Self::create_on(&server).await
    }

    /// Makes one on the server of that URL.
    pub(crate) async fn create_on(server: &str) -> Self {
        let database = Self {
            server: server.parse().unwrap(),
            name: format!("adit_test_{}", Uuid::new_v4().simple()),
        };
        let statement = format!("CREATE DATABASE {}", database.name);
        execute(&database.server, statement).await.unwrap();
        database
    }

    /// Where it is, as `store.url` takes it.
    pub(crate) fn url(&self) -> String {
        let (user, host) = (self.server.get_username(), self.server.get_host());
        format!(
            "postgres://{user}@{host}:{}/{}",
            self.server.get_port(),
            self.name
        )
    }

    /// A connection of the test's own.
    pub(crate) async fn connect(&self) -> PgConnection {
        let options = self.server.clone().database(&self.name);
        options.connect().await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        // Fails only where the server has gone, and the database with it.
        let dropped = on_a_thread_of_its_own(async move { execute(&server, statement).await });
        if let Err(error) = dropped {
            eprintln!("`{}` was not dropped: {error}", self.name);
        }
    }
}

async fn execute(server: &PgConnectOptions, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = server.connect().await?;
    sqlx::query(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await?;
    connection.close().await
}

/// Runs it to its end from where nothing can be awaited.
fn on_a_thread_of_its_own<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(work)
    };
    std::thread::spawn(run).join().unwrap()
}
