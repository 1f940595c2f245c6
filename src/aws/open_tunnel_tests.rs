//! The dialer against endpoints that answer over real sockets.

use std::error::Error as _;
use std::future::Future;

use adit_actors::tunnel::{Dialer, chain};
use aws_credential_types::Credentials;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::test_support::{accept_tunnel, hint, read_head, target, test_authority};
use super::super::{AwsConnection, AwsOptions};
use super::*;

/// Listens, answers one connection with `answer`, and returns what that gave beside the dial's result.
async fn dial<T, F: Future<Output = T>>(
    scheme: &str,
    extra_roots: Vec<CertificateDer<'static>>,
    answer: impl FnOnce(TcpStream) -> F,
) -> (Result<Dialed, DialError>, T) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = AwsOptions {
        credentials: Some(Credentials::new(
            "access_key",
            "secret_key",
            Some("token".into()),
            None,
            "test",
        )),
        tunnel_endpoint: Some(
            format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port())
                .parse()
                .unwrap(),
        ),
        max_tunnel_duration: Some(Duration::from_secs(600)),
        extra_roots,
        ..AwsOptions::new("us-west-2")
    };
    let dialer = AwsConnection::open(options, Clock::system())
        .await
        .unwrap()
        .dialer();
    let location = Location {
        address: "10.1.2.3".parse().unwrap(),
        port: 22,
        endpoint: Some(hint("eice-0123")),
    };
    let serving = async { answer(listener.accept().await.unwrap().0).await };
    let target = target();
    tokio::join!(dialer.dial(&target, &location), serving)
}

async fn answer_and_close(mut socket: TcpStream, text: String) -> String {
    let head = read_head(&mut socket).await;
    socket.write_all(text.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    head
}

#[tokio::test]
async fn an_accepted_tunnel_carries_bytes_and_the_request_id() {
    let (dialed, head) = dial("ws", Vec::new(), accept_tunnel).await;
    let mut dialed = dialed.unwrap();
    assert_eq!(dialed.request_id.as_deref(), Some("open-1"));
    assert_eq!(dialed.max_duration, Some(Duration::from_secs(600)));
    let mut banner = String::new();
    dialed.stream.read_to_string(&mut banner).await.unwrap();
    assert_eq!(banner, "SSH-2.0-x");

    let (request_line, headers) = head.split_once("\r\n").unwrap();
    assert!(
        request_line.starts_with(
            "GET /openTunnel?instanceConnectEndpointId=eice-0123&remotePort=22&privateIpAddress=10.1.2.3\
             &maxTunnelDuration=600&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=access_key%2F"
        ),
        "{request_line}"
    );
    assert!(
        request_line.contains("%2Feu-north-1%2Fec2-instance-connect%2Faws4_request&"),
        "{request_line}"
    );
    let names: Vec<String> = headers
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    let expected = [
        "host",
        "upgrade",
        "connection",
        "sec-websocket-key",
        "sec-websocket-version",
        "user-agent",
    ];
    assert_eq!(names, expected);
    assert!(
        headers.to_ascii_lowercase().contains("host: localhost:"),
        "the signed host has the port: {headers}"
    );
}

#[tokio::test]
async fn refusals_are_told_apart_and_keep_the_request_id() {
    let denied = r#"{"ErrorCode":"AccessDeniedException","Message":"no identity-based policy"}"#;
    let busy = r#"{"ErrorCode":"TooManyConnections","Message":"20 are open"}"#;
    let parameter = r#"{"ErrorCode":"InvalidParameter","Message":"The specified RemotePort is not valid."}"#;
    let is_denied: fn(&DialError) -> bool = |error| matches!(error, DialError::Denied(_));
    let is_busy: fn(&DialError) -> bool = |error| matches!(error, DialError::EndpointBusy(_));
    let rate = r#"{"ErrorCode":"ThrottlingException","Message":"Rate exceeded"}"#;
    let is_throttled: fn(&DialError) -> bool = |error| matches!(error, DialError::Throttled(_));
    let is_refused: fn(&DialError) -> bool = |error| matches!(error, DialError::Refused(_));
    let table = [
        ("403 Forbidden", denied, is_denied),
        ("400 Bad Request", denied, is_denied),
        ("429 Too Many Requests", busy, is_busy),
        ("429 Too Many Requests", rate, is_throttled),
        ("400 Bad Request", parameter, is_refused),
        ("200 OK", "hello", is_refused),
    ];
    for (status, body, expected) in table {
        let answer = format!(
            "HTTP/1.1 {status}\r\nx-amzn-requestid: open-2\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (dialed, _head) = dial("ws", Vec::new(), |socket| answer_and_close(socket, answer)).await;
        let error = dialed.unwrap_err();
        assert!(expected(&error), "{status} {body}: {error:?}");
        let cause = error.source().unwrap().source().unwrap().to_string();
        assert!(cause.contains("`open-2`"), "{cause}");
    }
}

#[tokio::test]
async fn a_refusal_is_read_whole_also_when_it_comes_in_pieces() {
    let (dialed, ()) = dial("ws", Vec::new(), async |mut socket| {
        read_head(&mut socket).await;
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 52\r\n\r\n")
            .await
            .unwrap();
        for piece in [
            br#"{"ErrorCode":"AccessDenie"#.as_slice(),
            br#"dException","Message":"no"}"#,
        ] {
            tokio::task::yield_now().await;
            socket.write_all(piece).await.unwrap();
        }
    })
    .await;
    assert!(matches!(dialed, Err(DialError::Denied(_))), "{dialed:?}");
}

#[tokio::test]
async fn an_upgrade_with_a_wrong_key_is_refused() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: bm90IHRoZSBrZXk=\r\n\r\n";
    let (dialed, _head) = dial("ws", Vec::new(), |socket| {
        answer_and_close(socket, answer.to_owned())
    })
    .await;
    let error = dialed.unwrap_err();
    assert!(matches!(error, DialError::Refused(_)), "{error:?}");
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("Sec-WebSocket-Accept")
    );
}

