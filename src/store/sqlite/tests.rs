//! The store suite on SQLite, and what only SQLite has: files, migrations and crashes.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_actors::audit::{AuditStore, AuditStoreError, Half, RowStatus};
use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Row};
use tempfile::TempDir;

use super::accounts::AUTHORIZE;
use super::audit::{DELETE, EXPIRED, ORPHANS, SETTLE};
use super::execs::statement;
use super::{SqliteStore, connect_options, migrate, pool};
use crate::store::execs::SHOW;
use crate::store::suite::{Activity, Database, Harness, defaults, running, store_suite, workspace};
use crate::store::{ConnectError, ExecQuery, Store, connect};

struct File {
    pool: SqlitePool,
    _directory: TempDir,
}

#[async_trait]
impl Database for File {
    async fn execute(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&self.pool)
            .await
            .unwrap();
    }

    async fn try_execute(&self, statement: &str) -> bool {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&self.pool)
            .await
            .is_ok()
    }

    async fn activities(&self) -> Vec<Activity> {
        let rows = sqlx::query("SELECT * FROM activity_logs ORDER BY created_at, id")
            .fetch_all(&self.pool)
            .await
            .unwrap();
        rows.iter().map(Activity::of).collect()
    }
}

async fn opened(directory: &TempDir) -> (PathBuf, SqliteStore) {
    let path = directory.path().join("adit.db");
    migrate(&path).await.unwrap();
    let store = SqliteStore::open(&path, 2, defaults()).await.unwrap();
    (path, store)
}

async fn harness() -> Harness {
    let directory = tempfile::tempdir().unwrap();
    let (path, store) = opened(&directory).await;
    let pool = pool(1).connect_with(connect_options(&path)).await.unwrap();
    Harness {
        store: Arc::new(store),
        database: Box::new(File {
            pool,
            _directory: directory,
        }),
    }
}

store_suite!(harness);

#[tokio::test]
async fn migrations_are_applied_once_and_missed_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adit.db");
    let url = format!("sqlite://{}", path.display());
    let refused = connect(&url, 2, defaults()).await.err().unwrap();
    assert!(
        matches!(refused, ConnectError::Missing { .. }),
        "no file: {refused:?}"
    );

    let empty = pool(1)
        .connect_with(connect_options(&path).create_if_missing(true))
        .await
        .unwrap();
    let refused = connect(&url, 2, defaults()).await.err().unwrap();
    let all = super::migrator().iter().count();
    assert!(
        matches!(refused, ConnectError::NotMigrated { missing } if missing == all),
        "{refused:?}"
    );

    assert_eq!(crate::store::migrate(&url).await.unwrap(), all);
    assert_eq!(crate::store::migrate(&url).await.unwrap(), 0);
    connect(&url, 2, defaults()).await.unwrap().ping().await.unwrap();

    // A newer version has been here first.
    let execute = async |statement| sqlx::query(statement).execute(&empty).await.unwrap();
    execute(
        "INSERT INTO adit_migrations (version, description, success, checksum, execution_time)
         VALUES (1000, 'newer', true, x'00', 0)",
    )
    .await;
    connect(&url, 2, defaults()).await.unwrap().ping().await.unwrap();
    assert_eq!(crate::store::migrate(&url).await.unwrap(), 0);

    for (foreign, version) in [
        ("UPDATE adit_migrations SET checksum = x'00' WHERE version = 2", 2),
        ("UPDATE adit_migrations SET version = 0 WHERE version = 2", 0),
    ] {
        execute(foreign).await;
        for refused in [
            connect(&url, 2, defaults()).await.err().unwrap(),
            crate::store::migrate(&url).await.unwrap_err(),
        ] {
            assert!(
                matches!(refused, ConnectError::ForeignMigration { version: found } if found == version),
                "{refused:?}"
            );
        }
    }
}

/// What a `kill -9` leaves: the database file and a write-ahead log that nobody has merged into it. Copying both
/// while the store is open gives exactly that.
#[tokio::test]
async fn committed_rows_survive_a_killed_process() {
    let directory = tempfile::tempdir().unwrap();
    let (path, store) = opened(&directory).await;
    let workspace = workspace("mine", None);
    store.add_workspace(&workspace).await.unwrap();
    let row = running(workspace.id);
    store
        .write(Half::Begin, std::slice::from_ref(&row))
        .await
        .unwrap();

    let crashed = directory.path().join("crashed.db");
    let log = directory.path().join("adit.db-wal");
    assert!(
        std::fs::metadata(&log).unwrap().len() > 0,
        "the row must be in the log, or the test shows nothing"
    );
    std::fs::copy(&path, &crashed).unwrap();
    std::fs::copy(&log, directory.path().join("crashed.db-wal")).unwrap();

    let reopened = SqliteStore::open(&crashed, 2, defaults()).await.unwrap();
    let rows = sqlx::query("SELECT * FROM activity_logs")
        .fetch_all(&reopened.readers)
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|row| Activity::of(row).id).collect::<Vec<_>>(),
        [row.id]
    );
}

