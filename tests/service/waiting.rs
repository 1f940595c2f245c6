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
        let seen = wait::until("the endpoint is left alone for a while", async || {
            let seen = until_waiting_for(&app, "endpoint_connection").await;
            seen["endpoints"][0]["retry_in_s"].is_f64().then_some(seen)
        })
        .await;
        assert!(
            app.emulator
                .update_faults(INSTANCE, |faults| faults.refused_tunnels = Times::Never)
        );
        seen
    };
    let (answer, seen) = tokio::join!(app.run(json!({"cmd": ["true"]})), looking);
    let instance = &seen["data"][0];
    assert_eq!(instance["tunnels"][0]["state"], "awaiting_slot", "{seen}");
    let endpoint = &seen["endpoints"][0];
    let waiter = &endpoint["waiting"][0];
    assert_eq!(
        (&waiter["instance_id"], &waiter["purpose"]),
        (&json!(INSTANCE), &json!("first")),
        "{seen}"
    );
    assert!(waiter["waiting_s"].is_f64(), "{seen}");
    assert_eq!(
        (&endpoint["holders"], &endpoint["configured_limit"]),
        (&json!([]), &json!(16)),
        "{seen}"
    );
    assert!(
        endpoint["limit"].as_u64() < Some(16),
        "learned from the refusal: {seen}"
    );
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

/// The one who waits could have the running exec's channel too, so that is what it waits for; the endpoint shows the rest.
#[actix_rt::test]
async fn for_a_second_tunnel_that_the_budget_does_not_allow() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.allow_one_channel();
        setup.settings.tunnel.max_tunnels_per_instance = 2;
        setup.settings.tunnel.endpoint_connections = 1;
        setup.settings.tunnel.endpoint_reserve = 0;
    })
    .await;
    let holding = Streaming::begin(
        &app,
        &json!({"cmd": ["sh", "-c", "echo going; exec sleep 100"]}),
        "going",
    )
    .await;
    let looking = async {
        let seen = wait::until("the second tunnel waits at the endpoint", async || {
            let seen = until_waiting_for(&app, "channel").await;
            seen["endpoints"][0]["waiting"][0].is_object().then_some(seen)
        })
        .await;
        drop(holding);
        seen
    };
    let (answer, seen) = tokio::join!(app.run(json!({"cmd": ["true"]})), looking);
    let endpoint = &seen["endpoints"][0];
    assert_eq!(endpoint["waiting"][0]["purpose"], "second", "{seen}");
    assert_eq!(
        (&endpoint["limit"], &endpoint["in_use"], &endpoint["retry_in_s"]),
        (&json!(1), &json!(1), &Value::Null),
        "{seen}"
    );
    let holder = &endpoint["holders"][0];
    assert_eq!(
        (&holder["instance_id"], &holder["tunnel_id"], &holder["idle_s"]),
        (&json!(INSTANCE), &json!(1), &Value::Null),
        "{seen}"
    );
    assert_eq!(answer.exec().exit_code, Some(0));
    assert_eq!(app.emulator.counters().tunnels_opened, 1);
    assert_nobody_waits(&app).await;
    app.finish().await;
}