#[tokio::test]
async fn an_endpoint_that_hangs_up_is_unreachable() {
    let (dialed, ()) = dial("ws", Vec::new(), async |socket| drop(socket)).await;
    assert!(matches!(dialed, Err(DialError::Unreachable(_))), "{dialed:?}");
}

#[tokio::test]
async fn wss_trusts_a_root_that_it_was_given() {
    let (root, acceptor) = test_authority("localhost");
    let (dialed, _head) = dial("wss", vec![root], async |socket| {
        accept_tunnel(acceptor.accept(socket).await.unwrap()).await
    })
    .await;
    let mut banner = String::new();
    dialed.unwrap().stream.read_to_string(&mut banner).await.unwrap();
    assert_eq!(banner, "SSH-2.0-x");
}

#[tokio::test]
async fn wss_refuses_a_certificate_of_an_unknown_root() {
    let (_root, acceptor) = test_authority("localhost");
    let (other_root, _other) = test_authority("localhost");
    let (dialed, accepted) = dial("wss", vec![other_root], async |socket| {
        acceptor.accept(socket).await.is_ok()
    })
    .await;
    assert!(matches!(dialed, Err(DialError::Unreachable(_))), "{dialed:?}");
    assert!(!accepted);
}

#[tokio::test]
async fn wss_refuses_a_certificate_for_another_name() {
    let (root, acceptor) = test_authority("elsewhere.example");
    let (dialed, _accepted) = dial("wss", vec![root], async |socket| {
        acceptor.accept(socket).await.is_ok()
    })
    .await;
    let error = dialed.unwrap_err();
    assert!(matches!(error, DialError::Unreachable(_)), "{error:?}");
    let chain = chain(&error);
    assert!(chain.contains("not valid for name"), "{chain}");
}
