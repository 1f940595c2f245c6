//! From when on a token opens nothing: the next request, whoever took it away, and however.

use std::process::Command;

use serde_json::json;
use uuid::Uuid;

use crate::support::store::TestStore;
use crate::support::{TestApp, wait};

over_the_emulator!(
    a_revoked_token_opens_nothing_from_the_next_request_on,
    a_token_that_expires_opens_nothing_from_the_next_request_on,
);
over_postgres!(
    a_revoked_token_opens_nothing_from_the_next_request_on,
    a_token_that_expires_opens_nothing_from_the_next_request_on,
);

/// A workspace's token and its org's, with the tables that they are in.
fn tokens(app: &TestApp) -> [(&str, &str); 2] {
    let seed = &app.seed;
    [
        ("workspace_auth_tokens", &seed.workspace().token),
        ("org_api_tokens", &seed.org_token),
    ]
}

async fn assert_opens(app: &TestApp, token: &str) {
    let workspace = app.seed.workspace().id;
    let answer = app
        .api
        .exec_json(workspace, token, &json!({"cmd": ["true"]}))
        .await;
    assert_eq!(answer.exec().exit_code, Some(0));
}

/// No exec, none to see, none to end.
async fn assert_opens_nothing(app: &TestApp, token: &str, exec_id: Uuid) {
    let workspace = app.seed.workspace().id;
    let answer = app
        .api
        .exec_json(workspace, token, &json!({"cmd": ["true"]}))
        .await;
    answer.problem(401, "unauthenticated");
    let path = format!("/workspaces/{workspace}/exec");
    for (method, path) in [
        ("GET", path.clone()),
        ("GET", format!("{path}/{exec_id}")),
        ("DELETE", format!("{path}/{exec_id}")),
    ] {
        let answer = app.api.call(method, &path, Some(token), None).await;
        answer.problem(401, "unauthenticated");
    }
}

/// `adit token ...` as an operator types it, beside the service.
async fn adit_token(store: &TestStore, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command
        .arg("token")
        .args(arguments)
        .env("ADIT__STORE__URL", store.url());
    let output = actix_rt::task::spawn_blocking(move || command.output().unwrap()).await;
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The id of a token, from the line that shows its prefix.
async fn id_of(store: &TestStore, token: &str) -> String {
    let list = adit_token(store, &["list"]).await;
    let line = list.lines().find(|line| line.contains(&token[..8])).unwrap();
    let id = line.split_whitespace().find(|word| word.parse::<Uuid>().is_ok());
    id.unwrap().to_owned()
}

async fn a_revoked_token_opens_nothing_from_the_next_request_on(app: &TestApp) {
    for (_, token) in tokens(app) {
        assert_opens(app, token).await;
        // What runs by then goes on to its end.
        let directory = tempfile::tempdir().unwrap();
        let [begun, go] = ["begun", "go"].map(|name| directory.path().join(name));
        let script = format!(
            "touch {}; while [ ! -e {} ]; do sleep 0.02; done",
            begun.display(),
            go.display()
        );
        let workspace = app.seed.workspace().id;
        let body = json!({"cmd": ["sh", "-c", script]});
        let running = app.api.exec_json(workspace, token, &body);
        let meanwhile = async {
            wait::until_true("it runs", async || begun.exists()).await;
            let exec_id = app.rows().await.last().unwrap().id;
            let id = id_of(app.store(), token).await;
            adit_token(app.store(), &["revoke", &id]).await;
            assert_opens_nothing(app, token, exec_id).await;
            std::fs::write(&go, "").unwrap();
        };
        let (ended, ()) = tokio::join!(running, meanwhile);
        assert_eq!(ended.exec().exit_code, Some(0));
    }
    assert_eq!(app.rows().await.len(), 4, "what was refused has left no row");
}

async fn a_token_that_expires_opens_nothing_from_the_next_request_on(app: &TestApp) {
    for (table, token) in tokens(app) {
        assert_opens(app, token).await;
        let exec_id = app.rows().await.last().unwrap().id;
        let expire = format!(
            "UPDATE {table} SET adit_expires_at = created_at WHERE prefix = '{}'",
            &token[..8]
        );
        app.store().execute(&expire).await;
        assert_opens_nothing(app, token, exec_id).await;
    }
    assert_eq!(app.rows().await.len(), 2, "what was refused has left no row");
}
