//! What an operator does to tunnels that are in use: drain lets their execs end, evict ends them.

use adit_actors::exec::{EndedBy, Exec, Outcome, Ran};
use serde_json::{Value, json};

use crate::streaming::Streaming;
use crate::support::{Backend, INSTANCE, TestApp, processes, wait};

over_every_instance!(
    a_drained_tunnel_ends_with_its_last_exec,
    an_evicted_exec_ends_as_cancelled_with_its_stream,
    a_silent_exec_that_is_evicted_is_a_409,
);

fn path() -> String {
    format!("/admin/tunnels/{INSTANCE}")
}

/// 202, with the one supervisor as it is then.
async fn accepted(app: &TestApp, method: &str, path: &str) -> Value {
    let answer = app.admin(method, path, None).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let listing = answer.json();
    let data = listing["data"].as_array().unwrap();
    assert_eq!(data.len(), 1, "{listing}");
    assert!(listing["endpoints"].is_array(), "{listing}");
    data[0].clone()
}

fn assert_evicted(exec: &Exec) {
    assert_eq!(
        (exec.outcome, exec.ended_by, exec.exit_code),
        (Some(Outcome::Cancelled), Some(EndedBy::Evict), None),
        "{exec:?}"
    );
    assert_eq!(
        serde_json::to_value(&exec.error).unwrap()["code"],
        "exec_cancelled"
    );
}

async fn assert_row_is_evicted(app: &TestApp, exec: &Exec) {
    let rows = app.rows().await;
    let row = rows.iter().find(|row| row.id == exec.exec_id).unwrap();
    assert_eq!(row.status, "error", "{row:?}");
    assert_eq!(row.error_detail.as_deref(), Some("exec_cancelled"), "{row:?}");
    let recorded: Exec = serde_json::from_value(row.response_body.clone().unwrap()).unwrap();
    assert_evicted(&recorded);
}

async fn a_drained_tunnel_ends_with_its_last_exec(app: &TestApp) {
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
    let running = Streaming::begin(app, &body, "before").await;

    let drained = accepted(app, "POST", &format!("{}/drain", path())).await;
    assert_eq!(
        (
            &drained["tunnels"][0]["state"],
            &drained["tunnels"][0]["refcount"]
        ),
        (&json!("retiring"), &json!(1)),
        "{drained}"
    );
    let next = app.run(json!({"cmd": ["echo", "next"]})).await;
    assert_eq!(next.json()["stdout"], "next\n", "{next:?}");
    let counters = app.emulator.counters();
    assert_eq!(
        (counters.tunnels_opened, counters.tunnels_open),
        (2, 2),
        "another tunnel beside the drained one: {counters:?}"
    );

    std::fs::write(&go_on, "").unwrap();
    let frames = running.rest().await.frames();
    assert_eq!(frames.output("stdout"), b"before\nafter\n");
    assert_eq!(frames.exit().exit_code, Some(0));
    wait::until_true("the drained tunnel has closed", async || {
        app.emulator.counters().tunnels_open == 1
    })
    .await;
    let after = app.run(json!({"cmd": ["true"]})).await;
    assert_eq!(
        after.json()["tunnel"],
        "warm",
        "the second tunnel stays: {after:?}"
    );
    assert_eq!(app.emulator.counters().tunnels_opened, 2);
}

async fn an_evicted_exec_ends_as_cancelled_with_its_stream(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let script = format!("echo going; exec sleep {seconds}");
    let body = json!({"cmd": ["sh", "-c", script], "timeout_s": 120});
    let running = Streaming::begin(app, &body, "going").await;
    wait::until_true("the program runs", async || {
        !processes::with_argument(&seconds).is_empty()
    })
    .await;
    accepted(app, "DELETE", &path()).await;
    let exec = running.rest().await.frames().exit();
    assert_evicted(&exec);
    assert_eq!(exec.ran, Ran::Yes, "{exec:?}");
    assert_eq!(exec.kill.as_ref().unwrap().sent[0], "TERM", "{exec:?}");
    assert_row_is_evicted(app, &exec).await;
    wait::until_true("the program is gone", async || {
        processes::with_argument(&seconds).is_empty()
    })
    .await;
    wait::until_true("its tunnel has closed", async || {
        app.emulator.counters().tunnels_open == 0
    })
    .await;
    assert_eq!(app.run(json!({"cmd": ["true"]})).await.json()["tunnel"], "cold");
}

async fn a_silent_exec_that_is_evicted_is_a_409(app: &TestApp) {
    let seconds = processes::unique_sleep();
    let body = json!({"cmd": ["sleep", seconds], "timeout_s": 120});
    let evicting = async {
        wait::until_true("the program runs", async || {
            !processes::with_argument(&seconds).is_empty()
        })
        .await;
        accepted(app, "DELETE", &path()).await;
    };
    let (answer, ()) = tokio::join!(app.run(body), evicting);
    let exec = answer.exec_of_problem(409, "exec_cancelled");
    assert_evicted(&exec);
    assert_row_is_evicted(app, &exec).await;
}

#[actix_rt::test]
async fn an_exec_that_waits_for_a_channel_is_evicted_too() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        // One channel in all, so that the second exec can only wait.
        setup.emulator.max_sessions = 1;
        setup.settings.tunnel.channel_cap = 1;
        setup.settings.tunnel.max_tunnels_per_instance = 1;
    })
    .await;
    let seconds = processes::unique_sleep();
    let running = json!({"cmd": ["sleep", seconds], "timeout_s": 120});
    let waiting = json!({"cmd": ["echo", "too late"]});
    let evicting = async {
        wait::until_true("the first one runs", async || {
            !processes::with_argument(&seconds).is_empty()
        })
        .await;
        let second = app.run(waiting);
        let evict = async {
            wait::until_true("the second one waits", async || {
                app.tunnels().await["data"][0]["waiters"] == 1
            })
            .await;
            accepted(&app, "DELETE", &path()).await;
        };
        tokio::join!(second, evict).0
    };
    let (first, second) = tokio::join!(app.run(running), evicting);
    let second = second.exec_of_problem(409, "exec_cancelled");
    assert_evicted(&second);
    assert_eq!(second.ran, Ran::No, "{second:?}");
    assert_row_is_evicted(&app, &second).await;
    let first = first.exec_of_problem(409, "exec_cancelled");
    assert_evicted(&first);
    assert_row_is_evicted(&app, &first).await;
    assert_eq!(
        app.emulator.counters().commands_started,
        1,
        "with one channel there is no warden"
    );
    app.finish().await;
}

#[actix_rt::test]
async fn what_is_unknown_is_neither_drained_nor_evicted() {
    let app = TestApp::start(Backend::InProcess).await;
    app.admin("POST", &format!("{}/drain", path()), None)
        .await
        .problem(404, "not_found");
    app.admin("DELETE", &path(), None).await.problem(404, "not_found");
    app.finish().await;
}
