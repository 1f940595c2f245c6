//! What reaches the caller of what a program prints, and what is said of the rest.

use adit_actors::exec::StreamSummary;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::TestApp;
use crate::support::api::Frames;

over_every_instance!(
    each_stream_has_a_cap,
    the_json_form_has_the_same_cap,
    bytes_that_are_no_text,
    text_that_is_written_byte_by_byte,
    a_started_frame_when_asked
);

const CAP: usize = 1_048_576;
const PRINTED: usize = 1_572_864;

/// Prints 1.5 MiB of `a` on stdout and of `b` on stderr, at the same time.
const PRINT_BOTH: &str =
    "head -c 1572864 /dev/zero | tr '\\0' b >&2 & head -c 1572864 /dev/zero | tr '\\0' a; wait";

fn assert_capped(summary: &StreamSummary, letter: u8) {
    let digest = Sha256::digest(vec![letter; PRINTED]);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = StreamSummary {
        bytes: PRINTED as u64,
        sent: CAP as u64,
        truncated: true,
        sha256: Some(hex),
    };
    assert_eq!(summary, &expected);
}

/// The marker comes once, and behind exactly the bytes that were kept.
fn assert_marked(frames: &Frames, stream: &str) {
    let marks: Vec<usize> = (0..frames.0.len())
        .filter(|index| frames.0[*index]["type"] == "truncated" && frames.0[*index]["stream"] == stream)
        .collect();
    assert_eq!(marks.len(), 1, "{stream}: {:?}", frames.types());
    assert_eq!(frames.0[marks[0]]["limit"], json!(CAP));
    let after = &frames.0[marks[0]..];
    assert!(
        after.iter().all(|frame| frame["type"] != stream),
        "{stream} goes on behind its marker"
    );
}

async fn each_stream_has_a_cap(app: &TestApp) {
    let frames = app
        .stream(json!({"cmd": ["sh", "-c", PRINT_BOTH]}))
        .await
        .frames();
    let exec = frames.exit();
    assert_eq!(exec.exit_code, Some(0));
    for (stream, letter, summary) in [
        ("stdout", b'a', &exec.streams.stdout),
        ("stderr", b'b', &exec.streams.stderr),
    ] {
        assert!(
            frames.output(stream) == vec![letter; CAP],
            "{stream} is not the first MiB of what was printed"
        );
        assert_marked(&frames, stream);
        assert_capped(summary, letter);
    }
}

async fn the_json_form_has_the_same_cap(app: &TestApp) {
    let answer = app.run(json!({"cmd": ["sh", "-c", PRINT_BOTH]})).await;
    let (exec, body) = (answer.exec(), answer.json());
    assert!(
        body["stdout"] == "a".repeat(CAP),
        "stdout is not the first MiB of what was printed"
    );
    assert!(
        body["stderr"] == "b".repeat(CAP),
        "stderr is not the first MiB of what was printed"
    );
    assert_capped(&exec.streams.stdout, b'a');
    assert_capped(&exec.streams.stderr, b'b');
}

async fn bytes_that_are_no_text(app: &TestApp) {
    // 0xff is in no UTF-8 text; é is two bytes, with a pause between them.
    let print = json!({"cmd": ["sh", "-c", "printf '\\377\\303'; printf '\\251'; printf '\\303' >&2; printf '\\251' >&2"]});
    let body = app.run(print.clone()).await.json();
    assert_eq!(body["stdout"], "\u{fffd}é");
    assert_eq!(
        STANDARD.decode(body["stdout_b64"].as_str().unwrap()).unwrap(),
        b"\xff\xc3\xa9"
    );
    assert_eq!(body["stderr"], "é");
    assert!(body.get("stderr_b64").is_none(), "{body}");

    let frames = app.stream(print).await.frames();
    assert_eq!(frames.output("stdout"), b"\xff\xc3\xa9");
    assert_eq!(frames.output("stderr"), "é".as_bytes());
    let split = frames
        .0
        .iter()
        .any(|frame| frame["type"] == "stderr" && frame.get("data").is_none());
    assert!(!split, "a character was split between frames: {frames:?}");
}

/// Every write but the last ends within a character or right behind one, and sshd makes packets of them as they come.
async fn text_that_is_written_byte_by_byte(app: &TestApp) {
    let line = "aé€😀\n";
    let repeat = 1_000;
    let script = format!("yes 'aé€😀' | head -n {repeat} | dd bs=1 2>/dev/null");
    let frames = app.stream(json!({"cmd": ["sh", "-c", script]})).await.frames();
    assert_eq!(frames.exit().exit_code, Some(0));
    let is_text = |frame: &serde_json::Value| frame["type"] != "stdout" || frame["data"].is_string();
    assert!(
        frames.0.iter().all(is_text),
        "a character was split between frames"
    );
    assert!(frames.output("stdout") == line.repeat(repeat).as_bytes());
}

async fn a_started_frame_when_asked(app: &TestApp) {
    let frames = app
        .stream(json!({"cmd": ["echo", "out"], "announce": true, "timeout_s": 500}))
        .await
        .frames();
    assert_eq!(frames.types(), ["started", "stdout", "exit"]);
    assert_eq!(frames.0[0]["timeout_s"], 120, "the longest there is");
    assert_eq!(frames.0[0]["exec_id"], json!(frames.exit().exec_id));
}
