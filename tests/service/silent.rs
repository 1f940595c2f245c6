//! A step that is never answered, on a connection that otherwise lives: what its caller is told when its deadline is over,
//! and that those behind it get the next tunnel. (For a tunnel on which nothing moves any more: `cuts`.)
//!
//! Each waits for a deadline of the service in real time, 10 or 15 s, so a test meets several steps side by side.

use adit_actors::exec::{Exec, Kill, Outcome, Ran};
use adit_emulator::{Faults, Times};
use futures_util::future::join_all;
use tokio::time::{Duration, timeout};

use crate::ledger::{HELD, Ledger, assert_lost, exec_of};
use crate::streaming::Streaming;
use crate::support::api::Answer;
use crate::support::app::Setup;
use crate::support::{Backend, INSTANCE, TestApp, wait};

/// Those who come while the step is silent.
const LATER: usize = 4;

/// For everybody to be answered, many times what it takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is not answered, once.
#[derive(Clone, Copy, Debug)]
enum Step {
    Upgrade,
    ChannelOpen,
    Exec,
}

impl Step {
    fn unanswered(self, times: Times) -> Faults {
        let mut faults = Faults::default();
        match self {
            Self::Upgrade => faults.unanswered_upgrades = times,
            Self::ChannelOpen => faults.unanswered_channel_opens = times,
            Self::Exec => faults.unanswered_execs = times,
        }
        faults
    }
}

/// One channel a tunnel and one tunnel, as [`Setup::allow_one_channel`] says, so that who comes later waits for the step;
/// and time for the step after it, however slow the machine.
fn allow_one_channel(setup: &mut Setup) {
    setup.allow_one_channel();
    setup.settings.tunnel.start_timeout = Duration::from_secs(120);
}

/// The caller who meets the silence, and those who come while it lasts: the answer to the one, and to the others.
async fn meet(app: &TestApp, ledger: &Ledger) -> (Answer, Vec<Answer>) {
    let meeting = app.run(ledger.request("first", "echo served"));
    let following = async {
        wait::until_true("the step is left without an answer", async || {
            app.emulator.faults(INSTANCE) == Some(Faults::default())
        })
        .await;
        join_all((0..LATER).map(|number| {
            let request = ledger.request(&number.to_string(), "echo served");
            async move { app.run(request).await }
        }))
        .await
    };
    timeout(PATIENCE, async { tokio::join!(meeting, following) })
        .await
        .expect("nobody waits for ever")
}

fn assert_served(step: Step, answer: &Answer) {
    assert_eq!(answer.status, 200, "{step:?}: {answer:?}");
    let exec = answer.exec();
    assert_eq!(
        (exec.outcome, exec.exit_code, exec.ran, &exec.error),
        (Some(Outcome::Exited), Some(0), Ran::Yes, &None),
        "{step:?}: {exec:?}"
    );
    assert_eq!(answer.json()["stdout"], "served\n");
}

/// Before the exec request left, the caller does not notice. After it nobody knows whether it came, and nothing is tried
/// again: what may have come of it is sent both signals, whose effect nobody can see.
fn assert_first(step: Step, answer: &Answer, ledger: &Ledger) {
    match step {
        Step::Upgrade | Step::ChannelOpen => assert_served(step, answer),
        Step::Exec => {
            let exec = answer.exec_of_problem(502, "tunnel_lost");
            assert_lost(&exec);
            assert_eq!(exec.ran, Ran::Unknown, "{exec:?}");
            let kill = Kill {
                sent: vec!["TERM".to_owned(), "KILL".to_owned()],
                confirmed: false,
            };
            assert_eq!(exec.kill, Some(kill), "{exec:?}");
            assert_eq!(ledger.times_begun("first"), 0, "it was not asked for again");
        }
    }
}

/// Everybody's exec by its name, for the rows.
fn named(first: &Answer, later: &[Answer]) -> Vec<(String, Exec)> {
    let later = later.iter().enumerate();
    let later = later.map(|(number, answer)| (number.to_string(), exec_of(answer)));
    std::iter::once(("first".to_owned(), exec_of(first)))
        .chain(later)
        .collect()
}

/// Rows as the answers say, and no command of which no answer says that it ran, beside the tunnels' wardens.
async fn end(app: TestApp, ledger: Ledger, execs: Vec<(String, Exec)>, wardens: u64) {
    ledger.assert_rows_are_true(&app, &execs).await;
    let ran = execs.iter().filter(|(_, exec)| exec.ran == Ran::Yes).count() as u64;
    wait::until_true("the wardens have been started", async || {
        app.emulator.counters().commands_started >= ran + wardens
    })
    .await;
    assert_eq!(app.emulator.counters().commands_started, ran + wardens);
    app.finish().await;
}

