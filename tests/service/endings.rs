//! Every way to end an exec, for every kind of tree of processes: nothing is left on the instance, and frame and row say how.
//! The process table is the witness.

use adit_actors::exec::{EndedBy, Exec, Outcome};
use serde_json::json;
use tokio::time::Duration;

use crate::streaming::Streaming;
use crate::support::app::{Fleet, Setup};
use crate::support::rows::Row;
use crate::support::{Backend, INSTANCE, TestApp, processes, wait};

over_every_shell!(
    a_timeout_leaves_nothing,
    a_delete_leaves_nothing,
    a_client_that_goes_leaves_nothing,
    an_eviction_leaves_nothing,
    the_loss_of_the_tunnel_leaves_nothing,
    a_drained_tunnel_takes_with_it_what_an_exec_has_left,
    held_pipes_hold_the_slot_and_not_the_exec,
);

/// Trees of processes, which say `up` when all of it runs, and whether it takes a KILL to end them. `$1` is the argument
/// of all their `sleep`s.
const TREES: [(&str, &str, bool); 6] = [
    (
        "a shell with children",
        "sleep $1 & sleep $1 & echo up; wait",
        false,
    ),
    ("ignores TERM", "trap '' TERM; echo up; sleep $1; sleep $1", true),
    (
        "a grandchild that ignores TERM, its standard streams closed",
        "(trap '' TERM; exec sleep $1 <&- >&- 2>&-) & echo up; wait",
        true,
    ),
    (
        "an escapee",
        "setsid sleep $1 <&- >&- 2>&- & echo up; exec sleep $1",
        false,
    ),
    ("stopped", "(echo up; kill -STOP $$; exec sleep $1) & wait", false),
    (
        "two hundred children",
        "n=0; while [ $n -lt 200 ]; do sleep $1 & n=$((n + 1)); done; echo up; wait",
        false,
    ),
];

/// A tree that runs.
struct Running {
    name: &'static str,
    needs_kill: bool,
    argument: String,
    streaming: Streaming,
}

