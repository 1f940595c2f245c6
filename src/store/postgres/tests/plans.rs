//! How PostgreSQL runs the statements of the service on a million rows of a host platform.

use std::time::Duration;

use adit_actors::audit::RowStatus;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use time::macros::datetime;
use uuid::Uuid;

use super::adoption::{execute, host, options};
use crate::store::execs::SHOW;
use crate::store::postgres::accounts::AUTHORIZE;
use crate::store::postgres::audit::{DELETE, EXPIRED, ORPHANS, SETTLE};
use crate::store::postgres::migrations::{Patience, migrate_with};
use crate::store::postgres::{PostgresStore, session};
use crate::store::suite::defaults;
use crate::store::{ExecQuery, Store as _};

/// Quickly: without a look at the foreign key for each row, and with the host's indexes made afterwards.
///
/// Workspaces with a token each; activity of which a tenth are execs, spread over four months; few of them run. Beside them one
/// workspace has three times as many execs as all others, of which a handful failed.
const FILL: &str = "
    SET session_replication_role = replica;
    DROP INDEX idx_activity_ws_type_time, idx_activity_created;
    INSERT INTO workspaces (id, name, tier, status)
        SELECT ('22222222-0000-4000-8000-' || lpad(n::TEXT, 12, '0'))::UUID, 'w' || n, 3, 'online'
        FROM generate_series(0, 1999) AS n;
    INSERT INTO workspace_auth_tokens (workspace_id, token_hash, prefix)
        SELECT id, sha256(name::BYTEA), 'p' FROM workspaces WHERE name LIKE 'w%';
    INSERT INTO org_api_tokens (token_hash, prefix) SELECT sha256(('o' || n)::BYTEA), 'p' FROM generate_series(0, 1999) AS n;
    INSERT INTO activity_logs (workspace_id, activity_type, status, created_at)
        SELECT ('22222222-0000-4000-8000-' || lpad((n % 1000)::TEXT, 12, '0'))::UUID,
               CASE WHEN n % 10 = 0 THEN 'exec' ELSE 'a2a_send' END,
               CASE WHEN n % 100000 = 0 THEN 'running' WHEN n % 70 = 0 THEN 'timeout' ELSE 'ok' END,
               now() - n * INTERVAL '10 seconds'
        FROM generate_series(1, 1000000) AS n;
    INSERT INTO activity_logs (workspace_id, activity_type, status, created_at)
        SELECT '22222222-0000-4000-8000-000000000001', 'exec',
               CASE WHEN n % 20000 = 0 THEN 'error' WHEN n % 30001 = 0 THEN 'timeout' ELSE 'ok' END,
               now() - n * INTERVAL '30 seconds'
        FROM generate_series(1, 300000) AS n;
    CREATE INDEX idx_activity_ws_type_time ON activity_logs (workspace_id, activity_type, created_at DESC);
    CREATE INDEX idx_activity_created ON activity_logs (created_at);";

/// Half of the execs have a key, each after three attempts.
const GIVE_KEYS: &str = "
    UPDATE activity_logs SET adit_body_hmac = sha256((number / 3)::TEXT::BYTEA)
    FROM (SELECT id, row_number() OVER (ORDER BY created_at) AS number FROM activity_logs WHERE activity_type = 'exec') AS exec
    WHERE activity_logs.id = exec.id AND number % 6 < 3;
    VACUUM ANALYZE;";

/// The plan of a statement; of a list with what became of it.
async fn plan(connection: &mut PgConnection, case: &Case) -> String {
    let prepare = format!("PREPARE asked ({}) AS {}", case.types, case.statement);
    execute(connection, prepare).await;
    let analyze = if case.is_kept { "" } else { "(ANALYZE)" };
    let explain = format!("EXPLAIN {analyze} EXECUTE asked ({})", case.values);
    let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    execute(connection, "DEALLOCATE asked".to_owned()).await;
    lines.join("\n")
}

/// Rows that the plan means to sort, where it does.
fn sorted_rows(plan: &str) -> impl Iterator<Item = u64> {
    let rows = |line: &str| line.split_once(" rows=")?.1.split_once(' ')?.0.parse().ok();
    plan.lines()
        .filter(|line| line.contains("Sort  (cost="))
        .map(move |line| rows(line).unwrap())
}

/// Rows that were read and not wanted.
fn read_in_vain(plan: &str) -> impl Iterator<Item = u64> {
    plan.lines()
        .filter_map(|line| line.trim().strip_prefix("Rows Removed by Filter: "))
        .map(|rows| rows.parse().unwrap())
}

struct Case {
    what: &'static str,
    statement: String,
    types: &'static str,
    values: String,
    /// Whether it stays prepared. Such a one is planned for its values at first, and later once for all values.
    is_kept: bool,
}

/// The few rows of a rare status, or of a workspace with few execs, may be sorted, or looked at in vain.
const SORTED_AT_MOST: u64 = 1_000;
const IN_VAIN_AT_MOST: u64 = 1_000;

