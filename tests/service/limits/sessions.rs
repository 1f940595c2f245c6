//! `MaxSessions` is not told to Adit: it learns it from what sshd refuses and grants.

use futures_util::future::{join, join_all};
use serde_json::json;

use super::*;

fn caps(tunnels: &[Value]) -> Vec<u64> {
    let caps = tunnels
        .iter()
        .map(|tunnel| tunnel["channel_cap"].as_u64().unwrap());
    caps.collect()
}

/// Runs as many short commands at once, and checks each.
async fn run_short(app: &TestApp, commands: usize) {
    let calls = (0..commands).map(async |number: usize| {
        let answer = ask(app, 0, json!({"cmd": ["echo", number.to_string()]})).await;
        assert_printed(&answer, number);
    });
    join_all(calls).await;
}

/// Thirty callers whose commands run until these and the wardens take every session that Adit counts on. Returns the caps of the tunnels at
/// that moment.
async fn crowd(app: &TestApp) -> Vec<u64> {
    let gate = Gate::closed();
    let calls = (0..30).map(async |number| {
        let answer = ask(app, 0, gate.wait_with(number)).await;
        assert_printed(&answer, number);
    });
    let watching = async {
        let is_full = |instance: &Value| {
            let running = gate.trace().len() as u64;
            let is_awaited = instance["waiters"] == 30 - running;
            let wardens = count(instance, |tunnel| tunnel["warden"] == "ready");
            let taken = (sum(instance, "refcount"), sum(instance, "channel_cap"));
            is_awaited && taken == (running, running + wardens)
        };
        let tunnels = tunnels_when(app, "every session runs a command, and the others wait", is_full).await;
        gate.open();
        tunnels
    };
    let (_, tunnels) = join(join_all(calls), watching).await;
    assert_eq!(gate.trace(), (0..30).collect::<Vec<_>>(), "each has run once");
    caps(&tunnels)
}

#[actix_rt::test]
async fn three_are_learned_whoever_else_is_logged_in() {
    let fleet = Fleet {
        max_sessions: 3,
        ..Fleet::default()
    };
    let app = start(fleet, |_setup| {}).await;
    // `MaxSessions` is for each connection: these take none of Adit's.
    let people = [app.person().await, app.person().await, app.person().await];
    assert_eq!(crowd(&app).await, [3, 3], "two execs and a warden each");
    drop(people);
    assert_all_served(&app, 30).await;
    app.finish().await;
}

/// Fewer than Adit believes in at first, and then, after clean opens have made it try more, still no more.
#[actix_rt::test]
async fn ten_are_learned_and_kept_to() {
    let app = start(Fleet::default(), |setup| setup.settings.tunnel.channel_cap = 12).await;
    assert_eq!(crowd(&app).await, [10, 10]);
    run_short(&app, 200).await;
    let caps = crowd(&app).await;
    assert!(caps.iter().all(|cap| (1..=10).contains(cap)), "{caps:?}");
    assert_all_served(&app, 260).await;
    app.finish().await;
}

#[actix_rt::test]
async fn a_hundred_are_made_use_of() {
    let fleet = Fleet {
        max_sessions: 100,
        ..Fleet::default()
    };
    let app = start(fleet, |setup| setup.settings.tunnel.max_tunnels_per_instance = 1).await;
    let mut ran = 0;
    let cap = loop {
        run_short(&app, 50).await;
        ran += 50;
        let cap = caps(app.tunnels().await["data"][0]["tunnels"].as_array().unwrap())[0];
        if cap >= 13 {
            break cap;
        }
        // 32 opens without a refusal are worth one more, so this is far past what three more take.
        assert!(ran < 1_000, "the cap is {cap} after {ran} execs");
    };
    assert!(crowd(&app).await[0] >= cap);
    assert!(!app.sshd_log().contains("no more sessions"));
    assert_all_served(&app, ran + 30).await;
    app.finish().await;
}
