//! Roots: without the system's, and with the SDK's own client.

use adit_actors::clock::Clock;
use adit_actors::tunnel::{GrantError, KeyGrants, chain};
use aws_credential_types::Credentials;

use super::super::test_support::{Service, target, test_authority};
use super::super::{AwsConnection, AwsOptions};
use super::*;

#[tokio::test]
async fn a_system_without_roots_is_no_obstacle_to_roots_of_ones_own() {
    let (root, acceptor) = test_authority("localhost");
    let roots = Roots {
        system: RootCertStore::empty(),
        extra: vec![root],
    };
    assert!(!roots.is_empty());
    let server = Service::start(Some(acceptor), |_, _| (200, "served".to_owned())).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(roots.client_config().unwrap())
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/", server.address.port());
    let text = client.get(url).send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "served");
    // In a debug build the SDK panics when it is told to use the system's roots and finds none.
    let printed = format!("{:?}", roots.sdk_trust_store());
    assert!(printed.contains("enable_native_roots: false"), "{printed}");
}

#[test]
fn what_is_no_certificate_is_refused() {
    let roots = Roots::of_the_system_and(vec![CertificateDer::from(vec![1, 2, 3])]);
    let error = roots.client_config().unwrap_err();
    assert!(matches!(error, TlsError::ExtraRoot(_)), "{error:?}");
}

async fn push(port: u16, roots: Vec<CertificateDer<'static>>) -> Result<Option<String>, GrantError> {
    let options = AwsOptions {
        credentials: Some(Credentials::new("access_key", "secret_key", None, None, "test")),
        key_push_endpoint: Some(format!("https://localhost:{port}")),
        tunnel_endpoint: Some("ws://127.0.0.1:1".parse().unwrap()),
        extra_roots: roots,
        ..AwsOptions::new("us-west-2")
    };
    let aws = AwsConnection::open(options, Clock::system()).await.unwrap();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0vZ1Yk3Zf6m5m1kqv6h3dZ6mQ0k1m1c2r9T4V3b2Yx";
    let receipt = aws.key_grants().push_key(&target(), key).await?;
    Ok(receipt.request_id)
}

#[tokio::test]
async fn the_key_push_trusts_the_root_that_it_was_given_and_no_other() {
    let (root, acceptor) = test_authority("localhost");
    let answer = r#"{"RequestId":"request-1","Success":true}"#;
    let server = Service::start(Some(acceptor), move |_, _| (200, answer.to_owned())).await;
    let port = server.address.port();
    assert_eq!(
        push(port, vec![root]).await.unwrap().as_deref(),
        Some("request-1")
    );

    let error = push(port, Vec::new()).await.unwrap_err();
    assert!(matches!(error, GrantError::Unreachable(_)), "{error:?}");
    assert!(
        chain(&error).contains("invalid peer certificate"),
        "{}",
        chain(&error)
    );
    assert_eq!(server.asked().len(), 1);
}
