//! The faults of key pushes and tunnels, which work the same whatever stands behind the instance.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod support;

use std::time::Duration;

use adit_emulator::{Cut, CutAt, Emulator, Faults, InstanceState, Settings, Times, TunnelRefusal};
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use support::requests::{
    INSTANCE, Signer, TUNNEL, credentials, open_tunnel, push, push_body, upgrade_headers,
};
use support::ssh::{Socket, dial, new_key, public_text};
use support::{PATIENCE, eventually, soon, start_with_listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Bytes, Message};

async fn start() -> Emulator {
    Emulator::start(Settings::new(credentials())).await.unwrap()
}

fn change(emulator: &Emulator, change: impl FnOnce(&mut Faults)) {
    assert!(emulator.update_faults(INSTANCE, change));
}

async fn try_push(emulator: &Emulator) -> (u16, String) {
    let body = push_body("ec2-user", &public_text(&new_key())).to_string();
    let answer = push(emulator, &Signer::default(), &body).await;
    let code = answer.json()["__type"].as_str().unwrap_or_default().to_owned();
    (answer.status, code)
}

/// Everything that comes until the tunnel ends, and whether a CLOSE came.
async fn read_to_end(socket: &mut Socket) -> (Vec<u8>, bool) {
    let mut received = Vec::new();
    loop {
        match soon("the end of the tunnel", socket.next()).await {
            Some(Ok(Message::Binary(data))) => received.extend_from_slice(&data),
            Some(Ok(Message::Close(_))) => return (received, true),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return (received, false),
        }
    }
}

async fn send(socket: &mut Socket, data: &'static [u8]) {
    socket
        .send(Message::Binary(Bytes::from_static(data)))
        .await
        .unwrap();
}

async fn receive(socket: &mut Socket, length: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < length {
        match soon("bytes from the instance", socket.next()).await {
            Some(Ok(Message::Binary(data))) => received.extend_from_slice(&data),
            other => panic!("{other:?}"),
        }
    }
    received
}

#[tokio::test]
async fn faults_belong_to_instances_that_are_there() {
    let emulator = start().await;
    assert!(!emulator.set_faults("i-0fffffffffffffff0", Faults::default()));
    assert_eq!(emulator.faults("i-0fffffffffffffff0"), None);
    assert_eq!(emulator.faults(INSTANCE), Some(Faults::default()));
    assert_eq!(emulator.stall_tunnels("i-0fffffffffffffff0"), 0);
}

#[tokio::test]
async fn key_pushes_are_throttled_and_denied_as_often_as_told() {
    let emulator = start().await;
    change(&emulator, |faults| {
        faults.throttled_pushes = Times::Next(2);
        faults.denied_pushes = Times::Next(1);
    });
    for expected in [
        (400, "ThrottlingException"),
        (400, "ThrottlingException"),
        (400, "AccessDeniedException"),
        (200, ""),
    ] {
        let (status, code) = try_push(&emulator).await;
        assert_eq!((status, code.as_str()), expected);
    }
    assert_eq!(emulator.faults(INSTANCE), Some(Faults::default()));
    let counters = emulator.counters();
    assert_eq!((counters.push_attempts, counters.pushes), (4, 1));
}

#[tokio::test]
async fn a_slow_key_push_is_slow_and_works_from_its_end() {
    let emulator = start().await;
    let latency = Duration::from_millis(300);
    change(&emulator, |faults| faults.grant_latency = latency);
    let asked = Instant::now();
    let (status, _) = try_push(&emulator).await;
    // Of a wait, only its lower bound is a promise.
    assert!(asked.elapsed() >= latency);
    assert_eq!((status, emulator.counters().pushes), (200, 1));
}

