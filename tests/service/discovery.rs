//! Instances and endpoints that EC2 is asked for, over TLS as well, and instances that are reached without an endpoint.

use std::net::SocketAddr;

use adit::settings::Connect;
use adit_emulator::{DiscoveryFaults, Times, TlsIdentity};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Backend, Fleet, Setup, TestApp};

const UNKNOWN: Fleet = Fleet {
    forced_command: None,
    instances: 1,
    max_sessions: 10,
    addresses_are_known: false,
};

/// The workspaces say no address, and the settings no endpoint.
async fn start_unknown(backend: Backend, change: impl FnOnce(&mut Setup)) -> TestApp {
    TestApp::start_fleet(backend, UNKNOWN, |setup| {
        setup.settings.aws.endpoint_id = None;
        setup.settings.aws.endpoint_dns_name = None;
        change(setup);
    })
    .await
}

async fn runs_in_one_tunnel_found_once(app: &TestApp) {
    for _ in 0..3 {
        let answer = app.run(json!({ "cmd": ["echo", "found"] })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["stdout"], "found\n");
    }
    let counters = app.emulator.counters();
    assert_eq!(
        (counters.describe_instances, counters.describe_endpoints),
        (1, 1),
        "asked once, and signed so that the emulator believed it"
    );
    let snapshot = &app.tunnels().await["data"][0]["tunnels"][0];
    assert_eq!(snapshot["endpoint_id"], "eice-0123456789abcdef0");
}

#[actix_rt::test]
async fn ec2_says_where_the_instance_is_and_which_endpoint_leads_there() {
    let app = start_unknown(Backend::OpenSshDash, |_setup| {}).await;
    runs_in_one_tunnel_found_once(&app).await;
    app.finish().await;
}

/// Everything that goes to AWS goes over TLS: discovery, key push and the tunnel's websocket.
#[actix_rt::test]
async fn with_an_authority_of_its_own_the_emulator_is_believed_over_tls() {
    let directory = TempDir::new().unwrap();
    let app = start_unknown(Backend::InProcess, |setup| with_tls(setup, &directory)).await;
    assert!(app.emulator.tunnel_url().starts_with("wss://"));
    runs_in_one_tunnel_found_once(&app).await;
    app.finish().await;
}

#[actix_rt::test]
async fn without_that_authority_it_is_not() {
    let directory = TempDir::new().unwrap();
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        with_tls(setup, &directory);
        setup.settings.aws.tunnel_ca_file = None;
    })
    .await;
    let answer = app.run(json!({ "cmd": ["true"] })).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json()["code"], "target_unreachable");
    assert_eq!(app.emulator.counters().push_attempts, 0);
    app.finish().await;
}

/// A certificate for the emulator's address, and the settings that trust it.
fn with_tls(setup: &mut Setup, directory: &TempDir) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = made.cert.pem();
    let key = made.signing_key.serialize_pem();
    setup.emulator.tls = Some(TlsIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap());
    let file = directory.path().join("roots.pem");
    std::fs::write(&file, certificate).unwrap();
    setup.settings.aws.tunnel_ca_file = Some(file);
}

#[actix_rt::test]
async fn what_ec2_does_not_know_or_may_not_tell_is_named() {
    let app = start_unknown(Backend::InProcess, |setup| setup.emulator.instances.clear()).await;
    let answer = app.run(json!({ "cmd": ["true"] })).await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (502, &json!("instance_not_found"))
    );
    app.finish().await;

    let app = start_unknown(Backend::InProcess, |setup| setup.emulator.endpoints.clear()).await;
    let answer = app.run(json!({ "cmd": ["true"] })).await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (502, &json!("no_endpoint"))
    );
    app.finish().await;
}

#[actix_rt::test]
async fn what_ec2_may_not_tell_or_is_throttled_for_is_named() {
    let denied = DiscoveryFaults {
        denied: Times::Always,
        ..DiscoveryFaults::default()
    };
    let throttled = DiscoveryFaults {
        throttled: Times::Always,
        ..DiscoveryFaults::default()
    };
    for (faults, status, code) in [(denied, 502, "grant_denied"), (throttled, 503, "grant_throttled")] {
        let app = start_unknown(Backend::InProcess, |_setup| {}).await;
        app.emulator.set_discovery_faults(faults);
        let answer = app.run(json!({ "cmd": ["true"] })).await;
        assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)));
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        assert_eq!(app.emulator.counters().tunnels_opened, 0);
        app.emulator.set_discovery_faults(DiscoveryFaults::default());
        app.finish().await;
    }
}

/// Adit inside the VPC: the same grants, plain TCP to sshd, and no endpoint's connection.
#[actix_rt::test]
async fn a_direct_connection_needs_no_endpoint() {
    let app = start_unknown(Backend::OpenSshBash, |setup| {
        let sshd = sshd_behind(setup);
        setup.emulator.instances[0].private_ip_address = sshd.ip().to_string();
        setup.settings.aws.connect = Connect::Direct;
        setup.settings.aws.ssh_port = sshd.port();
    })
    .await;
    let answer = app.run(json!({ "cmd": ["echo", "direct"] })).await;
    app.expect_direct_login();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["stdout"], "direct\n");
    let counters = app.emulator.counters();
    assert_eq!((counters.pushes, counters.tunnels_opened), (1, 0));
    assert_eq!((counters.describe_instances, counters.describe_endpoints), (1, 0));
    assert_eq!(app.tunnels().await["endpoints"], json!([]));
    app.finish().await;
}

fn sshd_behind(setup: &Setup) -> SocketAddr {
    match &setup.emulator.instances[0].backend {
        adit_emulator::InstanceBackend::External { address, .. } => *address,
        adit_emulator::InstanceBackend::InProcess { .. } => panic!("there is no real sshd"),
    }
}