/// Pragmas are per connection, so each pool is asked.
#[tokio::test]
async fn commits_are_durable_and_readers_cannot_write() {
    let directory = tempfile::tempdir().unwrap();
    let (path, store) = opened(&directory).await;
    let log = directory.path().join("adit.db-wal");
    for file in [&path, &log] {
        let mode = std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "the audit is its owner's: {}", file.display());
    }
    for pool in [&store.writer, &store.readers] {
        for (pragma, value) in [("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 5_000)] {
            let found: i64 = sqlx::query_scalar(AssertSqlSafe(format!("PRAGMA {pragma}")))
                .fetch_one(pool)
                .await
                .unwrap();
            assert_eq!(found, value, "{pragma}");
        }
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(journal, "wal");
    }
    sqlx::query("DELETE FROM workspaces")
        .execute(&store.readers)
        .await
        .unwrap_err();
    sqlx::query("DELETE FROM workspaces")
        .execute(&store.writer)
        .await
        .unwrap();
}

/// Each through its index and out of it in the right order.
#[tokio::test]
async fn no_statement_reads_or_sorts_all_rows() {
    let directory = tempfile::tempdir().unwrap();
    let (_, store) = opened(&directory).await;
    let place = Some((
        time::macros::datetime!(2026-01-02 03:04:05 UTC),
        uuid::Uuid::nil(),
    ));
    let lists = [None, Some(uuid::Uuid::nil())].map(|workspace_id| {
        [None, place].map(|after| {
            RowStatus::ALL.map(|status| ExecQuery {
                workspace_id,
                status: Some(status),
                since: place.unzip().0,
                after,
                limit: 50,
            })
        })
    });
    let lists = lists.iter().flatten().flatten().map(statement);
    let others = [SHOW, AUTHORIZE, ORPHANS, SETTLE, EXPIRED, DELETE].map(str::to_owned);
    for statement in lists.chain(others) {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let plan = sqlx::query(explain).fetch_all(&store.writer).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        let plan = plan.join("\n");
        assert!(
            !plan.contains("SCAN activity_logs")
                && !plan.contains("SCAN old")
                && !plan.contains("TEMP B-TREE FOR ORDER BY"),
            "{statement}\n{plan}"
        );
        // Of a status that few have only those that have it.
        for (status, index) in [
            ("error", "failures"),
            ("timeout", "failures"),
            ("running", "running"),
        ] {
            let is_asked_for = statement.contains(&format!("AND status = '{status}'"));
            let is_by_id = plan.contains("(id=?)");
            assert!(
                !is_asked_for || is_by_id || plan.contains(index),
                "{statement}\n{plan}"
            );
        }
    }
}

/// The probe must find a disk that takes no more, so it has to write.
#[tokio::test]
async fn an_empty_batch_is_written_to_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (_, store) = opened(&directory).await;
    let log = directory.path().join("adit.db-wal");
    for half in [Half::Begin, Half::Finish] {
        let before = std::fs::metadata(&log).unwrap().len();
        store.write(half, &[]).await.unwrap();
        assert!(std::fs::metadata(&log).unwrap().len() > before);
    }
}

/// A writer that holds the database makes a batch wait, and then tells that trying again may help.
#[tokio::test]
async fn a_busy_database_is_unavailable_and_readers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut store) = opened(&directory).await;
    let impatient = connect_options(&path).busy_timeout(Duration::from_millis(1));
    store.writer = pool(1).connect_with(impatient).await.unwrap();
    let other = pool(1).connect_with(connect_options(&path)).await.unwrap();
    let mut held = other.acquire().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *held).await.unwrap();

    let row = running(uuid::Uuid::new_v4());
    for batch in [&[row][..], &[]] {
        let refused = store.write(Half::Begin, batch).await;
        assert!(
            matches!(refused, Err(AuditStoreError::Unavailable(_))),
            "{refused:?}"
        );
    }
    store.ping().await.unwrap();
}
