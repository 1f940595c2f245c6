//! A client of Adit's API, for the command line.
//!
//! It owns requests and the reading of answers; it must not know terminals, exit codes or environment variables.

mod admin;
mod distrust;
mod exec_stream;

use std::time::Duration;

use adit_actors::exec::Exec;
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Method, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;

pub use exec_stream::{ExecStream, Line};

use crate::http::DEFAULT_ORG_HEADER;
use crate::http::wire::NDJSON;

/// Longest wait for a connection to the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest silence of the service before a call is given up, so that a network that has died without a word does not hold
/// it for ever. The longest silence of a live service with its default settings is that before an exec's head: up to 10 s
/// to connect, 10 s to take the request's body in, 30 s to start, and 22 s to end where that failed; afterwards there is a
/// heartbeat every 15 s. The rest is room for other settings.
const READ_TIMEOUT: Duration = Duration::from_secs(200);

/// Why a call of the API gave no good answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The base URL can't be used.
    #[error("`{url}` is not an http or https URL")]
    Url {
        /// What was given.
        url: String,
    },
    /// The token or the org id can't stand in a header.
    #[error("the {what} has characters that no header can carry")]
    Header {
        /// Which of them.
        what: &'static str,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client can't be set up")]
    Setup(#[source] reqwest::Error),
    /// The service could not be reached, the connection broke, or nothing has come over it for 200 s.
    #[error("talking to the service failed")]
    Transport(#[source] reqwest::Error),
    /// The service is not who it should be.
    #[error("the service's certificate is refused: {advice}")]
    Certificate {
        /// What to do about it.
        advice: &'static str,
        /// What TLS says.
        #[source]
        source: rustls::Error,
    },
    /// The service refused, or the exec came to a bad end.
    #[error("{}: {}", .0.code, .0.detail)]
    Problem(Box<ServiceProblem>),
    /// The answer is not what this API answers with.
    #[error("the answer is not one of Adit's: {problem}")]
    Unexpected {
        /// In which way.
        problem: String,
    },
}

/// A problem as the service told it (RFC 9457).
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceProblem {
    /// The status.
    pub status: u16,
    /// The stable code.
    pub code: String,
    /// A sentence for people.
    pub detail: String,
    /// The exec that came to a bad end, if there was one.
    #[serde(default)]
    pub exec: Option<Value>,
}

/// What to run, as the API takes it.
#[derive(Clone, Default, Serialize)]
pub struct ExecCall {
    /// The argv.
    pub cmd: Vec<String>,
    /// Timeout in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
    /// Directory to run in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables to add.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub env: serde_json::Map<String, Value>,
    /// Standard input in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_b64: Option<String>,
    /// Whether a stream begins with the program, and not with its output.
    pub announce: bool,
}

impl std::fmt::Debug for ExecCall {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ExecCall")
            .field("words", &self.cmd.len())
            .finish_non_exhaustive()
    }
}

/// A client with one base URL and one token.
#[derive(Clone, Debug)]
pub struct ApiClient {
    http: reqwest::Client,
    base: Url,
}

impl ApiClient {
    /// A client for the service at `base`. `org_id` goes along in the default org header, for a service with a tenant
    /// guard; `roots` are trusted beside the system's, for an https URL. Redirects are not followed: they would carry the
    /// token elsewhere.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Header`] or [`ClientError::Setup`].
    pub fn new(
        base: &str,
        token: &SecretString,
        org_id: Option<&str>,
        roots: &[CertificateDer<'_>],
    ) -> Result<Self, ClientError> {
        Self::with_read_timeout(base, token, org_id, roots, READ_TIMEOUT)
    }

    fn with_read_timeout(
        base: &str,
        token: &SecretString,
        org_id: Option<&str>,
        roots: &[CertificateDer<'_>],
        read_timeout: Duration,
    ) -> Result<Self, ClientError> {
        let base_url = parse_base(base).ok_or_else(|| ClientError::Url { url: base.to_owned() })?;
        let mut headers = HeaderMap::new();
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| ClientError::Header { what: "token" })?;
        bearer.set_sensitive(true);
        headers.insert(reqwest::header::AUTHORIZATION, bearer);
        if let Some(org_id) = org_id {
            let value = HeaderValue::from_str(org_id).map_err(|_| ClientError::Header { what: "org id" })?;
            headers.insert(HeaderName::from_static(DEFAULT_ORG_HEADER), value);
        }
        let roots = roots
            .iter()
            .map(|root| Certificate::from_der(root))
            .collect::<Result<Vec<_>, _>>()
            .map_err(ClientError::Setup)?;
        let mut builder = reqwest::Client::builder()
            .tls_certs_merge(roots)
            .default_headers(headers)
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(read_timeout)
            .tcp_nodelay(true)
            .user_agent(concat!("adit/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base_url) {
            // A proxy from the environment can't reach this machine's own loopback.
            builder = builder.no_proxy();
        }
        Ok(Self {
            http: builder.build().map_err(ClientError::Setup)?,
            base: base_url,
        })
    }

    /// Runs a command and streams what it prints. Dropping the stream cancels the exec.
    ///
    /// # Errors
    /// [`ClientError::Problem`] for a refusal, and for an exec that ended badly before it printed anything;
    /// [`ClientError::Transport`].
    pub async fn exec(&self, workspace: &str, call: &ExecCall) -> Result<ExecStream, ClientError> {
        let request = self
            .http
            .post(self.url(&["workspaces", workspace, "exec"]))
            .header(ACCEPT, NDJSON)
            .json(call);
        let answer = request.send().await.map_err(ClientError::unsent)?;
        Ok(ExecStream::new(checked(answer).await?))
    }

    /// Cancels an exec; as it stood then.
    ///
    /// # Errors
    /// [`ClientError::Problem`], `exec_in_progress` for one that another replica runs; or [`ClientError::Transport`].
    pub async fn cancel_exec(&self, workspace: &str, exec_id: Uuid) -> Result<Exec, ClientError> {
        self.ask_of_exec(Method::DELETE, workspace, exec_id).await
    }

    /// An exec as it stands.
    ///
    /// # Errors
    /// [`ClientError::Problem`] or [`ClientError::Transport`].
    pub async fn show_exec(&self, workspace: &str, exec_id: Uuid) -> Result<Exec, ClientError> {
        self.ask_of_exec(Method::GET, workspace, exec_id).await
    }

    async fn ask_of_exec(&self, method: Method, workspace: &str, exec_id: Uuid) -> Result<Exec, ClientError> {
        let url = self.url(&["workspaces", workspace, "exec", &exec_id.to_string()]);
        let answer = self.http.request(method, url).send().await;
        read_json(checked(answer.map_err(ClientError::unsent)?).await?).await
    }

    /// Appends path segments, each percent-encoded.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // `parse_base` lets only URLs through that can have a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

fn parse_base(base: &str) -> Option<Url> {
    Url::parse(base)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

async fn checked(response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    // 202 says that what was asked for is on its way.
    if matches!(status, StatusCode::OK | StatusCode::ACCEPTED) {
        return Ok(response);
    }
    let body = response.bytes().await.map_err(ClientError::Transport)?;
    match serde_json::from_slice::<ServiceProblem>(&body) {
        Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
        Err(_) => Err(ClientError::Unexpected {
            problem: format!("status {status} without a problem of Adit's"),
        }),
    }
}

async fn read_json<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let body = response.bytes().await.map_err(ClientError::Transport)?;
    serde_json::from_slice(&body).map_err(|error| ClientError::Unexpected {
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::SecretString;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::{ApiClient, ClientError, ExecCall};

    #[tokio::test]
    async fn a_service_that_falls_silent_is_given_up() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n";
        for (said, frames) in [
            (String::new(), 0),
            (head.to_owned(), 0),
            (format!("{head}{{\"type\":\"heartbeat\"}}\n"), 1),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let service = tokio::spawn(async move {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = [0; 1_024];
                assert_ne!(connection.read(&mut request).await.unwrap(), 0);
                connection.write_all(said.as_bytes()).await.unwrap();
                // Until the client closes.
                tokio::io::copy(&mut connection, &mut tokio::io::sink())
                    .await
                    .ok();
            });
            let token = SecretString::from("t");
            let client =
                ApiClient::with_read_timeout(&base, &token, None, &[], Duration::from_millis(200)).unwrap();
            let call = ExecCall::default();
            let mut seen = 0;
            let error = match client.exec("w", &call).await {
                Err(error) => error,
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Ok(Some(_)) => seen += 1,
                        Ok(None) => panic!("the answer did not end"),
                        Err(error) => break error,
                    }
                },
            };
            assert_eq!(seen, frames);
            assert!(
                matches!(&error, ClientError::Transport(cause) if cause.is_timeout()),
                "{error:?}"
            );
            drop(client);
            service.await.unwrap();
        }
    }

    #[test]
    fn urls_are_built_below_the_base() {
        for (base, expected) in [
            ("http://h:1", "http://h:1/workspaces/a%2Fb/exec"),
            ("http://h:1/", "http://h:1/workspaces/a%2Fb/exec"),
            ("https://h/adit/", "https://h/adit/workspaces/a%2Fb/exec"),
        ] {
            let client = ApiClient::new(base, &SecretString::from("t"), None, &[]).unwrap();
            assert_eq!(client.url(&["workspaces", "a/b", "exec"]).as_str(), expected);
        }
    }

    #[test]
    fn what_is_no_http_url_or_no_header_is_refused() {
        let token = SecretString::from("t");
        for base in ["", "h:1", "ftp://h", "unix:/x"] {
            assert!(ApiClient::new(base, &token, None, &[]).is_err(), "{base:?}");
        }
        assert!(ApiClient::new("http://h", &SecretString::from("a\nb"), None, &[]).is_err());
        assert!(ApiClient::new("http://h", &token, Some("a\nb"), &[]).is_err());
    }
}
