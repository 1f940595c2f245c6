//! The warden of a tunnel, and what is said of an exec that was stopped with or without one.

use super::instance::Warden;
use super::*;

fn with(warden: Warden) -> Rig {
    Rig::new(World::new(Instance {
        warden,
        ..Instance::new()
    }))
}

fn wardens(rig: &Rig) -> usize {
    rig.world.instance.lock().unwrap().seen.wardens.load(Relaxed)
}

/// Signals, whether it is confirmed, and seconds from the timeout of 1 s to the end.
async fn stopped(rig: &Rig, program: &str) -> (String, bool, u64) {
    let asked = Instant::now();
    let exec = finish(rig.start(program, 1)).await;
    let row = rig.row(&exec).response_body.unwrap();
    assert_eq!(row["kill"], serde_json::to_value(&exec.kill).unwrap());
    let kill = exec.kill.unwrap();
    (kill.sent.join(" "), kill.confirmed, asked.elapsed().as_secs() - 1)
}

#[test]
fn a_tunnel_has_one_from_its_first_exec_on() {
    paused(async {
        let rig = Rig::new(world());
        for _ in 0..3 {
            rig.run("true").await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let tunnel = rig.tunnel().await;
        assert_eq!(
            (tunnel.warden.as_str(), tunnel.refcount, tunnel.channels_in_use),
            ("ready", 0, 2)
        );
        assert_eq!((wardens(&rig), rig.requests()), (1, 3));
    });
}

/// The warden reaches them; SSH's signals do not.
#[test]
fn a_program_is_stopped_where_sshd_refuses_signals() {
    paused(async {
        let rig = Rig::new(World::new(Instance {
            ignores_signals: true,
            ..Instance::new()
        }));
        assert_eq!(stopped(&rig, "hang").await, ("TERM".to_owned(), true, 0));
        assert_eq!(stopped(&rig, "stubborn").await, ("TERM KILL".to_owned(), true, 2));
        assert_eq!(rig.tunnel().await.state, "ready");
        assert_eq!(
            stopped(&rig, "immortal").await,
            ("TERM KILL".to_owned(), false, 5)
        );
        tokio::task::yield_now().await;
        assert!(
            rig.engine.tunnels().await.remove(0).tunnels.is_empty(),
            "its end ends what may be left"
        );
    });
}

#[test]
fn without_a_warden_nothing_is_confirmed() {
    for warden in [Warden::IsNone, Warden::IsRefused] {
        paused(async {
            let rig = with(warden);
            rig.run("true").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(rig.tunnel().await.warden, "none");
            assert_eq!(stopped(&rig, "hang").await, ("TERM".to_owned(), false, 0));
            assert_eq!(
                stopped(&rig, "stubborn").await,
                ("TERM KILL".to_owned(), false, 2)
            );
            assert_eq!(
                (rig.tunnel().await.state.as_str(), wardens(&rig)),
                ("ready", 1),
                "nothing hints at more, and it is not tried again"
            );
        });
    }
}

#[test]
fn an_instance_with_one_session_gives_it_to_execs() {
    paused(async {
        let rig = Rig::new(World::new(Instance {
            max_sessions: 1,
            ..Instance::new()
        }));
        for _ in 0..3 {
            assert_eq!(rig.run("true").await.exit_code, Some(0));
        }
        assert_eq!(stopped(&rig, "hang").await, ("TERM".to_owned(), false, 0));
        assert_eq!((rig.tunnel().await.warden.as_str(), wardens(&rig)), ("none", 0));
    });
}

#[test]
fn a_warden_that_does_not_answer_confirms_nothing() {
    paused(async {
        let rig = with(Warden::IsDeaf);
        let neighbour = rig.start("five_seconds", 60);
        assert_eq!(stopped(&rig, "hang").await, ("TERM".to_owned(), false, 5));
        assert_eq!(finish(neighbour).await.exit_code, Some(0));
        assert_eq!(
            rig.run("true").await.tunnel,
            Some(TunnelTemperature::Cold),
            "its tunnel takes no more"
        );
    });
}

/// Their execs are over, and something holds their channels: two tunnels full of them block nobody.
#[test]
fn channels_that_linger_make_room_for_those_who_wait() {
    paused(async {
        let rig = Rig::new(world());
        let held = join_all((0..18).map(|_| rig.run("hold"))).await;
        assert!(
            held.iter()
                .all(|exec| exec.exit_code == Some(3) && exec.kill.is_none())
        );
        let tunnels = rig.engine.tunnels().await.remove(0).tunnels;
        let leases: Vec<usize> = tunnels.iter().map(|tunnel| tunnel.refcount).collect();
        assert_eq!(leases, [9, 9], "sshd has closed none of them");
        let dials = rig.world.dials.load(Relaxed);
        assert_eq!(rig.run("true").await.exit_code, Some(0));
        assert_eq!(rig.world.dials.load(Relaxed), dials + 1);
        let tunnels = rig.engine.tunnels().await.remove(0).tunnels;
        let ids: Vec<u64> = tunnels.iter().map(|tunnel| tunnel.tunnel_id).collect();
        assert_eq!(ids, [2, 3], "the older one made room");
    });
}

#[test]
fn what_ran_instead_of_a_shell_is_named() {
    paused(async {
        let rig = Rig::new(world());
        let exec = rig.run("forced").await;
        assert_eq!(code(&exec), Some(ErrorCode::LoginRefused));
        let detail = rig.row(&exec).error_detail.unwrap();
        assert!(detail.contains("POSIX shell"), "{detail}");
        let exec = rig.run("nofork").await;
        assert_eq!((code(&exec), exec.ran), (Some(ErrorCode::LoginRefused), Ran::No));
        let detail = rig.row(&exec).error_detail.unwrap();
        assert!(detail.contains("refused the exec request"), "{detail}");
    });
}
