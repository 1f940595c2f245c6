//! `openTunnel`: who gets in, how a refusal looks, and how a tunnel behaves and ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod support;

use std::time::Duration;

use adit_emulator::{Credentials, Emulator, InstanceState, Settings};
use futures_util::{SinkExt, StreamExt};
use support::requests::{INSTANCE, Signer, TUNNEL, credentials, open_tunnel, request, upgrade_headers};
use support::ssh::{Socket, dial};
use support::{eventually, soon, start_with_listener};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};

async fn start() -> Emulator {
    Emulator::start(Settings::new(credentials())).await.unwrap()
}

async fn next(socket: &mut Socket) -> Option<Message> {
    soon("a websocket message", socket.next())
        .await
        .and_then(Result::ok)
}

async fn closed_with(socket: &mut Socket) -> (CloseCode, String) {
    loop {
        match next(socket).await {
            Some(Message::Close(Some(frame))) => return (frame.code, frame.reason.to_string()),
            Some(Message::Binary(_)) => {}
            other => panic!("not a CLOSE: {other:?}"),
        }
    }
}

#[tokio::test]
async fn bad_requests_get_a_json_refusal() {
    let emulator = start().await;
    let cases = [
        ("port", TUNNEL.replace("22", "80"), 400, "InvalidParameter"),
        (
            "no port",
            TUNNEL.replace("remotePort=22&", ""),
            400,
            "InvalidParameter",
        ),
        (
            "endpoint",
            TUNNEL.replace("eice-0", "eice-1"),
            404,
            "InvalidInstanceConnectEndpointId.NotFound",
        ),
        (
            "address",
            TUNNEL.replace("10.0.0.10", "10.0.0.11"),
            400,
            "InvalidParameter",
        ),
        (
            "name as address",
            TUNNEL.replace("10.0.0.10", "host"),
            400,
            "InvalidParameter",
        ),
        (
            "no duration",
            format!("{TUNNEL}&maxTunnelDuration=0"),
            400,
            "InvalidParameter",
        ),
        (
            "long duration",
            format!("{TUNNEL}&maxTunnelDuration=3601"),
            400,
            "InvalidParameter",
        ),
        (
            "odd duration",
            format!("{TUNNEL}&maxTunnelDuration=-1"),
            400,
            "InvalidParameter",
        ),
        (
            "twice",
            format!("{TUNNEL}&remotePort=22"),
            403,
            "IncompleteSignatureException",
        ),
    ];
    for (name, parameters, status, code) in cases {
        let answer = open_tunnel(&emulator, &Signer::default(), &parameters).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        let body = answer.json();
        assert_eq!(body["ErrorCode"], code, "{name}");
        assert!(!body["Message"].as_str().unwrap().is_empty(), "{name}");
        assert_eq!(body.as_object().unwrap().len(), 2, "{name}");
        assert!(answer.header("x-amzn-requestid").is_some(), "{name}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{name}");
    }
    let answer = open_tunnel(&emulator, &Signer::default(), &TUNNEL.replace("22", "80")).await;
    assert_eq!(
        answer.json()["Message"],
        "The specified RemotePort is not valid. Specify either 22 or 3389 as the RemotePort and retry your request."
    );
    assert_eq!(emulator.counters().tunnels_opened, 0);
}

