//! The way to the other end of one dial: name, TCP, proxy, TLS.

use std::io;
use std::time::Duration;

use adit_actors::tunnel::TunnelStream;
use http::Uri;
use hyper_util::client::proxy::matcher::Intercept;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::proxy::{Proxies, ProxyError, connect_through};

/// Resolving the name and connecting: four SYNs.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// A proxy's answer to CONNECT, for which it resolves and connects itself. With the two others it stays below the 25 s
/// that a supervisor gives a dial.
const PROXY_TIMEOUT: Duration = Duration::from_secs(6);

/// Any byte stream of a dial.
pub(super) type Socket = Box<dyn TunnelStream>;

/// Where one dial's bytes go.
pub(super) struct Peer<'a> {
    /// For `wss`.
    pub(super) tls: Option<&'a TlsConnector>,
    /// As the `Host` header says it.
    pub(super) authority: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u16,
}

/// What every dial goes by.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) proxies: Proxies,
    /// TLS to endpoints and to proxies. Absent when there is no root certificate, and no endpoint that needs one.
    pub(super) tls: Option<TlsConnector>,
}

/// No way to a peer.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("connecting to `{authority}` failed")]
    Connect {
        /// Host and port.
        authority: String,
        /// Name resolution's or the socket's error.
        #[source]
        source: io::Error,
    },
    /// Connecting took too long.
    #[error("connecting to `{authority}` took longer than {limit:?}")]
    Deadline {
        /// Host and port.
        authority: String,
        /// The deadline.
        limit: Duration,
    },
    /// The peer's name makes no URL, so that no proxy can be chosen.
    #[error("`{authority}` is no host and port")]
    Authority {
        /// Host and port.
        authority: String,
        /// Why.
        #[source]
        source: http::uri::InvalidUri,
    },
    /// The proxy of the environment did not open the way.
    #[error("connecting through the proxy `{proxy}` failed")]
    Proxy {
        /// Its host and port; never its user and password.
        proxy: String,
        /// What it answered.
        #[source]
        source: ProxyError,
    },
    /// The proxy took too long.
    #[error("the proxy `{proxy}` did not answer CONNECT within {limit:?}")]
    ProxyDeadline {
        /// Its host and port.
        proxy: String,
        /// The deadline.
        limit: Duration,
    },
    /// A proxy with an `https` URL, where no root certificate was found.
    #[error("TLS to the proxy `{proxy}` needs root certificates, and none were found on this system")]
    NoRoots {
        /// Its host and port.
        proxy: String,
    },
    /// The name can't be in a certificate.
    #[error("`{host}` is no name that a certificate could carry")]
    ServerName {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: InvalidDnsNameError,
    },
    /// TLS failed, for example because the certificate is not trusted.
    #[error("TLS to `{authority}` failed")]
    Tls {
        /// Host and port.
        authority: String,
        /// rustls's error.
        #[source]
        source: io::Error,
    },
}

impl Peer<'_> {
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "wss" } else { "ws" }
    }

    /// Connects, through a proxy where one is meant for this peer. TLS to the peer itself comes afterwards.
    pub(super) async fn connect(&self, route: &Route) -> Result<Socket, ConnectError> {
        let Some(proxy) = self.proxy(&route.proxies)? else {
            return Ok(Box::new(connect(self.host, self.port, self.authority).await?));
        };
        let (authority, host) = (
            proxy.uri().authority().map_or("", http::uri::Authority::as_str),
            proxy.uri().host().unwrap_or_default(),
        );
        let is_https = proxy.uri().scheme_str() == Some("https");
        let port = proxy.uri().port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let host = without_brackets(host);
        let socket = connect(host, port, authority).await?;
        let opening = async {
            let socket: Socket = if is_https {
                let no_roots = || ConnectError::NoRoots {
                    proxy: authority.to_owned(),
                };
                secure(
                    route.tls.as_ref().ok_or_else(no_roots)?,
                    Box::new(socket),
                    host,
                    authority,
                )
                .await?
            } else {
                Box::new(socket)
            };
            connect_through(socket, &proxy, &self.target())
                .await
                .map_err(|source| ConnectError::Proxy {
                    proxy: authority.to_owned(),
                    source,
                })
        };
        let deadline = ConnectError::ProxyDeadline {
            proxy: authority.to_owned(),
            limit: PROXY_TIMEOUT,
        };
        timeout(PROXY_TIMEOUT, opening)
            .await
            .map_err(|_elapsed| deadline)?
    }

    /// TLS over a connection to this peer, when it is spoken to by TLS.
    pub(super) async fn secure(&self, socket: Socket) -> Result<Socket, ConnectError> {
        match self.tls {
            Some(connector) => secure(connector, socket, self.host, self.authority).await,
            None => Ok(socket),
        }
    }

    fn proxy(&self, proxies: &Proxies) -> Result<Option<Intercept>, ConnectError> {
        if proxies.is_none() {
            return Ok(None);
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/", self.target());
        let url: Uri = url.parse().map_err(|source| ConnectError::Authority {
            authority: self.authority.to_owned(),
            source,
        })?;
        Ok(proxies.of(&url))
    }

    /// Host and port as CONNECT has them: with the port always.
    fn target(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// An IPv6 address as a socket takes it; a URL has it in brackets (RFC 3986, section 3.2.2).
pub(super) fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Plain TCP, without delay and within [`CONNECT_TIMEOUT`].
pub(super) async fn connect(host: &str, port: u16, authority: &str) -> Result<TcpStream, ConnectError> {
    let connecting = async {
        let socket = TcpStream::connect((host, port)).await?;
        // SSH's small packets would wait for the peer's delayed acknowledgement: 40 ms for each exec.
        socket.set_nodelay(true)?;
        Ok(socket)
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|source| ConnectError::Connect {
            authority: authority.to_owned(),
            source,
        }),
        Err(_elapsed) => Err(ConnectError::Deadline {
            authority: authority.to_owned(),
            limit: CONNECT_TIMEOUT,
        }),
    }
}

async fn secure(
    connector: &TlsConnector,
    socket: Socket,
    host: &str,
    authority: &str,
) -> Result<Socket, ConnectError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|source| ConnectError::ServerName {
        host: host.to_owned(),
        source,
    })?;
    match connector.connect(name, socket).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => Err(ConnectError::Tls {
            authority: authority.to_owned(),
            source,
        }),
    }
}
