//! A crowd on a cold instance: one grant, two tunnels, and an answer for everybody.

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use super::*;

/// Client and server are this one process: two descriptors for each caller, beside those of the tests that run meanwhile.
fn allow_many_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

#[actix_rt::test]
async fn a_thousand_callers_share_a_grant_and_two_tunnels() {
    allow_many_descriptors();
    let app = start(Fleet::default(), |_setup| {}).await;
    let gate = Gate::closed();
    let neighbour = app.stream(gate.count());
    let callers = async {
        let calls =
            (0..1_000).map(|number: usize| ask(&app, 0, json!({"cmd": ["echo", number.to_string()]})));
        let answers = join_all(calls).await;
        gate.open();
        answers
    };
    let (neighbour, answers) = tokio::join!(neighbour, callers);

    for (number, answer) in answers.iter().enumerate() {
        assert_printed(answer, number);
        assert!(
            !String::from_utf8_lossy(&answer.body).contains("open failed"),
            "{answer:?}"
        );
    }
    assert_counted_on(&neighbour);
    assert!(
        app.sshd_log().contains("no more sessions"),
        "sshd has refused sessions, and nobody has noticed"
    );
    let counters = app.emulator.counters();
    assert_eq!(counters.push_attempts, 1, "{counters:?}");
    assert_eq!(
        (counters.tunnels_opened, counters.tunnels_peak),
        (2, 2),
        "{counters:?}"
    );
    assert_all_served(&app, 1_001).await;
    app.finish().await;
}

/// Each command takes longer than the wait that is allowed, so only those that get a session at once are served.
#[actix_rt::test]
async fn whoever_waits_too_long_gets_a_503_and_has_not_run() {
    allow_many_descriptors();
    let app = start(Fleet::default(), |setup| {
        setup.settings.tunnel.start_timeout = Duration::from_secs(15);
    })
    .await;
    let gate = Gate::closed();
    let calls = (0..200).map(|number| ask(&app, 0, gate.wait_with(number)));
    let opening = async {
        // All sessions of both tunnels are taken, two of them by wardens, and all others have left.
        tunnels_when(&app, "those without a session have left", |instance| {
            (gate.trace().len(), sum(instance, "refcount")) == (18, 18) && instance["waiters"] == 0
        })
        .await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all(calls), opening);

    let mut served = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        if answer.status == 200 {
            assert_printed(answer, number);
            served.push(number);
        } else {
            let exec = answer.exec_of_problem(503, "start_timeout");
            assert_eq!(exec.ran, adit_actors::exec::Ran::No, "{exec:?}");
            let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!(retry_after >= 1, "{answer:?}");
        }
    }
    assert_eq!(served.len(), 18);
    assert_eq!(gate.trace(), served, "nobody has run who was told otherwise");
    assert_rows(&app, 18, (182, "start_timeout")).await;
    app.finish().await;
}