#[tokio::test]
async fn tunnels_are_refused_as_told() {
    let emulator = start().await;
    change(&emulator, |faults| {
        faults.refused_tunnels = Times::Next(1);
        faults.tunnel_refusal = TunnelRefusal {
            status: StatusCode::FORBIDDEN,
            code: "AccessDeniedException".to_owned(),
            message: "not you".to_owned(),
        };
    });
    let answer = open_tunnel(&emulator, &Signer::default(), TUNNEL).await;
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.body,
        r#"{"ErrorCode":"AccessDeniedException","Message":"not you"}"#
    );
    dial(&emulator, TUNNEL).await;
    let counters = emulator.counters();
    assert_eq!((counters.tunnels_refused, counters.tunnels_opened), (1, 1));
}

/// Sends an `openTunnel` request and leaves its answer to be read.
async fn ask_for_tunnel(emulator: &Emulator) -> TcpStream {
    let host = emulator.address().to_string();
    let path = Signer::default().tunnel_path(&host, TUNNEL);
    let mut head = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in upgrade_headers(&host) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(emulator.address()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn an_upgrade_is_cut_before_its_answer() {
    let emulator = start().await;
    change(&emulator, |faults| faults.cut_upgrades = Times::Next(1));
    let mut stream = ask_for_tunnel(&emulator).await;
    let read = soon("the end", stream.read(&mut [0; 16])).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    assert_eq!(emulator.counters().tunnels_opened, 0);
    dial(&emulator, TUNNEL).await;
}

#[tokio::test]
async fn an_upgrade_stays_without_an_answer_and_takes_no_place() {
    let mut settings = Settings::new(credentials());
    settings.max_connections = 1;
    let emulator = Emulator::start(settings).await.unwrap();
    change(&emulator, |faults| faults.unanswered_upgrades = Times::Next(1));
    let mut stream = ask_for_tunnel(&emulator).await;
    eventually("the request is there", async || {
        emulator.faults(INSTANCE) == Some(Faults::default())
    })
    .await;
    // The one place is free for another, and the first still has no answer.
    let _socket = dial(&emulator, TUNNEL).await;
    let read = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0; 16])).await;
    assert!(read.is_err(), "{read:?}");
    soon("the stop", emulator.stop()).await;
    assert!(!matches!(
        soon("the end", stream.read(&mut [0; 16])).await,
        Ok(1..)
    ));
}

#[tokio::test]
async fn a_tunnel_is_cut_at_exactly_its_place() {
    let text = b"SSH-2.0-x\r\nand more";
    for (at, expected_back, expected_there) in [
        (CutAt::BytesFromInstance(0), &b""[..], None),
        (CutAt::BytesFromInstance(5), b"SSH-2", None),
        (CutAt::FramesFromInstance(1), text, None),
        (CutAt::KeyExchange, b"SSH-2.0-x\r\n", None),
        (CutAt::BytesToInstance(3), b"", Some(&b"hel"[..])),
        (CutAt::FramesToInstance(2), b"", Some(b"hello again")),
        (CutAt::After(Duration::from_millis(50)), b"", None),
    ] {
        let (emulator, listener) = start_with_listener().await;
        change(&emulator, |faults| faults.cut = Some(Cut::next(at)));
        let mut socket = dial(&emulator, TUNNEL).await;
        let (mut instance, _) = listener.accept().await.unwrap();
        if expected_there.is_some() {
            send(&mut socket, b"hello").await;
            // The tunnel may be gone already.
            socket
                .send(Message::Binary(Bytes::from_static(b" again")))
                .await
                .ok();
        } else if !matches!(at, CutAt::After(_)) {
            instance.write_all(text).await.unwrap();
        }
        let (received, closed) = read_to_end(&mut socket).await;
        assert_eq!((received.as_slice(), closed), (expected_back, false), "{at:?}");
        if let Some(expected) = expected_there {
            let mut there = Vec::new();
            instance.read_to_end(&mut there).await.ok(); // a reset ends it, too
            assert_eq!(there, expected, "{at:?}");
        }
        assert_eq!(emulator.faults(INSTANCE), Some(Faults::default()), "{at:?}");
        dial(&emulator, TUNNEL).await;
    }
}

