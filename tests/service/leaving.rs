//! A client that leaves, in every way that TCP, TLS and HTTP/2 have for it: its program is ended, and the row says why.

use std::fs;
use std::net::SocketAddr;

use adit_actors::exec::{EndedBy, Exec, Outcome};
use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;

use crate::support::certificate::Certificate;
use crate::support::{Backend, TestApp, processes, wait};

/// What the program and its answer are doing when the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Nothing has been printed, so the head waits.
    HeldQuiet,
    /// The JSON form, which waits for the end whatever is printed.
    HeldLoud,
    /// The head is out, and nothing follows.
    SentQuiet,
    /// The head is out, and the client has read some of what goes on.
    SentLoud,
    /// As much is printed as is kept, and the client has read next to nothing of it, so that the answer waits for it.
    SentUnread,
}

const MOMENTS: [Moment; 5] = [
    Moment::HeldQuiet,
    Moment::HeldLoud,
    Moment::SentQuiet,
    Moment::SentLoud,
    Moment::SentUnread,
];

impl Moment {
    /// The request, whose program has `mark` among its arguments; what to accept; and what to read of the answer first.
    fn request(self, mark: &str) -> (Value, &'static str, Option<&'static str>) {
        let chatter = "while :; do echo going; sleep 0.01; done";
        match self {
            Self::HeldQuiet => (json!({"cmd": ["sleep", mark]}), "*/*", None),
            Self::HeldLoud => (
                json!({"cmd": ["sh", "-c", chatter, mark]}),
                "application/json",
                None,
            ),
            Self::SentQuiet => (
                json!({"cmd": ["sleep", mark], "announce": true}),
                "*/*",
                Some("started"),
            ),
            Self::SentLoud => (json!({"cmd": ["sh", "-c", chatter, mark]}), "*/*", Some("going")),
            Self::SentUnread => {
                // The mark is a whole argument only of what comes after the output.
                let printed = "head -c 1048576 /dev/zero; head -c 1048576 /dev/zero >&2";
                let script = format!("{printed}; exec sleep {mark}");
                (json!({"cmd": ["sh", "-c", script]}), "*/*", Some("stdout"))
            }
        }
    }
}

/// How the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// It says that it will send no more (FIN, and over TLS `close_notify` before it), and waits.
    Shutdown,
    /// Its end of the connection is gone; over TLS without a word.
    Drop,
    /// The same, and the peer gets an RST whatever was read.
    Reset,
}

const EXITS: [Exit; 3] = [Exit::Shutdown, Exit::Drop, Exit::Reset];

/// Bytes that the client's kernel takes at a time from a server that nobody listens to: few, so that much waits.
const RECEIVE_BUFFER: u32 = 8_192;

/// Bytes that wait in the server's kernel once it takes no more.
const WAITING: usize = 65_536;

async fn connect(app: &TestApp, exit: Exit) -> TcpStream {
    let (_, address) = app.api.base().split_once("://").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    let stream = socket.connect(address.parse().unwrap()).await.unwrap();
    if exit == Exit::Reset {
        stream.set_zero_linger().unwrap();
    }
    stream
}

async fn connect_tls(
    app: &TestApp,
    certificate: &Certificate,
    protocol: &str,
    exit: Exit,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let connector = TlsConnector::from(certificate.client_config(protocol));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = connector.connect(name, connect(app, exit).await).await.unwrap();
    assert_eq!(
        stream.get_ref().1.alpn_protocol(),
        Some(protocol.as_bytes()),
        "what was negotiated"
    );
    stream
}

async fn runs(mark: &str) {
    wait::until_true("the program runs", async || {
        !processes::with_argument(mark).is_empty()
    })
    .await;
}

/// Whether the server's write waits for the client at that address.
fn is_waited_for(client: SocketAddr) -> bool {
    let port = format!(":{:04X}", client.port());
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().skip(1).any(|line| {
        // A number, the address here and there, the state, and what waits to be sent and to be read.
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (unsent, _) = fields[4].split_once(':').unwrap();
        fields[2].ends_with(&port) && usize::from_str_radix(unsent, 16).unwrap() >= WAITING
    })
}

async fn assert_gone(mark: &str, case: &str) {
    wait::until_true(&format!("the program is gone: {case}"), async || {
        processes::with_argument(mark).is_empty()
    })
    .await;
}

