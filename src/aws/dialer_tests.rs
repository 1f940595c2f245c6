//! Straight to the instance. The way through an endpoint has its own tests.

use adit_actors::clock::Clock;
use adit_actors::tunnel::chain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::test_support::target;
use super::super::{AwsConnection, AwsOptions, Way};
use super::*;

async fn dial(port: u16) -> Result<Dialed, DialError> {
    let mut options = AwsOptions::new("us-west-2");
    options.way = Way::Direct;
    // Nobody listens there: who goes straight uses no proxy.
    options.proxies.all = "http://127.0.0.1:1".to_owned();
    let aws = AwsConnection::open(options, Clock::system()).await.unwrap();
    let location = Location {
        address: "127.0.0.1".parse().unwrap(),
        port,
        endpoint: None,
    };
    aws.dialer().dial(&target(), &location).await
}

#[tokio::test]
async fn without_an_endpoint_it_is_plain_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialed = dial(listener.local_addr().unwrap().port()).await.unwrap();
    assert_eq!((dialed.request_id, dialed.max_duration), (None, None));
    let (mut server, _peer) = listener.accept().await.unwrap();
    server.write_all(b"SSH-2.0-x").await.unwrap();
    drop(server);
    let mut stream = dialed.stream;
    let mut banner = String::new();
    stream.read_to_string(&mut banner).await.unwrap();
    assert_eq!(banner, "SSH-2.0-x");
}

#[tokio::test]
async fn nobody_listening_is_unreachable_and_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = dial(address.port()).await.unwrap_err();
    assert!(matches!(error, DialError::Unreachable(_)), "{error:?}");
    assert!(
        chain(&error).contains(&format!("`{address}`")),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn the_socket_does_not_wait_for_acknowledgements() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = peer::connect("127.0.0.1", port, "127.0.0.1").await.unwrap();
    assert!(socket.nodelay().unwrap());
}
