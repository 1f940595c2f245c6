//! The SDK's client against canned answers over a real socket.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use adit_actors::clock::Clock;
use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::chain;
use aws_credential_types::Credentials;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::super::{AwsConnection, AwsOptions};
use super::*;

struct Service {
    url: String,
    requests: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

/// Answers every request with `status` and `body`, after having checked that it is the operation as AWS specifies it.
async fn service(status: u16, body: &'static str) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let task = tokio::spawn(async move {
        loop {
            let (socket, _peer) = listener.accept().await.unwrap();
            let counter = counter.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                counter.fetch_add(1, Ordering::SeqCst);
                async move {
                    check(request).await;
                    Response::builder()
                        .status(status)
                        .header("x-amzn-requestid", "req-1")
                        .header("content-type", "application/x-amz-json-1.1")
                        .body(Full::new(Bytes::from_static(body.as_bytes())))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
        }
    });
    Service {
        url,
        requests,
        _task: AbortOnDropHandle::new(task),
    }
}

async fn check(request: Request<Incoming>) {
    assert_eq!(
        request.headers()["x-amz-target"],
        "AWSEC2InstanceConnectService.SendSSHPublicKey"
    );
    assert!(
        request.headers()["authorization"]
            .to_str()
            .unwrap()
            .contains("/eu-north-1/ec2-instance-connect/")
    );
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let expected = serde_json::json!({
        "InstanceId": "i-0123456789abcdef0", "InstanceOSUser": "ubuntu",
        "SSHPublicKey": KEY, "AvailabilityZone": "eu-north-1a",
    });
    assert_eq!(body, expected);
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0vZ1Yk3Zf6m5m1kqv6h3dZ6mQ0k1m1c2r9T4V3b2Yx";

async fn push(url: &str) -> Result<KeyGrantReceipt, GrantError> {
    let options = AwsOptions {
        credentials: Some(Credentials::new("access_key", "secret_key", None, None, "test")),
        key_push_endpoint: Some(url.to_owned()),
        tunnel_endpoint: Some("ws://127.0.0.1:1".parse().unwrap()),
        ..AwsOptions::new("us-west-2")
    };
    let target = InstanceTarget {
        instance: InstanceKey {
            region: "eu-north-1".into(),
            instance_id: "i-0123456789abcdef0".into(),
        },
        os_user: "ubuntu".into(),
        availability_zone: Some("eu-north-1a".into()),
        address: None,
        port: None,
        endpoint: None,
    };
    AwsConnection::open(options, Clock::system())
        .await
        .unwrap()
        .key_grants()
        .push_key(&target, KEY)
        .await
}

fn kind(error: &GrantError) -> Kind {
    match error {
        GrantError::Denied(_) => Kind::Denied,
        GrantError::InstanceNotFound(_) => Kind::InstanceNotFound,
        GrantError::InstanceNotRunning(_) => Kind::InstanceNotRunning,
        GrantError::Throttled(_) => Kind::Throttled,
        GrantError::Unreachable(_) => Kind::Unreachable,
    }
}

#[tokio::test]
async fn success_carries_the_request_id() {
    let service = service(200, r#"{"RequestId":"req-1","Success":true}"#).await;
    let receipt = push(&service.url).await.unwrap();
    assert_eq!(receipt.request_id.as_deref(), Some("req-1"));
    assert_eq!(service.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_without_success_is_no_grant() {
    let service = service(200, r#"{"RequestId":"req-1","Success":false}"#).await;
    assert_eq!(kind(&push(&service.url).await.unwrap_err()), Kind::Denied);
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let table = [
        (400, r#"{"__type":"AuthException","Message":"no"}"#, Kind::Denied),
        (
            400,
            r#"{"__type":"InvalidArgsException","Message":"SSH Public key is invalid"}"#,
            Kind::Denied,
        ),
        (
            400,
            r#"{"__type":"EC2InstanceNotFoundException","Message":"no"}"#,
            Kind::InstanceNotFound,
        ),
        (
            400,
            r#"{"__type":"EC2InstanceStateInvalidException","Message":"no"}"#,
            Kind::InstanceNotRunning,
        ),
        // In no service's model; the message is IAM's.
        (
            400,
            r#"{"__type":"AccessDeniedException","Message":"User: arn:aws:iam::1:user/x is not authorized"}"#,
            Kind::Denied,
        ),
        (
            400,
            r#"{"__type":"UnrecognizedClientException","message":"bad token"}"#,
            Kind::Denied,
        ),
        (
            403,
            r#"{"__type":"InvalidSignatureException","message":"bad signature"}"#,
            Kind::Denied,
        ),
        (
            400,
            r#"{"__type":"SomethingNew","message":"?"}"#,
            Kind::Unreachable,
        ),
        (400, "no JSON", Kind::Unreachable),
    ];
    for (status, body, expected) in table {
        let service = service(status, body).await;
        let error = push(&service.url).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{body}");
        let source = error.source().unwrap().to_string();
        assert!(source.contains("`req-1`"), "{source}");
        assert_eq!(
            service.requests.load(Ordering::SeqCst),
            1,
            "{body}: not worth another try"
        );
    }
}

#[tokio::test]
async fn a_refusal_says_each_thing_once() {
    let denial =
        r#"{"__type":"AccessDeniedException","Message":"User: arn:aws:iam::1:user/x is not authorized"}"#;
    for (body, text) in [
        (
            denial,
            "key push was denied: EC2 Instance Connect answered 400 `AccessDeniedException`: \"User: \
             arn:aws:iam::1:user/x is not authorized\" (AWS request id `req-1`)",
        ),
        (
            r#"{"__type":"EC2InstanceNotFoundException","message":"no such"}"#,
            "key push found no such instance: EC2 Instance Connect answered 400 \
             `EC2InstanceNotFoundException`: \"no such\" (AWS request id `req-1`)",
        ),
        (
            "no JSON",
            "key push did not reach EC2 Instance Connect: EC2 Instance Connect answered 400 `none`: \"\" \
             (AWS request id `req-1`)",
        ),
    ] {
        let service = service(400, body).await;
        assert_eq!(chain(&push(&service.url).await.unwrap_err()), text);
    }
}

#[tokio::test]
async fn throttling_and_faults_are_tried_again_first() {
    let table = [
        (
            400,
            r#"{"__type":"ThrottlingException","Message":"Server is busy! Please retry after a moment."}"#,
            Kind::Throttled,
        ),
        (
            500,
            r#"{"__type":"ServiceException","Message":"oops"}"#,
            Kind::Unreachable,
        ),
        (
            503,
            r#"{"__type":"EC2InstanceUnavailableException","Message":"no"}"#,
            Kind::InstanceNotRunning,
        ),
    ];
    for (status, body, expected) in table {
        let service = service(status, body).await;
        assert_eq!(kind(&push(&service.url).await.unwrap_err()), expected, "{body}");
        assert_eq!(
            service.requests.load(Ordering::SeqCst),
            MAX_ATTEMPTS as usize,
            "{body}"
        );
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = push(&url).await.unwrap_err();
    assert_eq!(kind(&error), Kind::Unreachable);
    let text = chain(&error);
    assert!(
        text.contains("no usable answer") && text.contains("refused"),
        "{text}"
    );
}
