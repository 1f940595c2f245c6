//! Adit on the database of a host platform: nothing of the host's is changed, and everything works.

use std::time::Duration;

use adit_actors::audit::{AuditRow, AuditStore as _, Chore, Half, RowStatus};
use adit_actors::exec::CallerKind;
use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::{HostKey, HostKeys as _};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use super::database::Database;
use crate::store::postgres::{PostgresStore, migrate};
use crate::store::suite::{defaults, perform, running, workspace};
use crate::store::{Authorization, ExecQuery, NewToken, Store as _, TokenScope};

const HOST: &str = include_str!("../../../../tests/support/host_platform.sql");
const GRANTS: &str = include_str!("../../../../config/postgres-grants.sql");

const STATUS_TYPES: [&str; 2] = ["TEXT", "workspace_status"];

/// The id of one of the host's workspaces; its token has this number in every byte.
fn id(number: u8) -> Uuid {
    format!("11111111-0000-4000-8000-{number:012}").parse().unwrap()
}

/// A database as the host has it.
pub(super) async fn host(status_type: &str) -> Database {
    let database = Database::create().await;
    execute(
        &mut database.connect().await,
        HOST.replace("STATUS_TYPE", status_type),
    )
    .await;
    database
}

pub(super) fn options(database: &Database) -> PgConnectOptions {
    database.url().parse().unwrap()
}

pub(super) async fn execute(connection: &mut PgConnection, statements: String) {
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(statements)))
        .await
        .unwrap();
}

async fn json(connection: &mut PgConnection, statement: &str) -> Value {
    let statement = format!("SELECT coalesce(jsonb_agg(to_jsonb(found)), '[]') FROM ({statement}) AS found");
    sqlx::query_scalar(AssertSqlSafe(statement))
        .fetch_one(connection)
        .await
        .unwrap()
}

/// Everything of the host's: rows, columns with their types and comments, constraints, indexes. What is Adit's says so in
/// its name.
async fn of_the_host(connection: &mut PgConnection) -> Value {
    let mut all = Vec::new();
    for table in [
        "schema_migrations",
        "workspaces",
        "workspace_auth_tokens",
        "org_api_tokens",
        "activity_logs",
    ] {
        let rows = format!(
            "SELECT to_jsonb(row) - ARRAY(
                 SELECT column_name::TEXT FROM information_schema.columns
                 WHERE table_name = '{table}' AND column_name LIKE 'adit\\_%') AS row
             FROM {table} AS row ORDER BY to_jsonb(row)::TEXT"
        );
        all.push(json(connection, &rows).await);
    }
    for catalog in [
        "SELECT table_name, column_name, ordinal_position, udt_name, is_nullable, column_default,
                col_description(table_name::regclass, ordinal_position) AS comment
         FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT LIKE 'adit\\_%' AND column_name NOT LIKE 'adit\\_%'
         ORDER BY table_name, ordinal_position",
        "SELECT conrelid::regclass::TEXT, conname, convalidated, pg_get_constraintdef(oid) AS definition
         FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE '%adit%' ORDER BY 1, 2",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '%adit%'
         ORDER BY indexname",
    ] {
        all.push(json(connection, catalog).await);
    }
    Value::Array(all)
}

/// Everything of Adit's, and of the host's columns the names and types of those that Adit uses.
async fn of_adit(connection: &mut PgConnection) -> Value {
    let mut all = Vec::new();
    for catalog in [
        "SELECT table_name, column_name, udt_name, is_nullable, column_default,
                col_description(table_name::regclass, ordinal_position) AS comment
         FROM information_schema.columns
         WHERE table_schema = 'public' AND (table_name LIKE 'adit\\_%' OR column_name LIKE 'adit\\_%')
         ORDER BY table_name, column_name",
        "SELECT conrelid::regclass::TEXT, conname, pg_get_constraintdef(oid) AS definition
         FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conname LIKE '%adit%' ORDER BY 1, 2",
        "SELECT tablename, indexname, indexdef, indisvalid FROM pg_indexes
             JOIN pg_index ON indexrelid = indexname::regclass
         WHERE schemaname = 'public' AND indexname LIKE '%adit%' ORDER BY indexname",
        "SELECT version, description, checksum FROM adit_migrations ORDER BY version",
        "SELECT table_name, column_name, CASE WHEN column_name = 'status' THEN 'status' ELSE udt_name END AS type
         FROM information_schema.columns
         WHERE table_schema = 'public' AND column_name NOT LIKE 'adit\\_%' AND table_name NOT IN ('schema_migrations')
           AND column_name NOT IN ('agent_card', 'error_rate', 'budget_limit', 'message_id')
         ORDER BY table_name, column_name",
    ] {
        all.push(json(connection, catalog).await);
    }
    Value::Array(all)
}

#[tokio::test]
async fn nothing_of_the_hosts_is_changed_and_what_is_added_is_that_of_an_empty_database() {
    let empty = Database::create().await;
    let all = migrate(&options(&empty)).await.unwrap();
    let expected = of_adit(&mut empty.connect().await).await;
    for status_type in STATUS_TYPES {
        let database = host(status_type).await;
        let mut connection = database.connect().await;
        let before = of_the_host(&mut connection).await;
        assert_eq!(migrate(&options(&database)).await.unwrap(), all, "{status_type}");
        assert_eq!(of_the_host(&mut connection).await, before, "{status_type}");
        assert_eq!(of_adit(&mut connection).await, expected, "{status_type}");
        assert_eq!(migrate(&options(&database)).await.unwrap(), 0);

        // A history that was lost, as by a restored dump without it: what is there is passed over.
        execute(&mut connection, "DROP TABLE adit_migrations".to_owned()).await;
        assert_eq!(migrate(&options(&database)).await.unwrap(), all);
        assert_eq!(of_the_host(&mut connection).await, before, "{status_type}");
        assert_eq!(of_adit(&mut connection).await, expected, "{status_type}");
    }
}

