//! Requests that break a rule: refused by the field's name, before anything is dispatched or recorded.

use serde_json::{Value, json};

use crate::support::TestApp;

over_every_instance!(
    bodies_that_break_a_rule,
    bodies_that_are_no_json,
    commands_longer_than_the_shell_takes
);

async fn bodies_that_break_a_rule(app: &TestApp) {
    let table: Vec<(&str, Value)> = vec![
        ("cmd", json!({})),
        ("cmd", json!({"cmd": "echo hello"})),
        ("cmd", json!({"cmd": []})),
        ("cmd", json!({"cmd": [""]})),
        ("cmd", json!({"cmd": ["", "x"]})),
        ("cmd", json!({"cmd": ["echo", 1]})),
        ("cmd", json!({"cmd": ["echo", null]})),
        ("cmd", json!({"cmd": null})),
        ("cmd[1]", json!({"cmd": ["echo", "a\0b"]})),
        ("cmd", json!({"cmd": vec!["x"; 1_025]})),
        ("command", json!({"cmd": ["true"], "command": "x"})),
        ("shell", json!({"cmd": ["true"], "shell": true})),
        ("timeout_s", json!({"cmd": ["true"], "timeout_s": -1})),
        ("timeout_s", json!({"cmd": ["true"], "timeout_s": 1.5})),
        ("timeout_s", json!({"cmd": ["true"], "timeout_s": "30"})),
        ("cwd", json!({"cmd": ["true"], "cwd": "relative"})),
        ("cwd", json!({"cmd": ["true"], "cwd": "/a\0b"})),
        ("env", json!({"cmd": ["true"], "env": ["A=1"]})),
        ("1A", json!({"cmd": ["true"], "env": {"1A": "x"}})),
        ("A B", json!({"cmd": ["true"], "env": {"A B": "x"}})),
        ("env.A", json!({"cmd": ["true"], "env": {"A": "x\0"}})),
        (
            "env.ADIT_EXEC_ID",
            json!({"cmd": ["true"], "env": {"ADIT_EXEC_ID": "x"}}),
        ),
        (
            "stdin",
            json!({"cmd": ["true"], "stdin": "a", "stdin_b64": "YQ=="}),
        ),
        ("stdin_b64", json!({"cmd": ["true"], "stdin_b64": "not base64!"})),
        ("stdin", json!({"cmd": ["true"], "stdin": "x".repeat(1_048_577)})),
        ("announce", json!({"cmd": ["true"], "announce": "yes"})),
    ];
    for (field, body) in table {
        for answer in [app.run(body.clone()).await, app.stream(body.clone()).await] {
            let problem = answer.problem(400, "invalid_request");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(field), "{field} is not named: {detail}");
            assert!(problem.get("exec").is_none(), "{problem}");
        }
    }
    assert!(app.rows().await.is_empty());
    assert_eq!(app.emulator.counters().pushes, 0);
}

async fn bodies_that_are_no_json(app: &TestApp) {
    let workspace = app.seed.workspace();
    let id = workspace.id.to_string();
    for body in [
        b"".as_slice(),
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        br#"{"cmd":["true"]} trailing"#,
    ] {
        let answer = app
            .api
            .exec_as("*/*", &id, Some(&workspace.token), body.to_vec())
            .await;
        answer.problem(400, "invalid_request");
    }
    assert!(app.rows().await.is_empty());
    assert_eq!(app.emulator.counters().pushes, 0);
}

async fn commands_longer_than_the_shell_takes(app: &TestApp) {
    // A quote becomes four characters on the way: less than 128 KiB as words, more as a command line.
    for words in [
        json!(["echo", "x".repeat(131_072)]),
        json!(["echo", "'".repeat(40_000)]),
    ] {
        app.run(json!({"cmd": words})).await.problem(400, "cmd_too_long");
    }
    assert!(app.rows().await.is_empty());

    let word = "x".repeat(120_000);
    let answer = app.run(json!({"cmd": ["printf", "%s", word]})).await;
    assert_eq!(answer.exec().exit_code, Some(0));
    assert!(
        answer.json()["stdout"] == word,
        "a word of 120,000 characters did not come back"
    );
}