#[tokio::test]
async fn an_open_tunnel_past_its_place_is_cut_at_the_next_byte() {
    let (emulator, listener) = start_with_listener().await;
    let mut socket = dial(&emulator, TUNNEL).await;
    let (mut instance, _) = listener.accept().await.unwrap();
    instance.write_all(b"0123456789\n").await.unwrap();
    receive(&mut socket, 11).await;
    // Past the version line there is no key exchange to cut.
    change(&emulator, |faults| {
        faults.cut = Some(Cut::next(CutAt::KeyExchange))
    });
    instance.write_all(b"a\n").await.unwrap();
    receive(&mut socket, 2).await;
    change(&emulator, |faults| {
        faults.cut = Some(Cut {
            at: CutAt::BytesFromInstance(5),
            times: Times::Always,
        });
    });
    instance.write_all(b"b").await.unwrap();
    assert_eq!(read_to_end(&mut socket).await, (Vec::new(), false));
    let mut socket = dial(&emulator, TUNNEL).await;
    let (mut instance, _) = listener.accept().await.unwrap();
    instance.write_all(b"0123456789").await.unwrap();
    assert_eq!(read_to_end(&mut socket).await, (b"01234".to_vec(), false));
}

#[tokio::test]
async fn a_tunnel_cut_for_its_age_hears_of_it_while_it_is_open() {
    let (emulator, listener) = start_with_listener().await;
    let mut socket = dial(&emulator, TUNNEL).await;
    let _instance = listener.accept().await.unwrap();
    let cut = Cut::next(CutAt::After(Duration::from_millis(1)));
    change(&emulator, |faults| faults.cut = Some(cut));
    assert_eq!(read_to_end(&mut socket).await, (Vec::new(), false));
}

#[tokio::test]
async fn a_stalled_tunnel_carries_and_answers_nothing_until_it_is_resumed() {
    let (emulator, listener) = start_with_listener().await;
    let mut socket = dial(&emulator, TUNNEL).await;
    let (mut instance, _) = listener.accept().await.unwrap();
    assert_eq!(emulator.stall_tunnels(INSTANCE), 1);
    send(&mut socket, b"there").await;
    socket
        .send(Message::Ping(Bytes::from_static(b"ping")))
        .await
        .unwrap();
    instance.write_all(b"back").await.unwrap();
    let silence = Duration::from_millis(200);
    let mut there = [0; 5];
    assert!(
        tokio::time::timeout(silence, instance.read_exact(&mut there))
            .await
            .is_err()
    );
    assert!(tokio::time::timeout(silence, socket.next()).await.is_err());
    // A new tunnel is not touched.
    let mut other = dial(&emulator, TUNNEL).await;
    let (mut other_instance, _) = listener.accept().await.unwrap();
    other_instance.write_all(b"works").await.unwrap();
    assert_eq!(receive(&mut other, 5).await, b"works");

    assert_eq!(emulator.resume_tunnels(INSTANCE), 2);
    soon("what waited", instance.read_exact(&mut there))
        .await
        .unwrap();
    assert_eq!(&there, b"there");
    let mut back = Vec::new();
    let mut pongs = 0;
    while back.len() < 4 || pongs < 1 {
        match soon("what waited", socket.next()).await {
            Some(Ok(Message::Binary(data))) => back.extend_from_slice(&data),
            Some(Ok(Message::Pong(_))) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(back, b"back");
}

#[tokio::test]
async fn new_tunnels_are_stalled_as_often_as_told() {
    let (emulator, listener) = start_with_listener().await;
    change(&emulator, |faults| faults.stalled_tunnels = Times::Next(1));
    let mut stalled = dial(&emulator, TUNNEL).await;
    let (mut instance, _) = listener.accept().await.unwrap();
    instance.write_all(b"late").await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(200), stalled.next())
            .await
            .is_err()
    );
    assert_eq!(emulator.resume_tunnels(INSTANCE), 1);
    assert_eq!(receive(&mut stalled, 4).await, b"late");
    // Not even the news that the instance is off gets through.
    assert!(emulator.set_instance_state(INSTANCE, InstanceState::Stopped));
    change(&emulator, |faults| faults.stalled_tunnels = Times::Next(1));
    let mut stalled = dial(&emulator, TUNNEL).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(200), stalled.next())
            .await
            .is_err()
    );
    assert_eq!(emulator.cut_tunnels(INSTANCE), 2);
    assert_eq!(read_to_end(&mut stalled).await, (Vec::new(), false));
}

