//! The flags of `adit exec` and `adit tunnels`, each seen from the remote program's side or from the reader's.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::program::Dev;
use super::{assert_output, text};

#[track_caller]
fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn the_two_machine_readable_forms() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let script = r"printf 'a\377'; echo b >&2; exit 7";

    let object = dev.adit(&["exec", "--json", "--", "sh", "-c", script]);
    assert_eq!(
        (object.status.code(), text(&object.stderr).as_str()),
        (Some(7), "")
    );
    let exec = parsed(&object);
    assert_eq!(exec["outcome"], "exited");
    assert_eq!(exec["exit_code"], 7);
    assert_eq!(
        (&exec["stdout"], &exec["stdout_b64"], &exec["stderr"]),
        (&json!("a\u{fffd}"), &json!("Yf8="), &json!("b\n"))
    );

    let frames = dev.adit(&["exec", "--ndjson", "--", "sh", "-c", script]);
    assert_eq!(
        (frames.status.code(), text(&frames.stderr).as_str()),
        (Some(7), "")
    );
    let frames: Vec<Value> = text(&frames.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        frames.contains(&json!({"type": "stderr", "data": "b\n"})),
        "{frames:?}"
    );
    let exit = frames.last().unwrap();
    assert_eq!((&exit["type"], &exit["exit_code"]), (&json!("exit"), &json!(7)));

    // A bad end has its object, its line and its code too.
    let script = "echo begun; exec sleep 100";
    let timed_out = dev.adit(&["exec", "--json", "--timeout", "1", "--", "sh", "-c", script]);
    assert_eq!(timed_out.status.code(), Some(124), "{timed_out:?}");
    assert_eq!(text(&timed_out.stderr).lines().count(), 1, "{timed_out:?}");
    let exec = parsed(&timed_out);
    assert_eq!(
        (&exec["outcome"], &exec["stdout"]),
        (&json!("timeout"), &json!("begun\n"))
    );

    let tunnels = dev.adit(&["tunnels", "--json"]);
    assert_eq!(
        (tunnels.status.code(), text(&tunnels.stderr).as_str()),
        (Some(0), "")
    );
    let tunnels = parsed(&tunnels);
    assert_eq!(tunnels["data"].as_array().unwrap().len(), 1, "{tunnels}");
    assert_eq!(
        tunnels["data"][0]["instance_id"], "i-0123456789abcdef0",
        "{tunnels}"
    );
    assert!(tunnels["endpoints"].is_array(), "{tunnels}");
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn what_a_command_gets() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let bytes = b"one\0two\xff\nthree";
    let file = directory.path().join("input");
    fs::write(&file, bytes).unwrap();
    let file = file.to_str().unwrap();

    let output = dev.adit(&["exec", "--stdin", file, "--", "cat"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &bytes[..]));
    let mut reader = dev
        .command(&["exec", "--stdin", "-", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    reader.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &bytes[..]));
    let missing = dev.adit(&["exec", "--stdin", "/no/such/file", "--", "cat"]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(text(&missing.stderr).contains("`/no/such/file`"), "{missing:?}");

    let place = fs::canonicalize(directory.path()).unwrap();
    let place = place.to_str().unwrap();
    assert_output(
        &dev.adit(&["exec", "--cwd", place, "--", "pwd", "-P"]),
        0,
        &format!("{place}\n"),
        "",
    );
    let elsewhere = dev.adit(&["exec", "--cwd", "/no/such/place", "--", "echo", "ran"]);
    assert_eq!(
        (elsewhere.status.code(), text(&elsewhere.stdout)),
        (Some(125), String::new())
    );
    assert!(text(&elsewhere.stderr).contains("cwd_not_found"), "{elsewhere:?}");

    let variables = ["exec", "--env", "ADIT_ONE=a 'b' $c=d", "--env", "ADIT_TWO="];
    let print = [
        "--",
        "sh",
        "-c",
        r#"printf '%s|%s' "$ADIT_ONE" "${ADIT_TWO-unset}""#,
    ];
    assert_output(
        &dev.adit(&[&variables[..], &print].concat()),
        0,
        "a 'b' $c=d|",
        "",
    );
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn a_signal_without_a_number_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let ended_by = |signal: &str| dev.adit(&["exec", "--", "sh", "-c", &format!("kill -{signal} $$")]);
    assert_output(&ended_by("TERM"), 143, "", "");
    let said = "adit: a signal that SSH has no name for ended the command\n";
    assert_output(&ended_by("34"), 128, "", said);
    assert_eq!(dev.terminate().await, Some(0));
}
