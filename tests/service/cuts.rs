//! A tunnel that is cut at each step of its life: what the exec on it is told, and that those behind it get the next one.
//!
//! An instance with one channel makes the steps certain: one exec holds the channel, and the others wait behind it.

use adit_actors::exec::{EndedBy, Outcome, Ran};
use adit_emulator::{Cut, CutAt, Faults, Times};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Duration, timeout};

use crate::ledger::{HELD, Ledger, assert_lost, exec_of};
use crate::streaming::Streaming;
use crate::support::api::{Answer, Frames};
use crate::support::app::Setup;
use crate::support::{Backend, INSTANCE, TestApp, wait};

const WAITERS: usize = 5;

/// [`HELD`], and then prints more than [`ENOUGH`].
const HELD_THEN_PRINTS: &str =
    r#"echo going; until [ -e "$2/go" ]; do sleep 0.05; done; head -c 9000 /dev/zero | tr '\0' x"#;
/// The same, with nothing left to come but its exit status.
const HELD_THEN_EXITS: &str =
    r#"echo going; exec >&- 2>&-; until [ -e "$2/go" ]; do sleep 0.05; done; exit 7"#;
/// Bytes of output, Adit's own line on stderr included.
const ENOUGH: u64 = 4_096;

/// Which tunnel meets the fault.
#[derive(Clone, Copy)]
enum Meets {
    /// The one that the held exec is on, when it is let go.
    This,
    /// The one that replaces it, for it is cut under the held exec.
    Next,
}

/// What came of one held exec and those that waited behind it.
struct Aftermath {
    app: TestApp,
    ledger: Ledger,
    held: Frames,
    waiters: Vec<Answer>,
}

async fn until_waiting(app: &TestApp, waiters: usize) {
    wait::until_true("the others wait", async || {
        app.tunnels().await["data"][0]["waiters"] == waiters
    })
    .await;
}

async fn play(faults: Faults, meets: Meets, held: &str) -> Aftermath {
    let app = TestApp::start_with(Backend::InProcess, Setup::allow_one_channel).await;
    let ledger = Ledger::new();
    let holding = Streaming::begin(&app, &ledger.request("held", held), "going").await;
    let waiting = join_all((0..WAITERS).map(|number| {
        let request = ledger.request(&number.to_string(), "echo served");
        let app = &app;
        async move { app.run(request).await }
    }));
    let cutting = async {
        until_waiting(&app, WAITERS).await;
        assert!(app.emulator.set_faults(INSTANCE, faults));
        match meets {
            Meets::This => ledger.let_go(),
            Meets::Next => assert_eq!(app.emulator.cut_tunnels(INSTANCE), 1),
        }
        holding.rest().await.frames()
    };
    let (waiters, held) = tokio::join!(waiting, cutting);
    assert_eq!(
        app.emulator.faults(INSTANCE),
        Some(Faults::default()),
        "each cut has happened"
    );
    Aftermath {
        app,
        ledger,
        held,
        waiters,
    }
}

impl Aftermath {
    fn assert_held_is_lost(&self) {
        let exec = self.held.exit();
        assert_lost(&exec);
        assert_eq!(exec.ran, Ran::Yes, "{exec:?}");
    }

    /// Everybody who waited got the next tunnel, except for those told otherwise.
    fn assert_served(&self, expected: usize) {
        let served = self.waiters.iter().filter(|answer| answer.status == 200);
        for answer in served.clone() {
            let exec = answer.exec();
            assert_eq!((exec.outcome, exec.exit_code), (Some(Outcome::Exited), Some(0)));
            assert_eq!(answer.json()["stdout"], "served\n");
        }
        assert_eq!(served.count(), expected, "{:#?}", self.waiters);
    }

    fn assert_tunnels(&self, opened: u64) {
        let counters = self.app.emulator.counters();
        assert_eq!(
            (counters.tunnels_opened, counters.pushes),
            (opened, 1),
            "the key is good for all of them: {counters:?}"
        );
    }

    /// Nothing ran twice, nothing ran that is said not to have run, and each exec has one row that says the same. The
    /// instance serves again.
    async fn end(self) {
        let Self {
            app,
            ledger,
            held,
            waiters,
        } = self;
        ledger.let_go();
        let mut execs = vec![("held".to_owned(), held.exit())];
        execs.extend(
            waiters
                .iter()
                .enumerate()
                .map(|(number, answer)| (number.to_string(), exec_of(answer))),
        );
        let again = wait::until("the instance serves again", async || {
            let number = execs.len();
            let name = format!("again {number}");
            let answer = app.run(ledger.request(&name, "echo again")).await;
            execs.push((name, exec_of(&answer)));
            (answer.status == 200).then_some(answer)
        })
        .await;
        assert_eq!(again.json()["stdout"], "again\n");

        ledger.assert_rows_are_true(&app, &execs).await;
        app.finish().await;
    }
}

