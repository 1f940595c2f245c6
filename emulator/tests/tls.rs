//! https and wss on the listener.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod support;

use std::sync::Arc;

use adit_emulator::{Emulator, Settings, TlsIdentity, TlsIdentityError};
use futures_util::StreamExt;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use support::requests::{INSTANCE, Signer, TUNNEL, credentials};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

/// A certificate of its own for `localhost`, its key, and a client that trusts it.
fn certificate() -> (String, String, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    (made.cert.pem(), made.signing_key.serialize_pem(), connector)
}

async fn start() -> (Emulator, TlsConnector) {
    let (certificate, key, connector) = certificate();
    let mut settings = Settings::new(credentials());
    settings.tls = Some(TlsIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap());
    (Emulator::start(settings).await.unwrap(), connector)
}

async fn connect(emulator: &Emulator, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(emulator.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon("the TLS handshake", connector.connect(name, stream))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_tunnel_opens_over_wss_and_carries() {
    let (emulator, connector) = start().await;
    let (http, tunnel) = (emulator.http_url(), emulator.tunnel_url());
    assert!(http.starts_with("https://127.0.0.1:"), "{http}");
    assert!(tunnel.starts_with("wss://127.0.0.1:"), "{tunnel}");
    let stream = connect(&emulator, &connector).await;
    let host = format!("localhost:{}", emulator.address().port());
    let path = Signer::default().tunnel_path(&host, TUNNEL);
    let (mut socket, answer) = tokio_tungstenite::client_async(format!("wss://{host}{path}"), stream)
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    match soon("the version line", socket.next()).await {
        Some(Ok(Message::Binary(data))) => assert!(data.starts_with(b"SSH-2.0-")),
        other => panic!("{other:?}"),
    }
    // A cut is one under TLS, too: no CLOSE frame.
    assert_eq!(emulator.cut_tunnels(INSTANCE), 1);
    loop {
        match soon("the end", socket.next()).await {
            Some(Ok(Message::Binary(_))) => {}
            Some(Ok(other)) => panic!("{other:?}"),
            Some(Err(_)) | None => break,
        }
    }
    soon("the stop", emulator.stop()).await;
}

#[tokio::test]
async fn plain_http_gets_no_answer_and_stops_nobody() {
    let (emulator, connector) = start().await;
    let mut plain = TcpStream::connect(emulator.address()).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    soon("the end", plain.read_to_end(&mut answer)).await.ok(); // a reset ends it, too
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    // One who never shakes hands is no obstacle, not even to the stop.
    let _silent = TcpStream::connect(emulator.address()).await.unwrap();
    let mut stream = connect(&emulator, &connector).await;
    stream
        .write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    soon("the answer", stream.read_to_end(&mut answer)).await.ok(); // no close_notify is an error that does not matter
    assert!(answer.starts_with(b"HTTP/1.1 404 "), "{answer:?}");
    soon("the stop", emulator.stop()).await;
}

#[test]
fn unusable_certificates_are_named() {
    let (chain, key, _) = certificate();
    let (_, other_key, _) = certificate();
    let read = |certificate: &str, key: &str| {
        TlsIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err()
    };
    assert!(matches!(read("", &key), TlsIdentityError::Certificates(_)));
    assert!(matches!(read(&key, &key), TlsIdentityError::Certificates(_)));
    assert!(matches!(read(&chain, &chain), TlsIdentityError::PrivateKey(_)));
    assert!(matches!(read(&chain, &other_key), TlsIdentityError::Unusable(_)));
}
