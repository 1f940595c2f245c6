//! Proxies of locked-down networks: which target goes through which, and the way through one by CONNECT.
//!
//! The rules are curl's: `HTTPS_PROXY` for `https` and `wss`, `HTTP_PROXY` for `http` and `ws`, `ALL_PROXY` for what
//! these leave out, and around them `NO_PROXY`: hosts, domains with all below them, addresses, networks, or `*`.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio_util::task::AbortOnDropHandle;

use super::AGENT;
use super::peer::Socket;
use crate::settings::ProxyVariables;

/// What holds for each target.
#[derive(Clone, Default)]
pub(super) struct Proxies {
    /// Absent when no proxy is set.
    matcher: Option<Arc<Matcher>>,
    variables: ProxyVariables,
}

/// A variable names no proxy that can be used. Does not quote it, as it may hold a password.
#[derive(Debug, Error)]
pub enum ProxySetupError {
    /// No URL.
    #[error("the variable `{variable}` is not the URL of a proxy, as in `http://proxy.example:3128`")]
    Url {
        /// Name of the variable, in capitals.
        variable: &'static str,
    },
    /// A URL of another kind of proxy.
    #[error("proxies are spoken to by `http` or `https`, not by `{scheme}`")]
    Scheme {
        /// As in `socks5`.
        scheme: String,
    },
    /// The HTTP client does not take what the variables say.
    #[error("the proxies of the environment could not be set up")]
    Client(#[source] reqwest::Error),
}

/// A proxy did not open the way.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The target can't be written as HTTP.
    #[error("the CONNECT request is not valid HTTP")]
    Request(#[source] http::Error),
    /// No HTTP answer, or none that can be read.
    #[error("CONNECT got no HTTP answer")]
    NoAnswer(#[source] hyper::Error),
    /// Status 407.
    #[error("the proxy asks for a user and password, or does not take those that it was given (407)")]
    AuthenticationRequired,
    /// Another status than success.
    #[error("the proxy answered {}", .0.as_u16())]
    Refused(StatusCode),
    /// Bytes that no peer of ours can have sent: they all wait for the client to speak.
    #[error("the proxy sent bytes behind its answer before it was sent any")]
    UnaskedBytes,
    /// A defect of the HTTP client.
    #[error("the connection through the proxy could not be taken over")]
    TakeOver,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The matcher's own text leaves passwords out.
        formatter.debug_tuple("Proxies").field(&self.matcher).finish()
    }
}

impl Proxies {
    pub(super) fn new(variables: &ProxyVariables) -> Result<Self, ProxySetupError> {
        let ProxyVariables { http, https, all, no } = variables;
        let given = [("HTTP_PROXY", http), ("HTTPS_PROXY", https), ("ALL_PROXY", all)];
        let mut set = given.into_iter().filter(|(_, url)| !url.is_empty()).peekable();
        if set.peek().is_none() {
            return Ok(Self::default());
        }
        let is_proxy = |url: &str| {
            let alone = Matcher::builder().all(url.to_owned()).build();
            alone
                .intercept(&Uri::from_static("https://target.invalid/"))
                .is_some()
        };
        if let Some((variable, _)) = set.find(|(_, url)| !is_proxy(url)) {
            return Err(ProxySetupError::Url { variable });
        }
        let builder = Matcher::builder()
            .http(http.clone())
            .https(https.clone())
            .all(all.clone());
        let matcher = builder.no(no.clone()).build();
        for target in ["http://target.invalid/", "https://target.invalid/"] {
            let proxy = matcher.intercept(&Uri::from_static(target));
            if let Some(scheme) = proxy.as_ref().and_then(|proxy| proxy.uri().scheme_str())
                && !matches!(scheme, "http" | "https")
            {
                return Err(ProxySetupError::Scheme {
                    scheme: scheme.to_owned(),
                });
            }
        }
        Ok(Self {
            matcher: Some(Arc::new(matcher)),
            variables: variables.clone(),
        })
    }

    /// Whether every target is reached without a proxy.
    pub(super) fn is_none(&self) -> bool {
        self.matcher.is_none()
    }

    /// The proxy for `target`, a URL with the scheme `http` or `https`.
    pub(super) fn of(&self, target: &Uri) -> Option<Intercept> {
        self.matcher.as_ref()?.intercept(target)
    }

    /// The same rules for an HTTP client, which is to read no environment of its own.
    pub(super) fn apply_to(
        &self,
        builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, ProxySetupError> {
        let ProxyVariables { http, https, all, no } = &self.variables;
        let mut builder = builder.no_proxy();
        let or_all = |own: &str| {
            if own.is_empty() {
                all.clone()
            } else {
                own.to_owned()
            }
        };
        let exceptions = reqwest::NoProxy::from_string(no);
        for (url, proxy) in [
            (or_all(http), reqwest::Proxy::http as fn(String) -> _),
            (or_all(https), reqwest::Proxy::https),
        ] {
            if !url.is_empty() {
                let proxy = proxy(url).map_err(|error| ProxySetupError::Client(error.without_url()))?;
                builder = builder.proxy(proxy.no_proxy(exceptions.clone()));
            }
        }
        Ok(builder)
    }
}

/// Asks the proxy at the other end of `socket` for a way to `target`, as `host:port`. RFC 9110, section 9.3.6.
pub(super) async fn connect_through(
    socket: Socket,
    proxy: &Intercept,
    target: &str,
) -> Result<Socket, ProxyError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(ProxyError::NoAnswer)?;
    // It ends by itself with the answer; a dial that is given up must not leave it behind.
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
    let mut request = Request::connect(target)
        .header(HOST, target)
        .header(USER_AGENT, AGENT);
    if let Some(authorization) = proxy.basic_auth() {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(ProxyError::Request)?;
    let answer = sender.send_request(request).await.map_err(ProxyError::NoAnswer)?;
    match answer.status() {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => return Err(ProxyError::AuthenticationRequired),
        status if !status.is_success() => return Err(ProxyError::Refused(status)),
        _ => {}
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(ProxyError::NoAnswer)?;
    let parts = upgraded
        .downcast::<TokioIo<Socket>>()
        .map_err(|_other| ProxyError::TakeOver)?;
    if !parts.read_buf.is_empty() {
        return Err(ProxyError::UnaskedBytes);
    }
    Ok(parts.io.into_inner())
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
