//! Many tunnels over a long time: their lives, the endpoint's connections, refused logins.

use std::time::Duration;

use super::*;
use crate::exec::EndedBy;

fn exited(exec: &Exec) -> bool {
    exec.outcome == Some(Outcome::Exited) && exec.exit_code == Some(0)
}

fn all_exited(ended: &[Exec]) {
    let lost: Vec<_> = ended.iter().filter(|exec| !exited(exec)).collect();
    assert!(
        lost.is_empty(),
        "{} of {}: {:#?}",
        lost.len(),
        ended.len(),
        lost[0]
    );
}

async fn run_on(rig: &Rig, instance: usize, program: &str, timeout_s: u64) -> Exec {
    finish(rig.start_on(instance, program, timeout_s)).await
}

/// Tunnels of 60 s; for two minutes always eight execs of 5 s with a timeout of 10 s.
#[test]
fn no_exec_is_lost_to_the_end_of_a_tunnels_life() {
    paused(async {
        let mut world = world();
        world.max_duration = Duration::from_secs(60);
        world.push_latency = Duration::from_millis(300);
        world.dial_latency = Duration::from_millis(200);
        let rig = Rig::new(world);
        let end = Instant::now() + Duration::from_secs(120);
        let caller = async |_| {
            let mut ended = Vec::new();
            while Instant::now() < end {
                ended.push(run_on(&rig, 0, "five_seconds", 10).await);
            }
            ended
        };
        let ended: Vec<Exec> = join_all((0..8).map(caller)).await.into_iter().flatten().collect();
        all_exited(&ended);
        assert!(ended.len() >= 8 * 20, "{}", ended.len());
        assert!(rig.world.dials.load(Relaxed) >= 4, "the tunnels did change");
        let cold = ended
            .iter()
            .filter(|exec| exec.tunnel == Some(TunnelTemperature::Cold))
            .count();
        assert_eq!(cold, 8, "only those who came first met a cold instance");
        assert_eq!(rig.world.refused_dials.load(Relaxed), 0);
    });
}

/// Also with what the longest exec may ask: 120 s on tunnels that live for ten minutes, for an hour.
#[test]
fn nor_a_long_one_among_short_ones() {
    paused(async {
        let mut world = world();
        world.max_duration = Duration::from_secs(600);
        let rig = Rig::new(world);
        let end = Instant::now() + Duration::from_secs(3_600);
        let caller = async |number: u64| {
            let mut ended = Vec::new();
            while Instant::now() < end {
                // The hanging ones are ended by their timeout, and so take all of it.
                let (program, timeout) = if number == 0 {
                    ("hang", 120)
                } else {
                    ("five_seconds", 10)
                };
                ended.push(run_on(&rig, 0, program, timeout).await);
            }
            ended
        };
        let ended = join_all((0..3).map(caller)).await;
        for exec in ended.iter().flatten() {
            assert!(
                matches!(exec.ended_by, Some(EndedBy::Exit | EndedBy::Timeout)),
                "{exec:#?}"
            );
        }
        assert!(ended[0].len() >= 29 && rig.world.dials.load(Relaxed) >= 7);
    });
}

