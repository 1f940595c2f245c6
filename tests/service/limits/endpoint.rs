//! One endpoint's connections, shared by many instances and by people.

use futures_util::future::{join, join_all};
use serde_json::json;

use super::*;

const INSTANCES: usize = 30;

/// Short commands on that instance, one after the other. Each prints its own number.
async fn keep_asking(app: &TestApp, instance: usize, rounds: usize) {
    for round in 0..rounds {
        let number = 1_000 * instance + round;
        let answer = ask(app, instance, json!({"cmd": ["echo", number.to_string()]})).await;
        assert_printed(&answer, number);
    }
}

fn fleet(instances: usize) -> Fleet {
    Fleet {
        instances,
        ..Fleet::default()
    }
}

#[actix_rt::test]
async fn thirty_instances_are_served_over_sixteen_connections() {
    let app = start(fleet(INSTANCES), |_setup| {}).await;
    let gate = Gate::closed();
    let busy = app.stream(gate.count());
    let others = async {
        join_all((1..INSTANCES).map(|instance| keep_asking(&app, instance, 3))).await;
        gate.open();
    };
    let (busy, ()) = join(busy, others).await;

    assert_counted_on(&busy);
    let counters = app.emulator.counters();
    assert_eq!(counters.tunnels_refused, 0, "{counters:?}");
    assert_eq!(
        counters.tunnels_peak, 14,
        "16, of which two are kept for successors: {counters:?}"
    );
    assert!(counters.tunnels_opened >= INSTANCES as u64, "{counters:?}");
    assert_all_served(&app, 1 + 29 * 3).await;
    app.finish().await;
}

/// 20 connections, of which people hold 14. Adit, which thinks that 16 are its own, finds out.
#[actix_rt::test]
async fn what_people_hold_is_done_without() {
    let app = start(fleet(10), |_setup| {}).await;
    let people = join_all((0..14).map(|number| app.strangers_tunnel(number % 10))).await;
    let people: Vec<_> = people.into_iter().map(Result::unwrap).collect();
    assert_eq!(app.emulator.counters().tunnels_open, 14);

    join_all((0..10).map(|instance| keep_asking(&app, instance, 3))).await;

    let counters = app.emulator.counters();
    assert_eq!(counters.tunnels_peak, 20, "all is made use of: {counters:?}");
    assert!(counters.tunnels_refused >= 1, "{counters:?}");
    assert_all_served(&app, 30).await;
    drop(people);
    app.finish().await;
}

#[actix_rt::test]
async fn an_endpoint_that_people_hold_whole_is_busy() {
    let app = start(fleet(2), |setup| {
        setup.settings.tunnel.start_timeout = Duration::from_secs(10);
    })
    .await;
    let people = join_all((0..20).map(|number| app.strangers_tunnel(number % 2))).await;
    let people: Vec<_> = people.into_iter().map(Result::unwrap).collect();

    let asking = join_all((0..2).map(|instance| app.run_on(instance, json!({"cmd": ["true"]}))));
    let watching = wait::until_true("an operator sees what both wait for", async || {
        let tunnels = app.tunnels().await;
        let instances = tunnels["data"].as_array().unwrap();
        let waiting = |instance: &&Value| instance["waiting_for"] == "endpoint_connection";
        instances.iter().filter(waiting).count() == 2
    });
    let (answers, ()) = join(asking, watching).await;
    for answer in &answers {
        let exec = answer.exec_of_problem(503, "endpoint_busy");
        assert_eq!(exec.ran, adit_actors::exec::Ran::No, "{exec:?}");
        let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!(retry_after >= 1, "{answer:?}");
    }
    let counters = app.emulator.counters();
    assert!(counters.tunnels_refused >= 1, "{counters:?}");
    assert_eq!(counters.tunnels_opened, 20, "{counters:?}");

    drop(people);
    wait::until_true("the endpoint is free again, and is found so", async || {
        let answer = app.run_on(1, json!({"cmd": ["true"]})).await;
        answer.status == 200 || {
            answer.problem(503, "endpoint_busy");
            false
        }
    })
    .await;
    app.finish().await;
}
