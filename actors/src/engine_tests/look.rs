//! Looking at an exec from beside it, and ending it.

use super::*;
use crate::exec::ExecState;

const WORKSPACE: Uuid = Uuid::from_u128(1);

#[test]
fn a_running_exec_is_seen_as_it_stands() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 60);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let look = rig.engine.look(running.exec_id()).await.unwrap();
        assert_eq!(look.workspace_id, WORKSPACE);
        let exec = look.exec;
        assert_eq!(
            (exec.state, exec.ran, exec.outcome, exec.ended_by),
            (ExecState::Running, Ran::Yes, None, None)
        );
        assert_eq!((exec.duration_ms, exec.timeout_s), (3_000, 60));
        assert_eq!(exec.tunnel, Some(TunnelTemperature::Cold));
        assert!(exec.timing_ms.queued.is_some() && exec.timing_ms.run.is_none());
        assert!(!exec.audit.committed);
        assert_eq!(exec.streams.stdout.sha256, None);
        assert_eq!(rig.engine.look(Uuid::from_u128(9)).await, None);
        running.cancel(EndedBy::Delete);
        let exec_id = running.exec_id();
        let exec = finish(running).await;
        assert!(exec.streams.stdout.sha256.is_some(), "looking sealed nothing");
        rig.engine.live.none_left().await;
        assert_eq!(rig.engine.look(exec_id).await, None, "its row says it now");
    });
}

#[test]
fn bytes_are_counted_while_they_come() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hold", 60);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        assert!(matches!(running.next().await, Some(ExecEvent::Output { .. })));
        let exec = rig.engine.look(running.exec_id()).await.unwrap().exec;
        assert_eq!((exec.state, exec.streams.stdout.bytes), (ExecState::Running, 5));
        assert_eq!(
            (exec.signal, exec.exit_code),
            (None, None),
            "how it ends is told at the end"
        );
        finish(running).await;
    });
}

#[test]
fn an_exec_that_waits_for_a_channel_has_not_run() {
    paused(async {
        let rig = Rig::new(World {
            dial_latency: Duration::from_secs(2),
            ..world()
        });
        let running = rig.start("true", 0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let exec = rig.engine.look(running.exec_id()).await.unwrap().exec;
        assert_eq!(
            (exec.state, exec.ran, exec.tunnel),
            (ExecState::Running, Ran::No, None)
        );
        finish(running).await;
    });
}

#[test]
fn an_ended_exec_is_seen_until_its_row_is_final() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 1);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        rig.store.is_away.store(true, Relaxed);
        let told = finish(running).await;
        assert!(!told.audit.committed);
        let look = rig.engine.look(told.exec_id).await.unwrap();
        assert_eq!(look.exec, told);
        rig.store.is_away.store(false, Relaxed);
        rig.engine.live.none_left().await;
        assert_eq!(rig.engine.look(told.exec_id).await, None);
    });
}

#[test]
fn a_delete_ends_the_exec_of_its_own_workspace() {
    paused(async {
        let rig = Rig::new(world());
        let mut running = rig.start("hang", 60);
        assert_eq!(running.next().await, Some(ExecEvent::Started));
        let exec_id = running.exec_id();
        let cancel = |workspace| rig.engine.cancel(exec_id, workspace, EndedBy::Delete);
        assert!(!cancel(Uuid::from_u128(2)));
        assert!(cancel(WORKSPACE));
        let exec = finish(running).await;
        assert_eq!(
            (exec.outcome, exec.ended_by, code(&exec)),
            (
                Some(Outcome::Cancelled),
                Some(EndedBy::Delete),
                Some(ErrorCode::ExecCancelled)
            )
        );
        rig.engine.live.none_left().await;
        assert!(!cancel(WORKSPACE));
    });
}

/// The other try has the same id and must not be found by it, nor take its place.
#[test]
fn only_the_try_that_owns_an_id_is_found_by_it() {
    paused(async {
        let rig = Rig::new(world());
        let exec_id = Uuid::from_u128(5);
        let mut owner = rig.start_idempotent(exec_id, "hang");
        let mut other = rig.start_idempotent(exec_id, "hang");
        assert!(owner.owns_id().await);
        assert!(!other.owns_id().await);
        drop(other);
        assert_eq!(owner.next().await, Some(ExecEvent::Started));
        assert_eq!(rig.in_flight(), 1);
        assert_eq!(rig.engine.look(exec_id).await.unwrap().exec.ran, Ran::Yes);
        assert!(rig.engine.cancel(exec_id, WORKSPACE, EndedBy::Delete));
        assert_eq!(finish(owner).await.ended_by, Some(EndedBy::Delete));
    });
}
