//! What several tests of this module need: certificates, targets, a server that answers over a real socket.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use adit_actors::instance::{EndpointHint, InstanceKey, InstanceTarget};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::AbortOnDropHandle;

pub(super) const INSTANCE: &str = "i-0123456789abcdef0";

pub(super) fn target() -> InstanceTarget {
    InstanceTarget {
        instance: InstanceKey {
            region: "eu-north-1".into(),
            instance_id: INSTANCE.into(),
        },
        os_user: "ubuntu".into(),
        availability_zone: None,
        address: None,
        port: None,
        endpoint: None,
    }
}

pub(super) fn hint(endpoint_id: &str) -> EndpointHint {
    EndpointHint {
        endpoint_id: endpoint_id.to_owned(),
        dns_name: format!("{endpoint_id}.example"),
    }
}

/// A root and a server with a certificate that it signed for `name`.
pub(super) fn test_authority(name: &str) -> (CertificateDer<'static>, TlsAcceptor) {
    let root_key = KeyPair::generate().unwrap();
    let mut root_parameters = CertificateParams::new(Vec::new()).unwrap();
    root_parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = root_parameters.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(root_parameters, root_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
    (root.der().clone(), TlsAcceptor::from(Arc::new(config)))
}

/// Reads a request's head, byte by byte so that nothing behind it is taken.
pub(super) async fn read_head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// What a websocket's server answers to the key in `head`.
pub(super) fn accept_key(head: &str) -> String {
    let key = head
        .lines()
        .find_map(|line| {
            line.split_once(": ")
                .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        })
        .unwrap()
        .1;
    derive_accept_key(key.as_bytes())
}

/// Answers the upgrade, says a banner, and closes. Returns the request's head.
pub(super) async fn accept_tunnel<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S) -> String {
    let head = read_head(&mut socket).await;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nx-amzn-RequestId: open-1\r\n\r\n",
        accept_key(&head)
    );
    // The banner follows in the same segment, as a quick sshd's does.
    socket
        .write_all(&[answer.as_bytes(), b"\x82\x09SSH-2.0-x"].concat())
        .await
        .unwrap();
    let mut websocket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
    websocket.close(None).await.unwrap();
    head
}

/// What a server was asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

/// An HTTP server whose answers are made from what was asked and how often before.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _task: AbortOnDropHandle<()>,
}

impl Service {
    pub(super) async fn start(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked, usize) -> (u16, String) + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let task = tokio::spawn(async move {
            loop {
                let (socket, _peer) = listener.accept().await.unwrap();
                let (log, answer) = (log.clone(), answer.clone());
                let serve = service_fn(move |request: Request<Incoming>| {
                    let (log, answer) = (log.clone(), answer.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let asked = Asked {
                            headers: head.headers,
                            body: String::from_utf8(body.to_vec()).unwrap(),
                        };
                        let (status, text) = {
                            let mut log = log.lock().unwrap();
                            log.push(asked.clone());
                            answer(&asked, log.len())
                        };
                        let mut response = Response::new(Full::new(Bytes::from(text)));
                        *response.status_mut() = status.try_into().unwrap();
                        response
                            .headers_mut()
                            .insert("x-amzn-requestid", "request-1".parse().unwrap());
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let tls = tls.clone();
                tokio::spawn(async move {
                    let http = http1::Builder::new();
                    // A client that goes away, or that does not trust us, is part of some tests.
                    match tls {
                        None => http.serve_connection(TokioIo::new(socket), serve).await.ok(),
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => http.serve_connection(TokioIo::new(stream), serve).await.ok(),
                            Err(_refused) => None,
                        },
                    };
                });
            }
        });
        Self {
            address,
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}