const EXEC_TYPES: &str = "UUID, TIMESTAMPTZ, TIMESTAMPTZ, UUID, BIGINT";

const DUE_TYPES: &str = "DOUBLE PRECISION, TIMESTAMPTZ, UUID, BIGINT";

fn lists() -> Vec<Case> {
    let since = Some(datetime!(2026-01-02 03:04:05 UTC));
    let after = since.zip(Some(Uuid::nil()));
    let mut cases = Vec::new();
    for (what, workspace) in [
        ("of a workspace", Some(10)),
        ("of a busy workspace", Some(1)),
        ("of all workspaces", None),
    ] {
        let id = Uuid::from_u128(0x22222222_0000_4000_8000_000000000000 + workspace.unwrap_or(0));
        let statuses = RowStatus::ALL.map(|status| (Some(status), None, None));
        let others = [
            (None, None, None),
            (None, None, after),
            (Some(RowStatus::Error), None, after),
            (Some(RowStatus::Ok), since, after),
            (None, since, None),
        ];
        for (status, since, after) in statuses.into_iter().chain(others) {
            let query = ExecQuery {
                workspace_id: workspace.map(|_| id),
                status,
                since,
                after,
                limit: 50,
            };
            cases.push(Case {
                what,
                statement: query.statement(""),
                types: EXEC_TYPES,
                values: format!("'{id}', now() - INTERVAL '30 days', now() - INTERVAL '10 days', '{id}', 50"),
                is_kept: false,
            });
        }
    }
    cases
}

fn cases() -> Vec<Case> {
    let case = |what, statement: &str, types, values: &str| Case {
        what,
        statement: statement.to_owned(),
        types,
        values: values.to_owned(),
        is_kept: true,
    };
    let id = "'22222222-0000-4000-8000-000000000010'";
    let place = format!("now() - INTERVAL '100 days', {id}");
    let mut cases = vec![
        case(
            "authorize",
            AUTHORIZE,
            "BYTEA, UUID, UUID",
            &format!("sha256('w16'), {id}, NULL"),
        ),
        case("an exec", SHOW, "UUID, UUID", &format!("{id}, {id}")),
        case("any exec", SHOW, "UUID, UUID", &format!("{id}, NULL")),
        case("orphans", ORPHANS, DUE_TYPES, &format!("600, {place}, 1000")),
        case("expired", EXPIRED, DUE_TYPES, &format!("7776000, {place}, 1000")),
        case(
            "settling",
            SETTLE,
            "DOUBLE PRECISION, UUID[]",
            &format!("600, ARRAY[{id}]::UUID[]"),
        ),
        case(
            "deleting",
            DELETE,
            "DOUBLE PRECISION, UUID[]",
            &format!("7776000, ARRAY[{id}]::UUID[]"),
        ),
    ];
    cases.extend(lists());
    cases
}

#[tokio::test]
async fn no_statement_reads_or_sorts_a_table() {
    let database = host("workspace_status").await;
    let mut connection = database.connect().await;
    execute(&mut connection, FILL.to_owned()).await;
    let patience = Patience {
        index: Duration::from_secs(120),
        ..Patience::USUAL
    };
    migrate_with(&options(&database), patience).await.unwrap();
    for statement in GIVE_KEYS.split_terminator(';') {
        execute(&mut connection, statement.to_owned()).await;
    }

    let mut connection = session(
        options(&database),
        Duration::from_secs(60),
        Duration::from_secs(2),
    )
    .connect()
    .await
    .unwrap();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        execute(&mut connection, format!("SET plan_cache_mode = {mode}")).await;
        let is_generic = mode == "force_generic_plan";
        for case in cases().iter().filter(|case| case.is_kept || !is_generic) {
            let plan = plan(&mut connection, case).await;
            let reads_all = plan.contains("Seq Scan");
            let sorted = sorted_rows(&plan).max().unwrap_or(0);
            let in_vain: u64 = read_in_vain(&plan).sum();
            assert!(
                !reads_all && sorted <= SORTED_AT_MOST && in_vain <= IN_VAIN_AT_MOST,
                "{mode}, {}:\n{}\n{plan}",
                case.what,
                case.statement
            );
        }
    }
}

/// A list has as many statements as it has filters, each planned for what is asked.
#[tokio::test]
async fn lists_are_not_kept_prepared() {
    let database = host("TEXT").await;
    migrate_with(&options(&database), Patience::USUAL).await.unwrap();
    let store = PostgresStore::open(&options(&database), 1, defaults())
        .await
        .unwrap();
    store.exec(Uuid::nil(), None).await.unwrap();
    store.list_execs(&ExecQuery::default()).await.unwrap();
    let kept = store
        .requests
        .rows(|| sqlx::query("SELECT statement FROM pg_prepared_statements"))
        .await
        .unwrap();
    let kept: Vec<String> = kept.iter().map(|row| row.get(0)).collect();
    assert!(kept.iter().any(|statement| statement == SHOW), "{kept:?}");
    let list = ExecQuery::default().statement("");
    assert!(!kept.contains(&list), "{kept:?}");
}
