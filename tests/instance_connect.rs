//! The AWS boundaries against the emulator, over real sockets: push a key, open a tunnel, hear from sshd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail it by panicking; clippy.toml reaches only the test functions themselves"
)]

use adit::aws::{AwsConnection, AwsOptions};
use adit_actors::clock::Clock;
use adit_actors::instance::{EndpointHint, InstanceKey, InstanceTarget};
use adit_actors::tunnel::{DialError, Dialed, Dialer, GrantError, KeyGrants, Location};
use adit_emulator::{Credentials, Emulator, InstanceState, Settings};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

const INSTANCE: &str = "i-0123456789abcdef0";
const PUBLIC_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBukA0YHZqPoaYhW9wAPiIPN2ay5M2UwEOCMFUMRvfs9";

fn settings() -> Settings {
    let mut settings = Settings::new(Credentials::new("AKIDEXAMPLE", "secret"));
    settings.region = "eu-north-1".into();
    settings
}

async fn connection(emulator: &Emulator, secret: &str) -> AwsConnection {
    let options = AwsOptions {
        credentials: Some(aws_credential_types::Credentials::new(
            "AKIDEXAMPLE",
            secret,
            None,
            None,
            "test",
        )),
        key_push_endpoint: Some(emulator.http_url()),
        tunnel_endpoint: Some(emulator.tunnel_url().parse().unwrap()),
        ..AwsOptions::new("eu-north-1")
    };
    AwsConnection::open(options, Clock::system()).await.unwrap()
}

fn target(instance_id: &str, os_user: &str) -> InstanceTarget {
    InstanceTarget {
        instance: InstanceKey {
            region: "eu-north-1".into(),
            instance_id: instance_id.into(),
        },
        os_user: os_user.into(),
        availability_zone: None,
        address: None,
        port: None,
        endpoint: None,
    }
}

fn location() -> Location {
    Location {
        address: "10.0.0.10".parse().unwrap(),
        port: 22,
        endpoint: Some(endpoint("eice-0123456789abcdef0")),
    }
}

fn endpoint(endpoint_id: &str) -> EndpointHint {
    EndpointHint {
        endpoint_id: endpoint_id.to_owned(),
        dns_name: "eice-0123456789abcdef0.example".to_owned(),
    }
}

async fn dial(aws: &AwsConnection, location: &Location) -> Result<Dialed, DialError> {
    aws.dialer().dial(&target(INSTANCE, "ubuntu"), location).await
}

#[tokio::test]
async fn a_key_is_pushed_and_sshd_answers_through_the_tunnel() {
    let emulator = Emulator::start(settings()).await.unwrap();
    let aws = connection(&emulator, "secret").await;
    let receipt = aws
        .key_grants()
        .push_key(&target(INSTANCE, "ubuntu"), PUBLIC_KEY)
        .await
        .unwrap();
    assert!(receipt.request_id.is_some());
    assert_eq!(emulator.counters().pushes, 1);

    let dialed = dial(&aws, &location()).await.unwrap();
    assert!(dialed.request_id.is_some());
    let mut stream = BufReader::new(dialed.stream);
    let mut banner = String::new();
    stream.read_line(&mut banner).await.unwrap();
    assert!(banner.starts_with("SSH-2.0-"), "{banner}");
    assert_eq!(emulator.counters().tunnels_open, 1);

    stream.into_inner().shutdown().await.unwrap();
    emulator.stop().await;
}

#[tokio::test]
async fn a_stopped_instance_refuses_keys_and_its_tunnel_ends_with_the_reason() {
    let emulator = Emulator::start(settings()).await.unwrap();
    let aws = connection(&emulator, "secret").await;
    assert!(emulator.set_instance_state(INSTANCE, InstanceState::Stopped));
    let error = aws
        .key_grants()
        .push_key(&target(INSTANCE, "ubuntu"), PUBLIC_KEY)
        .await
        .unwrap_err();
    assert!(matches!(error, GrantError::InstanceNotRunning(_)), "{error:?}");

    let mut stream = dial(&aws, &location()).await.unwrap().stream;
    let error = stream.read_u8().await.unwrap_err();
    assert!(
        error.to_string().contains("Unable to connect to target"),
        "{error}"
    );
    emulator.stop().await;
}

#[tokio::test]
async fn what_aws_refuses_is_told_apart() {
    let mut settings = settings();
    settings.instances[0].allowed_os_users = Some(vec!["ubuntu".into()]);
    settings.max_connections = 1;
    let emulator = Emulator::start(settings).await.unwrap();
    let aws = connection(&emulator, "secret").await;

    let push = async |aws: &AwsConnection, target| aws.key_grants().push_key(&target, PUBLIC_KEY).await;
    let error = push(&aws, target(INSTANCE, "root")).await.unwrap_err();
    assert!(matches!(error, GrantError::Denied(_)), "IAM: {error:?}");
    let error = push(&aws, target("i-00000000000000000", "ubuntu"))
        .await
        .unwrap_err();
    assert!(matches!(error, GrantError::InstanceNotFound(_)), "{error:?}");

    let impostor = connection(&emulator, "another secret").await;
    let error = push(&impostor, target(INSTANCE, "ubuntu")).await.unwrap_err();
    assert!(matches!(error, GrantError::Denied(_)), "signature: {error:?}");
    let error = dial(&impostor, &location()).await.unwrap_err();
    assert!(matches!(error, DialError::Denied(_)), "signature: {error:?}");

    let error = dial(
        &aws,
        &Location {
            port: 2222,
            ..location()
        },
    )
    .await
    .unwrap_err();
    assert!(matches!(error, DialError::Refused(_)), "port: {error:?}");
    let error = dial(
        &aws,
        &Location {
            endpoint: Some(endpoint("eice-1")),
            ..location()
        },
    )
    .await
    .unwrap_err();
    assert!(matches!(error, DialError::Refused(_)), "endpoint: {error:?}");

    let _first = dial(&aws, &location()).await.unwrap();
    let error = dial(&aws, &location()).await.unwrap_err();
    assert!(matches!(error, DialError::EndpointBusy(_)), "{error:?}");
    assert_eq!(emulator.counters().pushes, 0);
    emulator.stop().await;
}
