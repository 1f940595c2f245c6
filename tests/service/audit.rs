//! One row for each exec whatever becomes of it, and nothing in it that is not its business.

use std::collections::BTreeSet;

use adit_actors::exec::{Outcome, Ran};
use adit_emulator::InstanceState;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::api::Answer;
use crate::support::{INSTANCE, TestApp, logs};

over_every_instance!(
    one_row_whatever_the_outcome,
    an_instance_that_is_not_running,
    secrets_stay_where_they_belong,
    the_argv_is_run_as_it_is_and_kept_without_its_secrets
);
over_postgres!(
    one_row_whatever_the_outcome,
    an_instance_that_is_not_running,
    secrets_stay_where_they_belong,
    the_argv_is_run_as_it_is_and_kept_without_its_secrets
);

fn exec_id(answer: &Answer) -> Uuid {
    answer.header("adit-exec-id").unwrap().parse().unwrap()
}

async fn one_row_whatever_the_outcome(app: &TestApp) {
    let table: [(Value, u16, &str); 7] = [
        (json!({"cmd": ["true"]}), 200, "ok"),
        (json!({"cmd": ["false"]}), 200, "ok"),
        (json!({"cmd": ["sh", "-c", "kill -KILL $$"]}), 200, "error"),
        (json!({"cmd": ["sleep", "100"], "timeout_s": 1}), 504, "timeout"),
        (json!({"cmd": ["/nonexistent"]}), 200, "ok"),
        (json!({"cmd": ["true"], "cwd": "/nonexistent"}), 400, "error"),
        (json!({"cmd": ["head", "-c", "2000000", "/dev/zero"]}), 200, "ok"),
    ];
    let mut expected = Vec::new();
    for (body, http_status, row_status) in table {
        for answer in [app.run(body.clone()).await, app.stream(body.clone()).await] {
            assert_eq!(answer.status, http_status, "{body}: {:?}", answer.headers);
            expected.push((exec_id(&answer), row_status));
        }
    }
    let rows = app.rows().await;
    let found: BTreeSet<(Uuid, &str)> = rows.iter().map(|row| (row.id, row.status.as_str())).collect();
    assert_eq!(rows.len(), expected.len());
    assert_eq!(found, expected.into_iter().collect());
    for row in &rows {
        let exec = row.response_body.as_ref().unwrap();
        assert_eq!(exec["exec_id"], json!(row.id));
        // Short output could be guessed from its digest.
        assert_eq!(
            (
                &exec["streams"]["stdout"]["sha256"],
                &exec["streams"]["stderr"]["sha256"]
            ),
            (&Value::Null, &Value::Null),
            "{exec}"
        );
        for field in [
            "actor",
            "cmd",
            "cwd",
            "env_names",
            "stdin_bytes",
            "timeout_s",
            "remote_addr",
            "request_id",
        ] {
            assert!(
                row.request_body.get(field).is_some(),
                "{field} is missing: {}",
                row.request_body
            );
        }
    }
}

/// The key push and the tunnel are under way together, and both fail; what the push says is the better answer.
async fn an_instance_that_is_not_running(app: &TestApp) {
    assert!(app.emulator.set_instance_state(INSTANCE, InstanceState::Stopped));
    let answer = app.run(json!({"cmd": ["true"]})).await;
    let exec = answer.exec_of_problem(409, "instance_not_running");
    assert_eq!(
        (exec.ran, exec.outcome),
        (Ran::No, Some(Outcome::Failed)),
        "{exec:?}"
    );
    let row = app.only_row().await;
    assert_eq!((row.id, row.status.as_str()), (exec.exec_id, "error"));
    assert!(row.error_detail.unwrap().contains("instance_not_running"));
    assert_eq!(app.emulator.counters().commands_started, 0);
}

