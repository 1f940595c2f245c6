//! `SendSSHPublicKey`: what is accepted, and the exact shape of what is not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod support;

use std::time::Duration;

use adit_emulator::{Credentials, Emulator, Instance, InstanceBackend, InstanceState, Settings};
use serde_json::{Value, json};
use support::requests::{Answer, INSTANCE, Pairs, Signer, credentials, push, push_body, push_with, request};
use support::ssh::{new_key, public_text};

const TARGET: &str = "AWSEC2InstanceConnectService.SendSSHPublicKey";
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDnhNrSQtKbMDSGvjxiJ9djsm38+fTddeVuOAIKSQxhbCxJwtwKPPjYPUTSVvZFjM8oD/pFlQ+2MP3bWt99Fjg3Q62DFbldSLHB3uvoz/lOJnwHfgvKTHLY2pvqFr/4b0wHqVuz3Ssel1qmSUUJRXI7aYej1NoNlbCpFHHDzQe10Q0WHirFY6FAPi+gtqY6ucebIL9Q57YH8Xf9miRK6bxnfEOH2puWK7D1uqYFdq0h3tmdZpiMFZTUAMuTqpfqr4LVSu8pbGEM0I8BE5atqL3VJJCd+3UG1EKRKiK9Drr8EzuHWCepfbi8GBULzdD6qCo1joKZB1K3IJ3RazpylUAV";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc=";

async fn start() -> Emulator {
    Emulator::start(Settings::new(credentials())).await.unwrap()
}

fn assert_error(name: &str, answer: &Answer, code: &str, member: &str) {
    assert_eq!(answer.status, 400, "{name}: {answer:?}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/x-amz-json-1.1"),
        "{name}"
    );
    assert!(answer.header("x-amzn-requestid").is_some(), "{name}");
    let body = answer.json();
    assert_eq!(body["__type"], code, "{name}: {body}");
    assert!(
        body[member].as_str().is_some_and(|text| !text.is_empty()),
        "{name}: {body}"
    );
    assert_eq!(body.as_object().unwrap().len(), 2, "{name}: {body}");
}