#[tokio::test]
async fn bad_signatures_get_a_json_refusal() {
    let emulator = start().await;
    let good = Signer::default();
    let other_secret = Credentials::new(credentials().access_key_id, "other");
    let token = Credentials {
        session_token: Some("token".to_owned()),
        ..credentials()
    };
    let cases = [
        (
            "secret",
            Signer {
                credentials: other_secret,
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
        (
            "token",
            Signer {
                credentials: token,
                ..good.clone()
            },
            "UnrecognizedClientException",
        ),
        (
            "region",
            Signer {
                region: "us-west-2",
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
        (
            "service",
            Signer {
                service: "ec2",
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
        (
            "expired",
            Signer {
                time: good.time - Duration::from_secs(62),
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
        (
            "ahead",
            Signer {
                time: good.time + Duration::from_secs(310),
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
    ];
    for (name, signer, code) in cases {
        let answer = open_tunnel(&emulator, &signer, TUNNEL).await;
        assert_eq!(
            (answer.status, &answer.json()["ErrorCode"]),
            (403, &code.into()),
            "{name}"
        );
    }
    let host = emulator.address().to_string();
    let path = good.tunnel_path("example.com", TUNNEL);
    let answer = request(emulator.address(), "GET", &path, &upgrade_headers(&host), "").await;
    assert_eq!(
        (answer.status, &answer.json()["ErrorCode"]),
        (403, &"InvalidSignatureException".into())
    );
    let path = good
        .tunnel_path(&host, TUNNEL)
        .replace("remotePort=22", "remotePort=3389");
    let answer = request(emulator.address(), "GET", &path, &upgrade_headers(&host), "").await;
    assert_eq!(
        (answer.status, &answer.json()["ErrorCode"]),
        (403, &"InvalidSignatureException".into())
    );
    let unsigned = format!("/openTunnel?{TUNNEL}");
    let answer = request(emulator.address(), "GET", &unsigned, &upgrade_headers(&host), "").await;
    assert_eq!(answer.json()["ErrorCode"], "MissingAuthenticationTokenException");
}

#[tokio::test]
async fn only_a_websocket_upgrade_is_upgraded() {
    let emulator = start().await;
    let host = emulator.address().to_string();
    for missing in [
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
    ] {
        let mut headers = upgrade_headers(&host);
        headers.retain(|(name, _)| name != missing);
        let path = Signer::default().tunnel_path(&host, TUNNEL);
        let answer = request(emulator.address(), "GET", &path, &headers, "").await;
        assert_eq!(
            (answer.status, &answer.json()["ErrorCode"]),
            (400, &"InvalidParameter".into()),
            "{missing}"
        );
    }
    let answer = open_tunnel(&emulator, &Signer::default(), TUNNEL).await;
    assert_eq!(answer.status, 101);
    // The accept key of RFC 6455, 1.3, for the key that it uses there too.
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert!(answer.header("x-amzn-requestid").is_some());
}

#[tokio::test]
async fn a_url_with_the_session_token_is_taken() {
    let token = Credentials {
        session_token: Some("TOK/+=".to_owned()),
        ..credentials()
    };
    let emulator = Emulator::start(Settings::new(token.clone())).await.unwrap();
    let signer = Signer {
        credentials: token,
        ..Signer::default()
    };
    assert_eq!(open_tunnel(&emulator, &signer, TUNNEL).await.status, 101);
}

#[tokio::test]
async fn bytes_go_both_ways_whatever_the_frames() {
    let (emulator, listener) = start_with_listener().await;
    let mut socket = dial(&emulator, TUNNEL).await;
    let (mut instance, _) = listener.accept().await.unwrap();
    socket.send(Message::Binary(Bytes::new())).await.unwrap();
    socket
        .send(Message::Binary(Bytes::from_static(b"he")))
        .await
        .unwrap();
    socket
        .send(Message::Ping(Bytes::from_static(b"ping")))
        .await
        .unwrap();
    socket
        .send(Message::Binary(Bytes::from(vec![b'l'; 65_000])))
        .await
        .unwrap();
    let mut received = vec![0; 65_002];
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    instance.read_exact(&mut received).await.unwrap();
    assert_eq!(received, [b"he".as_slice(), &[b'l'; 65_000]].concat());
    assert_eq!(
        next(&mut socket).await,
        Some(Message::Pong(Bytes::from_static(b"ping")))
    );

    let sent: Vec<u8> = (0..300_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let mut back = Vec::new();
    let writing = async { instance.write_all(&sent).await.unwrap() };
    let reading = async {
        while back.len() < sent.len() {
            match next(&mut socket).await {
                Some(Message::Binary(data)) => {
                    assert!(!data.is_empty() && data.len() <= 64 * 1024);
                    back.extend_from_slice(&data);
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(writing, reading);
    assert_eq!(back, sent);
    drop(instance);
    assert_eq!(closed_with(&mut socket).await, (CloseCode::Normal, String::new()));
    eventually("the slot is free", async || emulator.counters().tunnels_open == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_instance_back() {
    let (emulator, listener) = start_with_listener().await;
    let _socket = dial(&emulator, TUNNEL).await;
    let (mut instance, _) = listener.accept().await.unwrap();
    let chunk = vec![0; 64 * 1024];
    let mut written = 0;
    // Ends when a write makes no progress for a second: kernel buffers are full, and nothing else took the bytes.
    use tokio::io::AsyncWriteExt;
    while tokio::time::timeout(Duration::from_secs(1), instance.write_all(&chunk))
        .await
        .is_ok()
    {
        written += chunk.len();
        assert!(written < 64 << 20, "{written} bytes are somewhere");
    }
}

#[tokio::test]
async fn text_is_a_protocol_error_and_close_ends_the_instances_side() {
    let (emulator, listener) = start_with_listener().await;
    let mut socket = dial(&emulator, TUNNEL).await;
    let _instance = listener.accept().await.unwrap();
    socket.send(Message::Text("text".into())).await.unwrap();
    assert_eq!(closed_with(&mut socket).await.0, CloseCode::Unsupported);

    let mut socket = dial(&emulator, TUNNEL).await;
    let (mut instance, _) = listener.accept().await.unwrap();
    socket.close(None).await.unwrap();
    use tokio::io::AsyncReadExt;
    assert_eq!(soon("the end", instance.read(&mut [0; 16])).await.unwrap(), 0);
    eventually("the slots are free", async || {
        emulator.counters().tunnels_open == 0
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_instance_shows_after_the_upgrade() {
    let (emulator, listener) = start_with_listener().await;
    let unable = (CloseCode::Error, "Unable to connect to target".to_owned());
    let mut socket = dial(&emulator, &TUNNEL.replace("remotePort=22", "remotePort=3389")).await;
    assert_eq!(closed_with(&mut socket).await, unable);
    assert!(emulator.set_instance_state(INSTANCE, InstanceState::Stopped));
    assert_eq!(closed_with(&mut dial(&emulator, TUNNEL).await).await, unable);
    assert!(emulator.set_instance_state(INSTANCE, InstanceState::Running));
    drop(listener);
    assert_eq!(closed_with(&mut dial(&emulator, TUNNEL).await).await, unable);
}

#[tokio::test]
async fn the_endpoint_has_so_many_connections_and_no_more() {
    let emulator = start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(dial(&emulator, TUNNEL).await);
    }
    let answer = open_tunnel(&emulator, &Signer::default(), TUNNEL).await;
    assert_eq!(
        (answer.status, &answer.json()["ErrorCode"]),
        (429, &"ServiceQuotaExceededException".into())
    );
    let counters = emulator.counters();
    assert_eq!(
        (
            counters.tunnels_open,
            counters.tunnels_opened,
            counters.tunnels_peak
        ),
        (20, 20, 20)
    );
    drop(sockets.pop());
    eventually("a slot is free", async || emulator.counters().tunnels_open < 20).await;
    dial(&emulator, TUNNEL).await;
    assert_eq!(emulator.counters().tunnels_peak, 20);
    soon("the stop", emulator.stop()).await;
    for socket in &mut sockets {
        while next(socket).await.is_some() {}
    }
}

#[tokio::test]
async fn a_tunnel_ends_when_its_time_is_up() {
    let (emulator, listener) = start_with_listener().await;
    let mut socket = dial(&emulator, &format!("{TUNNEL}&maxTunnelDuration=1")).await;
    let _instance = listener.accept().await.unwrap();
    let (code, reason) = closed_with(&mut socket).await;
    assert_eq!(
        (code, reason.as_str()),
        (CloseCode::Policy, "Maximum tunnel duration reached")
    );

    let mut settings = Settings::new(credentials());
    settings.max_tunnel_duration = Duration::from_millis(100);
    let emulator = Emulator::start(settings).await.unwrap();
    assert_eq!(
        closed_with(&mut dial(&emulator, TUNNEL).await).await.0,
        CloseCode::Policy
    );
}

#[tokio::test]
async fn a_cut_tunnel_ends_without_a_close() {
    let (emulator, listener) = start_with_listener().await;
    let mut socket = dial(&emulator, TUNNEL).await;
    let _instance = listener.accept().await.unwrap();
    assert_eq!(emulator.cut_tunnels("i-0fffffffffffffff0"), 0);
    assert_eq!(emulator.cut_tunnels(INSTANCE), 1);
    assert!(!matches!(
        next(&mut socket).await,
        Some(Message::Close(_) | Message::Binary(_))
    ));
    eventually("the slot is free", async || emulator.counters().tunnels_open == 0).await;
}
