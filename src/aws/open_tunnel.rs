//! OpenTunnel: a signed websocket to an EC2 Instance Connect Endpoint, and through it to an instance's sshd.
//!
//! Each dial signs a fresh URL. A 101 does not mean that the instance answered: the endpoint connects to it afterwards,
//! and says so with a CLOSE when that fails.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_actors::clock::Clock;
use adit_actors::instance::EndpointHint;
use adit_actors::tunnel::{DialError, Dialed, Location};
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::task::AbortOnDropHandle;

use super::connection::SERVICE_MAX_TUNNEL_DURATION;
use super::credentials::{CachedCredentials, CredentialsError};
use super::options::TunnelEndpoint;
use super::peer::{ConnectError, Peer, Route, Socket};
use super::refusal::{RefusalKind, TunnelRefusal};
use super::sign::{OpenTunnelRequest, SignError};
use super::websocket_stream::WebSocketByteStream;
use super::{AGENT, REQUEST_ID_HEADER};

/// TLS and the upgrade, once connected.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Of a refusal's body; the service's own are a few hundred bytes.
const MAX_REFUSAL_BODY: usize = 16 * 1024;

/// The endpoint's only port.
const ENDPOINT_PORT: u16 = 443;

/// Opens tunnels through EC2 Instance Connect Endpoints.
pub struct OpenTunnelDialer {
    credentials: Arc<CachedCredentials>,
    clock: Clock,
    override_endpoint: Option<TunnelEndpoint>,
    route: Route,
    max_tunnel_duration: Option<Duration>,
}

impl std::fmt::Debug for OpenTunnelDialer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OpenTunnelDialer")
            .field("override_endpoint", &self.override_endpoint)
            .field("max_tunnel_duration", &self.max_tunnel_duration)
            .finish_non_exhaustive()
    }
}

