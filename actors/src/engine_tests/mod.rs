//! The engine whole, on the current thread and under paused time: real actors and real SSH over an in-memory pipe,
//! with a scripted instance, AWS and store around them.

mod fakes;
mod instance;

use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::task::LocalSet;
use tokio::time::Instant;

use self::fakes::{Store, World, boundaries, target};
use self::instance::Instance;
use super::*;
use crate::audit::RowStatus;
use crate::exec::{
    Caller, CallerKind, ErrorCode, Exec, ExecRequest, ExecRequestParts, Outcome, OutputStream, Ran,
    TunnelTemperature,
};

struct Rig {
    engine: Engine,
    world: Arc<World>,
    store: Arc<Store>,
}

impl Rig {
    fn new(world: World) -> Self {
        let (world, store) = (Arc::new(world), Arc::new(Store::default()));
        let settings = EngineSettings {
            execs_per_token: 10_000,
            ..EngineSettings::default()
        };
        let clock = Clock::from_fn(|| OffsetDateTime::UNIX_EPOCH);
        let engine = Engine::start_on(Arbiters::Current, settings, boundaries(&world, &store), clock);
        Self { engine, world, store }
    }

    fn start(&self, program: &str, timeout_s: u64) -> RunningExec {
        let parts = ExecRequestParts {
            cmd: vec![program.to_owned()],
            timeout_s,
            ..ExecRequestParts::default()
        };
        let spec = ExecSpec {
            exec_id: Uuid::new_v4(),
            workspace_id: Uuid::from_u128(1),
            target: target(),
            request: ExecRequest::validate(parts).unwrap(),
            caller: Caller {
                kind: CallerKind::Workspace,
                id: Uuid::nil(),
                prefix: "12345678".to_owned(),
                name: None,
            },
            remote_addr: None,
            request_id: None,
        };
        let permit = self.engine.admit(Uuid::nil(), None).unwrap();
        self.engine.run(spec, permit)
    }

    async fn run(&self, program: &str) -> Exec {
        finish(self.start(program, 0)).await
    }

    fn row(&self, exec: &Exec) -> AuditRow {
        self.store.rows.lock().unwrap()[&exec.exec_id].clone()
    }

    fn requests(&self) -> usize {
        self.world.instance.lock().unwrap().seen.requests.load(Relaxed)
    }

    async fn tunnel(&self) -> crate::tunnel::TunnelSnapshot {
        self.engine.tunnels().await.remove(0).tunnels.remove(0)
    }
}

use crate::audit::AuditRow;

async fn finish(running: RunningExec) -> Exec {
    gather(running).await.0
}

/// The end, and what was printed on each stream.
async fn gather(mut running: RunningExec) -> (Exec, Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut end = None;
    while let Some(event) = running.next().await {
        match event {
            ExecEvent::Output {
                stream: OutputStream::Stdout,
                data,
            } => stdout.extend(data),
            ExecEvent::Output {
                stream: OutputStream::Stderr,
                data,
            } => stderr.extend(data),
            ExecEvent::Started | ExecEvent::Truncated { .. } => {}
            ExecEvent::Ended { exec, .. } => end = Some(*exec),
        }
    }
    (end.unwrap(), stdout, stderr)
}

fn world() -> World {
    World::new(Instance::new())
}

fn code(exec: &Exec) -> Option<ErrorCode> {
    exec.error.as_ref().map(|error| error.code)
}

/// Runs a test on one thread with paused time: when nothing can go on, time jumps to the next timer.
fn paused<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(LocalSet::new().run_until(test))
}