/// 30 instances behind one endpoint, each asked again and again; 16 of its 20 connections are ours.
#[test]
fn thirty_instances_share_an_endpoint() {
    paused(async {
        let rig = Rig::new(world());
        let caller = async |instance| {
            let mut ended = Vec::new();
            for _ in 0..10 {
                ended.push(run_on(&rig, instance, "true", 10).await);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            ended
        };
        let ended: Vec<Exec> = join_all((0..30).map(caller))
            .await
            .into_iter()
            .flatten()
            .collect();
        all_exited(&ended);
        assert_eq!(ended.len(), 300);
        let peak = rig.world.peak.load(Relaxed);
        assert_eq!(peak, 14, "16, of which two are for successors");
        assert_eq!(rig.world.refused_dials.load(Relaxed), 0);
    });
}

#[test]
fn a_busy_tunnel_is_never_cut_for_another_instance() {
    paused(async {
        let settings = EngineSettings {
            endpoint_connections: 2,
            endpoint_reserve: 0,
            ..EngineSettings::default()
        };
        let rig = Rig::with(world(), settings);
        let busy = [rig.start_on(1, "hang", 120), rig.start_on(2, "hang", 120)];
        let third = run_on(&rig, 3, "true", 10).await;
        assert_eq!(code(&third), Some(ErrorCode::EndpointBusy));
        assert_eq!(third.ran, Ran::No);
        let endpoint = rig.engine.endpoints().await.remove(0);
        assert_eq!((endpoint.in_use, endpoint.holders.len()), (2, 2));
        assert!(endpoint.waiting.is_empty(), "whoever has left waits no more");
        let fourth = rig.start_on(4, "true", 10);
        busy[0].cancel(EndedBy::Delete);
        assert!(exited(&finish(fourth).await), "as soon as one is idle");
        let [first, second] = busy;
        assert_eq!(finish(first).await.ended_by, Some(EndedBy::Delete));
        assert_eq!(
            finish(second).await.ended_by,
            Some(EndedBy::Timeout),
            "the other ran on"
        );
    });
}

/// Others hold all but three of the endpoint's connections.
#[test]
fn what_others_take_of_an_endpoint_is_not_fought_for() {
    paused(async {
        let rig = Rig::new(world());
        rig.world.endpoint_limit.store(3, Relaxed);
        let caller = async |instance| {
            let mut ended = Vec::new();
            for _ in 0..3 {
                ended.push(run_on(&rig, instance, "five_seconds", 10).await);
            }
            ended
        };
        let ended: Vec<Exec> = join_all((0..5).map(caller)).await.into_iter().flatten().collect();
        all_exited(&ended);
        let refused = rig.world.refused_dials.load(Relaxed);
        assert!((1..=20).contains(&refused), "{refused} refused dials");
        rig.world.endpoint_limit.store(20, Relaxed);
        tokio::time::sleep(Duration::from_secs(120)).await;
        let endpoint = rig.engine.endpoints().await.remove(0);
        assert_eq!((endpoint.limit, endpoint.configured_limit), (16, 16));
    });
}

#[test]
fn a_refusing_instance_sees_two_logins_a_minute_at_most() {
    paused(async {
        let mut instance = Instance::new();
        instance.refuses_logins = true;
        let rig = Rig::new(World::new(instance));
        let seen = Arc::clone(&rig.world.instance.lock().unwrap().seen);
        let mut reached = Vec::new();
        for _ in 0..3_000 {
            let exec = run_on(&rig, 0, "true", 10).await;
            assert_eq!(code(&exec), Some(ErrorCode::LoginRefused), "{exec:#?}");
            if seen.logins.load(Relaxed) > reached.len() {
                reached.push(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(
            reached.len(),
            seen.logins.load(Relaxed),
            "one login for one exec at most"
        );
        let is_seldom = |three: &[Instant]| three[2] - three[0] >= Duration::from_secs(60);
        assert!(reached.windows(3).all(is_seldom), "{reached:?}");
        assert!(reached.len() >= 8, "and it is not given up: {reached:?}");
        let snapshot = rig.engine.tunnels().await.remove(0);
        assert!(
            snapshot.failures >= 4 && snapshot.retry_in_s.is_some(),
            "{snapshot:#?}"
        );
    });
}

#[test]
fn an_evicted_instances_execs_end_as_cancelled() {
    paused(async {
        let rig = Rig::new(world());
        let running = rig.start_on(1, "hang", 120);
        let other = rig.start_on(2, "hang", 120);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(rig.engine.evict("i-00000000000000001", Some("elsewhere")), 0);
        assert_eq!(rig.engine.evict("i-00000000000000001", None), 1);
        let ended = finish(running).await;
        assert_eq!(
            (ended.outcome, ended.ended_by, ended.ran),
            (Some(Outcome::Cancelled), Some(EndedBy::Evict), Ran::Yes)
        );
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(
            rig.engine.tunnels_of("i-00000000000000001", None).await[0]
                .tunnels
                .is_empty()
        );
        assert_eq!(
            rig.engine.tunnels_of("i-00000000000000002", None).await[0].tunnels[0].refcount,
            1
        );
        assert_eq!(rig.engine.evict("i-unknown", None), 0);
        drop(other);
    });
}