async fn secrets_stay_where_they_belong(app: &TestApp) {
    let secret = |what: &str| format!("{what}-{}", Uuid::new_v4().simple());
    let (on_stdin, in_environment, from_file) = (secret("stdin"), secret("environment"), secret("printed"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, &from_file).unwrap();
    // The login that runs the command is another user.
    std::fs::set_permissions(
        directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();

    let script = format!(
        "cat; printenv ADIT_TEST_SECRET >&2; cat {}; cat {0} >&2",
        file.display()
    );
    let body = json!({
        "cmd": ["sh", "-c", script], "stdin": on_stdin, "env": {"ADIT_TEST_SECRET": in_environment},
    });
    let exec = app.run(body.clone()).await;
    let streamed = app.stream(body).await;
    assert_eq!(
        (exec.exec().exit_code, streamed.frames().exit().exit_code),
        (Some(0), Some(0))
    );
    // A failing one too: its stderr must not become the row's error detail.
    let failing = format!("cat {} >&2; sleep 100", file.display());
    app.run(json!({"cmd": ["sh", "-c", failing], "timeout_s": 1}))
        .await
        .problem(504, "exec_timeout");

    let store = app.store().bytes().await;
    let log = logs::text();
    let token = app.seed.workspace().token.clone();
    for (what, secret) in [
        ("stdin", on_stdin),
        ("environment", in_environment),
        ("output", from_file),
        ("token", token),
    ] {
        let needle = secret.as_bytes();
        assert!(
            !store.windows(needle.len()).any(|window| window == needle),
            "{what} is in the store"
        );
        assert!(!log.contains(&secret), "{what} is in the log");
        assert!(
            exec.json().to_string().contains(&secret) || what == "token",
            "the caller did not get the {what}"
        );
    }
    // The search above can find what is there.
    assert_eq!(app.rows().await.len(), 3);
    let id = app.rows().await[0].id.to_string();
    assert!(store.windows(id.len()).any(|window| window == id.as_bytes()) && log.contains(&id));
}

async fn the_argv_is_run_as_it_is_and_kept_without_its_secrets(app: &TestApp) {
    let secret = format!("hunter2-{}", Uuid::new_v4().simple());
    let words = json!([
        "printf",
        "%s\\n",
        "--password",
        secret,
        format!("API_TOKEN={secret}"),
        "plain"
    ]);
    let script = json!([
        "sh",
        "-c",
        format!("export PGPASSWORD='{secret}'; printenv PGPASSWORD")
    ]);
    let program = json!([format!("/nonexistent/PASSWORD={secret}")]);
    let expected = [
        (
            json!([
                "printf",
                "%s\\n",
                "--password",
                "[REDACTED:PASSWORD]",
                "API_TOKEN=[REDACTED:TOKEN]",
                "plain"
            ]),
            "exec printf: exited 0",
        ),
        (
            json!([
                "sh",
                "-c",
                "export PGPASSWORD='[REDACTED:PASSWORD]'; printenv PGPASSWORD"
            ]),
            "exec sh: exited 0",
        ),
        (
            json!(["/nonexistent/PASSWORD=[REDACTED:PASSWORD]"]),
            "exec /nonexistent/PASSWORD=[REDACTED:PASSWORD]: exited 127",
        ),
    ];
    let printed = [
        format!("--password\n{secret}\nAPI_TOKEN={secret}\nplain\n"),
        format!("{secret}\n"),
        String::new(),
    ];
    for ((cmd, printed), (kept, _)) in [words, script, program].iter().zip(printed).zip(&expected) {
        let answer = app.run(json!({"cmd": cmd})).await;
        assert_eq!(answer.json()["stdout"], json!(printed), "{cmd}");
        let id = exec_id(&answer);
        let row = app.rows().await.into_iter().find(|row| row.id == id).unwrap();
        assert_eq!(&row.request_body["cmd"], kept);
    }
    let directory = format!("/nonexistent/TOKEN={secret}");
    let answer = app.run(json!({"cmd": ["true"], "cwd": directory})).await;
    let id = exec_id(&answer);
    let row = app.rows().await.into_iter().find(|row| row.id == id).unwrap();
    assert_eq!(row.request_body["cwd"], "/nonexistent/TOKEN=[REDACTED:TOKEN]");
    let store = app.store().bytes().await;
    let found = |needle: &[u8]| store.windows(needle.len()).any(|window| window == needle);
    assert!(!found(secret.as_bytes()), "the secret is in the store");
    assert!(!logs::text().contains(&secret), "the secret is in the log");
    for (_, summary) in expected {
        assert!(found(summary.as_bytes()), "{summary}");
    }
}