fn upgrades(times: u32) -> Faults {
    Faults {
        cut_upgrades: Times::Next(times),
        ..Faults::default()
    }
}

fn at(at: CutAt, times: u32) -> Faults {
    let times = Times::Next(times);
    Faults {
        cut: Some(Cut { at, times }),
        ..Faults::default()
    }
}

// === On the way up ===

/// `dials` are the tunnels that the endpoint lets open: one whose upgrade is cut does not count.
async fn one_cut_is_absorbed(faults: Faults, dials: u64) {
    let aftermath = play(faults, Meets::Next, HELD).await;
    aftermath.assert_held_is_lost();
    aftermath.assert_served(WAITERS);
    aftermath.assert_tunnels(1 + dials);
    aftermath.end().await;
}

async fn two_cuts_are_the_answer(faults: Faults) {
    let aftermath = play(faults, Meets::Next, HELD).await;
    aftermath.assert_held_is_lost();
    for answer in &aftermath.waiters {
        let exec = answer.exec_of_problem(503, "target_unreachable");
        assert_eq!(
            (exec.outcome, exec.ran),
            (Some(Outcome::Failed), Ran::No),
            "{exec:?}"
        );
        let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=2).contains(&retry_after), "{answer:?}");
    }
    let tunnels = aftermath.app.tunnels().await;
    let instance = &tunnels["data"][0];
    assert_eq!(instance["failures"], 2, "{tunnels}");
    assert!(instance["last_error"].is_object(), "{tunnels}");
    aftermath.end().await;
}

#[actix_rt::test]
async fn one_cut_during_the_upgrade_is_absorbed() {
    one_cut_is_absorbed(upgrades(1), 1).await;
}

#[actix_rt::test]
async fn one_cut_during_the_key_exchange_is_absorbed() {
    one_cut_is_absorbed(at(CutAt::KeyExchange, 1), 2).await;
}

#[actix_rt::test]
async fn one_cut_during_the_login_is_absorbed() {
    one_cut_is_absorbed(at(CutAt::Login, 1), 2).await;
}

#[actix_rt::test]
async fn one_cut_at_the_first_channel_is_absorbed() {
    one_cut_is_absorbed(at(CutAt::ChannelOpen, 1), 2).await;
}

#[actix_rt::test]
async fn two_cuts_during_the_upgrade_are_the_answer() {
    two_cuts_are_the_answer(upgrades(2)).await;
}

#[actix_rt::test]
async fn two_cuts_during_the_key_exchange_are_the_answer() {
    two_cuts_are_the_answer(at(CutAt::KeyExchange, 2)).await;
}

#[actix_rt::test]
async fn two_cuts_during_the_login_are_the_answer() {
    two_cuts_are_the_answer(at(CutAt::Login, 2)).await;
}

#[actix_rt::test]
async fn two_cuts_at_the_first_channel_are_the_answer() {
    two_cuts_are_the_answer(at(CutAt::ChannelOpen, 2)).await;
}

/// The first caller of all has no tunnel to lose, and its key push is under way beside the connection.
#[actix_rt::test]
async fn a_cold_caller_does_not_notice_one_cut() {
    for faults in [
        upgrades(1),
        at(CutAt::KeyExchange, 1),
        at(CutAt::Login, 1),
        at(CutAt::ChannelOpen, 1),
    ] {
        let app = TestApp::start_with(Backend::InProcess, |setup| {
            setup.emulator.instances[0].faults = faults;
        })
        .await;
        let answer = app.run(json!({"cmd": ["echo", "served"]})).await;
        assert_eq!(answer.exec().exit_code, Some(0));
        assert_eq!(answer.json()["stdout"], "served\n");
        assert_eq!(app.emulator.faults(INSTANCE), Some(Faults::default()));
        assert_eq!(app.emulator.counters().pushes, 1);
        app.finish().await;
    }
}

// === With an exec on it ===

/// One of those who waited asked for its command on the tunnel that is cut.
async fn one_is_lost_with_its_request(place: CutAt, ran: &[Ran]) {
    let aftermath = play(at(place, 1), Meets::Next, HELD).await;
    aftermath.assert_held_is_lost();
    aftermath.assert_served(WAITERS - 1);
    let lost = aftermath
        .waiters
        .iter()
        .find(|answer| answer.status != 200)
        .unwrap();
    let exec = lost.exec_of_problem(502, "tunnel_lost");
    assert_lost(&exec);
    assert!(ran.contains(&exec.ran), "{exec:?}");
    aftermath.assert_tunnels(3);
    aftermath.end().await;
}

