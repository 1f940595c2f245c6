//! `audit.retain_days`: old rows of execs go, a batch at a time, and nobody else's.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::support::postgres::Database;
use crate::support::site::Site;
use crate::support::store::TestStore;
use crate::support::wait;

/// A few batches and a part of one.
const OLD: i32 = 3_500;
const YOUNG: i32 = 20;
const OTHERS: i32 = 10;

/// More rows than this in one transaction would hold locks for longer than anybody should wait.
const BATCH: i64 = 1_000;

async fn insert(
    database: &mut PgConnection,
    workspace: Uuid,
    kind: &str,
    status: &str,
    age: &str,
    rows: i32,
) {
    let insert =
        "INSERT INTO activity_logs (workspace_id, activity_type, method, request_body, status, created_at)
        SELECT $1, $2, 'POST', '{}', $3, now() - $4::interval FROM generate_series(1, $5)";
    sqlx::query(insert)
        .bind(workspace)
        .bind(kind)
        .bind(status)
        .bind(age)
        .bind(rows)
        .execute(database)
        .await
        .unwrap();
}

async fn count(database: &mut PgConnection, condition: &'static str) -> i64 {
    let count = format!("SELECT count(*) FROM activity_logs WHERE {condition}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(count))
        .fetch_one(database)
        .await
        .unwrap()
}

#[tokio::test]
async fn old_rows_of_execs_go_in_batches_and_nothing_else() {
    let database = Database::create().await;
    let mut connection = database.connect().await;
    let mut site = Site::start(TestStore::Postgres(Box::new(database))).await;
    let workspace = site.seed.workspace().id;
    insert(&mut connection, workspace, "exec", "ok", "30 hours", OLD).await;
    // It is settled first, and then as old as the others.
    insert(&mut connection, workspace, "exec", "running", "30 hours", 1).await;
    insert(&mut connection, workspace, "exec", "ok", "20 hours", YOUNG).await;
    insert(
        &mut connection,
        workspace,
        "a2a_receive",
        "ok",
        "30 hours",
        OTHERS,
    )
    .await;
    // Who else deletes there is told by this too.
    let note = "CREATE TABLE deletions (rows BIGINT NOT NULL);
        CREATE FUNCTION note_deletion() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO deletions SELECT count(*) FROM gone; RETURN NULL; END';
        CREATE TRIGGER note_deletion AFTER DELETE ON activity_logs REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION note_deletion()";
    sqlx::raw_sql(note).execute(&mut connection).await.unwrap();

    // Nothing goes unless it is asked for.
    let service = site.serve().await;
    wait::until_true("the row that was left running is settled", async || {
        count(&mut connection, "status = 'running'").await == 0
    })
    .await;
    assert_eq!(service.terminate().await, Some(0));
    assert_eq!(
        count(&mut connection, "true").await,
        i64::from(OLD + 1 + YOUNG + OTHERS)
    );

    site.set("ADIT__AUDIT__RETAIN_DAYS", "1");
    let service = site.serve().await;
    wait::until_true("the old rows are gone", async || {
        count(&mut connection, "activity_type = 'exec'").await <= i64::from(YOUNG)
    })
    .await;
    assert_eq!(service.terminate().await, Some(0));
    assert_eq!(
        count(&mut connection, "activity_type = 'exec'").await,
        i64::from(YOUNG)
    );
    assert_eq!(
        count(&mut connection, "activity_type <> 'exec'").await,
        i64::from(OTHERS)
    );
    let batches: Vec<i64> = sqlx::query_scalar("SELECT rows FROM deletions WHERE rows > 0")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(batches.iter().sum::<i64>(), i64::from(OLD + 1));
    assert!(batches.iter().all(|rows| *rows <= BATCH), "{batches:?}");
    site.emulator.stop().await;
}

/// A host's trigger that refuses, somebody's transaction that takes long: what is done to old rows goes on around them.
#[tokio::test]
async fn rows_that_are_refused_or_held_keep_no_others_waiting() {
    let database = Database::create().await;
    let mut connection = database.connect().await;
    let mut holder = database.connect().await;
    let mut site = Site::start(TestStore::Postgres(Box::new(database))).await;
    let workspace = site.seed.workspace().id;
    for status in ["running", "ok"] {
        insert(&mut connection, workspace, "exec", status, "30 hours", OLD / 2).await;
        insert(&mut connection, workspace, "exec", status, "31 hours", 1).await;
        insert(&mut connection, workspace, "exec", status, "29 hours", 1).await;
    }
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON activity_logs FOR EACH ROW
            WHEN (OLD.created_at < now() - INTERVAL '30 hours 30 minutes') EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(&mut connection).await.unwrap();
    let hold = "BEGIN; SELECT FROM activity_logs WHERE created_at > now() - INTERVAL '29 hours 30 minutes' FOR UPDATE";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();

    site.set("ADIT__AUDIT__RETAIN_DAYS", "1");
    site.set("ADIT__AUDIT__SWEEP_INTERVAL_S", "1");
    let service = site.serve().await;
    wait::until_true("the others are settled and deleted", async || {
        count(&mut connection, "true").await == 4
    })
    .await;
    assert_eq!(count(&mut connection, "status = 'running'").await, 2);

    let allow = "DROP TRIGGER refuse ON activity_logs";
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    sqlx::raw_sql(allow).execute(&mut connection).await.unwrap();
    wait::until_true("they have their turn", async || {
        count(&mut connection, "true").await == 0
    })
    .await;
    assert_eq!(service.terminate().await, Some(0));
    site.emulator.stop().await;
}
