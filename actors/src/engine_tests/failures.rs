//! What AWS, the store, the instance and the end of the service do to execs.

use super::*;

#[test]
fn nothing_runs_without_a_committed_begin() {
    paused(async {
        let rig = Rig::new(world());
        rig.first_probes().await;
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
        assert!(
            rig.recovers().await <= Duration::from_secs(1),
            "with nothing to write"
        );
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
        let message = rig.engine.tunnels().await.remove(0).last_error.unwrap().message;
        assert!(
            message.starts_with("the tunnel was lost: Keepalive timeout"),
            "{message}"
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
