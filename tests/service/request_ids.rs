//! AWS's request ids lead from a row to CloudTrail. They are the operator's: a tenant's answer has none.

use serde_json::{Value, json};

use crate::losing::Held;
use crate::streaming::Streaming;
use crate::support::api::Answer;
use crate::support::rows::Row;
use crate::support::{INSTANCE, TestApp};

over_every_instance!(
    each_row_has_the_request_ids_of_its_tunnel_and_no_answer_has_them,
    a_row_of_a_lost_exec_has_them_too,
    a_row_of_an_exec_without_a_tunnel_has_none,
);

/// Those of the only tunnel, as an operator sees them: key push, OpenTunnel.
async fn ids_of_the_tunnel(app: &TestApp) -> [String; 2] {
    let tunnels = app.tunnels().await;
    let tunnels = tunnels["data"][0]["tunnels"].as_array().unwrap().clone();
    assert_eq!(tunnels.len(), 1, "{tunnels:?}");
    ["key_push_request_id", "open_tunnel_request_id"].map(|name| {
        let id = tunnels[0][name]
            .as_str()
            .unwrap_or_else(|| panic!("{name}: {tunnels:?}"));
        assert!(!id.is_empty());
        id.to_owned()
    })
}

fn ids_of(row: &Row) -> Value {
    row.response_body.as_ref().unwrap()["aws_request_ids"].clone()
}

fn as_in_a_row([key_push, open_tunnel]: &[String; 2]) -> Value {
    json!({"key_push": key_push, "open_tunnel": open_tunnel})
}

fn assert_untold(answer: &Answer, ids: &[String]) {
    let body = String::from_utf8(answer.body.to_vec()).unwrap();
    let headers = format!("{:?}", answer.headers);
    for secret in ids.iter().map(String::as_str).chain(["aws_request_ids"]) {
        assert!(!body.contains(secret), "{secret}: {body}");
        assert!(!headers.contains(secret), "{secret}: {headers}");
    }
}

async fn each_row_has_the_request_ids_of_its_tunnel_and_no_answer_has_them(app: &TestApp) {
    let answers = [
        app.run(json!({"cmd": ["echo", "json"]})).await,
        app.stream(json!({"cmd": ["echo", "frames"]})).await,
        app.run(json!({"cmd": ["sleep", "100"], "timeout_s": 1})).await,
        app.run(json!({"cmd": ["true"], "cwd": "/no/such/directory"}))
            .await,
    ];
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 504, 400]);
    assert_eq!(app.emulator.counters().pushes, 1);
    let rows = app.rows().await;
    assert_eq!(rows.len(), answers.len());
    let ids = ids_of_the_tunnel(app).await;
    assert_ne!(ids[0], ids[1]);
    for row in &rows {
        assert_eq!(ids_of(row), as_in_a_row(&ids), "{row:?}");
    }
    for answer in &answers {
        assert_untold(answer, &ids);
    }
}

async fn a_row_of_a_lost_exec_has_them_too(app: &TestApp) {
    let held = Held::new();
    let running = Streaming::begin(app, &held.request("echo going"), "going").await;
    let ids = ids_of_the_tunnel(app).await;
    assert_eq!(app.emulator.cut_tunnels(INSTANCE), 1);
    let answer = running.rest().await;
    let exec = answer.frames().exit();
    assert_eq!(serde_json::to_value(exec.outcome).unwrap(), "tunnel_lost");
    assert_untold(&answer, &ids);
    assert_eq!(ids_of(&app.only_row().await), as_in_a_row(&ids));
    held.let_go().await;
}

async fn a_row_of_an_exec_without_a_tunnel_has_none(app: &TestApp) {
    app.emulator
        .set_instance_state(INSTANCE, adit_emulator::InstanceState::Stopped);
    let answer = app.run(json!({"cmd": ["true"]})).await;
    answer.problem(409, "instance_not_running");
    assert_untold(&answer, &[]);
    assert_eq!(ids_of(&app.only_row().await), Value::Null);
}
