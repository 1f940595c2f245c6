//! The service on the database of the platform that it joins: the host's own tokens, as the host stores them, open its workspaces.

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::support::api::Answer;
use crate::support::postgres::Database;
use crate::support::store::TestStore;
use crate::support::{Backend, INSTANCE, TestApp};

const HOST: &str = include_str!("../support/host_platform.sql");

/// On the host one process and one database serve one org.
const ORG: Uuid = Uuid::from_u128(0x0f6);

/// A host's workspaces, of its file: the first is online, the third removed, the fourth has no instance.
fn workspace(number: u8) -> Uuid {
    format!("11111111-0000-4000-8000-{number:012}").parse().unwrap()
}

/// Tokens as the host makes them: 43 characters of base64url. It keeps the SHA-256 and the first 8.
const TOKEN: &str = "hT0kenOf-the_workspaceAAAAAAAAAAAAAAAAAAAAA";
const ORG_TOKEN: &str = "hT1kenOf-the_orgAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const REVOKED_TOKEN: &str = "hT2kenOf-the_workspaceAAAAAAAAAAAAAAAAAAAAA";

async fn issue_as_the_host_does(database: &mut PgConnection) {
    let issue = format!(
        "INSERT INTO workspace_auth_tokens (workspace_id, token_hash, prefix, revoked_at)
             SELECT '{}', sha256(convert_to(token, 'UTF8')), left(token, 8), revoked_at
             FROM (VALUES ('{TOKEN}', NULL), ('{REVOKED_TOKEN}', now())) AS issued (token, revoked_at);
         INSERT INTO org_api_tokens (token_hash, prefix, name)
             SELECT sha256(convert_to(token, 'UTF8')), left(token, 8), 'the host''s'
             FROM (VALUES ('{ORG_TOKEN}')) AS issued (token)",
        workspace(1)
    );
    execute(database, issue).await;
}

async fn execute(database: &mut PgConnection, statements: String) {
    let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements));
    statements.execute(database).await.unwrap();
}

/// All rows of the host's, as JSON, without what Adit adds to them: columns of its own, and when a token was used.
async fn of_the_host(database: &mut PgConnection) -> Vec<Value> {
    let rows = "
        SELECT to_jsonb(row) - 'last_used_at' - ARRAY(
            SELECT DISTINCT column_name::TEXT FROM information_schema.columns WHERE column_name LIKE 'adit\\_%')
        FROM (SELECT to_jsonb(a) AS row FROM activity_logs a WHERE activity_type <> 'exec'
              UNION ALL SELECT to_jsonb(w) FROM workspaces w WHERE name NOT LIKE 'tier %'
              UNION ALL SELECT to_jsonb(t) FROM workspace_auth_tokens t WHERE workspace_id::TEXT LIKE '11111111-%'
              UNION ALL SELECT to_jsonb(m) FROM schema_migrations m) AS rows
        ORDER BY 1";
    sqlx::query_scalar(rows).fetch_all(database).await.unwrap()
}

async fn exec(app: &TestApp, number: u8, token: &str) -> Answer {
    let path = format!("{}/workspaces/{}/exec", app.api.base(), workspace(number));
    app.api
        .exec_for_org(
            &path,
            ORG,
            token,
            &json!({"cmd": ["sh", "-c", "echo out; exit 3"]}),
        )
        .await
}

async fn host_tokens_work_unchanged(status_type: &str) {
    let database = Database::create().await;
    let mut connection = database.connect().await;
    execute(&mut connection, HOST.replace("STATUS_TYPE", status_type)).await;
    issue_as_the_host_does(&mut connection).await;
    let before = of_the_host(&mut connection).await;
    let store = TestStore::Postgres(Box::new(database));
    let app = TestApp::start_on_with(store, Backend::InProcess, |setup| {
        setup.settings.tenant.org_id = Some(ORG);
    })
    .await;

    for (token, kind) in [(TOKEN, "workspace"), (ORG_TOKEN, "org")] {
        let answer = exec(&app, 1, token).await;
        let exec = answer.exec();
        assert_eq!(
            (answer.json()["stdout"].as_str(), exec.exit_code),
            (Some("out\n"), Some(3))
        );
        let rows = app.rows().await;
        let row = rows.iter().find(|row| row.id == exec.exec_id).unwrap();
        assert_eq!(
            (row.workspace_id, row.activity_type.as_str(), row.status.as_str()),
            (workspace(1), "exec", "ok")
        );
        assert_eq!(row.method.as_deref(), Some("POST /workspaces/:id/exec"));
        let actor = &row.request_body["actor"];
        assert_eq!(
            (&actor["kind"], &actor["prefix"]),
            (&json!(kind), &json!(token[..8])),
            "{row:?}"
        );
        assert_eq!(row.response_body.as_ref().unwrap()["exit_code"], 3, "{row:?}");
    }
    exec(&app, 1, REVOKED_TOKEN).await.problem(401, "unauthenticated");
    exec(&app, 2, TOKEN).await.problem(404, "not_found");
    exec(&app, 3, ORG_TOKEN).await.problem(404, "not_found");
    // Its tier, which is none, is looked at first.
    exec(&app, 4, ORG_TOKEN).await.problem(403, "tier_forbidden");
    let of_no_org = app
        .api
        .exec_json(workspace(1), TOKEN, &json!({"cmd": ["true"]}))
        .await;
    assert_eq!(of_no_org.status, 404);

    assert_eq!(of_the_host(&mut connection).await, before);
    let execs = app
        .rows()
        .await
        .into_iter()
        .filter(|row| row.activity_type == "exec");
    assert_eq!(execs.count(), 2);
    assert_eq!(app.emulator.counters().pushes, 1, "both ran on {INSTANCE}");
    app.finish().await;
}

#[actix_rt::test]
async fn host_tokens_work_unchanged_where_the_status_is_text() {
    host_tokens_work_unchanged("TEXT").await;
}

#[actix_rt::test]
async fn host_tokens_work_unchanged_where_the_status_is_an_enum() {
    host_tokens_work_unchanged("workspace_status").await;
}