// === With no tunnel before ===

/// `tunnels` are those that the endpoint opened. One whose upgrade got no answer does not count.
async fn a_cold_caller_meets(step: Step, tunnels: u64) {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        allow_one_channel(setup);
        setup.emulator.instances[0].faults = step.unanswered(Times::Next(1));
    })
    .await;
    let ledger = Ledger::new();
    let (first, later) = meet(&app, &ledger).await;
    assert_first(step, &first, &ledger);
    later.iter().for_each(|answer| assert_served(step, answer));
    assert_eq!(app.emulator.counters().tunnels_opened, tunnels, "{step:?}");
    end(app, ledger, named(&first, &later), 0).await;
}

#[actix_rt::test]
async fn a_step_without_an_answer_costs_those_behind_it_nothing() {
    tokio::join!(
        a_cold_caller_meets(Step::Upgrade, 1),
        a_cold_caller_meets(Step::ChannelOpen, 2),
        a_cold_caller_meets(Step::Exec, 2),
    );
}

/// As with any connection that breaks on its way up: the second failure in a row is everybody's answer.
#[actix_rt::test]
async fn two_upgrades_without_an_answer_are_the_answer() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        allow_one_channel(setup);
        setup.emulator.instances[0].faults = Step::Upgrade.unanswered(Times::Next(2));
    })
    .await;
    let ledger = Ledger::new();
    let body = ledger.request("first", "echo served");
    let refused = timeout(PATIENCE, app.run(body)).await.expect("an answer");
    let exec = refused.exec_of_problem(503, "target_unreachable");
    assert_eq!(
        (exec.outcome, exec.ran),
        (Some(Outcome::Failed), Ran::No),
        "{exec:?}"
    );
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let seen = app.tunnels().await;
    let cause = seen["data"][0]["last_error"]["message"].as_str().unwrap();
    assert!(cause.contains("`upgrade` took longer than"), "{seen}");
    assert_eq!(app.emulator.faults(INSTANCE), Some(Faults::default()));

    wait::until_true("the pause is over", async || {
        app.tunnels().await["data"][0]["retry_in_s"].is_null()
    })
    .await;
    let again = app.run(ledger.request("again", "echo served")).await;
    assert_served(Step::Upgrade, &again);
    let execs = vec![("first".to_owned(), exec), ("again".to_owned(), exec_of(&again))];
    end(app, ledger, execs, 0).await;
}

// === Beside a running exec ===

/// What runs on the first tunnel goes on there to its own end, and everybody else is served by the second.
async fn beside_a_running_exec(step: Step, channels: usize, tunnels: usize) {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        allow_one_channel(setup);
        setup.settings.tunnel.channel_cap = channels;
        setup.settings.tunnel.max_tunnels_per_instance = tunnels;
    })
    .await;
    let ledger = Ledger::new();
    let holding = Streaming::begin(&app, &ledger.request("held", HELD), "going").await;
    app.until_wardens_are(if channels > 1 { "ready" } else { "none" })
        .await;
    let faults = step.unanswered(Times::Next(1));
    assert!(app.emulator.set_faults(INSTANCE, faults));
    let (first, later) = meet(&app, &ledger).await;
    assert_first(step, &first, &ledger);
    later.iter().for_each(|answer| assert_served(step, answer));
    let counters = app.emulator.counters();
    assert_eq!(
        (counters.tunnels_opened, counters.tunnels_open),
        (2, 2),
        "{step:?}: {counters:?}"
    );

    ledger.let_go();
    let held = timeout(PATIENCE, holding.rest()).await.expect("its end").frames();
    let exec = held.exit();
    assert_eq!((exec.outcome, exec.exit_code), (Some(Outcome::Exited), Some(0)));
    assert_eq!(held.output("stdout"), b"going\ndone\n");
    let mut execs = named(&first, &later);
    execs.push(("held".to_owned(), exec));
    let wardens = if channels > 1 { 2 } else { 0 };
    end(app, ledger, execs, wardens).await;
}

#[actix_rt::test]
async fn a_step_without_an_answer_leaves_a_running_exec_alone() {
    tokio::join!(
        // The upgrade of a second tunnel, as the only channel of the first is taken.
        beside_a_running_exec(Step::Upgrade, 1, 2),
        // Two for execs, and one for the warden.
        beside_a_running_exec(Step::ChannelOpen, 3, 1),
        beside_a_running_exec(Step::Exec, 3, 1),
    );
}
