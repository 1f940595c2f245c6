//! Migrations beside people who work: several at once, long transactions, interrupted builds of an index.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::adoption::{execute, host, options};
use super::database::Database;
use super::wait;
use crate::store::ConnectError;
use crate::store::postgres::migrations::{LOCK, Patience, check, migrate_with, migrator};
use crate::store::postgres::{PostgresStore, migrate};
use crate::store::suite::defaults;

/// Gives up soon.
const IMPATIENT: Patience = Patience {
    lock: Duration::from_millis(100),
    attempts: 2,
    pause: Duration::from_millis(10),
    index: Duration::from_millis(100),
    other: Duration::from_millis(100),
};

/// Goes on for as long as a test may take, and never holds others up for long.
const PATIENT: Patience = Patience {
    attempts: 10_000,
    index: Duration::from_secs(120),
    other: Duration::from_secs(120),
    ..IMPATIENT
};

/// So many indexes of Adit's own are built on the host's `activity_logs`.
const INDEXES: i64 = 6;

fn all() -> usize {
    migrator().iter().count()
}

async fn count(connection: &mut PgConnection, statement: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(statement))
        .fetch_one(connection)
        .await
        .unwrap()
}

async fn indexes(connection: &mut PgConnection, are_valid: bool) -> i64 {
    let statement = format!(
        "SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
         WHERE relname LIKE 'activity\\_logs\\_adit\\_%' AND indisvalid = {are_valid}"
    );
    count(connection, &statement).await
}

#[tokio::test]
async fn a_database_is_missed_until_it_is_migrated() {
    let database = Database::create().await;
    let options = options(&database);
    let refused = PostgresStore::open(&options, 2, defaults()).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::NotMigrated { missing } if missing == all()),
        "{refused:?}"
    );
    assert_eq!(migrate(&options).await.unwrap(), all());
    check(&options).await.unwrap();
    // A newer version has been here first.
    let mut connection = database.connect().await;
    let newer = "INSERT INTO adit_migrations (version, description, success, checksum, execution_time)
                 VALUES (1000, 'newer', true, '\\x00', 0)";
    execute(&mut connection, newer.to_owned()).await;
    PostgresStore::open(&options, 2, defaults()).await.unwrap();
    assert_eq!(migrate(&options).await.unwrap(), 0);

    for (foreign, version) in [
        (
            "UPDATE adit_migrations SET checksum = '\\x00' WHERE version = 2",
            2,
        ),
        ("UPDATE adit_migrations SET version = 0 WHERE version = 2", 0),
    ] {
        execute(&mut connection, foreign.to_owned()).await;
        for refused in [
            check(&options).await.unwrap_err(),
            migrate(&options).await.unwrap_err(),
        ] {
            assert!(
                matches!(refused, ConnectError::ForeignMigration { version: found } if found == version),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn of_four_at_once_one_migrates_and_the_others_wait() {
    for database in [Database::create().await, host("TEXT").await] {
        let options = options(&database);
        let four = (0..4).map(|_| migrate_with(&options, PATIENT));
        let applied: Vec<_> = futures_util::future::join_all(four).await;
        let mut applied: Vec<_> = applied.into_iter().map(Result::unwrap).collect();
        applied.sort_unstable();
        assert_eq!(applied, [0, 0, 0, all()]);
        check(&options).await.unwrap();
        assert_eq!(indexes(&mut database.connect().await, true).await, INDEXES);
    }
}

#[tokio::test]
async fn one_that_waits_for_another_in_vain_says_so() {
    let database = Database::create().await;
    let options = options(&database);
    let mut other = database.connect().await;
    execute(&mut other, format!("SELECT pg_advisory_lock({LOCK})")).await;
    let refused = migrate_with(&options, IMPATIENT).await.unwrap_err();
    assert!(matches!(refused, ConnectError::MigrationUnderWay), "{refused:?}");
    other.close().await.unwrap();
    assert_eq!(migrate_with(&options, PATIENT).await.unwrap(), all());
}

const INSERT: &str = "INSERT INTO activity_logs (workspace_id, activity_type)
                      VALUES ('11111111-0000-4000-8000-000000000001', 'task')";

#[tokio::test]
async fn a_table_in_use_is_asked_for_shortly_and_again() {
    let database = host("TEXT").await;
    let options = options(&database);
    let mut long = database.connect().await;
    execute(&mut long, format!("BEGIN; {INSERT}")).await;

    let refused = migrate_with(&options, IMPATIENT).await.unwrap_err();
    assert!(
        matches!(&refused, ConnectError::Migrate(cause) if cause.to_string().contains("lock timeout")),
        "{refused:?}"
    );

    let mut host = database.connect().await;
    let waits = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
                 WHERE datname = current_database() AND NOT granted";
    let work = async {
        for _ in 0..5 {
            wait::until_true("the migration waits for the table", async || {
                count(&mut host, waits).await == 1
            })
            .await;
            // Behind a migration that waits for as long as it takes, this would wait as long too.
            execute(&mut host, format!("SET lock_timeout = '20s'; {INSERT}")).await;
        }
        execute(&mut long, "COMMIT".to_owned()).await;
    };
    let (migrated, ()) = tokio::join!(migrate_with(&options, PATIENT), work);
    migrated.unwrap();
    check(&options).await.unwrap();
}

#[tokio::test]
async fn an_interrupted_index_is_built_again() {
    let database = host("TEXT").await;
    let options = options(&database);
    let mut reader = database.connect().await;
    // Concurrent builds wait for whoever may still see the table as it was.
    execute(
        &mut reader,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1".to_owned(),
    )
    .await;
    let refused = migrate_with(&options, IMPATIENT).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Migrate(_)), "{refused:?}");
    let mut connection = database.connect().await;
    assert_eq!(
        (
            indexes(&mut connection, false).await,
            indexes(&mut connection, true).await
        ),
        (1, 0),
        "or the test shows nothing"
    );
    execute(&mut reader, "COMMIT".to_owned()).await;
    assert!(migrate_with(&options, PATIENT).await.unwrap() > 0);
    assert_eq!(
        (
            indexes(&mut connection, false).await,
            indexes(&mut connection, true).await
        ),
        (0, INDEXES)
    );
    check(&options).await.unwrap();
}
