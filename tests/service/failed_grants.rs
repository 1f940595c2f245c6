//! A key push that is slow, throttled or refused: what callers are told, how often AWS is asked, and what operators see.

use std::time::Duration;

use adit_actors::exec::{Outcome, Ran};
use adit_emulator::{Faults, InstanceState, Times};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Backend, INSTANCE, TestApp, wait};

/// The snapshot of the only login.
async fn snapshot(app: &TestApp) -> Value {
    app.tunnels().await["data"][0].clone()
}

#[actix_rt::test]
async fn a_slow_key_push_is_waited_for_and_shown() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.emulator.instances[0].faults.grant_latency = Duration::from_secs(3);
    })
    .await;
    let execs = join_all((0..5).map(|_| app.run(json!({"cmd": ["true"]}))));
    let looking = wait::until("the key is waited for", async || {
        let seen = app.tunnels().await["data"][0].clone();
        (seen["waiting_for"] == "key_grant").then_some(seen)
    });
    let (answers, seen) = tokio::join!(execs, looking);
    assert_eq!(seen["grant"]["state"], "pushing", "{seen}");
    assert_eq!(seen["tunnels"][0]["state"], "awaiting_grant", "{seen}");
    assert!(seen["longest_wait_s"].is_f64(), "{seen}");
    assert!(seen["waiters"].as_u64() >= Some(1), "{seen}");
    for answer in answers {
        assert_eq!(answer.exec().exit_code, Some(0));
    }
    let counters = app.emulator.counters();
    assert_eq!((counters.push_attempts, counters.tunnels_opened), (1, 1));
    app.finish().await;
}

/// The SDK's client tries three times by itself, so two refusals are nobody's business.
#[actix_rt::test]
async fn a_key_push_throttled_twice_is_tried_again_by_the_sdk() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.emulator.instances[0].faults.throttled_pushes = Times::Next(2);
    })
    .await;
    let answer = app.run(json!({"cmd": ["true"]})).await;
    assert_eq!(answer.exec().exit_code, Some(0));
    let counters = app.emulator.counters();
    assert_eq!((counters.push_attempts, counters.pushes), (3, 1));
    let seen = snapshot(&app).await;
    assert_eq!(
        (&seen["failures"], &seen["last_error"]),
        (&json!(0), &Value::Null)
    );
    app.finish().await;
}

/// A key push that never succeeds.
struct Refused {
    app: TestApp,
    status: u16,
    code: &'static str,
    /// What the chain of causes must name.
    cause: &'static str,
    /// Requests to AWS for one try of the pool.
    requests_a_try: u64,
}

impl Refused {
    /// Asks until the pool has tried three times: in between, callers are answered without a try.
    async fn press(&self) {
        let mut asks = 0;
        let (seen, tries) = wait::until("the pool has tried three times and backs off", async || {
            let answer = self.app.run(json!({"cmd": ["true"]})).await;
            asks += 1;
            let exec = answer.exec_of_problem(self.status, self.code);
            assert_eq!(
                (exec.outcome, exec.ran),
                (Some(Outcome::Failed), Ran::No),
                "{exec:?}"
            );
            let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=30).contains(&retry_after), "{answer:?}");
            let seen = snapshot(&self.app).await;
            let tries = self.app.emulator.counters().push_attempts / self.requests_a_try;
            (tries >= 3 && seen["retry_in_s"].is_f64()).then_some((seen, tries))
        })
        .await;
        assert!(asks > tries, "{asks} asks, {tries} tries");
        assert!(seen["failures"].as_u64() >= Some(tries), "{seen}");
        assert_eq!(seen["last_error"]["code"], self.code, "{seen}");
        let message = seen["last_error"]["message"].as_str().unwrap();
        assert!(
            message.contains(self.cause) && message.contains("AWS request id"),
            "{seen}"
        );
        assert_eq!(
            (&seen["waiters"], &seen["waiting_for"], &seen["grant"]),
            (&json!(0), &Value::Null, &Value::Null),
            "who asks now is refused at once: {seen}"
        );
        let counters = self.app.emulator.counters();
        assert_eq!(
            (counters.push_attempts, counters.pushes, counters.login_attempts),
            (tries * self.requests_a_try, 0, 0),
            "without a key there is no login"
        );
    }

    /// With the cause gone, the next try succeeds and the failures are forgotten, but for the last.
    async fn recover(self) {
        let Self { app, code, .. } = self;
        wait::until_true("the pause is over", async || {
            snapshot(&app).await["retry_in_s"].is_null()
        })
        .await;
        assert_eq!(app.run(json!({"cmd": ["true"]})).await.exec().exit_code, Some(0));
        let seen = snapshot(&app).await;
        assert_eq!(
            (&seen["failures"], &seen["retry_in_s"]),
            (&json!(0), &Value::Null)
        );
        assert_eq!(seen["last_error"]["code"], code, "{seen}");
        app.finish().await;
    }
}

#[actix_rt::test]
async fn a_key_push_that_is_always_throttled_is_a_503() {
    let refused = Refused {
        app: TestApp::start_with(Backend::InProcess, |setup| {
            setup.emulator.instances[0].faults.throttled_pushes = Times::Always;
        })
        .await,
        status: 503,
        code: "grant_throttled",
        cause: "ThrottlingException",
        requests_a_try: 3,
    };
    refused.press().await;
    assert!(refused.app.emulator.set_faults(INSTANCE, Faults::default()));
    refused.recover().await;
}

#[actix_rt::test]
async fn a_key_push_that_is_denied_is_a_502() {
    let refused = Refused {
        app: TestApp::start_with(Backend::InProcess, |setup| {
            setup.emulator.instances[0].faults.denied_pushes = Times::Always;
        })
        .await,
        status: 502,
        code: "grant_denied",
        cause: "AccessDeniedException",
        requests_a_try: 1,
    };
    refused.press().await;
    assert!(refused.app.emulator.set_faults(INSTANCE, Faults::default()));
    refused.recover().await;
}

/// The endpoint can't reach it, and only the key push knows why.
#[actix_rt::test]
async fn a_stopped_instance_is_a_409() {
    let refused = Refused {
        app: TestApp::start_with(Backend::InProcess, |setup| {
            setup.emulator.instances[0].state = InstanceState::Stopped;
        })
        .await,
        status: 409,
        code: "instance_not_running",
        cause: "EC2InstanceStateInvalidException",
        requests_a_try: 1,
    };
    refused.press().await;
    let emulator = &refused.app.emulator;
    assert!(emulator.set_instance_state(INSTANCE, InstanceState::Running));
    refused.recover().await;
}

/// Its address is another's by now.
#[actix_rt::test]
async fn an_instance_that_is_not_there_is_a_502() {
    let refused = Refused {
        app: TestApp::start_with(Backend::InProcess, |setup| {
            setup.emulator.instances[0].id = "i-0fedcba9876543210".to_owned();
        })
        .await,
        status: 502,
        code: "instance_not_found",
        cause: "EC2InstanceNotFoundException",
        requests_a_try: 1,
    };
    refused.press().await;
    refused.app.finish().await;
}