#[tokio::test]
async fn a_round_trip_is_added_half_each_way_and_keeps_order_and_throughput() {
    let (emulator, listener) = start_with_listener().await;
    let round_trip = Duration::from_millis(200);
    change(&emulator, |faults| faults.round_trip = round_trip);
    let asked = Instant::now();
    let mut socket = dial(&emulator, TUNNEL).await;
    assert!(asked.elapsed() >= round_trip, "the upgrade's answer");
    let (mut instance, _) = listener.accept().await.unwrap();

    let sent = Instant::now();
    send(&mut socket, b"there").await;
    let mut there = [0; 5];
    soon("one way", instance.read_exact(&mut there)).await.unwrap();
    assert!(sent.elapsed() >= round_trip / 2);
    instance.write_all(b"back").await.unwrap();
    receive(&mut socket, 4).await;
    assert!(sent.elapsed() >= round_trip);

    // 2,000 frames would take 200 s if each waited by itself.
    let mut expected = Vec::new();
    for number in 0..2000_u32 {
        let data = number.to_be_bytes().to_vec();
        expected.extend_from_slice(&data);
        socket.send(Message::Binary(data.into())).await.unwrap();
    }
    let mut received = vec![0; expected.len()];
    tokio::time::timeout(PATIENCE, instance.read_exact(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(received, expected);
    // What is under way arrives before the end.
    instance.write_all(b"last words").await.unwrap();
    drop(instance);
    assert_eq!(read_to_end(&mut socket).await, (b"last words".to_vec(), true));
}

#[tokio::test]
async fn a_penalised_client_gets_a_line_in_place_of_the_version() {
    let (emulator, listener) = start_with_listener().await;
    change(&emulator, |faults| faults.penalised_connections = Times::Next(1));
    let mut socket = dial(&emulator, TUNNEL).await;
    assert_eq!(
        read_to_end(&mut socket).await,
        (b"Not allowed at this time\r\n".to_vec(), true)
    );
    let mut socket = dial(&emulator, TUNNEL).await;
    let (mut instance, _) = listener.accept().await.unwrap();
    instance.write_all(b"SSH").await.unwrap();
    receive(&mut socket, 3).await;
}

#[tokio::test]
async fn whoever_sees_a_tunnel_end_finds_its_place_free() {
    let mut settings = Settings::new(credentials());
    settings.max_connections = 1;
    let emulator = Emulator::start(settings).await.unwrap();
    // Kept, so that it is never the client's own leaving that frees a place.
    let mut ended = Vec::new();
    for round in 0..40 {
        let mut socket = dial(&emulator, TUNNEL).await;
        receive(&mut socket, 4).await;
        match round % 4 {
            0 => assert_eq!(emulator.cut_tunnels(INSTANCE), 1),
            1 => change(&emulator, |faults| {
                faults.cut = Some(Cut::next(CutAt::After(Duration::ZERO)));
            }),
            2 => send(&mut socket, b"not SSH\r\n").await,
            _ => socket.close(None).await.unwrap(),
        }
        read_to_end(&mut socket).await;
        ended.push(socket);
    }
    let counters = emulator.counters();
    assert_eq!((counters.tunnels_peak, counters.tunnels_refused), (1, 0));
}