async fn seen(store: &PostgresStore, byte: u8, workspace: u8) -> Option<(String, i32, bool)> {
    let answer = store
        .authorize([byte; 32], Some(id(workspace)), Some(Uuid::nil()))
        .await;
    match answer.unwrap() {
        Authorization::UnknownToken => None,
        Authorization::Known { workspace, .. } => {
            let workspace = workspace?;
            Some((workspace.status, workspace.tier, workspace.target.is_some()))
        }
    }
}

#[tokio::test]
async fn the_hosts_tokens_open_its_workspaces() {
    for status_type in STATUS_TYPES {
        let database = host(status_type).await;
        migrate(&options(&database)).await.unwrap();
        let store = PostgresStore::open(&options(&database), 2, defaults())
            .await
            .unwrap();
        let found = |status: &str, tier, has_target| Some((status.to_owned(), tier, has_target));
        for (token, workspace, expected) in [
            (1, 1, found("online", 4, true)),
            (1, 2, None),
            (2, 2, found("failed", 3, true)),
            (3, 3, None), // removed
            (4, 4, found("hibernated", 1, false)),
            (0x0a, 1, found("online", 4, true)),
            (0x0a, 3, None),
            (0x0b, 1, None), // revoked
        ] {
            let seen = seen(&store, token, workspace).await;
            assert_eq!(
                seen, expected,
                "{status_type}: token {token}, workspace {workspace}"
            );
        }
        let names: Vec<_> = store.list_workspaces().await.unwrap();
        assert_eq!(names.len(), 3, "{status_type}: the removed one is not listed");

        // What an operator may add by hand on either kind of host.
        store.add_workspace(&workspace("added", None)).await.unwrap();
        let token = NewToken {
            id: Uuid::new_v4(),
            scope: TokenScope::Workspace(id(1)),
            hash: [0x0c; 32],
            prefix: "aaaaaaaa".to_owned(),
            name: None,
            expires_at: None,
        };
        store.add_token(&token).await.unwrap();
        assert!(seen(&store, 0x0c, 1).await.is_some());
        assert!(store.revoke_token(token.id).await.unwrap());
        assert_eq!(seen(&store, 0x0c, 1).await, None);
    }
}

/// All that `adit serve` does, as a role that may do nothing else.
#[tokio::test]
async fn the_grants_are_enough_and_the_hosts_rows_stay_as_they_are() {
    let database = host("workspace_status").await;
    migrate(&options(&database)).await.unwrap();
    let mut connection = database.connect().await;
    let role = format!("adit_test_{}", Uuid::new_v4().simple());
    let grants = GRANTS.replace(" TO adit;", &format!(" TO {role};"));
    execute(&mut connection, format!("CREATE ROLE {role}; {grants}")).await;
    let before = of_the_host(&mut connection).await;

    let as_role = options(&database).options([("role", role.as_str())]);
    let store = PostgresStore::open(&as_role, 2, defaults()).await.unwrap();
    serve(&store).await;
    assert_eq!(perform(&store, Chore::Delete(Duration::ZERO), 100).await.len(), 2);
    store.add_workspace(&workspace("more", None)).await.unwrap_err();
    store.close().await;

    let restore = "UPDATE workspace_auth_tokens SET last_used_at = NULL";
    execute(&mut connection, restore.to_owned()).await;
    assert_eq!(of_the_host(&mut connection).await, before);
    execute(&mut connection, format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Leaves two ended execs.
async fn serve(store: &PostgresStore) {
    store.ping().await.unwrap();
    assert!(seen(store, 1, 1).await.is_some());
    let begun = running(id(1));
    let orphan = AuditRow {
        created_at: begun.created_at - Duration::from_secs(3_600),
        ..running(id(2))
    };
    let finish = AuditRow {
        status: RowStatus::Ok,
        response_body: Some(json!({"outcome": "exited"})),
        ..begun.clone()
    };
    let of_others = store.write(Half::Begin, &[begun.clone(), orphan.clone()]).await;
    assert!(of_others.unwrap().is_empty());
    assert!(store.write(Half::Finish, &[finish]).await.unwrap().is_empty());
    store.write(Half::Begin, &[]).await.unwrap();
    let settle = Chore::Settle(Duration::from_secs(600));
    assert_eq!(perform(store, settle, 100).await, [orphan.id]);
    let query = ExecQuery {
        limit: 10,
        ..ExecQuery::default()
    };
    assert_eq!(store.list_execs(&query).await.unwrap().len(), 2);
    assert!(store.exec(begun.id, Some(id(1))).await.unwrap().is_some());

    let token = store.list_tokens().await.unwrap();
    let uses: Vec<_> = token
        .iter()
        .filter(|token| token.scope == TokenScope::Workspace(id(1)))
        .map(|token| (CallerKind::Workspace, token.id))
        .collect();
    store.note_token_uses(&uses, Duration::ZERO).await.unwrap();

    let instance = InstanceKey {
        region: "us-east-2".to_owned(),
        instance_id: "i-01".to_owned(),
    };
    let key = HostKey {
        key_type: "ssh-ed25519".to_owned(),
        key_base64: "AAAA".to_owned(),
    };
    store.pin_first_use(&instance, &key).await.unwrap();
    store.pin_host_key(&instance, &key, "me").await.unwrap();
    store.forget_host_key(&instance).await.unwrap();
}
