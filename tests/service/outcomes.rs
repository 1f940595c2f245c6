//! How an exec that ends by itself is told: exit codes, signals, and words that name no program.

use adit_actors::exec::{EndedBy, Exec, ExecState, Outcome, Ran};
use serde_json::json;

use crate::support::TestApp;
use crate::support::rows::Row;

over_every_instance!(
    exit_zero_with_output,
    exit_zero_streamed,
    an_exit_code_is_passed_on,
    a_signal_is_no_exit_code,
    a_program_that_is_not_there,
);
over_postgres!(
    exit_zero_with_output,
    exit_zero_streamed,
    an_exit_code_is_passed_on,
    a_signal_is_no_exit_code
);

fn assert_ran(exec: &Exec, outcome: Outcome) {
    assert_eq!(
        (
            exec.state,
            exec.ran,
            exec.outcome,
            exec.ended_by,
            &exec.error,
            &exec.kill
        ),
        (
            ExecState::Ended,
            Ran::Yes,
            Some(outcome),
            Some(EndedBy::Exit),
            &None,
            &None
        ),
        "{exec:?}"
    );
    assert!(exec.audit.committed && exec.audit.id == exec.exec_id, "{exec:?}");
}

fn assert_row(row: &Row, exec: &Exec, status: &str) {
    assert_eq!((row.id, row.status.as_str()), (exec.exec_id, status), "{row:?}");
    let stored = row.response_body.as_ref().unwrap();
    assert_eq!(
        stored["outcome"],
        serde_json::to_value(exec.outcome).unwrap(),
        "{row:?}"
    );
    assert_eq!(stored["exit_code"], json!(exec.exit_code), "{row:?}");
    assert_eq!(stored["signal"], json!(exec.signal), "{row:?}");
}

async fn exit_zero_with_output(app: &TestApp) {
    let answer = app
        .run(json!({"cmd": ["sh", "-c", "printf out; printf err >&2"]}))
        .await;
    let exec = answer.exec();
    assert_ran(&exec, Outcome::Exited);
    assert_eq!(
        (exec.exit_code, exec.signal.as_deref(), exec.timeout_s),
        (Some(0), None, 30)
    );
    let body = answer.json();
    assert_eq!(
        (&body["stdout"], &body["stderr"]),
        (&json!("out"), &json!("err")),
        "{body}"
    );
    assert!(body.get("stdout_b64").is_none(), "{body}");
    assert_eq!(
        answer.header("adit-exec-id"),
        Some(exec.exec_id.to_string().as_str())
    );
    assert_eq!(answer.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));

    let row = app.only_row().await;
    assert_row(&row, &exec, "ok");
    assert_eq!(row.workspace_id, app.seed.workspace().id);
    assert_eq!(
        (row.activity_type.as_str(), row.method.as_deref()),
        ("exec", Some("POST /workspaces/:id/exec"))
    );
    assert_eq!(
        row.request_body["cmd"],
        json!(["sh", "-c", "printf out; printf err >&2"])
    );
    assert!(row.duration_ms.is_some() && row.error_detail.is_none(), "{row:?}");
}

async fn exit_zero_streamed(app: &TestApp) {
    let answer = app
        .stream(json!({"cmd": ["sh", "-c", "printf out; printf err >&2"]}))
        .await;
    let frames = answer.frames();
    assert_eq!(frames.output("stdout"), b"out");
    assert_eq!(frames.output("stderr"), b"err");
    let exec = frames.exit();
    assert_ran(&exec, Outcome::Exited);
    assert_eq!(exec.exit_code, Some(0));
    assert_eq!(
        answer.header("adit-exec-id"),
        Some(exec.exec_id.to_string().as_str())
    );
    assert_row(&app.only_row().await, &exec, "ok");
}

async fn an_exit_code_is_passed_on(app: &TestApp) {
    for code in [1, 7, 126, 127, 255] {
        let exec = app
            .run(json!({"cmd": ["sh", "-c", format!("exit {code}")]}))
            .await
            .exec();
        assert_ran(&exec, Outcome::Exited);
        assert_eq!((exec.exit_code, exec.signal.as_deref()), (Some(code), None));
        assert_row(app.rows().await.last().unwrap(), &exec, "ok");
    }
}

async fn a_signal_is_no_exit_code(app: &TestApp) {
    for signal in ["TERM", "KILL", "SEGV"] {
        let exec = app
            .run(json!({"cmd": ["sh", "-c", format!("kill -{signal} $$")]}))
            .await
            .exec();
        assert_ran(&exec, Outcome::Signaled);
        assert_eq!((exec.exit_code, exec.signal.as_deref()), (None, Some(signal)));
        assert_row(app.rows().await.last().unwrap(), &exec, "error");
    }
}

async fn a_program_that_is_not_there(app: &TestApp) {
    let answer = app.run(json!({"cmd": ["/nonexistent/program"]})).await;
    let exec = answer.exec();
    assert_ran(&exec, Outcome::Exited);
    assert_eq!(exec.exit_code, Some(127), "the shell's own code for it");
    assert!(
        answer.json()["stderr"]
            .as_str()
            .unwrap()
            .contains("/nonexistent/program")
    );
}
