//! Requests to the two APIs, signed by aws-sigv4, sent by a bare HTTP client that hides nothing.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use adit_emulator::{Credentials, Emulator, WallClock};
use aws_credential_types::Credentials as AwsCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

pub(crate) const INSTANCE: &str = "i-0123456789abcdef0";
pub(crate) const ADDRESS: &str = "10.0.0.10";

pub(crate) fn credentials() -> Credentials {
    Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
}

/// Names and values of headers or of parameters.
pub(crate) type Pairs = Vec<(String, String)>;

/// How a request is signed.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    pub(crate) credentials: Credentials,
    pub(crate) region: &'static str,
    pub(crate) service: &'static str,
    pub(crate) time: SystemTime,
}

impl Default for Signer {
    fn default() -> Self {
        Self {
            credentials: credentials(),
            region: "us-east-1",
            service: "ec2-instance-connect",
            time: WallClock::new().now().into(),
        }
    }
}

impl Signer {
    fn sign(&self, settings: SigningSettings, request: SignableRequest<'_>) -> (Pairs, Pairs) {
        let identity = AwsCredentials::new(
            &self.credentials.access_key_id,
            &self.credentials.secret_access_key,
            self.credentials.session_token.clone(),
            None,
            "test",
        )
        .into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name(self.service)
            .time(self.time)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let (instructions, _) = sign(request, &parameters).unwrap().into_parts();
        let headers = instructions
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let parameters = instructions
            .params()
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_string()))
            .collect();
        (headers, parameters)
    }

    /// Path and query of a signed `openTunnel` URL.
    pub(crate) fn tunnel_path(&self, host: &str, parameters: &str) -> String {
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(Duration::from_secs(60));
        let url = format!("wss://{host}/openTunnel?{parameters}");
        let request =
            SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(b"")).unwrap();
        let (_, signed) = self.sign(settings, request);
        let extra: Vec<String> = signed
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encode(value)))
            .collect();
        format!("/openTunnel?{parameters}&{}", extra.join("&"))
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

pub(crate) const TUNNEL: &str =
    "instanceConnectEndpointId=eice-0123456789abcdef0&remotePort=22&privateIpAddress=10.0.0.10";

/// An HTTP answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}

/// Sends one request with exactly these headers, beside `Content-Length` and `Connection: close`.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &str,
) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| name == "Connection") {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = soon("an HTTP answer", stream.read(&mut buffer))
            .await
            .unwrap_or(0);
        answer.extend_from_slice(&buffer[..read]);
        if let Some(complete) = parse(&answer, read == 0) {
            return complete;
        }
        assert_ne!(read, 0, "no HTTP answer");
    }
}

fn parse(bytes: &[u8], at_end: bool) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let answer = Answer {
        status,
        headers,
        body: body.to_owned(),
    };
    let length = answer
        .header("content-length")
        .and_then(|length| length.parse::<usize>().ok())
        .unwrap_or(0);
    (at_end || body.len() >= length).then_some(answer)
}

/// The body of a push that is accepted.
pub(crate) fn push_body(user: &str, key: &str) -> Value {
    json!({"InstanceId": INSTANCE, "InstanceOSUser": user, "SSHPublicKey": key})
}

/// Sends a signed `SendSSHPublicKey`.
pub(crate) async fn push(emulator: &Emulator, signer: &Signer, body: &str) -> Answer {
    push_with(
        emulator,
        signer,
        body,
        "AWSEC2InstanceConnectService.SendSSHPublicKey",
        |_| {},
    )
    .await
}

/// The same, with a chance to spoil the headers after they were signed.
pub(crate) async fn push_with(
    emulator: &Emulator,
    signer: &Signer,
    body: &str,
    target: &str,
    spoil: impl FnOnce(&mut Vec<(String, String)>),
) -> Answer {
    let host = emulator.address().to_string();
    let url = format!("http://{host}/");
    let given = [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", target),
    ];
    let request_to_sign = SignableRequest::new(
        "POST",
        &url,
        given.into_iter(),
        SignableBody::Bytes(body.as_bytes()),
    )
    .unwrap();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::Headers;
    let (signed, _) = signer.sign(settings, request_to_sign);
    let mut headers = vec![("Host".to_owned(), host)];
    headers.extend(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
    headers.extend(signed);
    spoil(&mut headers);
    request(emulator.address(), "POST", "/", &headers, body).await
}

/// Sends a signed EC2 Query request: `Action=...&...`, without the version.
pub(crate) async fn ec2(emulator: &Emulator, signer: &Signer, parameters: &str) -> Answer {
    let body = format!("{parameters}&Version=2016-11-15");
    let host = emulator.address().to_string();
    let url = format!("http://{host}/");
    let media_type = "application/x-www-form-urlencoded; charset=utf-8";
    let given = [("content-type", media_type)];
    let to_sign = SignableRequest::new(
        "POST",
        &url,
        given.into_iter(),
        SignableBody::Bytes(body.as_bytes()),
    )
    .unwrap();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::Headers;
    let (signed, _) = signer.sign(settings, to_sign);
    let mut headers = vec![("Host".to_owned(), host)];
    headers.extend(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
    headers.extend(signed);
    request(emulator.address(), "POST", "/", &headers, &body).await
}

/// Headers of a websocket upgrade.
pub(crate) fn upgrade_headers(host: &str) -> Vec<(String, String)> {
    [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("User-Agent", "test"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Asks for a tunnel by these parameters and returns the answer's head.
pub(crate) async fn open_tunnel(emulator: &Emulator, signer: &Signer, parameters: &str) -> Answer {
    let host = emulator.address().to_string();
    let path = signer.tunnel_path(&host, parameters);
    request(emulator.address(), "GET", &path, &upgrade_headers(&host), "").await
}
