//! What a request's other fields do to the program: directory, environment, standard input.

use adit_actors::exec::{Outcome, Ran};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::TestApp;

over_every_instance!(
    a_directory,
    a_directory_that_is_not_there,
    an_environment,
    standard_input,
    no_standard_input,
    a_program_that_leaves_its_input_unread,
);

async fn a_directory(app: &TestApp) {
    for directory in ["/", "/usr/../etc", "/tmp"] {
        let answer = app
            .run(json!({"cmd": ["pwd", "-L"], "cwd": directory, "env": {"X": "1"}}))
            .await;
        assert_eq!(answer.exec().exit_code, Some(0));
        let physical = std::fs::canonicalize(directory).unwrap();
        assert_eq!(answer.json()["stdout"], format!("{}\n", physical.display()));
    }
}

async fn a_directory_that_is_not_there(app: &TestApp) {
    let body = json!({"cmd": ["true"], "cwd": "/nonexistent/it's not there"});
    let exec = app.run(body.clone()).await.exec_of_problem(400, "cwd_not_found");
    assert_eq!(
        (exec.ran, exec.outcome),
        (Ran::No, Some(Outcome::Failed)),
        "{exec:?}"
    );
    app.stream(body).await.exec_of_problem(400, "cwd_not_found");
    let rows = app.rows().await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.status == "error"), "{rows:?}");
}

async fn an_environment(app: &TestApp) {
    let value = "two words, a \"quote\", it's $HOME\nand a line";
    let body = json!({"cmd": ["printenv", "ADIT_TEST_A", "UID"], "env": {"ADIT_TEST_A": value, "UID": "5"}});
    let answer = app.run(body).await;
    assert_eq!(answer.exec().exit_code, Some(0));
    assert_eq!(
        answer.json()["stdout"],
        format!("{value}\n5\n"),
        "UID is read-only in bash, and passes all the same"
    );
    let row = app.only_row().await;
    assert_eq!(row.request_body["env_names"], json!(["ADIT_TEST_A", "UID"]));
    assert!(!row.request_body.to_string().contains("two words"), "{row:?}");
}

async fn standard_input(app: &TestApp) {
    let text = "first line\nsecond: ä\n".repeat(10_000);
    let answer = app.run(json!({"cmd": ["cat"], "stdin": text})).await;
    assert_eq!(answer.exec().exit_code, Some(0));
    assert!(answer.json()["stdout"] == text, "cat gave back something else");

    let bytes: Vec<u8> = (0..=255).collect();
    let answer = app
        .run(json!({"cmd": ["cat"], "stdin_b64": STANDARD.encode(&bytes)}))
        .await;
    assert_eq!(
        STANDARD
            .decode(answer.json()["stdout_b64"].as_str().unwrap())
            .unwrap(),
        bytes
    );
    let rows = app.rows().await;
    assert_eq!(rows[0].request_body["stdin_bytes"], json!(text.len()));
    assert_eq!(rows[1].request_body["stdin_bytes"], json!(256));
}

async fn no_standard_input(app: &TestApp) {
    let answer = app.run(json!({"cmd": ["cat"]})).await;
    assert_eq!(answer.exec().exit_code, Some(0), "it is at its end at once");
    assert_eq!(answer.json()["stdout"], "");
}

async fn a_program_that_leaves_its_input_unread(app: &TestApp) {
    let text = "x".repeat(1_048_576);
    let exec = app
        .run(json!({"cmd": ["sh", "-c", "exit 3"], "stdin": text}))
        .await
        .exec();
    assert_eq!((exec.outcome, exec.exit_code), (Some(Outcome::Exited), Some(3)));
}