#[test]
fn an_exec_prints_ends_and_leaves_one_row() {
    paused(async {
        let rig = Rig::new(world());
        let (exec, stdout, stderr) = gather(rig.start("true", 0)).await;
        assert_eq!(
            (stdout.as_slice(), stderr.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
        assert_eq!(
            (exec.outcome, exec.exit_code, exec.ran),
            (Some(Outcome::Exited), Some(0), Ran::Yes)
        );
        assert_eq!(
            (exec.tunnel, exec.audit.committed),
            (Some(TunnelTemperature::Cold), true)
        );
        assert_eq!(rig.run("true").await.tunnel, Some(TunnelTemperature::Warm));
        assert_eq!(rig.store.rows.lock().unwrap().len(), 2);
        let row = rig.row(&exec);
        assert_eq!(
            (row.status, row.request_body["cmd"][0].as_str()),
            (RowStatus::Ok, Some("true"))
        );
        assert_eq!(
            row.response_body.unwrap()["streams"]["stdout"]["sha256"],
            serde_json::Value::Null
        );
    });
}

#[test]
fn a_hundred_cold_callers_cost_one_push_and_two_tunnels() {
    paused(async {
        let rig = Rig::new(World {
            dial_latency: Duration::from_millis(20),
            ..world()
        });
        let execs = join_all((0..100).map(|_| rig.run("true"))).await;
        assert!(execs.iter().all(|exec| exec.exit_code == Some(0)));
        assert_eq!(rig.world.pushes.load(Relaxed), 1);
        assert!(rig.world.dials.load(Relaxed) <= 2);
        assert_eq!(rig.store.rows.lock().unwrap().len(), 100);
        assert!(
            rig.store.writes.load(Relaxed) < 100,
            "rows were committed in groups"
        );
    });
}

#[test]
fn open_failed_is_never_seen() {
    paused(async {
        let rig = Rig::new(World::new(Instance {
            max_sessions: 3,
            ..Instance::new()
        }));
        let execs = join_all((0..60).map(|_| rig.run("true"))).await;
        assert!(execs.iter().all(|exec| exec.exit_code == Some(0)));
        assert!(
            rig.world
                .instance
                .lock()
                .unwrap()
                .seen
                .refused_opens
                .load(Relaxed)
                > 0,
            "the limit was met"
        );
    });
}

#[test]
fn key_push_and_dial_overlap() {
    paused(async {
        let (push_latency, dial_latency) = (Duration::from_secs(3), Duration::from_secs(2));
        let rig = Rig::new(World {
            push_latency,
            dial_latency,
            ..world()
        });
        let asked = Instant::now();
        rig.run("true").await;
        let took = asked.elapsed();
        assert!(
            took >= push_latency && took < push_latency + Duration::from_millis(100),
            "{took:?}"
        );
    });
}

#[test]
fn timeouts_stop_what_they_can() {
    for (program, sent, signal, seconds) in [
        ("hang", vec!["TERM"], Some("TERM"), 1),
        ("stubborn", vec!["TERM", "KILL"], Some("KILL"), 3),
        ("immortal", vec!["TERM", "KILL"], None, 6),
    ] {
        paused(async {
            let rig = Rig::new(world());
            let asked = Instant::now();
            let exec = finish(rig.start(program, 1)).await;
            assert_eq!(asked.elapsed().as_secs(), seconds, "{program}");
            assert_eq!(
                (exec.outcome, code(&exec)),
                (Some(Outcome::Timeout), Some(ErrorCode::ExecTimeout))
            );
            let kill = exec.kill.clone().unwrap();
            assert_eq!(
                (kill.sent, kill.confirmed),
                (sent.iter().map(ToString::to_string).collect(), false)
            );
            assert_eq!(exec.signal.as_deref(), signal);
            assert_eq!(rig.row(&exec).status, RowStatus::Timeout);
        });
    }
}

#[test]
fn a_channel_that_may_hide_a_process_retires_its_tunnel() {
    paused(async {
        let rig = Rig::new(world());
        let neighbour = rig.start("hang", 60);
        finish(rig.start("immortal", 1)).await;
        assert_eq!(rig.tunnel().await.state, "retiring", "the neighbour keeps it");
        assert_eq!(rig.run("true").await.tunnel, Some(TunnelTemperature::Cold));
        neighbour.cancel(EndedBy::Delete);
        assert_eq!(finish(neighbour).await.ended_by, Some(EndedBy::Delete));
        tokio::task::yield_now().await;
        assert_eq!(
            rig.tunnel().await.tunnel_id,
            2,
            "the old one went with its last lease"
        );
    });
}

#[test]
fn held_pipes_end_the_exec_but_not_the_slot() {
    paused(async {
        let rig = Rig::new(world());
        let asked = Instant::now();
        let exec = rig.run("hold").await;
        assert_eq!((exec.exit_code, asked.elapsed().as_secs()), (Some(3), 2));
        assert_eq!(rig.tunnel().await.refcount, 1, "sshd has not closed the channel");
    });
}

#[test]
fn a_caller_that_is_gone_ends_its_exec() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 60);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        let exec_id = running.exec_id();
        drop(running);
        rig.engine.live.none_left().await;
        let row = rig.store.rows.lock().unwrap()[&exec_id].clone();
        assert_eq!(row.response_body.unwrap()["ended_by"], "client_gone");
        assert_eq!(rig.tunnel().await.refcount, 0);
    });
}