#[actix_rt::test]
async fn a_cut_at_the_exec_request_leaves_open_whether_it_ran() {
    one_is_lost_with_its_request(CutAt::ExecRequest, &[Ran::Unknown]).await;
}

/// The line that proves that the command runs may be cut off with the rest.
#[actix_rt::test]
async fn a_cut_as_the_command_starts_is_no_reason_to_start_it_again() {
    one_is_lost_with_its_request(CutAt::AfterBytesOfOutput(0), &[Ran::Unknown, Ran::Yes]).await;
}

#[actix_rt::test]
async fn a_cut_amid_output_ends_the_exec_with_what_came() {
    let aftermath = play(
        at(CutAt::AfterBytesOfOutput(ENOUGH), 1),
        Meets::This,
        HELD_THEN_PRINTS,
    )
    .await;
    aftermath.assert_held_is_lost();
    let output = aftermath.held.output("stdout");
    assert!(output.starts_with(b"going\n"));
    assert!(output.len() as u64 <= ENOUGH, "{}", output.len());
    let exec = aftermath.held.exit();
    assert_eq!(exec.streams.stdout.sent, output.len() as u64, "{exec:?}");
    aftermath.assert_served(WAITERS);
    aftermath.assert_tunnels(2);
    aftermath.end().await;
}

#[actix_rt::test]
async fn a_cut_after_the_exit_status_takes_nothing_from_the_exec() {
    let aftermath = play(at(CutAt::AfterExitStatus, 1), Meets::This, HELD_THEN_EXITS).await;
    let exec = aftermath.held.exit();
    assert_eq!(
        (exec.outcome, exec.ended_by, exec.exit_code, exec.ran, &exec.error),
        (
            Some(Outcome::Exited),
            Some(EndedBy::Exit),
            Some(7),
            Ran::Yes,
            &None
        ),
        "{exec:?}"
    );
    assert_eq!(aftermath.held.output("stdout"), b"going\n");
    aftermath.assert_served(WAITERS);
    aftermath.assert_tunnels(2);
    aftermath.end().await;
}

/// A channel open that is cut beside a running exec costs that exec its tunnel, and those who wait nothing.
#[actix_rt::test]
async fn a_cut_at_a_later_channel_loses_the_running_exec_alone() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.allow_one_channel();
        // One more for the warden.
        setup.settings.tunnel.channel_cap = 3;
    })
    .await;
    let ledger = Ledger::new();
    let holding = Streaming::begin(&app, &ledger.request("held", HELD), "going").await;
    app.until_wardens_are("ready").await;
    assert!(app.emulator.set_faults(INSTANCE, at(CutAt::ChannelOpen, 1)));
    let waiting = join_all((0..WAITERS).map(|number| {
        let request = ledger.request(&number.to_string(), "echo served");
        let app = &app;
        async move { app.run(request).await }
    }));
    let (waiters, held) = tokio::join!(waiting, holding.rest());
    let aftermath = Aftermath {
        held: held.frames(),
        app,
        ledger,
        waiters,
    };
    aftermath.assert_held_is_lost();
    aftermath.assert_served(WAITERS);
    aftermath.assert_tunnels(2);
    aftermath.end().await;
}

// === In silence ===

/// Nothing tells of it but that nothing comes any more: some 40 s in real time, as the keepalives' interval is fixed.
#[actix_rt::test]
async fn a_tunnel_that_falls_silent_is_found_lost_and_replaced() {
    const PATIENCE: Duration = Duration::from_secs(180);
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.allow_one_channel();
        setup.settings.tunnel.start_timeout = PATIENCE;
    })
    .await;
    let ledger = Ledger::new();
    let holding = Streaming::begin(&app, &ledger.request("held", HELD), "going").await;
    let stalling = async {
        until_waiting(&app, 1).await;
        assert_eq!(app.emulator.stall_tunnels(INSTANCE), 1);
        let rest = timeout(PATIENCE, holding.rest()).await;
        rest.expect("the tunnel is found lost").frames()
    };
    let (waiter, held) = tokio::join!(app.run(ledger.request("0", "echo served")), stalling);
    // An emulated network that loses everything does not notice that the client has left.
    app.emulator.resume_tunnels(INSTANCE);
    let aftermath = Aftermath {
        app,
        ledger,
        held,
        waiters: vec![waiter],
    };
    aftermath.assert_held_is_lost();
    aftermath.assert_served(1);
    aftermath.end().await;
}