impl Running {
    async fn start(
        app: &TestApp,
        (name, script, needs_kill): (&'static str, &str, bool),
        timeout: u32,
    ) -> Self {
        let argument = processes::unique_sleep();
        let body = json!({"cmd": ["sh", "-c", script, "sh", argument], "timeout_s": timeout});
        Self {
            name,
            needs_kill,
            streaming: Streaming::begin(app, &body, "up").await,
            argument,
        }
    }

    /// All kinds at once, with the tunnel's warden.
    async fn start_all(app: &TestApp, timeout: u32) -> Vec<Self> {
        let mut all = Vec::new();
        for tree in TREES {
            all.push(Self::start(app, tree, timeout).await);
        }
        app.until_wardens_are("ready").await;
        all
    }

    async fn delete(&self, app: &TestApp) {
        let workspace = app.seed.workspace();
        let path = format!("/workspaces/{}/exec/{}", workspace.id, self.streaming.exec_id());
        let answer = app.api.call("DELETE", &path, Some(&workspace.token), None).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    /// The exec at its end, whose every word about the instance is true when it is said.
    async fn ended(self, by: EndedBy) -> Exec {
        let Self {
            name,
            needs_kill,
            argument,
            streaming,
        } = self;
        let exec = streaming.rest().await.frames().exit();
        let left = processes::with_argument(&argument);
        assert!(left.is_empty(), "{name}: {left:?} of {exec:?}");
        assert_eq!(exec.ended_by, Some(by), "{name}: {exec:?}");
        let kill = exec.kill.clone().unwrap();
        let signals = if needs_kill { "TERM KILL" } else { "TERM" };
        assert_eq!(
            (kill.sent.join(" ").as_str(), kill.confirmed),
            (signals, true),
            "{name}: {exec:?}"
        );
        exec
    }
}

async fn assert_rows_say_the_same(app: &TestApp, execs: &[Exec]) {
    let rows = app.rows().await;
    for exec in execs {
        let row = rows.iter().find(|row| row.id == exec.exec_id).unwrap();
        let recorded = recorded(row);
        assert_eq!(
            (&recorded.kill, recorded.outcome, recorded.ended_by),
            (&exec.kill, exec.outcome, exec.ended_by),
            "{row:?}"
        );
    }
}

fn recorded(row: &Row) -> Exec {
    serde_json::from_value(row.response_body.clone().unwrap()).unwrap()
}

async fn all_ended(app: &TestApp, all: Vec<Running>, by: EndedBy) {
    let mut execs = Vec::new();
    for running in all {
        execs.push(running.ended(by).await);
    }
    assert_rows_say_the_same(app, &execs).await;
    let next = app.run(json!({"cmd": ["echo", "next"]})).await;
    assert_eq!(next.exec().exit_code, Some(0));
}

async fn gone(arguments: &[String]) {
    wait::until_true("nothing of them is left", async || {
        arguments
            .iter()
            .all(|argument| processes::with_argument(argument).is_empty())
    })
    .await;
}

async fn a_timeout_leaves_nothing(app: &TestApp) {
    // Long enough for two hundred processes on a busy machine.
    let all = Running::start_all(app, 10).await;
    all_ended(app, all, EndedBy::Timeout).await;
    assert_eq!(
        app.emulator.counters().tunnels_opened,
        1,
        "what is sure costs no tunnel"
    );
}

async fn a_delete_leaves_nothing(app: &TestApp) {
    let all = Running::start_all(app, 120).await;
    for running in &all {
        running.delete(app).await;
    }
    all_ended(app, all, EndedBy::Delete).await;
}

async fn a_client_that_goes_leaves_nothing(app: &TestApp) {
    let all = Running::start_all(app, 120).await;
    let mut expected = Vec::new();
    for running in all {
        expected.push((
            running.streaming.exec_id().to_owned(),
            running.argument,
            running.needs_kill,
        ));
        drop(running.streaming);
    }
    for (id, argument, needs_kill) in expected {
        let exec = wait::until("the row is final", async || {
            let rows = app.rows().await;
            let row = rows.into_iter().find(|row| row.id.to_string() == id).unwrap();
            (row.status != "running").then(|| recorded(&row))
        })
        .await;
        assert!(processes::with_argument(&argument).is_empty(), "{exec:?}");
        assert_eq!(exec.ended_by, Some(EndedBy::ClientGone), "{exec:?}");
        let kill = exec.kill.unwrap();
        assert_eq!(
            (kill.sent.contains(&"KILL".to_owned()), kill.confirmed),
            (needs_kill, true)
        );
    }
}

async fn an_eviction_leaves_nothing(app: &TestApp) {
    let all = Running::start_all(app, 120).await;
    let evicted = app
        .admin("DELETE", &format!("/admin/tunnels/{INSTANCE}"), None)
        .await;
    assert_eq!(evicted.status, 202, "{evicted:?}");
    all_ended(app, all, EndedBy::Evict).await;
}

/// Nobody is left to say what became of them; they are gone all the same.
async fn the_loss_of_the_tunnel_leaves_nothing(app: &TestApp) {
    let all = Running::start_all(app, 120).await;
    assert_eq!(app.emulator.cut_tunnels(INSTANCE), 1);
    let arguments: Vec<String> = all.iter().map(|running| running.argument.clone()).collect();
    let mut execs = Vec::new();
    for running in all {
        let exec = running.streaming.rest().await.frames().exit();
        assert_eq!(
            (exec.outcome, exec.ended_by, &exec.kill),
            (Some(Outcome::TunnelLost), Some(EndedBy::TunnelLost), &None),
            "{exec:?}"
        );
        execs.push(exec);
    }
    assert_rows_say_the_same(app, &execs).await;
    gone(&arguments).await;
}

/// An exec that has ended by itself may leave a process. It stays as long as the tunnel, and no longer.
async fn a_drained_tunnel_takes_with_it_what_an_exec_has_left(app: &TestApp) {
    let argument = processes::unique_sleep();
    let script = "setsid sleep $1 <&- >&- 2>&- & echo left";
    let exec = app
        .run(json!({"cmd": ["sh", "-c", script, "sh", argument]}))
        .await
        .exec();
    assert_eq!((exec.exit_code, &exec.kill), (Some(0), &None), "{exec:?}");
    app.until_wardens_are("ready").await;
    assert_eq!(processes::with_argument(&argument).len(), 1);
    let drained = app
        .admin("POST", &format!("/admin/tunnels/{INSTANCE}/drain"), None)
        .await;
    assert_eq!(drained.status, 202, "{drained:?}");
    gone(&[argument]).await;
}

async fn held_pipes_hold_the_slot_and_not_the_exec(app: &TestApp) {
    let argument = processes::unique_sleep();
    let script = "sleep $1 & echo hi; exit 3";
    let answer = app
        .run(json!({"cmd": ["sh", "-c", script, "sh", argument]}))
        .await;
    let exec = answer.exec();
    assert_eq!((exec.exit_code, &exec.kill), (Some(3), &None), "{exec:?}");
    assert_eq!(answer.json()["stdout"], "hi\n");
    let leases = async || app.tunnels().await["data"][0]["tunnels"][0]["refcount"].clone();
    assert_eq!(leases().await, 1, "sshd has not closed its channel");
    let left = processes::with_argument(&argument);
    assert_eq!(left.len(), 1);
    let ended = rustix::process::Pid::from_raw(i32::try_from(left[0]).unwrap()).unwrap();
    rustix::process::kill_process(ended, rustix::process::Signal::TERM).unwrap();
    wait::until_true("the slot is free", async || leases().await == 0).await;
}

// === What is not like a usual login ===

async fn shut_down(backend: Backend) {
    let app = TestApp::start_with(backend, |setup| setup.settings.shutdown.grace = Duration::ZERO).await;
    let all = Running::start_all(&app, 120).await;
    let arguments: Vec<String> = all.iter().map(|running| running.argument.clone()).collect();
    let ids: Vec<String> = all
        .iter()
        .map(|running| running.streaming.exec_id().to_owned())
        .collect();
    let rows = app.stop_under_way().await;
    assert_eq!(rows.len(), ids.len());
    for row in &rows {
        let exec = recorded(row);
        assert_eq!(exec.ended_by, Some(EndedBy::Shutdown), "{exec:?}");
        assert!(exec.kill.unwrap().confirmed, "{row:?}");
    }
    gone(&arguments).await;
}

#[actix_rt::test]
async fn a_shutdown_leaves_nothing_with_bash() {
    shut_down(Backend::OpenSshBash).await;
}

#[actix_rt::test]
async fn a_shutdown_leaves_nothing_with_busybox() {
    shut_down(Backend::OpenSshBusybox).await;
}

/// Twenty execs on one tunnel that goes without a word. sshd notices, and so does the warden.
#[actix_rt::test]
async fn twenty_execs_are_gone_with_their_tunnel() {
    let fleet = Fleet {
        max_sessions: 30,
        ..Fleet::default()
    };
    let app = TestApp::start_fleet(Backend::OpenSshDash, fleet, |setup| {
        setup.settings.tunnel.channel_cap = 30;
        setup.settings.tunnel.max_tunnels_per_instance = 1;
    })
    .await;
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(Running::start(&app, TREES[1], 120).await);
    }
    app.until_wardens_are("ready").await;
    let arguments: Vec<String> = all.iter().map(|running| running.argument.clone()).collect();
    assert_eq!(app.emulator.cut_tunnels(INSTANCE), 1);
    gone(&arguments).await;
    for running in all {
        let exec = running.streaming.rest().await.frames().exit();
        assert_eq!(exec.outcome, Some(Outcome::TunnelLost), "{exec:?}");
    }
    app.finish().await;
}

#[actix_rt::test]
async fn where_sshd_refuses_signals_the_warden_stops() {
    let forwarding = Fleet {
        forced_command: Some("/bin/sh -c \"$SSH_ORIGINAL_COMMAND\""),
        ..Fleet::default()
    };
    for (backend, fleet) in [
        (Backend::OpenSshRoot, Fleet::default()),
        (Backend::OpenSshDash, forwarding),
    ] {
        let app = TestApp::start_fleet(backend, fleet, |_| {}).await;
        let all = Running::start_all(&app, 120).await;
        for running in &all {
            running.delete(&app).await;
        }
        all_ended(&app, all, EndedBy::Delete).await;
        app.finish().await;
    }
}

#[actix_rt::test]
async fn a_forced_command_is_a_refused_login() {
    let fleet = Fleet {
        forced_command: Some("echo welcome to the other program"),
        ..Fleet::default()
    };
    let app = TestApp::start_fleet(Backend::OpenSshBash, fleet, |_| {}).await;
    let answer = app.run(json!({"cmd": ["true"]})).await;
    let exec = answer.exec_of_problem(502, "login_refused");
    assert_eq!(exec.outcome, Some(Outcome::Failed), "{exec:?}");
    let row = app.only_row().await;
    let detail = row.error_detail.unwrap();
    assert!(
        detail.contains("does not run the command line in a POSIX shell"),
        "{detail}"
    );
    app.until_wardens_are("none").await;
    app.finish().await;
}

/// With one session there is no warden, and nothing is sure.
#[actix_rt::test]
async fn without_a_warden_nothing_is_confirmed() {
    let app = TestApp::start_with(Backend::OpenSshBash, Setup::allow_one_channel).await;
    let stopped = async |tree: usize| {
        let running = Running::start(&app, TREES[tree], 120).await;
        running.delete(&app).await;
        let argument = running.argument.clone();
        let exec = running.streaming.rest().await.frames().exit();
        (exec.kill.unwrap(), argument)
    };
    let (kill, _) = stopped(0).await;
    assert_eq!((kill.sent.len(), kill.confirmed), (1, false));
    let (kill, _) = stopped(1).await;
    assert_eq!((kill.sent.len(), kill.confirmed), (2, false));
    let (kill, escaped) = stopped(3).await;
    assert!(!kill.confirmed);
    let left = processes::with_argument(&escaped);
    assert_eq!(left.len(), 1, "and rightly so: it has escaped");
    let left = rustix::process::Pid::from_raw(i32::try_from(left[0]).unwrap()).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
    app.finish().await;
}
