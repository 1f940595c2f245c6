//! Where a service under test keeps its rows, and how a test looks at them past the service.

use std::fs;
use std::path::PathBuf;

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tempfile::TempDir;

use super::postgres::Database;
use super::rows::{self, Row};

/// A store of the test's own. Gone when it is dropped.
#[derive(Debug)]
pub(crate) enum TestStore {
    /// A file in a directory of its own, with its journal.
    Sqlite(TempDir),
    /// A database on a PostgreSQL server.
    Postgres(Box<Database>),
}

impl TestStore {
    /// An empty one in SQLite.
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::Builder::new().prefix("adit-test-").tempdir().unwrap())
    }

    /// An empty one on the PostgreSQL server that all tests share.
    pub(crate) async fn postgres() -> Self {
        Self::Postgres(Box::new(Database::create().await))
    }

    /// What `store.url` says of it.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite://{}", file(directory).display()),
            Self::Postgres(database) => database.url(),
        }
    }

    /// All audit rows, oldest first.
    pub(crate) async fn rows(&self) -> Vec<Row> {
        match self {
            Self::Sqlite(directory) => rows::all(&file(directory)).await,
            Self::Postgres(database) => rows::all_of(&mut database.connect().await).await,
        }
    }

    /// Runs statements that both kinds of store understand, beside whatever the service does.
    pub(crate) async fn execute(&self, statements: &str) {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
        match self {
            Self::Sqlite(directory) => {
                let options = SqliteConnectOptions::new().filename(file(directory));
                let mut connection = options.connect().await.unwrap();
                statements.execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Self::Postgres(database) => {
                statements.execute(&mut database.connect().await).await.unwrap();
            }
        }
    }

    /// Every byte that it keeps: SQLite's files, the journal included, or the text of every row of PostgreSQL's tables.
    pub(crate) async fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Sqlite(directory) => fs::read_dir(directory.path())
                .unwrap()
                .flat_map(|entry| fs::read(entry.unwrap().path()).unwrap())
                .collect(),
            Self::Postgres(database) => {
                sqlx::query_scalar::<_, String>("SELECT schema_to_xml('public', true, false, '')::text")
                    .fetch_one(&mut database.connect().await)
                    .await
                    .unwrap()
                    .into_bytes()
            }
        }
    }

    /// Lets nobody write audit rows until the guard is dropped. Readers, such as authentication, go on.
    pub(crate) async fn hold_writers(&self) -> Held {
        match self {
            Self::Sqlite(directory) => {
                let options = SqliteConnectOptions::new().filename(file(directory));
                let mut connection = options.connect().await.unwrap();
                let begin = sqlx::query("BEGIN EXCLUSIVE");
                begin.execute(&mut connection).await.unwrap();
                Held::Sqlite(connection)
            }
            Self::Postgres(database) => {
                let mut connection = database.connect().await;
                let lock = sqlx::raw_sql("BEGIN; LOCK TABLE activity_logs IN SHARE MODE");
                lock.execute(&mut connection).await.unwrap();
                Held::Postgres(connection)
            }
        }
    }
}

/// Writers wait while this is there.
#[derive(Debug)]
pub(crate) enum Held {
    /// SQLite has one place for a writer, and this is in it.
    Sqlite(SqliteConnection),
    /// A lock on the table.
    Postgres(PgConnection),
}

impl Held {
    /// Lets them go on.
    pub(crate) async fn let_go(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.unwrap(),
            Self::Postgres(connection) => connection.close().await.unwrap(),
        }
    }
}

pub(crate) fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("adit.db")
}
