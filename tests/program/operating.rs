//! `adit hostkey` and `adit tunnels drain|evict` against a running service.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::program::Dev;
use super::{assert_output, text};

const INSTANCE: &str = "i-0123456789abcdef0";

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stderr), "", "{output:?}");
    text(&output.stdout)
}

/// Fails as `adit exec` does when Adit failed: 125 and one line.
#[track_caller]
fn assert_refused(output: &Output, reason: &str) {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_eq!(text(&output.stdout), "", "{output:?}");
    let complaint = text(&output.stderr);
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.contains(reason), "{complaint}");
}

fn generated_key(directory: &std::path::Path) -> String {
    let file = directory.join("another-host-key");
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&file)
        .status()
        .unwrap();
    assert!(status.success());
    let line = fs::read_to_string(file.with_extension("pub")).unwrap();
    line.trim().to_owned()
}

fn fingerprint(key: &str) -> String {
    let mut keygen = Command::new("ssh-keygen")
        .args(["-l", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    keygen.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
    let printed = text(&keygen.wait_with_output().unwrap().stdout);
    printed.split_whitespace().nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn a_host_key_is_shown_replaced_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    assert!(said(&dev.adit(&["hostkey", "show"])).ends_with("(no host keys)\n"));
    assert_refused(&dev.adit(&["hostkey", "show", INSTANCE]), "not_found");
    assert_refused(&dev.adit(&["hostkey", "forget", INSTANCE]), "not_found");

    assert_output(&dev.adit(&["exec", "--", "echo", "one"]), 0, "one\n", "");
    let first: Value =
        serde_json::from_str(&said(&dev.adit(&["hostkey", "show", INSTANCE, "--json"]))).unwrap();
    let first_key = first["key"].as_str().unwrap();
    assert_eq!(
        first["fingerprint"],
        fingerprint(first_key),
        "what `ssh-keygen -l` says"
    );
    let table = said(&dev.adit(&["hostkey", "show"]));
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(
        table.contains(&fingerprint(first_key)) && table.contains("first use"),
        "{table}"
    );

    // As `ssh-keyscan` prints it, from standard input.
    let other_key = generated_key(directory.path());
    let mut pin = dev
        .command(&["hostkey", "pin", INSTANCE, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let scanned = format!("# 10.0.0.10:22 SSH-2.0-OpenSSH_9.6\n10.0.0.10 {other_key}\n");
    pin.stdin.take().unwrap().write_all(scanned.as_bytes()).unwrap();
    let pinned = said(&pin.wait_with_output().unwrap());
    let lines: Vec<&str> = pinned.lines().collect();
    assert_eq!(lines.len(), 2, "{pinned}");
    assert!(
        lines[0].starts_with("pinned ") && lines[0].contains(&fingerprint(&other_key)),
        "{pinned}"
    );
    assert!(
        lines[1].starts_with("replaced ") && lines[1].contains(&fingerprint(first_key)),
        "{pinned}"
    );
    assert_refused(&dev.adit(&["exec", "--", "echo", "two"]), "host_key_changed");
    let tunnels = said(&dev.adit(&["tunnels"]));
    assert!(tunnels.contains("host_key_changed"), "{tunnels}");

    // The right one again, from a file; the wrong one is not backed off from any more.
    let file = directory.path().join("first.pub");
    fs::write(&file, first_key).unwrap();
    let from_file = format!("@{}", file.display());
    said(&dev.adit(&["hostkey", "pin", INSTANCE, &from_file]));
    assert_output(&dev.adit(&["exec", "--", "echo", "three"]), 0, "three\n", "");

    let elsewhere = ["hostkey", "pin", INSTANCE, &other_key, "--region", "us-west-2"];
    assert!(said(&dev.adit(&elsewhere)).starts_with("pinned us-west-2/"));
    assert_eq!(said(&dev.adit(&["hostkey", "show"])).lines().count(), 3);
    let there = said(&dev.adit(&["hostkey", "show", "--region", "us-west-2"]));
    assert_eq!(there.lines().count(), 2, "{there}");

    let forgotten = said(&dev.adit(&["hostkey", "forget", INSTANCE]));
    assert!(
        forgotten.starts_with("forgot ") && forgotten.contains(&fingerprint(first_key)),
        "{forgotten}"
    );
    assert_output(&dev.adit(&["exec", "--", "echo", "four"]), 0, "four\n", "");
    assert!(said(&dev.adit(&["hostkey", "show", INSTANCE])).contains("first use"));
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn tunnels_are_drained_and_evicted() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    for change in ["drain", "evict"] {
        assert_refused(&dev.adit(&["tunnels", change, INSTANCE]), "not_found");
    }
    let temperature = || {
        let output = dev.adit(&["exec", "--json", "--", "true"]);
        let exec: Value = serde_json::from_str(&said(&output)).unwrap();
        exec["tunnel"].as_str().unwrap().to_owned()
    };
    assert_eq!(temperature(), "cold");
    assert_eq!(temperature(), "warm");
    for change in ["drain", "evict"] {
        let elsewhere = ["tunnels", change, INSTANCE, "--region", "us-west-2"];
        assert_refused(&dev.adit(&elsewhere), "not_found");
    }
    assert_eq!(temperature(), "warm", "that was another region");
    let drained = said(&dev.adit(&["tunnels", "drain", INSTANCE]));
    assert!(
        drained.starts_with("INSTANCE ") && drained.contains(INSTANCE),
        "{drained}"
    );
    assert_eq!(temperature(), "cold", "the drained one takes nobody");

    let mut running = dev
        .command(&[
            "exec",
            "--timeout",
            "120",
            "--",
            "sh",
            "-c",
            "echo going; exec sleep 100",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut going = [0; 6];
    std::io::Read::read_exact(running.stdout.as_mut().unwrap(), &mut going).unwrap();
    let listing: Value =
        serde_json::from_str(&said(&dev.adit(&["tunnels", "evict", INSTANCE, "--json"]))).unwrap();
    assert_eq!(listing["data"][0]["instance_id"], INSTANCE, "{listing}");
    let cancelled = running.wait_with_output().unwrap();
    assert_eq!(cancelled.status.code(), Some(125), "{cancelled:?}");
    assert!(
        text(&cancelled.stderr).contains("exec_cancelled"),
        "{cancelled:?}"
    );
    assert_eq!(temperature(), "cold");
    assert_eq!(dev.terminate().await, Some(0));
}
