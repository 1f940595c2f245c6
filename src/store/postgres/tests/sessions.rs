//! What holds in every session, and what a failure means.

use adit_actors::audit::{AuditStore as _, AuditStoreError, Half};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::database::Database;
use super::wait;
use crate::store::postgres::audit::{BEGIN, FINISH, batch};
use crate::store::postgres::{PostgresStore, migrate};
use crate::store::suite::{defaults, running, workspace};
use crate::store::{Store as _, StoreError};

async fn opened(database: &Database) -> PostgresStore {
    let options = database.url().parse().unwrap();
    migrate(&options).await.unwrap();
    PostgresStore::open(&options, 2, defaults()).await.unwrap()
}

async fn execute(connection: &mut PgConnection, statements: String) {
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(statements)))
        .await
        .unwrap();
}

/// Changes what the database itself would have, for sessions that begin from now on.
async fn set_default(database: &Database, setting: &str) {
    let mut connection = database.connect().await;
    let name: String = sqlx::query_scalar("SELECT current_database()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    execute(&mut connection, format!("ALTER DATABASE {name} SET {setting}")).await;
}

#[tokio::test]
async fn commits_are_durable_whatever_the_database_says() {
    let database = Database::create().await;
    set_default(&database, "synchronous_commit = off").await;
    let store = opened(&database).await;
    for (lane, deadline, lock_timeout) in [
        (&store.begins, "2s", "100ms"),
        (&store.finishes, "2s", "100ms"),
        (&store.upkeep, "30s", "2s"),
        (&store.requests, "3s", "2s"),
    ] {
        for (setting, value) in [
            ("synchronous_commit", "on"),
            ("application_name", "adit"),
            ("statement_timeout", deadline),
            ("lock_timeout", lock_timeout),
            ("idle_in_transaction_session_timeout", deadline),
        ] {
            let show = || sqlx::query("SELECT current_setting($1)").bind(setting);
            let found: String = lane.rows(show).await.unwrap()[0].get(0);
            assert_eq!(found, value, "{setting}");
        }
    }
}

#[tokio::test]
async fn a_probe_needs_a_database_that_takes_rows() {
    let database = Database::create().await;
    let store = opened(&database).await;
    for half in [Half::Begin, Half::Finish] {
        store.write(half, &[]).await.unwrap();
    }
    set_default(&database, "default_transaction_read_only = on").await;
    let store = PostgresStore::open(&database.url().parse().unwrap(), 2, defaults())
        .await
        .unwrap();
    store.ping().await.unwrap();
    for half in [Half::Begin, Half::Finish] {
        let refused = store.write(half, &[]).await;
        assert!(
            matches!(refused, Err(AuditStoreError::Unavailable(_))),
            "{refused:?}"
        );
    }
}

/// Makes every INSERT into `activity_logs` for which `condition` holds fail with this code.
async fn fail_with(connection: &mut PgConnection, code: &str, condition: &str) {
    let raise = format!(
        "CREATE OR REPLACE FUNCTION fail() RETURNS TRIGGER LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'made to fail' USING ERRCODE = '{code}'; END $$;
         CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON activity_logs FOR EACH ROW
             WHEN ({condition}) EXECUTE FUNCTION fail()"
    );
    execute(connection, raise).await;
}

#[tokio::test]
async fn what_a_failure_says_of_the_rows() {
    let database = Database::create().await;
    let store = opened(&database).await;
    let workspace = workspace("mine", None);
    store.add_workspace(&workspace).await.unwrap();
    let mut connection = database.connect().await;
    for (code, meaning) in [
        ("22001", "rejected"),    // string_data_right_truncation
        ("22P05", "rejected"),    // untranslatable_character
        ("23503", "rejected"),    // foreign_key_violation
        ("23514", "rejected"),    // check_violation
        ("25006", "unavailable"), // read_only_sql_transaction
        ("40001", "failed"),      // serialization_failure
        ("40P01", "failed"),      // deadlock_detected
        ("42501", "failed"),      // insufficient_privilege
        ("53100", "unavailable"), // disk_full
        ("55P03", "failed"),      // lock_not_available
        ("57014", "failed"),      // query_canceled
        ("57P01", "unavailable"), // admin_shutdown
        ("P0001", "failed"),      // raise_exception, a trigger of the host's
        ("XX000", "failed"),      // internal_error
    ] {
        fail_with(&mut connection, code, "true").await;
        let refused = store.write(Half::Begin, &[running(workspace.id)]).await;
        let found = match &refused {
            Err(AuditStoreError::Rejected(_)) => "rejected",
            Err(AuditStoreError::Failed(_)) => "failed",
            Err(AuditStoreError::Unavailable(_)) => "unavailable",
            Ok(_) => "written",
        };
        assert_eq!(found, meaning, "{code}: {refused:?}");
    }
    execute(&mut connection, "DROP TRIGGER fail ON activity_logs".to_owned()).await;
    let of_others = store.write(Half::Begin, &[running(workspace.id)]).await;
    assert!(of_others.unwrap().is_empty());
}

/// What the host does to the table may leave no row of ours possible, in either half.
#[tokio::test]
async fn a_probe_tells_whether_any_row_could_be_written() {
    let database = Database::create().await;
    let store = opened(&database).await;
    let workspace = workspace("mine", None);
    store.add_workspace(&workspace).await.unwrap();
    let mut connection = database.connect().await;
    let probe = async |what: &str| {
        let begins = store.write(Half::Begin, &[]).await;
        let finishes = store.write(Half::Finish, &[]).await;
        assert_eq!(
            begins.is_ok(),
            finishes.is_ok(),
            "{what}: {begins:?} {finishes:?}"
        );
        begins.is_ok()
    };
    assert!(probe("as it is").await);
    for (change, undo) in [
        (
            "ALTER TABLE activity_logs ADD region TEXT NOT NULL",
            "ALTER TABLE activity_logs DROP region",
        ),
        (
            "ALTER TABLE activity_logs ADD CONSTRAINT few CHECK (status IN ('ok', 'error'))",
            "ALTER TABLE activity_logs DROP CONSTRAINT few",
        ),
        (
            "ALTER TABLE activity_logs ADD CONSTRAINT few CHECK (status <> 'ok')",
            "ALTER TABLE activity_logs DROP CONSTRAINT few",
        ),
    ] {
        execute(&mut connection, change.to_owned()).await;
        assert!(!probe(change).await, "{change}");
        execute(&mut connection, undo.to_owned()).await;
        assert!(probe(undo).await, "{undo}");
    }
    fail_with(&mut connection, "P0001", "NEW.status::TEXT = 'ok'").await;
    assert!(!probe("a trigger for ended ones").await);
    execute(&mut connection, "DROP TRIGGER fail ON activity_logs".to_owned()).await;

    let other = crate::store::suite::workspace("other", None);
    store.add_workspace(&other).await.unwrap();
    let against_one = format!("NEW.workspace_id = '{}'", workspace.id);
    fail_with(&mut connection, "P0001", &against_one).await;
    for _ in 0..8 {
        assert!(
            probe("a trigger against one workspace").await,
            "whichever is tried first"
        );
    }
    execute(&mut connection, "DROP TRIGGER fail ON activity_logs".to_owned()).await;
    let hold = format!(
        "BEGIN; SELECT 1 FROM workspaces WHERE id = '{}' FOR UPDATE",
        workspace.id
    );
    for (hold, passes) in [
        (hold.as_str(), true),
        ("ROLLBACK; BEGIN; SELECT 1 FROM workspaces FOR UPDATE", false),
        ("ROLLBACK; BEGIN; LOCK TABLE activity_logs", false),
    ] {
        execute(&mut connection, hold.to_owned()).await;
        assert_eq!(probe(hold).await, passes, "{hold}");
    }
    execute(&mut connection, "ROLLBACK".to_owned()).await;

    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM activity_logs")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 0, "it leaves nothing");
}

async fn backend(store: &PostgresStore) -> i32 {
    let ask = || sqlx::query("SELECT pg_backend_pid()");
    store.begins.rows(ask).await.unwrap()[0].get(0)
}

/// One that said that it takes no rows any more, as a primary that became a standby, may go on saying so.
#[tokio::test]
async fn only_a_connection_with_a_clean_answer_is_used_again() {
    let database = Database::create().await;
    let store = opened(&database).await;
    let first = backend(&store).await;
    assert_eq!(backend(&store).await, first);
    let gone = running(uuid::Uuid::new_v4());
    let refused = store.write(Half::Begin, &[gone]).await;
    assert!(
        matches!(refused, Err(AuditStoreError::Rejected(_))),
        "{refused:?}"
    );
    assert_eq!(backend(&store).await, first);
    let read_only = || sqlx::query("SET default_transaction_read_only = on");
    store.begins.rows(read_only).await.unwrap();
    let refused = store.write(Half::Begin, &[]).await;
    assert!(
        matches!(refused, Err(AuditStoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert_ne!(backend(&store).await, first);
    store.write(Half::Begin, &[]).await.unwrap();
}

/// Batches that share rows can't wait for each other then, in whatever order theirs came.
#[tokio::test]
async fn rows_are_locked_in_the_order_of_their_ids() {
    let database = Database::create().await;
    let store = opened(&database).await;
    let workspace = workspace("mine", None);
    store.add_workspace(&workspace).await.unwrap();
    let (mut low, mut high) = (running(workspace.id), running(workspace.id));
    (low.id, high.id) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));

    let mut holder = database.connect().await;
    let hold = format!(
        "BEGIN; INSERT INTO activity_logs (id, workspace_id, activity_type) VALUES ('{}', '{}', 'task')",
        high.id, workspace.id
    );
    execute(&mut holder, hold).await;
    let mut watch = database.connect().await;
    let mut waiting = async |count: i64| {
        wait::until_true("so many wait", async || {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event = 'transactionid'",
            )
            .fetch_one(&mut watch)
            .await
            .unwrap();
            waiting == count
        })
        .await;
    };
    // Not the store's own connections: they wait two seconds for a lock, and a busy machine may take as long to look.
    let (mut begins, mut finishes) = (database.connect().await, database.connect().await);
    let (begin, finish) = ([high.clone(), low.clone()], [low.clone()]);
    let begun = batch(BEGIN, &begin).fetch_all(&mut begins);
    let finished = async {
        waiting(1).await;
        let finished = batch(FINISH, &finish).fetch_all(&mut finishes);
        let release = async {
            waiting(2).await;
            execute(&mut holder, "ROLLBACK".to_owned()).await;
        };
        tokio::select! {
            biased;
            finished = finished => panic!("the first batch does not hold its lowest row: {finished:?}"),
            () = release => {}
        }
    };
    let (begun, ()) = tokio::join!(begun, finished);
    assert_eq!(begun.unwrap().len(), 2);
}

#[tokio::test]
async fn a_closed_store_answers_nobody() {
    let database = Database::create().await;
    let store = opened(&database).await;
    store.ping().await.unwrap();
    store.close().await;
    let closed = store.ping().await;
    assert!(
        matches!(closed, Err(StoreError::Unavailable { .. })),
        "{closed:?}"
    );
    store.write(Half::Begin, &[]).await.unwrap_err();
    store.add_workspace(&workspace("late", None)).await.unwrap_err();
}

#[tokio::test]
async fn a_password_is_printed_nowhere() {
    let database = Database::create().await;
    let options: PgConnectOptions = database.url().parse().unwrap();
    let options = options.password("hunter2");
    migrate(&options).await.unwrap();
    let store = PostgresStore::open(&options, 2, defaults()).await.unwrap();
    assert!(!format!("{store:#?}").contains("hunter2"));

    let nowhere = options.clone().port(1);
    let refused = PostgresStore::open(&nowhere, 2, defaults()).await.unwrap_err();
    assert!(!format!("{refused:?} {refused}").contains("hunter2"));
}
