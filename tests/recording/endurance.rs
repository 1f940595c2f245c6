//! Many execs, one after the other, on one service: nothing of them stays, neither in it nor on the instance.

use std::collections::HashSet;

use serde_json::json;

use crate::support::api::Api;
use crate::support::processes;
use crate::support::seed::Seeded;
use crate::support::site::{Service, Site};
use crate::support::store::TestStore;
use crate::support::wait;

/// `EXECS,CANCELLED`: how many of each. The default is what a run of all tests has time for.
const COUNTS: &str = "ADIT_TEST_ENDURANCE";
const DEFAULT_COUNTS: (usize, usize) = (2_000, 200);
/// Until then caches and pools fill.
const WARM_UP: usize = 1_000;
/// Execs under way at once.
const CALLERS: usize = 8;
/// What the allocator may keep of a busy moment: far less than a kilobyte for each of the many execs that follow.
const ALLOWED_GROWTH: u64 = 8 * 1_048_576;

fn counts() -> (usize, usize) {
    let Ok(text) = std::env::var(COUNTS) else {
        return DEFAULT_COUNTS;
    };
    let (execs, cancelled) = text.split_once(',').expect("EXECS,CANCELLED");
    (execs.parse().unwrap(), cancelled.parse().unwrap())
}

#[tokio::test]
async fn nothing_stays_of_many_execs() {
    let (execs, cancelled) = counts();
    let site = Site::start_over_sshd(TestStore::sqlite()).await;
    let service = site.serve().await;
    let who = site.seed.workspace();
    run(&service.api, who, WARM_UP).await;
    cancel(&service.api, who, cancelled / 10).await;
    is_at_rest(&service).await;
    let before = service.holdings();

    run(&service.api, who, execs - WARM_UP).await;
    cancel(&service.api, who, cancelled - cancelled / 10).await;
    is_at_rest(&service).await;
    // Connections of callers close when their side has.
    wait::until_true("no more descriptors than before", async || {
        service.holdings().descriptors <= before.descriptors
    })
    .await;
    let after = service.holdings();
    println!("{execs} execs, {cancelled} cancelled: {before:?}, {after:?}");
    assert!(after.threads <= before.threads, "{before:?} {after:?}");
    assert!(
        after.resident <= before.resident + ALLOWED_GROWTH,
        "{before:?} {after:?}"
    );

    let ids: HashSet<String> = site
        .store
        .rows()
        .await
        .iter()
        .map(|row| {
            assert_ne!(row.status, "running", "{row:?}");
            row.id.to_string()
        })
        .collect();
    assert_eq!(ids.len(), execs + cancelled);
    wait::until_true("no process of any exec is left", async || {
        processes::values_of("ADIT_EXEC_ID").is_disjoint(&ids)
    })
    .await;
    assert_eq!(service.terminate().await, Some(0));
    wait::until_true("no tunnel is left", async || {
        site.emulator.counters().tunnels_open == 0
    })
    .await;
    site.emulator.stop().await;
}

async fn run(api: &Api, who: &Seeded, execs: usize) {
    let body = json!({"cmd": ["true"]});
    by_callers(execs, async || {
        let answer = api.exec_json(who.id, &who.token, &body).await;
        assert_eq!(answer.exec().exit_code, Some(0), "{answer:?}");
    })
    .await;
}

/// Each is stopped by its timeout: the shortest way for a test to have many stopped, and the way of them all from there on.
async fn cancel(api: &Api, who: &Seeded, execs: usize) {
    let body = json!({"cmd": ["sleep", "987"], "timeout_s": 1});
    by_callers(execs, async || {
        let answer = api.exec_json(who.id, &who.token, &body).await;
        let kill = answer.exec_of_problem(504, "exec_timeout").kill.unwrap();
        assert!(kill.confirmed, "{answer:?}");
    })
    .await;
}

async fn by_callers(count: usize, one: impl AsyncFn()) {
    let left = std::cell::Cell::new(count);
    let caller = async || {
        while left.get() > 0 {
            left.set(left.get() - 1);
            one().await;
        }
    };
    let callers = (0..CALLERS).map(|_| caller());
    futures_util::future::join_all(callers).await;
}

/// No lease, no waiter; the channels that are open are the spare one and the warden's.
async fn is_at_rest(service: &Service) {
    wait::until_true("no exec holds a channel", async || {
        service.tunnels().await.iter().all(|instance| {
            let tunnels = instance["tunnels"].as_array().unwrap();
            let busy = tunnels
                .iter()
                .filter(|tunnel| {
                    tunnel["refcount"].as_u64() != Some(0) || tunnel["channels_in_use"].as_u64() > Some(2)
                })
                .count();
            instance["waiters"] == 0 && busy == 0
        })
    })
    .await;
}