#[test]
fn a_caller_that_leaves_while_it_waits_gives_its_place_back() {
    paused(async {
        let rig = Rig::new(World {
            dial_latency: Duration::from_secs(2),
            ..world()
        });
        drop(rig.start("true", 0));
        rig.engine.live.none_left().await;
        assert_eq!(rig.engine.tunnels().await.remove(0).waiters, 0);
        assert_eq!(rig.requests(), 0);
        let rows = rig.store.rows.lock().unwrap().clone();
        assert_eq!(
            rows.values().map(|row| row.status).collect::<Vec<_>>(),
            [RowStatus::Error]
        );
    });
}

#[test]
fn nothing_runs_without_a_committed_begin() {
    paused(async {
        let rig = Rig::new(world());
        rig.store.is_away.store(true, Relaxed);
        let asked = Instant::now();
        let exec = rig.run("true").await;
        assert_eq!(
            (exec.ran, code(&exec)),
            (Ran::No, Some(ErrorCode::AuditUnavailable))
        );
        assert_eq!((asked.elapsed().as_secs(), rig.requests()), (5, 0));
        assert!(rig.engine.audit_failing_for().is_some());
        rig.store.is_away.store(false, Relaxed);
        rig.engine.live.none_left().await;
        assert_eq!(
            rig.row(&exec).status,
            RowStatus::Error,
            "the uncertain begin was settled"
        );
        assert_eq!(rig.engine.audit_failing_for(), None);
    });
}

#[test]
fn a_store_that_leaves_meanwhile_is_waited_for() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 1);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        rig.store.is_away.store(true, Relaxed);
        let asked = Instant::now();
        let exec = finish(running).await;
        assert_eq!((exec.audit.committed, asked.elapsed().as_secs()), (false, 11));
        assert_eq!(rig.row(&exec).status, RowStatus::Running);
        rig.store.is_away.store(false, Relaxed);
        rig.engine.live.none_left().await;
        assert_eq!(rig.row(&exec).status, RowStatus::Timeout);
    });
}

#[test]
fn a_lost_tunnel_ends_its_execs_and_serves_the_next() {
    paused(async {
        let rig = Rig::new(world());
        let neighbour = rig.start("hang", 60);
        let exec = rig.run("vanish").await;
        assert_eq!(exec.outcome, Some(Outcome::TunnelLost));
        assert_eq!(finish(neighbour).await.outcome, Some(Outcome::TunnelLost));
        assert_eq!(rig.run("true").await.exit_code, Some(0));
    });
}

#[test]
fn endings_that_the_instance_decides() {
    for (program, outcome, error) in [
        ("segv", Outcome::Signaled, None),
        ("forced", Outcome::Failed, Some(ErrorCode::LoginRefused)),
    ] {
        paused(async {
            let rig = Rig::new(world());
            let exec = rig.run(program).await;
            assert_eq!((exec.outcome, code(&exec)), (Some(outcome), error), "{program}");
        });
    }
}

#[test]
fn refusals_have_their_code_and_back_off() {
    paused(async {
        let rig = Rig::new(World::new(Instance {
            refuses_logins: true,
            ..Instance::new()
        }));
        assert_eq!(code(&rig.run("true").await), Some(ErrorCode::LoginRefused));
        assert_eq!(code(&rig.run("true").await), Some(ErrorCode::LoginRefused));
        let logins = rig.world.instance.lock().unwrap().seen.logins.load(Relaxed);
        assert_eq!(logins, 1, "the second was told without a try");
        rig.world.denies_push.store(true, Relaxed);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(code(&rig.run("true").await), Some(ErrorCode::GrantDenied));
        let snapshot = rig.engine.tunnels().await.remove(0);
        assert_eq!(snapshot.last_error.unwrap().code, ErrorCode::GrantDenied);
        assert!(snapshot.retry_in_s.is_some());
    });
}

#[test]
fn a_host_key_is_pinned_on_first_use_and_a_changed_one_refused() {
    paused(async {
        let rig = Rig::new(world());
        rig.run("true").await;
        let pinned = rig.world.pins.lock().unwrap().clone();
        assert_eq!(pinned.len(), 1);
        *rig.world.instance.lock().unwrap() = Instance::new();
        tokio::time::sleep(Duration::from_secs(301)).await;
        assert_eq!(code(&rig.run("true").await), Some(ErrorCode::HostKeyChanged));
        assert_eq!(rig.requests(), 0);
        assert_eq!(*rig.world.pins.lock().unwrap(), pinned);
    });
}

