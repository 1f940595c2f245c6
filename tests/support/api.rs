//! The HTTP API as a client sees it: requests, answers, and the frames of a stream.

use adit_actors::exec::Exec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Certificate;
use reqwest::header::HeaderMap;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use uuid::Uuid;

/// A client of one running service.
#[derive(Clone)]
pub(crate) struct Api {
    base: String,
    client: reqwest::Client,
}

impl Api {
    /// Below `base`, which for https must show one of `roots`.
    pub(crate) fn new(base: String, roots: &[CertificateDer<'_>]) -> Self {
        let roots = roots.iter().map(|root| Certificate::from_der(root).unwrap());
        // No idle connections: a server that shuts down must not wait for them.
        let client = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .no_proxy()
            .tls_certs_merge(roots)
            .build()
            .unwrap();
        Self { base, client }
    }

    /// `http://HOST:PORT`, or with `https`.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Asks for an exec in whatever form `accept` names.
    pub(crate) async fn exec_as(
        &self,
        accept: &str,
        workspace: &str,
        token: Option<&str>,
        body: Vec<u8>,
    ) -> Answer {
        let mut request = self
            .client
            .post(format!("{}/workspaces/{workspace}/exec", self.base))
            .header("accept", accept)
            .header("content-type", "application/json")
            .body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        Answer::read(request).await
    }

    /// Asks for an exec under an Idempotency-Key.
    pub(crate) async fn exec_under(
        &self,
        key: &str,
        accept: &str,
        (workspace, token): (Uuid, &str),
        body: &Value,
    ) -> Answer {
        let request = self
            .client
            .post(format!("{}/workspaces/{workspace}/exec", self.base))
            .bearer_auth(token)
            .header("accept", accept)
            .header("idempotency-key", key)
            .json(body);
        Answer::read(request).await
    }

    /// Asks for an exec at `url` for a service with a tenant guard.
    pub(crate) async fn exec_for_org(&self, url: &str, org: Uuid, token: &str, body: &Value) -> Answer {
        let request = self
            .client
            .post(url)
            .bearer_auth(token)
            .header("accept", "application/json")
            .header("x-molecule-org-id", org.to_string())
            .json(body);
        Answer::read(request).await
    }

    /// Waits for the whole exec: the JSON form.
    pub(crate) async fn exec_json(&self, workspace: Uuid, token: &str, body: &Value) -> Answer {
        let body = serde_json::to_vec(body).unwrap();
        self.exec_as("application/json", &workspace.to_string(), Some(token), body)
            .await
    }

    /// Streams the exec: the NDJSON form.
    pub(crate) async fn exec_stream(&self, workspace: Uuid, token: &str, body: &Value) -> Answer {
        let body = serde_json::to_vec(body).unwrap();
        self.exec_as("*/*", &workspace.to_string(), Some(token), body)
            .await
    }

    /// Any other call; with a body it is JSON.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let method: reqwest::Method = method.parse().unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Answer::read(request).await
    }

    /// A GET below `/admin` and elsewhere.
    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.call("GET", path, token, None).await
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    async fn read(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Self {
            status,
            headers,
            body: answer.bytes().await.unwrap(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The `Exec` of a JSON answer.
    pub(crate) fn exec(&self) -> Exec {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        exec_of(self.json())
    }

    /// Checks that this is a problem with that status and code, and gives it.
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["status"], status, "{self:?}");
        problem
    }

    /// The `Exec` that a problem carries.
    pub(crate) fn exec_of_problem(&self, status: u16, code: &str) -> Exec {
        exec_of(self.problem(status, code)["exec"].clone())
    }

    /// The frames of a streamed answer.
    pub(crate) fn frames(&self) -> Frames {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/x-ndjson"),
            "{self:?}"
        );
        let text = std::str::from_utf8(&self.body).unwrap();
        assert!(text.ends_with('\n'), "the last frame is cut off: {text:?}");
        Frames(
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        )
    }
}

/// The `Exec` in an answer, without the output that may stand beside it.
fn exec_of(object: Value) -> Exec {
    serde_json::from_value(object).unwrap()
}

/// The frames of a streamed answer, in order.
#[derive(Debug)]
pub(crate) struct Frames(pub(crate) Vec<Value>);

impl Frames {
    /// Types of the frames, in order.
    pub(crate) fn types(&self) -> Vec<&str> {
        self.0
            .iter()
            .map(|frame| frame["type"].as_str().unwrap())
            .collect()
    }

    /// Everything that came on `stdout` or `stderr`.
    pub(crate) fn output(&self, stream: &str) -> Vec<u8> {
        self.0
            .iter()
            .filter(|frame| frame["type"] == stream)
            .flat_map(payload)
            .collect()
    }

    /// The last frame, which must be the exit frame, and the only one.
    pub(crate) fn exit(&self) -> Exec {
        let exits = self.types().iter().filter(|name| **name == "exit").count();
        assert_eq!(
            (exits, self.types().last().copied()),
            (1, Some("exit")),
            "{:?}",
            self.types()
        );
        serde_json::from_value(self.0.last().unwrap().clone()).unwrap()
    }
}

fn payload(frame: &Value) -> Vec<u8> {
    match (frame["data"].as_str(), frame["data_b64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(base64)) => STANDARD.decode(base64).unwrap(),
        _ => panic!("a frame has either `data` or `data_b64`: {frame}"),
    }
}
