//! The key grant lets logins in and nothing else: what runs, and what follows on the same tunnel, does not need it.

use std::time::Duration;

use adit_actors::exec::Ran;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Backend, INSTANCE, TestApp, wait};

/// Short enough to wait for; sshd takes a key through the whole second that its expiry names.
const KEY_LIFETIME: Duration = Duration::from_secs(2);

#[actix_rt::test]
async fn an_exec_outlives_the_grant_in_process() {
    an_exec_outlives_the_grant(Backend::InProcess).await;
}

#[actix_rt::test]
async fn an_exec_outlives_the_grant_with_openssh() {
    an_exec_outlives_the_grant(Backend::OpenSshBash).await;
}

async fn an_exec_outlives_the_grant(backend: Backend) {
    let app = TestApp::start_with(backend, |setup| setup.emulator.key_lifetime = KEY_LIFETIME).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let go_on = directory.path().join("go-on");
    let script = format!(
        "echo before; until [ -e {} ]; do sleep 0.05; done; echo after",
        go_on.display()
    );

    let body = json!({"cmd": ["sh", "-c", script], "timeout_s": 120});
    let running = app.stream(body);
    let deciding = async {
        wait::until_true("the key is pushed", async || app.emulator.counters().pushes == 1).await;
        let pushed = Instant::now();
        wait::until_true("the key no longer works", async || {
            pushed.elapsed() > KEY_LIFETIME + Duration::from_secs(1)
        })
        .await;
        std::fs::write(&go_on, "").unwrap();
    };
    let (answer, ()) = tokio::join!(running, deciding);
    let frames = answer.frames();
    assert_eq!(frames.output("stdout"), b"before\nafter\n");
    assert_eq!(frames.exit().exit_code, Some(0));

    let next = app.run(json!({"cmd": ["echo", "next"]})).await;
    assert_eq!(next.json()["stdout"], "next\n");
    assert_eq!(next.json()["tunnel"], "warm");
    let counters = app.emulator.counters();
    assert_eq!((counters.pushes, counters.tunnels_opened), (1, 1), "{counters:?}");
    app.finish().await;
}

/// Adit believes in a key for longer than this instance does, so that its next login shows whether the key still works.
#[actix_rt::test]
async fn a_grant_that_has_ended_lets_nobody_in() {
    let mut clock = None;
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        assert!(setup.settings.tunnel.grant_margin > KEY_LIFETIME);
        setup.emulator.key_lifetime = KEY_LIFETIME;
        clock = Some(setup.emulator.clock.clone());
    })
    .await;
    let clock = clock.unwrap();
    let body = json!({"cmd": ["true"]});
    assert_eq!(app.run(body.clone()).await.exec().exit_code, Some(0));
    clock.advance(KEY_LIFETIME);
    assert_eq!(app.run(body.clone()).await.json()["tunnel"], "warm");

    assert_eq!(app.emulator.cut_tunnels(INSTANCE), 1);
    wait::until_true("the lost tunnel is noticed", async || {
        app.tunnels().await["data"][0]["tunnels"] == json!([])
    })
    .await;
    let refused = app.run(body.clone()).await;
    assert_eq!(
        refused.exec_of_problem(502, "login_refused").ran,
        Ran::No,
        "{refused:?}"
    );
    let counters = app.emulator.counters();
    assert_eq!(
        (counters.pushes, counters.tunnels_opened),
        (1, 2),
        "it was the old key: {counters:?}"
    );

    // A refused login is backed off from; the next one has a key of its own.
    wait::until_true("another key lets in", async || {
        app.run(body.clone()).await.status == 200
    })
    .await;
    assert_eq!(app.emulator.counters().pushes, 2);
    app.finish().await;
}