#[test]
fn an_idle_tunnel_is_closed() {
    paused(async {
        let rig = Rig::new(world());
        rig.run("true").await;
        tokio::time::sleep(Duration::from_secs(299)).await;
        assert_eq!(rig.engine.tunnels().await.remove(0).tunnels.len(), 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(rig.engine.tunnels().await.remove(0).tunnels.len(), 0);
    });
}

#[test]
fn shutdown_waits_then_cancels_and_writes_every_row() {
    paused(async {
        let rig = Rig::new(world());
        let mut short = rig.start("hang", 2);
        let mut long = rig.start("hang", 100);
        assert_eq!(short.next().await, Some(ExecEvent::Started));
        assert_eq!(long.next().await, Some(ExecEvent::Started));
        let unwritten = rig
            .engine
            .shutdown(Duration::from_secs(10), Duration::from_secs(5))
            .await;
        assert!(unwritten.is_empty(), "{unwritten:?}");
        assert_eq!(finish(short).await.ended_by, Some(EndedBy::Timeout));
        assert_eq!(finish(long).await.ended_by, Some(EndedBy::Shutdown));
        assert_eq!(code(&rig.run("true").await), Some(ErrorCode::ShuttingDown));
        assert_eq!(
            rig.store
                .rows
                .lock()
                .unwrap()
                .values()
                .filter(|row| row.status == RowStatus::Running)
                .count(),
            0
        );
    });
}

#[test]
fn shutdown_names_what_it_could_not_write() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 100);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        rig.store.is_away.store(true, Relaxed);
        let unwritten = rig
            .engine
            .shutdown(Duration::from_secs(1), Duration::from_secs(5))
            .await;
        assert_eq!(unwritten, [running.exec_id()]);
    });
}

#[test]
fn a_refused_request_gives_its_slot_back() {
    paused(async {
        let rig = Rig::new(world());
        for _ in 0..25 {
            let exec = rig.run("nofork").await;
            assert_eq!((exec.ran, code(&exec)), (Ran::No, Some(ErrorCode::LoginRefused)));
        }
        assert_eq!(code(&rig.run("true").await), None);
        tokio::task::yield_now().await;
        assert_eq!(rig.tunnel().await.refcount, 0);
    });
}

#[test]
fn a_store_that_hangs_holds_nobody_for_ever() {
    paused(async {
        let rig = Rig::new(world());
        rig.run("true").await;
        rig.store.hangs.store(true, Relaxed);
        let asked = Instant::now();
        let exec = rig.run("true").await;
        assert_eq!(
            (code(&exec), asked.elapsed().as_secs()),
            (Some(ErrorCode::AuditUnavailable), 5)
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(rig.engine.audit_failing_for().is_some(), "readiness is told");
        assert_eq!(rig.tunnel().await.refcount, 0);
        rig.store.hangs.store(false, Relaxed);
        rig.engine.live.none_left().await;
        assert_eq!(rig.row(&exec).status, RowStatus::Error);
        assert_eq!(code(&rig.run("true").await), None);
    });
}

#[test]
fn a_store_that_panics_loses_no_row() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 1);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        rig.store.panics.store(true, Relaxed);
        let exec = finish(running).await;
        assert!(exec.audit.committed, "the second try was good");
        assert_eq!(rig.row(&exec).status, RowStatus::Timeout);
        assert_eq!(code(&rig.run("true").await), None);
    });
}

#[test]
fn a_silent_tunnel_is_lost_within_its_keepalives() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 120);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        rig.world.is_silent.store(true, Relaxed);
        let silent = Instant::now();
        let exec = finish(running).await;
        assert_eq!(exec.outcome, Some(Outcome::TunnelLost));
        assert!(
            silent.elapsed() <= Duration::from_secs(45),
            "{:?}",
            silent.elapsed()
        );
        rig.world.is_silent.store(false, Relaxed);
        assert_eq!(rig.run("true").await.exit_code, Some(0));
    });
}

#[test]
fn a_supervisor_that_panics_is_replaced_after_a_pause() {
    paused(async {
        let rig = Rig::new(world());
        rig.world.panics_on_push.store(true, Relaxed);
        assert_eq!(code(&rig.run("true").await), Some(ErrorCode::TargetUnreachable));
        assert_eq!(
            code(&rig.run("true").await),
            Some(ErrorCode::TargetUnreachable),
            "not before the pause is over"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(code(&rig.run("true").await), None);
        assert_eq!(rig.engine.tunnels().await.remove(0).generation, 2);
    });
}
