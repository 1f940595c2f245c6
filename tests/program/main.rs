//! The real binary, as a newcomer uses it: `adit dev`, the line that it says to type, and the commands beside it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail it by panicking; clippy.toml reaches only the test functions themselves"
)]

#[path = "../support/background.rs"]
mod background;
mod exec;
mod interrupt;
mod memory;
mod operating;
#[path = "../support/program.rs"]
mod program;
mod reading;
#[path = "../support/rows.rs"]
#[expect(dead_code, reason = "other tests look at more of a row")]
mod rows;
mod terminal;
mod unheard;
#[path = "../support/wait.rs"]
mod wait;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use program::Dev;
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn assert_output(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let found = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(found, (Some(code), stdout.to_owned(), stderr.to_owned()));
}

#[tokio::test]
async fn a_newcomers_first_minutes() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;

    let curl = Command::new("sh")
        .args(["-c", &dev.curl_line().unwrap()])
        .output()
        .unwrap();
    assert!(curl.status.success(), "{curl:?}");
    let frames: Vec<Value> = text(&curl.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(frames.first().unwrap()["type"], "stdout", "{frames:?}");
    let exit = frames.last().unwrap();
    assert_eq!(
        (&exit["type"], &exit["exit_code"]),
        (&Value::from("exit"), &Value::from(0)),
        "{frames:?}"
    );

    let workspace = dev.variable("ADIT_WORKSPACE").to_owned();
    let exec = [
        "exec",
        &workspace,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ];
    assert_output(&dev.adit(&exec), 7, "out\n", "err\n");
    assert_output(&dev.adit(&["exec", "--", "printf", "%s", "a b"]), 0, "a b", "");
    let timed_out = dev.adit(&["exec", "--timeout", "1", "--", "sleep", "100"]);
    assert_eq!(timed_out.status.code(), Some(124), "{timed_out:?}");
    assert_eq!(text(&timed_out.stderr).lines().count(), 1, "{timed_out:?}");

    let tunnels = dev.adit(&["tunnels"]);
    assert!(tunnels.status.success(), "{tunnels:?}");
    let table = text(&tunnels.stdout);
    let of_instance = |line: &&str| line.starts_with("i-0123456789abcdef0 ");
    assert_eq!(table.lines().filter(of_instance).count(), 1, "{table}");

    let rows = rows::all(&directory.path().join("adit.db")).await;
    let statuses: Vec<&str> = rows.iter().map(|row| row.status.as_str()).collect();
    assert_eq!(statuses, ["ok", "ok", "ok", "timeout"]);
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn a_second_start_goes_on_with_the_same_data() {
    let directory = tempfile::tempdir().unwrap();
    let first = Dev::start(directory.path()).await;
    assert_output(&first.adit(&["exec", "--", "echo", "first"]), 0, "first\n", "");
    let kept =
        ["ADIT_TOKEN", "ADIT_ADMIN_TOKEN", "ADIT_WORKSPACE"].map(|name| first.variable(name).to_owned());
    assert_eq!(first.terminate().await, Some(0));

    let mode = std::fs::metadata(directory.path().join("dev.env"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "the file has tokens");
    let second = Dev::start(directory.path()).await;
    assert_eq!(
        ["ADIT_TOKEN", "ADIT_ADMIN_TOKEN", "ADIT_WORKSPACE"].map(|name| second.variable(name).to_owned()),
        kept
    );
    assert_output(&second.adit(&["exec", "--", "echo", "second"]), 0, "second\n", "");
    assert_eq!(rows::all(&directory.path().join("adit.db")).await.len(), 2);
    assert_eq!(second.terminate().await, Some(0));
}

#[tokio::test]
async fn adit_that_failed_says_so_and_exits_with_125() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let unknown = dev.adit(&["exec", "00000000-0000-4000-8000-000000000000", "--", "true"]);
    assert_eq!(unknown.status.code(), Some(125), "{unknown:?}");
    assert!(text(&unknown.stderr).contains("not_found"), "{unknown:?}");
    assert_eq!(dev.terminate().await, Some(0));
}
