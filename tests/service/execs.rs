//! Execs as others than their own caller see them: live and afterwards, one and in pages; and their end by DELETE.

use adit::application::open_store;
use adit::settings::Settings;
use adit_actors::exec::{EndedBy, Exec, ExecState, Outcome, Ran};
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::streaming::Streaming;
use crate::support::api::Answer;
use crate::support::app::ADMIN_TOKEN;
use crate::support::{Backend, TestApp, TestStore, processes, wait};

over_every_instance!(a_delete_ends_the_program);
over_the_emulator!(
    an_exec_is_shown_while_it_runs_and_afterwards,
    a_delete_before_any_output_is_an_answer,
    a_list_goes_on_where_its_page_ended,
    operators_see_what_tenants_do_not,
    an_exec_of_others_is_not_there,
);
over_postgres!(
    an_exec_is_shown_while_it_runs_and_afterwards,
    a_list_goes_on_where_its_page_ended,
    operators_see_what_tenants_do_not,
);

fn path(id: impl std::fmt::Display) -> String {
    format!("exec/{id}")
}

/// A call below the default workspace.
async fn ask(app: &TestApp, method: &str, path: &str) -> Answer {
    let workspace = app.seed.workspace();
    let path = format!("/workspaces/{}/{path}", workspace.id);
    app.api.call(method, &path, Some(&workspace.token), None).await
}

fn exec_of(answer: &Answer, status: u16) -> Exec {
    assert_eq!(answer.status, status, "{answer:?}");
    let exec: Exec = serde_json::from_value(answer.json()).unwrap();
    assert_eq!(
        answer.header("adit-exec-id"),
        Some(exec.exec_id.to_string().as_str())
    );
    assert_eq!(answer.header("cache-control"), Some("no-store, no-transform"));
    exec
}

/// What a row knows of an exec: all but the digests of its output.
fn as_stored(mut exec: Exec) -> Exec {
    exec.streams.stdout.sha256 = None;
    exec.streams.stderr.sha256 = None;
    exec
}

/// The id of the only exec that runs, from the list.
async fn running_id(app: &TestApp) -> Uuid {
    let listed = wait::until("one is listed as running", async || {
        let listed = ask(app, "GET", "exec?status=running").await.json()["data"].clone();
        (listed != json!([])).then_some(listed)
    })
    .await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    listed[0]["exec_id"].as_str().unwrap().parse().unwrap()
}

async fn an_exec_is_shown_while_it_runs_and_afterwards(app: &TestApp) {
    let body = json!({"cmd": ["sh", "-c", "echo out; sleep 100"]});
    let streaming = Streaming::begin(app, &body, "out").await;
    let id = running_id(app).await;
    let shown = exec_of(&ask(app, "GET", &path(id)).await, 200);
    assert_eq!(
        (shown.exec_id, shown.state, shown.ran),
        (id, ExecState::Running, Ran::Yes)
    );
    assert_eq!(
        (shown.outcome, shown.ended_by, shown.exit_code),
        (None, None, None)
    );
    assert!(!shown.audit.committed);
    let listed = ask(app, "GET", "exec").await.json();
    assert_eq!(listed["data"][0]["ran"], "yes", "the list is live too: {listed}");
    // By the path of another workspace that the same token opens it is neither seen nor ended.
    for method in ["GET", "DELETE"] {
        let path = format!("/workspaces/{}/exec/{id}", app.seed.tiers[2].id);
        let answer = app.api.call(method, &path, Some(&app.seed.org_token), None).await;
        answer.problem(404, "not_found");
    }
    assert_eq!(
        exec_of(&ask(app, "GET", &path(id)).await, 200).state,
        ExecState::Running
    );

    assert_eq!(ask(app, "DELETE", &path(id)).await.status, 202);
    let exit = streaming.rest().await.frames().exit();
    let shown = wait::until("its row is final", async || {
        let exec = exec_of(&ask(app, "GET", &path(id)).await, 200);
        (exec.state == ExecState::Ended && exec.streams.stdout.sha256.is_none()).then_some(exec)
    })
    .await;
    assert_eq!(shown, as_stored(exit));
    assert!(shown.audit.committed);
    let listed = ask(app, "GET", "exec").await.json();
    assert_eq!(
        listed,
        json!({ "data": [serde_json::to_value(&shown).unwrap()], "next_cursor": null })
    );
}

