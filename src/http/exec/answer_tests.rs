//! Answers over real sockets, from the server's own connection rules, with a scripted exec behind them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{self, ServiceConfig};
use adit_actors::engine::ExecEvent;
use adit_actors::exec::{EndedBy, ErrorCode, Exec, Outcome, OutputStream, Ran};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use super::answer::answer;
use super::events::ExecEvents;
use super::form::Form;
use crate::http::options::HttpOptions;
use crate::http::server::listen;
use crate::http::test_support::{ended, exited};

/// Nothing here takes long; a test that waits for this long has failed.
const BOUND: Duration = Duration::from_secs(20);

/// An exec that does what the test tells it.
struct ScriptedExec {
    events: mpsc::UnboundedReceiver<ExecEvent>,
    taken: Arc<AtomicUsize>,
    dropped: Option<oneshot::Sender<()>>,
}

impl ExecEvents for ScriptedExec {
    fn exec_id(&self) -> Uuid {
        Uuid::from_u128(0xe8ec)
    }

    fn timeout_s(&self) -> u32 {
        30
    }

    async fn next(&mut self) -> Option<ExecEvent> {
        let event = self.events.recv().await;
        self.taken.fetch_add(1, Ordering::SeqCst);
        event
    }
}

impl Drop for ScriptedExec {
    fn drop(&mut self) {
        if let Some(dropped) = self.dropped.take() {
            dropped.send(()).ok();
        }
    }
}

/// A server with one exec to answer for, and the exec's strings.
struct Stage {
    address: SocketAddr,
    server: ServerHandle,
    events: mpsc::UnboundedSender<ExecEvent>,
    taken: Arc<AtomicUsize>,
    dropped: oneshot::Receiver<()>,
}