/// Each of the rows, which are final when their programs have gone, or soon after.
async fn assert_rows(app: &TestApp, expected: usize) {
    let rows = wait::until("every row is final", async || {
        let rows = app.rows().await;
        rows.iter().all(|row| row.status != "running").then_some(rows)
    })
    .await;
    assert_eq!(rows.len(), expected);
    for row in rows {
        let exec: Exec = serde_json::from_value(row.response_body.unwrap()).unwrap();
        assert_eq!(
            (exec.outcome, exec.ended_by),
            (Some(Outcome::Cancelled), Some(EndedBy::ClientGone)),
            "{exec:?}"
        );
    }
}

// === HTTP/1.1 ===

/// What the client sends behind its request, and before its end.
#[derive(Clone, Copy, Debug)]
enum Behind {
    Nothing,
    /// A request that fits neither the server's buffers nor its kernel's.
    Request,
}

impl Behind {
    fn text(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Request => format!(
                "POST /behind HTTP/1.1\r\nHost: adit\r\nContent-Length: 300000\r\n\r\n{}",
                "x".repeat(300_000)
            ),
        }
    }
}

/// Asks on a connection of its own, and leaves it in that way.
async fn leave(
    app: &TestApp,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    client: SocketAddr,
    moment: Moment,
    behind: Behind,
    exit: Exit,
) {
    let case = format!("{moment:?}, {behind:?} behind, {exit:?}");
    let mark = processes::unique_sleep();
    let (body, accept, awaited) = moment.request(&mark);
    let body = body.to_string();
    let workspace = app.seed.workspace();
    let request = format!(
        "POST /workspaces/{}/exec HTTP/1.1\r\nHost: adit\r\nAuthorization: Bearer {}\r\nAccept: {accept}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}{}",
        workspace.id,
        workspace.token,
        body.len(),
        behind.text()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while awaited.is_some_and(|awaited| !String::from_utf8_lossy(&seen).contains(awaited)) {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{case}");
    }
    runs(&mark).await;
    if moment == Moment::SentUnread {
        wait::until_true("the answer waits for its client", async || is_waited_for(client)).await;
    }
    if exit == Exit::Shutdown {
        stream.shutdown().await.unwrap();
        assert_gone(&mark, &case).await;
    } else {
        drop(stream);
        assert_gone(&mark, &case).await;
    }
}

async fn leave_over_tcp(backend: Backend, behind: Behind) {
    let app = TestApp::start(backend).await;
    for exit in EXITS {
        let leaving = MOMENTS.map(async |moment| {
            let stream = connect(&app, exit).await;
            let client = stream.local_addr().unwrap();
            leave(&app, stream, client, moment, behind, exit).await;
        });
        join_all(leaving).await;
    }
    assert_rows(&app, EXITS.len() * MOMENTS.len()).await;
    app.finish().await;
}

#[actix_rt::test]
async fn over_tcp_from_the_emulators_instance() {
    leave_over_tcp(Backend::InProcess, Behind::Nothing).await;
}

#[actix_rt::test]
async fn over_tcp_from_openssh() {
    leave_over_tcp(Backend::OpenSshDash, Behind::Nothing).await;
}

#[actix_rt::test]
async fn over_tcp_with_a_request_behind() {
    leave_over_tcp(Backend::InProcess, Behind::Request).await;
}

async fn start_with_tls(certificate: &Certificate) -> TestApp {
    TestApp::start_with(Backend::OpenSshBash, |setup| {
        certificate.show(&mut setup.settings)
    })
    .await
}

#[actix_rt::test]
async fn over_tls() {
    leave_over_tls(Behind::Nothing).await;
}

#[actix_rt::test]
async fn over_tls_with_a_request_behind() {
    leave_over_tls(Behind::Request).await;
}

async fn leave_over_tls(behind: Behind) {
    let certificate = Certificate::make();
    let app = start_with_tls(&certificate).await;
    for exit in EXITS {
        let leaving = MOMENTS.map(async |moment| {
            let stream = connect_tls(&app, &certificate, "http/1.1", exit).await;
            let client = stream.get_ref().0.local_addr().unwrap();
            leave(&app, stream, client, moment, behind, exit).await;
        });
        join_all(leaving).await;
    }
    assert_rows(&app, EXITS.len() * MOMENTS.len()).await;
    app.finish().await;
}

// === HTTP/2 ===

/// A connection of HTTP/2, driven by a task that owns it.
struct Http2 {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

/// An exec on a stream of it. What is held has no head yet.
struct Asked {
    mark: String,
    sending: SendStream<Bytes>,
    held: Option<ResponseFuture>,
    body: Option<RecvStream>,
}

impl Http2 {
    async fn connect(app: &TestApp, certificate: &Certificate, exit: Exit) -> Self {
        let stream = connect_tls(app, certificate, "h2", exit).await;
        let mut client = h2::client::Builder::new();
        // So that a stream which is not read leaves room for the others: each has a window of its own, of 64 KiB.
        client.initial_connection_window_size(1 << 24);
        let (requests, connection) = client.handshake(stream).await.unwrap();
        let connection = actix_rt::spawn(async {
            connection.await.ok(); // it ends as the test wills
        });
        Self { requests, connection }
    }

    async fn ask(&self, app: &TestApp, moment: Moment) -> Asked {
        let mark = processes::unique_sleep();
        let (body, accept, awaited) = moment.request(&mark);
        let workspace = app.seed.workspace();
        let request = http::Request::post(format!("{}/workspaces/{}/exec", app.api.base(), workspace.id))
            .header("authorization", format!("Bearer {}", workspace.token))
            .header("accept", accept)
            .header("content-type", "application/json")
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, mut sending) = requests.send_request(request, false).unwrap();
        sending.send_data(body.to_string().into(), true).unwrap();
        let mut asked = Asked {
            mark,
            sending,
            held: Some(response),
            body: None,
        };
        if let Some(awaited) = awaited {
            asked.read_until(awaited).await;
        }
        runs(&asked.mark).await;
        asked
    }
}

impl Asked {
    async fn read_until(&mut self, awaited: &str) {
        let response = self.held.take().unwrap().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(awaited) {
            let data = body.data().await.unwrap().unwrap();
            seen.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        self.body = Some(body);
    }
}

#[actix_rt::test]
async fn a_stream_of_http_2_that_is_reset() {
    let certificate = Certificate::make();
    let app = start_with_tls(&certificate).await;
    let client = Http2::connect(&app, &certificate, Exit::Drop).await;
    let neighbour = client.ask(&app, Moment::HeldQuiet).await;
    let leaving = MOMENTS.map(async |moment| {
        let mut asked = client.ask(&app, moment).await;
        asked.sending.send_reset(Reason::CANCEL);
        assert_gone(&asked.mark, &format!("{moment:?}")).await;
    });
    join_all(leaving).await;
    // What h2 does when a client loses interest.
    let forgotten = client.ask(&app, Moment::SentQuiet).await;
    let mark = forgotten.mark.clone();
    drop(forgotten);
    assert_gone(&mark, "forgotten").await;

    assert!(
        !processes::with_argument(&neighbour.mark).is_empty(),
        "a neighbour on the same connection goes on"
    );
    client.connection.abort();
    assert_gone(&neighbour.mark, "its connection has gone").await;
    assert_rows(&app, MOMENTS.len() + 2).await;
    app.finish().await;
}

#[actix_rt::test]
async fn a_connection_of_http_2_that_is_closed() {
    let certificate = Certificate::make();
    let app = start_with_tls(&certificate).await;
    let exits = [Exit::Drop, Exit::Reset];
    for exit in exits {
        let client = Http2::connect(&app, &certificate, exit).await;
        let asked = join_all(MOMENTS.map(|moment| client.ask(&app, moment))).await;
        client.connection.abort();
        for (asked, moment) in asked.iter().zip(MOMENTS) {
            assert_gone(&asked.mark, &format!("{moment:?}, {exit:?}")).await;
        }
    }
    assert_rows(&app, exits.len() * MOMENTS.len()).await;
    app.finish().await;
}

/// A connection of HTTP/2 lasts as long as its client likes: load balancers keep some open ahead of use.
#[actix_rt::test]
async fn a_connection_of_http_2_that_stays_does_not_hold_up_the_end() {
    let certificate = Certificate::make();
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        certificate.show(&mut setup.settings);
        // For as long connections are waited for at most.
        setup.settings.shutdown.grace = Duration::from_secs(600);
    })
    .await;
    let client = Http2::connect(&app, &certificate, Exit::Drop).await;
    let asked = client.ask(&app, Moment::SentLoud).await;
    drop(asked);
    assert_rows(&app, 1).await;
    let ending = timeout(Duration::from_secs(120), app.finish()).await;
    assert!(ending.is_ok(), "it ends long before");
    drop(client);
}