async fn a_delete_ends_the_program(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let script = format!("echo out; exec sleep {seconds}");
    let streaming = Streaming::begin(app, &json!({"cmd": ["sh", "-c", script]}), "out").await;
    let id = running_id(app).await;
    let told = exec_of(&ask(app, "DELETE", &path(id)).await, 202);
    assert_eq!((told.exec_id, told.state), (id, ExecState::Running));
    let exit = streaming.rest().await.frames().exit();
    assert_eq!(
        (exit.outcome, exit.ended_by, exit.exit_code),
        (Some(Outcome::Cancelled), Some(EndedBy::Delete), None)
    );
    assert_eq!(exit.kill.as_ref().unwrap().sent[0], "TERM");
    wait::until_true("the program is gone", async || {
        processes::with_argument(&seconds).is_empty()
    })
    .await;
    let again = exec_of(&ask(app, "DELETE", &path(id)).await, 200);
    assert_eq!(as_stored(again), as_stored(exit));
    assert_eq!(app.only_row().await.status, "error");
}

async fn a_delete_before_any_output_is_an_answer(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let running = app.run(json!({"cmd": ["sleep", seconds]}));
    let deleting = async {
        wait::until_true("it runs", async || !processes::with_argument(&seconds).is_empty()).await;
        ask(app, "DELETE", &path(running_id(app).await)).await
    };
    let (answer, deleted) = tokio::join!(running, deleting);
    assert_eq!(deleted.status, 202);
    let exec = answer.exec_of_problem(409, "exec_cancelled");
    assert_eq!((exec.ran, exec.ended_by), (Ran::Yes, Some(EndedBy::Delete)));
}

async fn run_exiting(app: &TestApp, code: u32) -> Uuid {
    let exec = app
        .run(json!({"cmd": ["sh", "-c", format!("exit {code}")]}))
        .await
        .exec();
    exec.exec_id
}

async fn a_list_goes_on_where_its_page_ended(app: &TestApp) {
    let mut ids = Vec::new();
    for code in 0..5 {
        ids.push(run_exiting(app, code).await);
    }
    // Newest first.
    ids.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = ask(app, "GET", &format!("exec?limit=2{cursor}")).await.json();
        let data = page["data"].as_array().unwrap().clone();
        assert!((1..=2).contains(&data.len()), "{page}");
        seen.extend(
            data.iter()
                .map(|exec| exec["exec_id"].as_str().unwrap().parse::<Uuid>().unwrap()),
        );
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
        // Newer ones come before the first page and move nothing.
        run_exiting(app, 9).await;
    }
    assert_eq!(seen, ids);
    for (query, count) in [
        ("status=ok", 7),
        ("status=error", 0),
        ("status=timeout", 0),
        ("status=running", 0),
        ("since=2020-01-01T00:00:00Z", 7),
        ("since=2020-01-01T00:00:00%2B02:00&status=ok", 7),
        ("since=9999-01-01T00:00:00Z", 0),
        ("limit=3", 3),
    ] {
        let listed = ask(app, "GET", &format!("exec?{query}")).await;
        assert_eq!(listed.status, 200, "{query}: {listed:?}");
        assert_eq!(listed.json()["data"].as_array().unwrap().len(), count, "{query}");
    }
}