#[tokio::test]
async fn a_valid_push_succeeds() {
    let emulator = start().await;
    let key = public_text(&new_key());
    assert_eq!(key.len(), 80, "the least that AWS takes");
    for (user, key) in [
        ("ec2-user", key.clone()),
        ("_a.b@c$", key.clone()),
        ("ubuntu", RSA.to_owned()),
        ("ec2-user", format!("{key} me@here\n")),
    ] {
        let answer = push(&emulator, &Signer::default(), &push_body(user, &key).to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/x-amz-json-1.1"));
        let body = answer.json();
        assert_eq!(
            body,
            json!({"RequestId": answer.header("x-amzn-requestid").unwrap(), "Success": true})
        );
    }
    assert_eq!(emulator.counters().pushes, 4);
}

/// Changes headers after they were signed.
type Spoil = fn(&mut Pairs);

struct Case {
    name: &'static str,
    change: fn(&mut Value),
    code: &'static str,
}

const CASES: [Case; 17] = [
    Case {
        name: "no instance",
        change: |body| drop(body.as_object_mut().unwrap().remove("InstanceId")),
        code: "InvalidArgsException",
    },
    Case {
        name: "short instance id",
        change: |body| body["InstanceId"] = "i-1234567".into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "long instance id",
        change: |body| body["InstanceId"] = format!("i-{}", "0".repeat(31)).into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "upper case id",
        change: |body| body["InstanceId"] = "i-0123456789ABCDEF0".into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "other resource",
        change: |body| body["InstanceId"] = "vpc-0123456789abcdef0".into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "unknown instance",
        change: |body| body["InstanceId"] = "i-0fffffffffffffff0".into(),
        code: "EC2InstanceNotFoundException",
    },
    Case {
        name: "no user",
        change: |body| drop(body.as_object_mut().unwrap().remove("InstanceOSUser")),
        code: "InvalidArgsException",
    },
    Case {
        name: "empty user",
        change: |body| body["InstanceOSUser"] = "".into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "long user",
        change: |body| body["InstanceOSUser"] = "a".repeat(33).into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "path as user",
        change: |body| body["InstanceOSUser"] = "../root".into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "no key",
        change: |body| drop(body.as_object_mut().unwrap().remove("SSHPublicKey")),
        code: "InvalidArgsException",
    },
    Case {
        name: "short key",
        change: |body| body["SSHPublicKey"] = "ssh-ed25519 AAAA".into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "long key",
        change: |body| body["SSHPublicKey"] = "a".repeat(4097).into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "not a key",
        change: |body| body["SSHPublicKey"] = "a".repeat(80).into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "ecdsa key",
        change: |body| body["SSHPublicKey"] = ECDSA.into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "short zone",
        change: |body| body["AvailabilityZone"] = "us".into(),
        code: "InvalidArgsException",
    },
    Case {
        name: "two keys",
        change: |body| {
            body["SSHPublicKey"] = format!("{0}\n{0}", body["SSHPublicKey"].as_str().unwrap()).into()
        },
        code: "InvalidArgsException",
    },
];

#[tokio::test]
async fn invalid_pushes_are_refused_as_aws_does() {
    let emulator = start().await;
    for case in &CASES {
        let mut body = push_body("ec2-user", &public_text(&new_key()));
        (case.change)(&mut body);
        let answer = push(&emulator, &Signer::default(), &body.to_string()).await;
        assert_error(case.name, &answer, case.code, "Message");
    }
    let options = format!("command=\"id\" {}", public_text(&new_key()));
    let answer = push(
        &emulator,
        &Signer::default(),
        &push_body("ec2-user", &options).to_string(),
    )
    .await;
    assert_eq!(
        answer.json()["Message"],
        "Invalid input parameter received for Illegal argument exception: SSH Public key is invalid"
    );
    let answer = push(
        &emulator,
        &Signer::default(),
        &push_body("ec2-user", RSA.strip_suffix(|_| true).unwrap()).to_string(),
    )
    .await;
    assert_error("broken RSA key", &answer, "InvalidArgsException", "Message");
    assert_eq!(emulator.counters().pushes, 0);
}

#[tokio::test]
async fn a_body_that_is_not_the_operations_is_refused() {
    let emulator = start().await;
    let body = push_body("ec2-user", &public_text(&new_key())).to_string();
    for text in ["", "{", "[]", "{\"InstanceId\": 5}"] {
        let answer = push(&emulator, &Signer::default(), text).await;
        assert_error(text, &answer, "SerializationException", "message");
    }
    let other = "AWSEC2InstanceConnectService.SendSerialConsoleSSHPublicKey";
    let answer = push_with(&emulator, &Signer::default(), &body, other, |_| {}).await;
    assert_error("other operation", &answer, "UnknownOperationException", "message");
    let huge = "x".repeat(100_000);
    assert_eq!(push(&emulator, &Signer::default(), &huge).await.status, 413);
    let host = [("Host".to_owned(), "x".to_owned())];
    assert_eq!(
        request(emulator.address(), "GET", "/", &host, "").await.status,
        404
    );
    assert_eq!(
        request(emulator.address(), "POST", "/other", &host, "")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn only_the_given_credentials_and_scope_sign() {
    let emulator = start().await;
    let body = push_body("ec2-user", &public_text(&new_key())).to_string();
    let good = Signer::default();
    let key_id = credentials().access_key_id;
    let with = |credentials: Credentials| Signer {
        credentials,
        ..good.clone()
    };
    let token = Credentials {
        session_token: Some("token".to_owned()),
        ..credentials()
    };
    let cases = [
        (
            "wrong secret",
            with(Credentials::new(key_id, "other")),
            "InvalidSignatureException",
        ),
        (
            "unknown key",
            with(Credentials::new("AKIDOTHER", "x")),
            "UnrecognizedClientException",
        ),
        ("unknown token", with(token), "UnrecognizedClientException"),
        (
            "wrong region",
            Signer {
                region: "eu-west-1",
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
        (
            "wrong service",
            Signer {
                service: "ec2",
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
        (
            "old",
            Signer {
                time: good.time - Duration::from_secs(310),
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
        (
            "ahead",
            Signer {
                time: good.time + Duration::from_secs(310),
                ..good.clone()
            },
            "InvalidSignatureException",
        ),
    ];
    for (name, signer, code) in cases {
        assert_error(name, &push(&emulator, &signer, &body).await, code, "message");
    }
    let spoiled: [(&str, Spoil, &str); 4] = [
        (
            "no authorization",
            |headers| headers.retain(|(name, _)| name != "authorization"),
            "MissingAuthenticationTokenException",
        ),
        (
            "no date",
            |headers| headers.retain(|(name, _)| name != "x-amz-date"),
            "IncompleteSignatureException",
        ),
        (
            "other host",
            |headers| headers[0].1 = "example.com".to_owned(),
            "InvalidSignatureException",
        ),
        (
            "other target",
            |headers| headers[2].1 = "x".to_owned(),
            "InvalidSignatureException",
        ),
    ];
    for (name, spoil, code) in spoiled {
        let answer = push_with(&emulator, &good, &body, TARGET, spoil).await;
        assert_error(name, &answer, code, "message");
    }
    assert_eq!(push(&emulator, &good, &body).await.status, 200);
    assert_eq!(emulator.counters().pushes, 1);
}

#[tokio::test]
async fn a_session_token_must_be_the_one_given() {
    let temporary = Credentials {
        session_token: Some("TOK/+=".to_owned()),
        ..credentials()
    };
    let emulator = Emulator::start(Settings::new(temporary.clone())).await.unwrap();
    let body = push_body("ec2-user", &public_text(&new_key())).to_string();
    let signer = Signer {
        credentials: temporary,
        ..Signer::default()
    };
    assert_eq!(push(&emulator, &signer, &body).await.status, 200);
    let answer = push(&emulator, &Signer::default(), &body).await;
    assert_error("no token", &answer, "UnrecognizedClientException", "message");
}

#[tokio::test]
async fn state_zone_and_policy_of_the_instance_count() {
    let mut settings = Settings::new(credentials());
    settings.instances = vec![Instance {
        availability_zone: Some("us-east-1a".to_owned()),
        allowed_os_users: Some(vec!["ec2-user".to_owned()]),
        ..Instance::default()
    }];
    let emulator = Emulator::start(settings).await.unwrap();
    let mut body = push_body("root", &public_text(&new_key()));
    let answer = push(&emulator, &Signer::default(), &body.to_string()).await;
    assert_error("policy", &answer, "AccessDeniedException", "Message");
    let text = answer.json()["Message"].as_str().unwrap().to_owned();
    assert!(text.contains("is not authorized to perform: ec2-instance-connect:SendSSHPublicKey on resource: arn:aws:ec2:us-east-1:"));
    assert!(text.contains(&format!(":instance/{INSTANCE} because")));

    body["InstanceOSUser"] = "ec2-user".into();
    body["AvailabilityZone"] = "us-east-1b".into();
    let answer = push(&emulator, &Signer::default(), &body.to_string()).await;
    assert_error("zone", &answer, "EC2InstanceNotFoundException", "Message");
    body["AvailabilityZone"] = "us-east-1a".into();
    assert_eq!(
        push(&emulator, &Signer::default(), &body.to_string())
            .await
            .status,
        200
    );

    assert!(emulator.set_instance_state(INSTANCE, InstanceState::Stopped));
    let answer = push(&emulator, &Signer::default(), &body.to_string()).await;
    assert_error("stopped", &answer, "EC2InstanceStateInvalidException", "Message");
    assert!(emulator.set_instance_state(INSTANCE, InstanceState::Running));
    assert_eq!(
        push(&emulator, &Signer::default(), &body.to_string())
            .await
            .status,
        200
    );
    assert!(!emulator.set_instance_state("i-0fffffffffffffff0", InstanceState::Stopped));
}

#[tokio::test]
async fn keys_that_cannot_be_written_are_a_fault_of_the_service() {
    let mut settings = Settings::new(credentials());
    settings.instances = vec![Instance {
        backend: InstanceBackend::External {
            address: ([127, 0, 0, 1], 1).into(),
            authorized_keys_dir: "/nonexistent/keys".into(),
        },
        ..Instance::default()
    }];
    let emulator = Emulator::start(settings).await.unwrap();
    let body = push_body("ec2-user", &public_text(&new_key())).to_string();
    let answer = push(&emulator, &Signer::default(), &body).await;
    assert_eq!(
        (answer.status, &answer.json()["__type"]),
        (500, &json!("ServiceException"))
    );
}

#[tokio::test]
async fn settings_that_contradict_themselves_are_refused() {
    let mut settings = Settings::new(credentials());
    settings.listen = ([0, 0, 0, 0], 0).into();
    assert!(
        Emulator::start(settings)
            .await
            .unwrap_err()
            .to_string()
            .contains("loopback")
    );
    let mut settings = Settings::new(credentials());
    settings.instances = vec![Instance::default(), Instance::default()];
    assert!(
        Emulator::start(settings)
            .await
            .unwrap_err()
            .to_string()
            .contains(INSTANCE)
    );
    let mut settings = Settings::new(credentials());
    settings.instances = vec![Instance {
        private_ip_address: "host".to_owned(),
        ..Instance::default()
    }];
    assert!(
        Emulator::start(settings)
            .await
            .unwrap_err()
            .to_string()
            .contains("`host`")
    );
}
