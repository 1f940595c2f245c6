//! The byte stream against tungstenite's server side, over memory.

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

type Server = WebSocketStream<DuplexStream>;

async fn pair(capacity: usize) -> (WebSocketByteStream<DuplexStream>, Server) {
    let (client, server) = duplex(capacity);
    let client = WebSocketByteStream::client(client, Bytes::new()).await;
    (
        client,
        WebSocketStream::from_raw_socket(server, Role::Server, None).await,
    )
}

fn binary(payload: &[u8]) -> Message {
    Message::Binary(Bytes::copy_from_slice(payload))
}

/// Polls once, with nobody to wake.
fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test]
async fn what_a_close_means() {
    let frame = |code: CloseCode, reason: &str| {
        Some(CloseFrame {
            code,
            reason: reason.to_owned().into(),
        })
    };
    let table = [
        (None, None),
        (frame(CloseCode::Normal, "bye"), None),
        (
            frame(CloseCode::Away, "Unable to connect to target"),
            Some("Unable to connect to target"),
        ),
        (frame(CloseCode::Error, ""), Some("1011")),
        (frame(CloseCode::Library(4_001), "custom"), Some("custom")),
    ];
    for (close, expected) in table {
        let (mut client, mut server) = pair(1024).await;
        server.send(binary(b"before")).await.unwrap();
        server.send(Message::Close(close.clone())).await.unwrap();
        let mut received = Vec::new();
        let result = client.read_to_end(&mut received).await;
        assert_eq!(received, b"before", "{close:?}");
        match expected {
            None => assert_eq!(result.unwrap(), 6),
            Some(reason) => {
                let error = result.unwrap_err();
                assert!(error.to_string().contains(reason), "{close:?}: {error}");
                // The end stays what it was.
                let again = client.read_u8().await.unwrap_err();
                assert_eq!(again.to_string(), error.to_string());
            }
        }
        assert_eq!(
            client.write(b"late").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}

#[tokio::test]
async fn a_lost_connection_is_an_error_not_an_end() {
    let (mut client, server) = pair(1024).await;
    drop(server);
    assert!(client.read_to_end(&mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_text_frame_is_a_protocol_error() {
    let (mut client, mut server) = pair(1024).await;
    server.send(Message::Text("hello".into())).await.unwrap();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("TEXT"), "{error}");
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload_and_empty_frames_are_nothing() {
    let (mut client, mut server) = pair(1024).await;
    server
        .send(Message::Ping(Bytes::from_static(b"are you there")))
        .await
        .unwrap();
    server.send(binary(b"")).await.unwrap();
    server.send(binary(b"x")).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    assert_eq!(
        server.next().await.unwrap().unwrap(),
        Message::Pong(Bytes::from_static(b"are you there"))
    );
}

#[tokio::test]
async fn a_small_write_is_one_frame_and_needs_no_flush() {
    let (mut client, mut server) = pair(1024).await;
    client.write_all(b"SSH-2.0-adit\r\n").await.unwrap();
    assert_eq!(server.next().await.unwrap().unwrap(), binary(b"SSH-2.0-adit\r\n"));
}

#[tokio::test]
async fn a_large_write_goes_out_in_frames_of_the_clis_size() {
    let (mut client, mut server) = pair(4 * MAX_PAYLOAD).await;
    let data = vec![7_u8; 2 * MAX_PAYLOAD + 1];
    client.write_all(&data).await.unwrap();
    for expected in [MAX_PAYLOAD, MAX_PAYLOAD, 1] {
        assert_eq!(server.next().await.unwrap().unwrap().len(), expected);
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer_after_one_frame() {
    const SOCKET: usize = 1_000;
    let (mut client, mut server) = pair(SOCKET).await;
    let data = vec![1_u8; MAX_PAYLOAD];
    let first = poll_once(|context| Pin::new(&mut client).poll_write(context, &data));
    assert!(matches!(first, Poll::Ready(Ok(MAX_PAYLOAD))), "{first:?}");
    let second = poll_once(|context| Pin::new(&mut client).poll_write(context, &data));
    assert!(second.is_pending(), "{second:?}");
    let flush = poll_once(|context| Pin::new(&mut client).poll_flush(context));
    assert!(
        flush.is_pending(),
        "{flush:?}: the socket has taken {SOCKET} bytes only"
    );

    let received = async { server.next().await.unwrap().unwrap().len() };
    let (flushed, received) = tokio::join!(client.flush(), received);
    flushed.unwrap();
    assert_eq!(received, MAX_PAYLOAD);
}

#[tokio::test]
async fn shutdown_sends_an_empty_close_and_ends_at_the_answer() {
    let (mut client, mut server) = pair(1024).await;
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(server.next().await.unwrap().unwrap(), binary(b"last"));
    assert_eq!(server.next().await.unwrap().unwrap(), Message::Close(None));
    // tungstenite answers the CLOSE by itself.
    assert!(server.next().await.is_none());
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(
        client.write(b"late").await.unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
    client.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_frame_past_the_bound_is_refused() {
    let (mut client, mut server) = pair(1024).await;
    let sender = tokio::spawn(async move { server.send(binary(&vec![0; MAX_INCOMING + 1])).await });
    assert_eq!(
        client.read_u8().await.unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    drop(client);
    assert!(sender.await.unwrap().is_err());
}

#[tokio::test]
async fn bytes_that_came_with_the_upgrade_are_not_lost() {
    let (client, _server) = duplex(1024);
    // FIN and BINARY, 3 bytes, not masked: what a server sends.
    let mut client = WebSocketByteStream::client(client, Bytes::from_static(b"\x82\x03SSH")).await;
    let mut received = [0; 3];
    client.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"SSH");
}

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let size = prop_oneof![
        Just(0_usize),
        1..200_usize,
        Just(125),
        Just(126),
        Just(65_535),
        Just(70_000)
    ];
    let chunk = size.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
    proptest::collection::vec(chunk, 0..5)
}

async fn both_ways(to_server: Vec<Vec<u8>>, to_client: Vec<Vec<u8>>, capacity: usize, buffer: usize) {
    let (client, server) = pair(capacity).await;
    let (mut from_server, mut into_server) = tokio::io::split(client);
    let (mut into_client, mut from_client) = server.split();
    let expected_by_server = to_server.concat();
    let expected_by_client = to_client.concat();
    let total = expected_by_server.len();

    let writing = async move {
        for chunk in to_server {
            into_server.write_all(&chunk).await.unwrap();
        }
        into_server.flush().await.unwrap();
        into_server
    };
    let sending = async move {
        for chunk in to_client {
            into_client.send(binary(&chunk)).await.unwrap();
        }
        into_client
    };
    let reading = async {
        let mut received = Vec::new();
        let mut piece = vec![0; buffer];
        while received.len() < expected_by_client.len() {
            let count = from_server.read(&mut piece).await.unwrap();
            received.extend_from_slice(&piece[..count]);
        }
        received
    };
    let receiving = async {
        let mut received = Vec::new();
        while received.len() < total {
            received.extend_from_slice(&from_client.next().await.unwrap().unwrap().into_data());
        }
        received
    };
    let (_writer, _sender, by_client, by_server) = tokio::join!(writing, sending, reading, receiving);
    assert!(by_client == expected_by_client, "client received other bytes");
    assert!(by_server == expected_by_server, "server received other bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bytes_arrive_as_they_were_whatever_the_boundaries(
        to_server in chunks(),
        to_client in chunks(),
        capacity in prop_oneof![Just(64_usize), Just(4_096), Just(1 << 20)],
        buffer in prop_oneof![Just(1_000_usize), Just(33_000), Just(200_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(both_ways(to_server, to_client, capacity, buffer));
    }
}
