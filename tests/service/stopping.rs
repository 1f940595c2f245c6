//! How a program is stopped: by its timeout, or because nobody waits for it any more.

use adit_actors::exec::{EndedBy, Exec, Outcome, Ran};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::streaming::Streaming;
use crate::support::{TestApp, processes, wait};

over_every_instance!(
    a_silent_program_that_times_out_is_a_504,
    a_program_that_times_out_after_output_ends_its_stream,
    the_json_form_of_a_timeout_has_the_output,
    a_program_that_ignores_term_is_killed,
    a_client_that_goes_away_ends_its_program,
    a_client_that_leaves_a_stream_ends_its_program,
);

fn assert_timed_out(exec: &Exec) {
    assert_eq!(
        (exec.ran, exec.outcome, exec.ended_by, exec.exit_code),
        (Ran::Yes, Some(Outcome::Timeout), Some(EndedBy::Timeout), None),
        "{exec:?}"
    );
    assert_eq!(exec.kill.as_ref().unwrap().sent[0], "TERM", "{exec:?}");
    assert_eq!(serde_json::to_value(&exec.error).unwrap()["code"], "exec_timeout");
}

async fn assert_gone(argument: &str) {
    wait::until_true("the program is gone", async || {
        processes::with_argument(argument).is_empty()
    })
    .await;
}

async fn a_silent_program_that_times_out_is_a_504(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let body = json!({"cmd": ["sleep", seconds], "timeout_s": 1});
    for answer in [app.run(body.clone()).await, app.stream(body).await] {
        let exec = answer.exec_of_problem(504, "exec_timeout");
        assert_timed_out(&exec);
        assert_eq!(exec.timeout_s, 1);
        assert_gone(&seconds).await;
    }
    let rows = app.rows().await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.status == "timeout"), "{rows:?}");
}

async fn a_program_that_times_out_after_output_ends_its_stream(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let script = format!("echo out; exec sleep {seconds}");
    let frames = app
        .stream(json!({"cmd": ["sh", "-c", script], "timeout_s": 1}))
        .await
        .frames();
    assert_eq!(frames.output("stdout"), b"out\n");
    assert_timed_out(&frames.exit());
    assert_gone(&seconds).await;
    assert_eq!(app.only_row().await.status, "timeout");
}

async fn the_json_form_of_a_timeout_has_the_output(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let script = format!("echo out; echo err >&2; sleep {seconds}");
    let answer = app
        .run(json!({"cmd": ["sh", "-c", script], "timeout_s": 1}))
        .await;
    assert_timed_out(&answer.exec_of_problem(504, "exec_timeout"));
    let exec = &answer.json()["exec"];
    assert_eq!(
        (&exec["stdout"], &exec["stderr"]),
        (&json!("out\n"), &json!("err\n")),
        "{exec}"
    );
    // The shell waits for the sleep: TERM went to both, as they are one process group.
    assert_gone(&seconds).await;
}

async fn a_program_that_ignores_term_is_killed(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let script = format!("trap '' TERM; sleep {seconds}");
    let exec = app
        .run(json!({"cmd": ["sh", "-c", script], "timeout_s": 1}))
        .await
        .exec_of_problem(504, "exec_timeout");
    assert_timed_out(&exec);
    assert_eq!(exec.kill.unwrap().sent, ["TERM", "KILL"]);
    assert_gone(&seconds).await;
}

async fn a_client_that_goes_away_ends_its_program(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let workspace = app.seed.workspace();
    let body = json!({"cmd": ["sleep", seconds], "timeout_s": 120}).to_string();
    let request = format!(
        "POST /workspaces/{}/exec HTTP/1.1\r\nHost: adit\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        workspace.id,
        workspace.token,
        body.len()
    );
    let mut client = TcpStream::connect(app.api.base().strip_prefix("http://").unwrap())
        .await
        .unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    wait::until_true("the program runs", async || {
        !processes::with_argument(&seconds).is_empty()
    })
    .await;
    drop(client);
    assert_ended_by_its_client(app, &seconds).await;
}

async fn a_client_that_leaves_a_stream_ends_its_program(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let script = format!("echo going; exec sleep {seconds}");
    let body = json!({"cmd": ["sh", "-c", script], "timeout_s": 120});
    let streaming = Streaming::begin(app, &body, "going").await;
    wait::until_true("the program runs", async || {
        !processes::with_argument(&seconds).is_empty()
    })
    .await;
    drop(streaming);
    assert_ended_by_its_client(app, &seconds).await;
}

async fn assert_ended_by_its_client(app: &TestApp, argument: &str) {
    assert_gone(argument).await;
    let row = wait::until("the row is final", async || {
        let row = app.only_row().await;
        (row.status != "running").then_some(row)
    })
    .await;
    let exec: Exec = serde_json::from_value(row.response_body.unwrap()).unwrap();
    assert_eq!(
        (exec.outcome, exec.ended_by),
        (Some(Outcome::Cancelled), Some(EndedBy::ClientGone)),
        "{exec:?}"
    );
    assert_eq!(row.status, "error");
}