/// A dial failed. Kept as the source of [`DialError`].
#[derive(Debug, Error)]
pub enum OpenTunnelError {
    /// No credentials to sign with.
    #[error("finding credentials for OpenTunnel failed")]
    Credentials(#[source] CredentialsError),
    /// The URL could not be signed.
    #[error("signing OpenTunnel failed")]
    Sign(#[source] SignError),
    /// No connection to the endpoint, or no TLS over it.
    #[error("connecting to the endpoint failed")]
    Connect(#[source] ConnectError),
    /// The request can't be written as HTTP.
    #[error("the upgrade request is not valid HTTP")]
    Request(#[source] http::Error),
    /// No HTTP answer, or none that can be read.
    #[error("the upgrade got no HTTP answer")]
    Upgrade(#[source] hyper::Error),
    /// An HTTP answer that is no websocket upgrade.
    #[error("the endpoint's upgrade is not a websocket's: `{header}` is missing or wrong")]
    NotAWebSocket {
        /// The header that is missing or wrong.
        header: &'static str,
    },
    /// The upgraded connection is not the one that was opened: a defect of the HTTP client.
    #[error("the upgraded connection could not be taken over")]
    TakeOver,
    /// A step took too long.
    #[error("`{step}` took longer than {limit:?}")]
    Deadline {
        /// Which step.
        step: &'static str,
        /// Its deadline.
        limit: Duration,
    },
    /// The endpoint refused.
    #[error("the endpoint refused OpenTunnel")]
    Refused(#[source] TunnelRefusal),
}

impl From<OpenTunnelError> for DialError {
    fn from(error: OpenTunnelError) -> Self {
        let kind = match &error {
            OpenTunnelError::Refused(refusal) => refusal.kind(),
            OpenTunnelError::NotAWebSocket { .. } => RefusalKind::Other,
            OpenTunnelError::Credentials(_)
            | OpenTunnelError::Sign(_)
            | OpenTunnelError::Connect(_)
            | OpenTunnelError::Request(_)
            | OpenTunnelError::Upgrade(_)
            | OpenTunnelError::TakeOver
            | OpenTunnelError::Deadline { .. } => return Self::Unreachable(Box::new(error)),
        };
        match kind {
            RefusalKind::Denied => Self::Denied(Box::new(error)),
            RefusalKind::Throttled => Self::Throttled(Box::new(error)),
            RefusalKind::Busy => Self::EndpointBusy(Box::new(error)),
            RefusalKind::Other => Self::Refused(Box::new(error)),
        }
    }
}

impl OpenTunnelDialer {
    pub(super) fn new(
        credentials: Arc<CachedCredentials>,
        clock: Clock,
        override_endpoint: Option<TunnelEndpoint>,
        route: Route,
        max_tunnel_duration: Option<Duration>,
    ) -> Self {
        Self {
            credentials,
            clock,
            override_endpoint,
            route,
            max_tunnel_duration,
        }
    }

    fn peer<'a>(&'a self, dns_name: &'a str) -> Peer<'a> {
        match &self.override_endpoint {
            Some(endpoint) => Peer {
                tls: self.route.tls.as_ref().filter(|_| endpoint.tls),
                authority: &endpoint.authority,
                host: &endpoint.host,
                port: endpoint.port,
            },
            None => Peer {
                tls: self.route.tls.as_ref(),
                authority: dns_name,
                host: dns_name,
                port: ENDPOINT_PORT,
            },
        }
    }

    /// Opens a tunnel through `endpoint` to the location's address and port.
    pub(super) async fn open(
        &self,
        region: &str,
        location: &Location,
        endpoint: &EndpointHint,
    ) -> Result<Dialed, OpenTunnelError> {
        let peer = self.peer(&endpoint.dns_name);
        let credentials = self
            .credentials
            .get()
            .await
            .map_err(OpenTunnelError::Credentials)?;
        let request = OpenTunnelRequest {
            scheme: peer.scheme(),
            authority: peer.authority,
            endpoint_id: &endpoint.endpoint_id,
            remote_port: location.port,
            private_address: location.address,
            max_tunnel_duration: self.max_tunnel_duration,
        };
        let url = request
            .sign(credentials, region, SystemTime::from(self.clock.now()))
            .map_err(OpenTunnelError::Sign)?;
        let socket = peer
            .connect(&self.route)
            .await
            .map_err(OpenTunnelError::Connect)?;
        let upgrading = async {
            let socket = peer.secure(socket).await.map_err(OpenTunnelError::Connect)?;
            upgrade(socket, &url, peer.authority).await
        };
        let deadline = OpenTunnelError::Deadline {
            step: "upgrade",
            limit: UPGRADE_TIMEOUT,
        };
        let (stream, request_id) = timeout(UPGRADE_TIMEOUT, upgrading)
            .await
            .map_err(|_elapsed| deadline)??;
        Ok(Dialed {
            stream: Box::new(stream),
            request_id,
            max_duration: Some(self.max_tunnel_duration.unwrap_or(SERVICE_MAX_TUNNEL_DURATION)),
        })
    }
}

/// Asks for the websocket. The answer's whole body is read on a refusal, which is why this is done by an HTTP client: a
/// websocket library's own handshake keeps only what came in one read with the head.
async fn upgrade(
    socket: Socket,
    url: &Uri,
    authority: &str,
) -> Result<(WebSocketByteStream<Socket>, Option<String>), OpenTunnelError> {
    let key = generate_key();
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(OpenTunnelError::Upgrade)?;
    // It ends by itself with the upgrade or the refusal; a dial that is given up must not leave it behind.
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
    let request = upgrade_request(url, authority, &key).map_err(OpenTunnelError::Request)?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(OpenTunnelError::Upgrade)?;
    let request_id = header(answer.headers(), REQUEST_ID_HEADER).map(str::to_owned);
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(OpenTunnelError::Refused(refusal(answer, request_id).await));
    }
    check_upgrade(answer.headers(), &key)?;
    let upgraded = hyper::upgrade::on(answer)
        .await
        .map_err(OpenTunnelError::Upgrade)?;
    let parts = upgraded
        .downcast::<TokioIo<Socket>>()
        .map_err(|_other| OpenTunnelError::TakeOver)?;
    let stream = WebSocketByteStream::client(parts.io.into_inner(), parts.read_buf).await;
    Ok((stream, request_id))
}

/// The headers that the AWS CLI sends, and no others: no Origin, no protocol, no extensions.
fn upgrade_request(url: &Uri, authority: &str, key: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let target = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Request::get(target)
        .header(HOST, authority)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_KEY, key)
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(USER_AGENT, AGENT)
        .body(Empty::new())
}

/// RFC 6455, section 4.1: what a client must find in a 101.
fn check_upgrade(headers: &HeaderMap, key: &str) -> Result<(), OpenTunnelError> {
    let has_token = |name, token: &str| {
        header(headers, name).is_some_and(|value| {
            value
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(token))
        })
    };
    let accepted = headers
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|value| *value == derive_accept_key(key.as_bytes()));
    let missing = if !has_token("upgrade", "websocket") {
        "Upgrade"
    } else if !has_token("connection", "upgrade") {
        "Connection"
    } else if !accepted {
        "Sec-WebSocket-Accept"
    } else if headers.contains_key("sec-websocket-extensions") {
        "Sec-WebSocket-Extensions"
    } else if headers.contains_key("sec-websocket-protocol") {
        "Sec-WebSocket-Protocol"
    } else {
        return Ok(());
    };
    Err(OpenTunnelError::NotAWebSocket { header: missing })
}

async fn refusal(answer: Response<Incoming>, request_id: Option<String>) -> TunnelRefusal {
    let status = answer.status();
    // A body that breaks off or is too long takes nothing from the status, which is what counts.
    let body = match Limited::new(answer.into_body(), MAX_REFUSAL_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_unreadable) => Bytes::from_static(b"(body could not be read)"),
    };
    TunnelRefusal::from_answer(status, request_id, &body)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
#[path = "open_tunnel_tests.rs"]
mod tests;
