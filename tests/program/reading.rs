//! What `adit exec` does with those who read what it prints, and with what it reads itself.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use super::program::Dev;
use super::{rows, text, wait};

/// Runs the script with a reader that goes away behind the first line. Gives the exit code and what was said.
async fn first_line_only(dev: &Dev, script: &str) -> (Option<i32>, String) {
    let mut exec = dev
        .command(&["exec", "--timeout", "120", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(exec.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    drop(reader);
    let code = wait::until("`adit exec` ends", async || exec.try_wait().unwrap())
        .await
        .code();
    let mut said = String::new();
    exec.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (code, said)
}

#[tokio::test]
async fn a_reader_that_has_what_it_wants_ends_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let quietly = (Some(141), String::new());
    for script in ["yes one", "echo one; exec sleep 100"] {
        assert_eq!(first_line_only(&dev, script).await, quietly, "{script}");
    }
    let rows = wait::until("both rows are final", async || {
        let rows = rows::all(&directory.path().join("adit.db")).await;
        rows.iter().all(|row| row.status != "running").then_some(rows)
    })
    .await;
    assert_eq!(rows.len(), 2);
    for row in rows {
        let exec = row.response_body.unwrap();
        assert_eq!(exec["ended_by"], "client_gone", "{exec}");
    }
    // It has printed its last line, and its own end comes with it.
    let ended = first_line_only(&dev, "echo one; exit 3").await;
    assert_eq!(ended, (Some(3), String::new()));
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn bytes_pass_as_they_are_on_both_streams() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    // Every byte behind every other one, so that there are beginnings and middles of characters wherever it is cut.
    let bytes: Vec<u8> = (0..=255_u8)
        .flat_map(|first| (0..=255_u8).flat_map(move |second| [first, second]))
        .collect();
    let file = directory.path().join("bytes");
    fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    let script = r#"cat "$0" & cat "$0" >&2; wait"#;
    let output = dev.adit(&["exec", "--", "sh", "-c", script, file]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == bytes, "standard output differs");
    assert!(output.stderr == bytes, "standard error differs");
    assert_eq!(dev.terminate().await, Some(0));
}

/// A pager takes nothing while a person reads.
#[tokio::test]
async fn a_reader_that_takes_its_time_gets_all() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let script = "head -c 1048576 /dev/zero; head -c 1048576 /dev/zero >&2";
    let exec = dev
        .command(&["exec", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until_true("its row is final", async || {
        let rows = rows::all(&directory.path().join("adit.db")).await;
        rows.iter().any(|row| row.status != "running")
    })
    .await;
    // It waits for answers under way, and cuts those that nobody takes.
    assert_eq!(dev.terminate().await, Some(0));
    let output = exec.wait_with_output().unwrap();
    let lengths = (output.stdout.len(), output.stderr.len());
    assert_eq!((output.status.code(), lengths), (Some(0), (1_048_576, 1_048_576)));
}

#[tokio::test]
async fn more_standard_input_than_is_taken_is_refused_here() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let file = directory.path().join("input");
    fs::write(&file, vec![b'x'; 1_048_576]).unwrap();
    let name = file.to_str().unwrap();
    let most = dev.adit(&["exec", "--stdin", name, "--", "wc", "-c"]);
    assert_eq!(
        (most.status.code(), text(&most.stdout).trim()),
        (Some(0), "1048576")
    );

    fs::write(&file, vec![b'x'; 1_048_577]).unwrap();
    for (arguments, stdin) in [
        (["--stdin", name], Stdio::null()),
        (["--stdin", "-"], fs::File::open(&file).unwrap().into()),
    ] {
        let mut command = dev.command(&["exec"]);
        command.args(arguments).args(["--", "wc", "-c"]).stdin(stdin);
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(125), "{refused:?}");
        let said = text(&refused.stderr);
        let expected = format!(
            "adit: `{}` has more than the 1048576 bytes that --stdin may have\n",
            arguments[1]
        );
        assert_eq!(said, expected);
    }
    assert_eq!(rows::all(&directory.path().join("adit.db")).await.len(), 1);
    assert_eq!(dev.terminate().await, Some(0));
}
