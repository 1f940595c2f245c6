//! What `adit exec` says where the service does not tell how its exec ended: no more than is known.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::background::program;
use super::interrupt::{Exec, NOT_KNOWN, all_of};
use super::terminal::Terminal;
use super::wait;

const ID: &str = "d4c7754a-80c5-4ebd-90cb-311b1bcfa9d2";

/// Answers, by method, of something that stands where the service should. An empty one is a connection that breaks.
struct Answers {
    post: String,
    delete: String,
    get: String,
    /// Whether the connection breaks behind the answer to POST.
    breaks_off: bool,
}

impl Answers {
    /// Those of a service whose exec prints `runs` and never ends.
    fn endless() -> Self {
        let frame = json!({ "type": "stdout", "data": "runs\n" }).to_string() + "\n";
        let id = format!("Adit-Exec-Id: {ID}\r\n");
        let exec = json!({
            "exec_id": ID, "state": "running", "ran": "yes", "outcome": null, "ended_by": null, "exit_code": null,
            "signal": null, "error": null, "started_at": "2026-01-31T12:00:00Z", "duration_ms": 1, "timeout_s": 30,
            "streams": { "stdout": stream(), "stderr": stream() }, "kill": null, "tunnel": null, "timing_ms": {},
            "audit": { "id": ID, "committed": false },
        });
        Self {
            post: format!(
                "HTTP/1.1 200 OK\r\n{id}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{frame}\r\n",
                frame.len()
            ),
            delete: answer(202, &exec),
            get: answer(200, &exec),
            breaks_off: false,
        }
    }

    async fn give(&self, mut connection: TcpStream) {
        let mut request = Vec::new();
        while !is_whole(&request) {
            assert_ne!(connection.read_buf(&mut request).await.unwrap(), 0);
        }
        let (answer, is_held) = match request[0] {
            b'P' => (&self.post, !self.breaks_off),
            b'D' => (&self.delete, false),
            _ => (&self.get, false),
        };
        connection.write_all(answer.as_bytes()).await.unwrap();
        if is_held {
            // Until the client closes.
            tokio::io::copy(&mut connection, &mut tokio::io::sink())
                .await
                .ok();
        }
    }

    /// Serves them for as long as the test runs. Gives an `adit exec` that asks for them.
    async fn asked(self, form: &[&str]) -> Command {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(self);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move { answers.give(connection).await });
            }
        });
        let mut command = Command::new(program());
        command
            .arg("exec")
            .args(form)
            .args(["w", "--", "any"])
            .env("ADIT_URL", url)
            .env("ADIT_TOKEN", "t");
        command
    }
}

/// Whether a request is here with its body: bytes that nobody reads would reset the connection, and the answer with it.
fn is_whole(request: &[u8]) -> bool {
    let request = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn stream() -> Value {
    json!({ "bytes": 5, "sent": 5, "truncated": false, "sha256": null })
}

fn answer(status: u16, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} Any\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Ctrl-C while it runs: gives what was said.
async fn said_after_an_interrupt(answers: Answers) -> String {
    let (mut exec, printed, said) = Exec::keeping(&mut answers.asked(&[]).await);
    wait::until_true("the command runs", async || !printed.lock().unwrap().is_empty()).await;
    exec.interrupt();
    assert_eq!(exec.end().await, Some(130));
    all_of(said).await
}

#[tokio::test]
async fn a_cancelling_that_fails() {
    let problem = json!({ "status": 503, "code": "audit_unavailable", "detail": "the store is away" });
    let refused = Answers {
        delete: answer(503, &problem),
        ..Answers::endless()
    };
    let gone = Answers {
        delete: String::new(),
        ..Answers::endless()
    };
    let gone_since = Answers {
        get: String::new(),
        ..Answers::endless()
    };
    for (answers, reason) in [
        (refused, "audit_unavailable: the store is away\n"),
        (gone, "talking to the service failed: "),
        (gone_since, "talking to the service failed: "),
    ] {
        let said = said_after_an_interrupt(answers).await;
        let expected = format!("{NOT_KNOWN}w/exec/{ID}`: {reason}");
        assert!(said.starts_with(&expected), "{said}");
    }
}

#[tokio::test]
async fn an_end_that_is_not_waited_for() {
    let mut command = Answers::endless().asked(&["--json"]).await;
    let (terminal, stderr) = Terminal::open();
    command.env("TERM", "xterm").stdout(Stdio::piped()).stderr(stderr);
    let mut exec = Exec(command.spawn().unwrap());
    terminal.shows("waiting for the end").await;
    exec.interrupt();
    terminal.shows("cancelling; Ctrl-C again leaves at once").await;
    exec.interrupt();
    assert_eq!(exec.end().await, Some(130));
    terminal
        .shows(&format!(
            "w/exec/{ID}`: interrupted again before its end was heard"
        ))
        .await;
    let mut printed = String::new();
    exec.0
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut printed)
        .unwrap();
    assert_eq!(printed, "");
}

#[tokio::test]
async fn an_end_that_does_not_come() {
    let said = said_after_an_interrupt(Answers::endless()).await;
    let expected = format!("{NOT_KNOWN}w/exec/{ID}`: nothing was heard of its end for 10 s\n");
    assert_eq!(said, expected);
}

#[tokio::test]
async fn an_answer_that_breaks_off() {
    let not_begun = || Answers {
        post: String::new(),
        breaks_off: true,
        ..Answers::endless()
    };
    let begun = || Answers {
        breaks_off: true,
        ..Answers::endless()
    };
    let table: [(_, &[&str], _, _); 4] = [
        (not_begun(), &[], "", "w/exec"),
        (begun(), &[], "runs\n", &format!("w/exec/{ID}")),
        (
            begun(),
            &["--ndjson"],
            "{\"data\":\"runs\\n\",\"type\":\"stdout\"}\n",
            &format!("w/exec/{ID}"),
        ),
        (begun(), &["--json"], "", &format!("w/exec/{ID}")),
    ];
    for (answers, form, printed, place) in table {
        let (mut exec, found, said) = Exec::keeping(&mut answers.asked(form).await);
        assert_eq!(exec.end().await, Some(125), "{form:?}");
        let said = all_of(said).await;
        let expected = format!(
            "adit: what has become of the command is not known, look at `GET /workspaces/{place}`: talking to the service"
        );
        assert!(said.starts_with(&expected), "{form:?}: {said}");
        assert_eq!(all_of(found).await, printed, "{form:?}");
    }
}

#[tokio::test]
async fn nothing_is_unknown_of_what_was_not_asked() {
    let mut command = Answers::endless().asked(&[]).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr();
    command.env("ADIT_URL", format!("http://{}", free.unwrap()));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("adit: talking to the service failed: "),
        "{said}"
    );
}
