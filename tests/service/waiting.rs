//! Operators see what callers wait for. (For the key: `failed_grants`.)

use adit_emulator::{Cut, CutAt, Times, TunnelRefusal};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::streaming::Streaming;
use crate::support::app::Setup;
use crate::support::{Backend, INSTANCE, TestApp, wait};

/// Waits until the only login shows one waiter that waits for `what`, and gives all that is shown then.
async fn until_waiting_for(app: &TestApp, what: &str) -> Value {
    wait::until(&format!("somebody waits for `{what}`"), async || {
        let seen = app.tunnels().await;
        let instance = &seen["data"][0];
        let is_shown = instance["waiters"] == 1 && instance["waiting_for"] == what;
        is_shown.then(|| {
            assert!(instance["longest_wait_s"].is_f64(), "{seen}");
            seen.clone()
        })
    })
    .await
}

async fn assert_nobody_waits(app: &TestApp) {
    let seen = app.tunnels().await;
    let instance = &seen["data"][0];
    assert_eq!(
        (
            &instance["waiters"],
            &instance["waiting_for"],
            &instance["longest_wait_s"]
        ),
        (&json!(0), &Value::Null, &Value::Null),
        "{seen}"
    );
}

#[actix_rt::test]
async fn for_a_channel() {
    let app = TestApp::start_with(Backend::InProcess, Setup::allow_one_channel).await;
    let holding = Streaming::begin(
        &app,
        &json!({"cmd": ["sh", "-c", "echo going; exec sleep 100"]}),
        "going",
    )
    .await;
    // Dropping the stream cancels its exec.
    let looking = async {
        let seen = until_waiting_for(&app, "channel").await;
        drop(holding);
        seen
    };
    let (answer, seen) = tokio::join!(app.run(json!({"cmd": ["true"]})), looking);
    let tunnel = &seen["data"][0]["tunnels"][0];
    assert_eq!(
        (&tunnel["channels_in_use"], &tunnel["channel_cap"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(answer.exec().exit_code, Some(0));
    assert_nobody_waits(&app).await;
    app.finish().await;
}

#[actix_rt::test]
async fn for_a_handshake() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.emulator.instances[0].faults.stalled_tunnels = Times::Next(1);
    })
    .await;
    let looking = async {
        let seen = until_waiting_for(&app, "handshake").await;
        assert_eq!(app.emulator.resume_tunnels(INSTANCE), 1);
        seen
    };
    let (answer, seen) = tokio::join!(app.run(json!({"cmd": ["true"]})), looking);
    assert_eq!(seen["data"][0]["tunnels"][0]["state"], "handshaking", "{seen}");
    assert_eq!(answer.exec().exit_code, Some(0));
    assert_nobody_waits(&app).await;
    app.finish().await;
}

#[actix_rt::test]
async fn for_the_next_try() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.emulator.instances[0].faults.cut = Some(Cut::next(CutAt::KeyExchange));
    })
    .await;
    let (answer, seen) = tokio::join!(
        app.run(json!({"cmd": ["true"]})),
        until_waiting_for(&app, "retry")
    );
    let instance = &seen["data"][0];
    assert_eq!(instance["failures"], 1, "{seen}");
    assert_eq!(instance["tunnels"], json!([]), "{seen}");
    assert_eq!(instance["last_error"]["code"], "target_unreachable", "{seen}");
    assert!(instance["retry_in_s"].is_f64(), "{seen}");
    assert_eq!(answer.exec().exit_code, Some(0));
    assert_nobody_waits(&app).await;
    app.finish().await;
}

fn no_connection_left() -> TunnelRefusal {
    TunnelRefusal {
        status: StatusCode::TOO_MANY_REQUESTS,
        code: "ServiceQuotaExceededException".to_owned(),
        message: "20 connections are open".to_owned(),
    }
}

#[actix_rt::test]
async fn for_a_connection_of_the_endpoint() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        let faults = &mut setup.emulator.instances[0].faults;
        faults.refused_tunnels = Times::Always;
        faults.tunnel_refusal = no_connection_left();
    })
    .await;
    let looking = async {
        let seen = until_waiting_for(&app, "endpoint_connection").await;
        assert!(
            app.emulator
                .update_faults(INSTANCE, |faults| faults.refused_tunnels = Times::Never)
        );
        seen
    };
    let (answer, seen) = tokio::join!(app.run(json!({"cmd": ["true"]})), looking);
    let instance = &seen["data"][0];
    assert_eq!(instance["tunnels"][0]["state"], "awaiting_slot", "{seen}");
    assert_eq!(
        (&instance["failures"], &instance["retry_in_s"]),
        (&json!(0), &Value::Null),
        "the instance has not failed: {seen}"
    );
    assert_eq!(answer.exec().exit_code, Some(0));
    assert_nobody_waits(&app).await;
    app.finish().await;
}

/// Nobody gives one up in time.
#[actix_rt::test]
async fn for_a_connection_of_the_endpoint_in_vain() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.settings.tunnel.start_timeout = std::time::Duration::from_secs(3);
        let faults = &mut setup.emulator.instances[0].faults;
        faults.refused_tunnels = Times::Always;
        faults.tunnel_refusal = no_connection_left();
    })
    .await;
    let answer = app.run(json!({"cmd": ["true"]})).await;
    let exec = answer.exec_of_problem(503, "endpoint_busy");
    assert_eq!(exec.ran, adit_actors::exec::Ran::No);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_nobody_waits(&app).await;
    app.finish().await;
}
