//! Execs and tunnels as they should be.

use super::*;

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
    for (program, sent, confirmed, signal, seconds) in [
        ("hang", vec!["TERM"], true, Some("TERM"), 1),
        ("stubborn", vec!["TERM", "KILL"], true, Some("KILL"), 3),
        ("immortal", vec!["TERM", "KILL"], false, None, 6),
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
                (sent.iter().map(ToString::to_string).collect(), confirmed)
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
