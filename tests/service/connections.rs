//! What a client of HTTP/1 may do with its connection, asked by hand.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Backend, TestApp};

/// Long enough for a machine that also compiles.
const LIMIT: Duration = Duration::from_secs(60);

async fn connect(app: &TestApp) -> TcpStream {
    let (_, address) = app.api.base().split_once("://").unwrap();
    TcpStream::connect(address).await.unwrap()
}

/// An exec's request.
fn exec(app: &TestApp, version: &str, accept: &str, body: &Value) -> String {
    let workspace = app.seed.workspace();
    let body = body.to_string();
    format!(
        "POST /workspaces/{}/exec {version}\r\nHost: adit\r\nAuthorization: Bearer {}\r\nAccept: {accept}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        workspace.id,
        workspace.token,
        body.len()
    )
}

/// All that comes until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = timeout(LIMIT, stream.read_to_string(&mut text)).await;
    read.expect("the server closes").unwrap();
    text
}

/// HTTP/1.0 knows no chunks: what has no known length ends with the connection.
#[actix_rt::test]
async fn http_1_0_is_streamed_to_without_chunks() {
    let app = TestApp::start(Backend::InProcess).await;
    let many = json!({"cmd": ["sh", "-c", "yes | head -c 100000"]});
    for accept in ["*/*", "application/json"] {
        // One that would like to go on must not wait for more either.
        for version in ["HTTP/1.0", "HTTP/1.0\r\nConnection: keep-alive"] {
            let mut stream = connect(&app).await;
            let request = exec(&app, version, accept, &many);
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = rest(&mut stream).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
            let head = head.to_ascii_lowercase();
            assert!(
                !["transfer-encoding", "content-length", "keep-alive"]
                    .iter()
                    .any(|name| head.contains(name)),
                "{head}"
            );
            let frames: Vec<Value> = body
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no frame: {line:?}")))
                .collect();
            let last = frames.last().unwrap();
            assert_eq!(last["exit_code"], 0, "{last}");
        }
    }
    app.finish().await;
}

/// More behind a request than is kept is thrown away while its program runs; the answer is whole, and then the connection
/// ends.
#[actix_rt::test]
async fn a_request_behind_does_not_disturb_the_one_before() {
    let app = TestApp::start(Backend::InProcess).await;
    let directory = tempfile::tempdir().unwrap();
    for (number, accept) in ["*/*", "application/json"].into_iter().enumerate() {
        let awaited = directory.path().join(number.to_string());
        let script = "echo begun; until [ -e \"$0\" ]; do sleep 0.01; done; echo done";
        let waits = json!({"cmd": ["sh", "-c", script, awaited], "timeout_s": 120});
        let mut stream = connect(&app).await;
        // More than both kernels and the server keep between them, so once it is sent some of it was thrown away.
        let behind = format!(
            "POST /behind HTTP/1.1\r\nHost: adit\r\nContent-Length: 16777216\r\n\r\n{}",
            "x".repeat(16_777_216)
        );
        let request = exec(&app, "HTTP/1.1", accept, &waits) + &behind;
        let sent = timeout(LIMIT, stream.write_all(request.as_bytes())).await;
        sent.expect("the server reads on").unwrap();
        std::fs::write(awaited, "").unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains("done\\n") && answer.contains("\"exit_code\":0"),
            "{answer}"
        );
    }
    assert_eq!(app.rows().await.len(), 2);
    app.finish().await;
}

const SMALL: &str = "GET /healthz HTTP/1.1\r\nHost: adit\r\n\r\n";

/// An exec whose program says that it has begun, and ends once that file is there.
fn until_told(app: &TestApp, told: &Path) -> String {
    let script = "echo begun; until [ -e \"$0\" ]; do sleep 0.01; done";
    exec(
        app,
        "HTTP/1.1",
        "*/*",
        &json!({"cmd": ["sh", "-c", script, told], "timeout_s": 120}),
    )
}

/// Of more than is kept, what was kept is answered, and then the connection ends.
#[actix_rt::test]
async fn too_many_requests_behind_end_the_connection() {
    let app = TestApp::start(Backend::InProcess).await;
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let mut stream = connect(&app).await;
    // More than both kernels and the server keep between them.
    let requests = until_told(&app, &told) + &SMALL.repeat(16_777_216 / SMALL.len());
    let sent = timeout(LIMIT, stream.write_all(requests.as_bytes())).await;
    sent.expect("the server reads on").unwrap();
    std::fs::write(&told, "").unwrap();
    let answers = rest(&mut stream).await;
    assert!(answers.starts_with("HTTP/1.1 200 OK\r\n"), "{answers}");
    assert!(
        answers.matches("HTTP/1.1 ").count() > 1,
        "those behind are answered"
    );
    app.finish().await;
}

/// Reads until so often was said `what`.
async fn read_until(stream: &mut TcpStream, answers: &mut Vec<u8>, what: &str, times: usize) {
    let reading = async {
        while String::from_utf8_lossy(answers).matches(what).count() < times {
            assert_ne!(stream.read_buf(answers).await.unwrap(), 0, "the server closes");
        }
    };
    timeout(LIMIT, reading).await.expect("all are answered");
}

/// actix-web does not look at those that come when more than a few wait, and must be made to once these are answered.
#[actix_rt::test]
async fn requests_behind_those_that_wait_are_answered() {
    const TIMES: usize = 100;
    let app = TestApp::start(Backend::InProcess).await;
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let mut stream = connect(&app).await;
    let mut answers = Vec::new();
    let first = until_told(&app, &told) + &SMALL.repeat(TIMES);
    stream.write_all(first.as_bytes()).await.unwrap();
    read_until(&mut stream, &mut answers, "begun", 1).await;
    stream.write_all(SMALL.repeat(TIMES).as_bytes()).await.unwrap();
    std::fs::write(&told, "").unwrap();
    read_until(&mut stream, &mut answers, "HTTP/1.1 ", 1 + 2 * TIMES).await;
    app.finish().await;
}

/// What does fit is kept, and answered in its turn.
#[actix_rt::test]
async fn a_short_request_behind_is_answered_in_its_turn() {
    let app = TestApp::start(Backend::InProcess).await;
    let mut stream = connect(&app).await;
    let first = exec(
        &app,
        "HTTP/1.1",
        "*/*",
        &json!({"cmd": ["sh", "-c", "sleep 0.2; echo first"]}),
    );
    let second = exec(
        &app,
        "HTTP/1.1\r\nConnection: close",
        "*/*",
        &json!({"cmd": ["echo", "second"]}),
    );
    stream.write_all((first + &second).as_bytes()).await.unwrap();
    let answers = rest(&mut stream).await;
    let (first, second) = (
        answers.find("first\\n").unwrap(),
        answers.find("second\\n").unwrap(),
    );
    assert!(first < second, "{answers}");
    app.finish().await;
}