impl Stage {
    fn set(form: Form, options: HttpOptions) -> Self {
        let (events, receiver) = mpsc::unbounded_channel();
        let (dropped_sender, dropped) = oneshot::channel();
        let taken = Arc::new(AtomicUsize::new(0));
        let exec = ScriptedExec {
            events: receiver,
            taken: taken.clone(),
            dropped: Some(dropped_sender),
        };
        let exec = Arc::new(Mutex::new(Some(exec)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let options = HttpOptions {
            workers: 1,
            ..options
        };
        let for_handler = options.clone();
        let server = listen(listener, &options, move |config: &mut ServiceConfig| {
            let (exec, options) = (exec.clone(), for_handler.clone());
            config.route(
                "/exec",
                web::post().to(move || {
                    let exec = exec.lock().unwrap().take().expect("one request a stage");
                    let options = options.clone();
                    async move { answer(exec, form, &options).await }
                }),
            );
        })
        .unwrap();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self {
            address,
            server: handle,
            events,
            taken,
            dropped,
        }
    }

    fn say(&self, event: ExecEvent) {
        self.events.send(event).expect("the exec is still listened to");
    }

    async fn request(&self) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        connection
            .write_all(b"POST /exec HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        connection
    }

    async fn exec_is_dropped(&mut self) {
        timeout(BOUND, &mut self.dropped)
            .await
            .expect("the exec is dropped")
            .unwrap();
    }

    async fn strike(self) {
        self.server.stop(false).await;
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.lines()
            .iter()
            .map(|line| line["type"].as_str().unwrap().to_owned())
            .collect()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn read_answer(mut connection: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    timeout(BOUND, connection.read_to_end(&mut bytes))
        .await
        .expect("the answer ends")
        .unwrap();
    let text_end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a whole head");
    let head = String::from_utf8_lossy(&bytes[..text_end]).to_lowercase();
    let body = bytes[text_end + 4..].to_vec();
    let body = if head.contains("transfer-encoding: chunked") {
        unchunk(&body)
    } else {
        body
    };
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head,
        body,
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line_end = body
            .windows(2)
            .position(|window| window == b"\r\n")
            .expect("a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line_end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[line_end + 2..line_end + 2 + size]);
        body = &body[line_end + 2 + size + 2..];
    }
}

fn out(data: &[u8]) -> ExecEvent {
    ExecEvent::Output {
        stream: OutputStream::Stdout,
        data: Bytes::copy_from_slice(data),
    }
}

fn end(exec: Exec) -> ExecEvent {
    ExecEvent::Ended {
        exec: Box::new(exec),
        retry_after: None,
    }
}

fn failed(code: ErrorCode) -> Exec {
    Exec {
        error: Some(code.into()),
        ..ended(Outcome::Failed, EndedBy::Exit, Ran::No)
    }
}

const STREAM: Form = Form::Stream { announce: false };

#[actix_web::test]
async fn output_goes_out_in_frames_and_the_exit_frame_is_last() {
    let stage = Stage::set(STREAM, HttpOptions::default());
    let connection = stage.request().await;
    stage.say(ExecEvent::Started);
    stage.say(out(b"h\xc3"));
    stage.say(out(b"\xa9\n"));
    stage.say(ExecEvent::Truncated {
        stream: OutputStream::Stdout,
        limit: 4,
    });
    stage.say(end(exited(7)));
    let answer = read_answer(connection).await;
    assert_eq!(answer.status, 200);
    for header in [
        "content-type: application/x-ndjson",
        "adit-exec-id: 00000000-0000-0000-0000-00000000e8ec",
        "cache-control: no-store, no-transform",
        "x-accel-buffering: no",
    ] {
        assert!(answer.head.contains(header), "{header} in {}", answer.head);
    }
    let lines = answer.lines();
    let text: String = lines.iter().filter_map(|line| line["data"].as_str()).collect();
    assert_eq!(text, "h\u{e9}\n");
    assert_eq!(
        lines[lines.len() - 2],
        json!({ "type": "truncated", "stream": "stdout", "limit": 4 })
    );
    assert_eq!(lines[lines.len() - 1]["type"], "exit");
    assert_eq!(lines[lines.len() - 1]["exit_code"], 7);
    stage.strike().await;
}

#[actix_web::test]
async fn a_silent_end_decides_the_status() {
    let signaled = Exec {
        signal: Some("TERM".to_owned()),
        ..ended(Outcome::Signaled, EndedBy::Exit, Ran::Yes)
    };
    let table = [
        (exited(0), 200, None),
        (exited(1), 200, None),
        (signaled, 200, None),
        (
            ended(Outcome::Timeout, EndedBy::Timeout, Ran::Yes),
            504,
            Some("exec_timeout"),
        ),
        (
            ended(Outcome::Cancelled, EndedBy::Delete, Ran::Yes),
            409,
            Some("exec_cancelled"),
        ),
        (
            ended(Outcome::TunnelLost, EndedBy::TunnelLost, Ran::Unknown),
            502,
            Some("tunnel_lost"),
        ),
        (failed(ErrorCode::CwdNotFound), 400, Some("cwd_not_found")),
        (failed(ErrorCode::GrantDenied), 502, Some("grant_denied")),
        (
            failed(ErrorCode::AuditUnavailable),
            503,
            Some("audit_unavailable"),
        ),
    ];
    for (exec, status, code) in table {
        for form in [STREAM, Form::Stream { announce: true }, Form::Json] {
            let stage = Stage::set(form, HttpOptions::default());
            let connection = stage.request().await;
            stage.say(end(exec.clone()));
            let answer = read_answer(connection).await;
            assert_eq!(answer.status, status, "{exec:?} {form:?}");
            assert!(answer.head.contains("adit-exec-id: "), "{form:?}");
            assert_eq!(answer.head.contains("retry-after: "), status == 503, "{form:?}");
            if let Some(code) = code {
                assert!(
                    answer.head.contains("content-type: application/problem+json"),
                    "{form:?}"
                );
                assert_eq!(answer.json()["code"], code);
                assert_eq!(answer.json()["exec"]["exec_id"], json!(exec.exec_id));
            } else if form == Form::Json {
                assert_eq!(answer.json()["outcome"], json!(exec.outcome));
                assert_eq!(answer.json()["stdout"], "");
            } else {
                assert_eq!(answer.kinds(), ["exit"]);
            }
            stage.strike().await;
        }
    }
}

#[actix_web::test]
async fn once_output_has_begun_the_exit_frame_tells() {
    let stage = Stage::set(STREAM, HttpOptions::default());
    let connection = stage.request().await;
    stage.say(out(b"working"));
    stage.say(end(ended(Outcome::Timeout, EndedBy::Timeout, Ran::Yes)));
    let answer = read_answer(connection).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.kinds(), ["stdout", "exit"]);
    assert_eq!(answer.lines()[1]["outcome"], "timeout");
    stage.strike().await;
}

#[actix_web::test]
async fn the_json_form_waits_for_the_end_and_keeps_the_output_of_a_failure() {
    let stage = Stage::set(Form::Json, HttpOptions::default());
    let connection = stage.request().await;
    stage.say(out(b"so far \xff"));
    stage.say(end(ended(Outcome::Timeout, EndedBy::Timeout, Ran::Yes)));
    let answer = read_answer(connection).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["exec"]["stdout"], "so far \u{fffd}");
    assert_eq!(answer.json()["exec"]["stdout_b64"], "c28gZmFyIP8=");
    stage.strike().await;
}

#[actix_web::test]
async fn a_long_json_answer_arrives_whole_also_with_a_failure() {
    let output = "0123456789\n".repeat(90_000);
    let timeout = ended(Outcome::Timeout, EndedBy::Timeout, Ran::Yes);
    for (exec, place) in [(exited(0), "/stdout"), (timeout, "/exec/stdout")] {
        let stage = Stage::set(Form::Json, HttpOptions::default());
        let connection = stage.request().await;
        stage.say(out(output.as_bytes()));
        stage.say(end(exec));
        let answer = read_answer(connection).await;
        let length = format!("content-length: {}", answer.body.len());
        assert!(answer.head.lines().any(|line| line == length), "{}", answer.head);
        assert_eq!(answer.json().pointer(place), Some(&json!(output)));
        stage.strike().await;
    }
}

#[actix_web::test]
async fn the_head_leaves_when_the_hold_is_over_and_heartbeats_follow() {
    let options = HttpOptions {
        hold_status: Duration::from_millis(20),
        heartbeat: Duration::from_millis(20),
        ..HttpOptions::default()
    };
    let stage = Stage::set(STREAM, options);
    let mut connection = stage.request().await;
    let mut seen = String::new();
    while seen.matches("heartbeat").count() < 2 {
        let mut buffer = [0; 4096];
        let read = timeout(BOUND, connection.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    stage.say(end(ended(Outcome::Timeout, EndedBy::Timeout, Ran::Yes)));
    timeout(BOUND, connection.read_to_string(&mut seen))
        .await
        .unwrap()
        .unwrap();
    assert!(seen.contains(r#""type":"exit""#), "{seen}");
    stage.strike().await;
}

#[actix_web::test]
async fn announce_sends_the_head_at_the_start() {
    let stage = Stage::set(Form::Stream { announce: true }, HttpOptions::default());
    let mut connection = stage.request().await;
    stage.say(ExecEvent::Started);
    let mut seen = String::new();
    while !seen.contains("\"started\"") {
        let mut buffer = [0; 4096];
        let read = timeout(BOUND, connection.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    assert!(seen.contains(r#""timeout_s":30"#), "{seen}");
    stage.say(end(exited(0)));
    timeout(BOUND, connection.read_to_string(&mut seen))
        .await
        .unwrap()
        .unwrap();
    stage.strike().await;
}

/// The ways in which a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// FIN only: the other direction stays open.
    HalfClose,
    /// The whole socket.
    Close,
    /// With a reset.
    Reset,
}

#[actix_web::test]
async fn a_client_that_leaves_ends_its_exec_whatever_the_answer_waits_for() {
    for form in [STREAM, Form::Stream { announce: true }, Form::Json] {
        for leave in [Leave::HalfClose, Leave::Close, Leave::Reset] {
            for head_is_out in [false, true] {
                let mut stage = Stage::set(form, HttpOptions::default());
                let mut connection = stage.request().await;
                stage.say(ExecEvent::Started);
                if head_is_out && form != Form::Json {
                    stage.say(out(b"x"));
                    let mut byte = [0; 1];
                    timeout(BOUND, connection.read_exact(&mut byte))
                        .await
                        .unwrap()
                        .unwrap();
                } else {
                    stage.events_taken(1).await;
                }
                let _kept = match leave {
                    Leave::HalfClose => {
                        connection.shutdown().await.unwrap();
                        Some(connection)
                    }
                    Leave::Close => {
                        drop(connection);
                        None
                    }
                    Leave::Reset => {
                        connection.set_zero_linger().unwrap();
                        drop(connection);
                        None
                    }
                };
                stage.exec_is_dropped().await;
                stage.strike().await;
            }
        }
    }
}

#[actix_web::test]
async fn a_reader_that_takes_nothing_is_cut_off_after_the_end_and_not_before() {
    for form in [STREAM, Form::Json] {
        let options = HttpOptions {
            stalled_reader: Duration::from_millis(50),
            ..HttpOptions::default()
        };
        let mut stage = Stage::set(form, options);
        let connection = stage.request().await;
        // More than the buffers of both sockets hold.
        let events = 400;
        for _ in 0..events {
            stage.say(out(&[b'x'; 65_536]));
        }
        // All of it is taken from the exec although nobody reads.
        stage.events_taken(events).await;
        assert!(stage.dropped.try_recv().is_err(), "the exec still runs");
        stage.say(end(exited(0)));
        stage.exec_is_dropped().await;
        drop(connection);
        stage.strike().await;
    }
}

impl Stage {
    /// Waits until the answer has taken so many events.
    async fn events_taken(&self, count: usize) {
        timeout(BOUND, async {
            while self.taken.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the answer takes events");
    }
}