async fn operators_see_what_tenants_do_not(app: &TestApp) {
    let exec = app
        .run(json!({"cmd": ["echo", "hi"], "env": {"A": "value"}}))
        .await
        .exec();
    let tenant = ask(app, "GET", &path(exec.exec_id)).await.json();
    let record = app
        .api
        .get(&format!("/admin/execs/{}", exec.exec_id), Some(ADMIN_TOKEN))
        .await
        .json();
    for (name, value) in tenant.as_object().unwrap() {
        assert_eq!(&record[name], value, "{name}");
    }
    let workspace = app.seed.workspace();
    assert_eq!(record["workspace_id"], workspace.id.to_string());
    assert_eq!(record["status"], "ok");
    assert_eq!(record["request_body"]["cmd"], json!(["echo", "hi"]));
    assert_eq!(record["request_body"]["env_names"], json!(["A"]));
    assert_eq!(
        record["request_body"]["actor"]["prefix"],
        json!(workspace.token[..8])
    );
    assert!(record["aws_request_ids"].is_object(), "{record}");
    assert_eq!(tenant.get("aws_request_ids"), None);
    let names: Vec<&String> = tenant.as_object().unwrap().keys().collect();
    assert!(!names.iter().any(|name| *name == "request_body"), "{names:?}");

    // One in another workspace, which only its own list and the operators' have.
    let other = &app.seed.tiers[2];
    let body = json!({"cmd": ["true"]});
    let others = app.api.exec_json(other.id, &other.token, &body).await.exec();
    let listed = async |query: &str| {
        let path = format!("/admin/execs?{query}");
        let answer = app.api.get(&path, Some(ADMIN_TOKEN)).await;
        let data = answer.json()["data"].as_array().unwrap().clone();
        let ids = data.iter().map(|record| record["exec_id"].clone());
        ids.collect::<Vec<Value>>()
    };
    let (own, others) = (json!(exec.exec_id), json!(others.exec_id));
    assert_eq!(listed("").await, [others.clone(), own.clone()]);
    assert_eq!(
        listed(&format!("workspace_id={}", workspace.id)).await,
        std::slice::from_ref(&own)
    );
    assert_eq!(
        listed(&format!("workspace_id={}&status=ok&limit=1", other.id)).await,
        [others]
    );
    let tenants = ask(app, "GET", "exec").await.json();
    assert_eq!(tenants["data"].as_array().unwrap().len(), 1, "{tenants}");
}

async fn an_exec_of_others_is_not_there(app: &TestApp) {
    let other = &app.seed.other_org;
    let body = json!({"cmd": ["true"]});
    let foreign = app
        .api
        .exec_json(other.id, &other.token, &body)
        .await
        .exec()
        .exec_id;
    let neighbour = &app.seed.tiers[2];
    let near = app
        .api
        .exec_json(neighbour.id, &neighbour.token, &body)
        .await
        .exec()
        .exec_id;
    let own = app.seed.workspace();
    let reference = app.api.get("/nowhere", None).await;
    for method in ["GET", "DELETE"] {
        for (workspace, token, exec_id) in [
            (own.id, &own.token, foreign.to_string()),
            (own.id, &own.token, near.to_string()),
            (own.id, &app.seed.org_token, near.to_string()),
            (own.id, &own.token, Uuid::new_v4().to_string()),
            (own.id, &own.token, near.simple().to_string()),
            (own.id, &own.token, "latest".to_owned()),
            (other.id, &own.token, foreign.to_string()),
            (other.id, &app.seed.org_token, foreign.to_string()),
        ] {
            let path = format!("/workspaces/{workspace}/exec/{exec_id}");
            let answer = app.api.call(method, &path, Some(token), None).await;
            assert_eq!(
                (answer.status, &answer.body),
                (404, &reference.body),
                "{method} {path}"
            );
            assert_eq!(answer.header("adit-exec-id"), None);
        }
        // Whom they belong to, they are there for.
        let path = format!("/workspaces/{}/exec/{near}", neighbour.id);
        let answer = app.api.call(method, &path, Some(&app.seed.org_token), None).await;
        assert_eq!(answer.status, 200, "{method} {path}");
    }
}

#[actix_rt::test]
async fn a_token_in_use_is_noted_at_the_latest_when_the_service_stops() {
    for store in [TestStore::sqlite(), TestStore::postgres().await] {
        let app = TestApp::start_on(store, Backend::InProcess).await;
        assert_eq!(ask(&app, "GET", "exec").await.status, 200);
        let used = app.seed.workspace().token[..8].to_owned();
        let kept = app.finish_but_for_the_store().await;
        let mut settings = Settings::default();
        settings.store.url = SecretString::from(kept.url());
        let store = open_store(&settings).await.unwrap();
        for token in store.list_tokens().await.unwrap() {
            assert_eq!(token.last_used_at.is_some(), token.prefix == used, "{token:?}");
        }
        store.close().await;
    }
}
