//! Which tunnels there are: over their lives, and when an endpoint's connections or an instance's patience are short.

use super::tests::{Table, asks, changed, leases, refused_login, settings};
use super::*;
use crate::tunnel::HostKeyError;

const NOTHING: [&str; 0] = [];

fn asks_for(ask: AskId, seconds: u64) -> Event {
    Event::Ask {
        ask,
        timeout: Duration::from_secs(seconds),
    }
}

/// A table with one tunnel of this life that has just served and ended one exec of 10 s.
fn served_once(life: u64) -> Table {
    let mut table = Table::new(settings());
    table.life = Duration::from_secs(life);
    table.on(asks_for(1, 10));
    table.pushed();
    table.connect(1);
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 1 }),
        ["give 1 of 1 Cold", "warden 1"]
    );
    table.on(leases(1, 0));
    table
}

impl Table {
    fn state(&self, tunnel: TunnelId) -> &'static str {
        self.core
            .tunnels()
            .get(&tunnel)
            .map_or("closed", |tunnel| tunnel.state.name())
    }

    /// Lets time pass to each wake-up in turn until `age` after the start, and names what happened.
    fn pass_to(&mut self, end: Instant) -> Vec<String> {
        let mut effects = Vec::new();
        while let Some(wake) = self.core.next_wake(self.now).filter(|wake| *wake <= end) {
            self.now = wake;
            effects.extend(self.on(Event::Wake));
        }
        self.now = end;
        effects
    }
}

/// 60 s tunnels, execs of 10 s: due at 27.5 s, good for 10 s until 35 s, of no use from 45 s.
#[tokio::test]
async fn a_tunnel_in_use_is_replaced_before_its_life_ends() {
    let mut table = served_once(60);
    let start = table.now;
    let at = |tenths: u64| start + Duration::from_millis(tenths * 100);
    table.on(asks_for(2, 10));
    table.on(Event::ChannelOpened { tunnel: 1 });
    assert_eq!(table.pass_to(at(274)), NOTHING);
    assert_eq!(table.pass_to(at(275)), ["dial 2"]);
    assert_eq!(table.core.tunnels()[&2].purpose, Purpose::Successor);
    assert_eq!(
        table.on(asks_for(3, 10)),
        ["open 1"],
        "the old one serves while the new one comes up"
    );
    assert_eq!(table.on(Event::ChannelOpened { tunnel: 1 }), ["give 3 of 1 Warm"]);
    assert_eq!(table.connect(2), NOTHING);
    assert_eq!(table.state(1), "ready", "it still has enough life for 10 s");
    table.pass_to(at(350));
    assert_eq!(table.state(1), "retiring");
    assert_eq!(table.on(asks_for(4, 10)), ["open 2"]);
    table.on(leases(1, 1));
    assert_eq!(table.state(1), "retiring", "its last exec goes on");
    assert_eq!(table.on(leases(1, 0)), ["close 1 retired"]);
}

#[tokio::test]
async fn an_exec_that_needs_more_life_than_is_left_gets_the_successor() {
    let mut table = served_once(3_600);
    table.core.settings.idle_timeout = Duration::from_secs(3_600);
    table.now += Duration::from_secs(3_470);
    table.core.longest_timeout = Duration::from_secs(10);
    // Idle, so nobody has replaced it; 130 s are left, and 120 s with the margin are 135 s.
    assert_eq!(table.on(asks_for(2, 120)), ["dial 2", "forget", "push"]);
    assert_eq!(table.core.tunnels()[&2].purpose, Purpose::Successor);
    assert_eq!(
        table.on(asks_for(3, 10)),
        ["open 1"],
        "the old one will do for this"
    );
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 1 }),
        ["give 3 of 1 Warm"],
        "past the one that came first and can't use it"
    );
    table.pushed();
    assert_eq!(table.connect(2), ["open 2"]);
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 2 }),
        ["give 2 of 2 Cold", "warden 2"]
    );
}

#[tokio::test]
async fn a_fresh_tunnel_serves_even_an_exec_that_may_outlive_it() {
    let mut table = Table::new(settings());
    table.life = Duration::from_secs(60);
    table.on(asks_for(1, 120));
    table.pushed();
    assert_eq!(table.connect(1), ["open 1"]);
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 1 }),
        ["give 1 of 1 Cold", "warden 1"]
    );
}

#[tokio::test]
async fn a_tunnel_that_nobody_uses_gets_no_successor() {
    let mut table = served_once(300);
    let end = table.now + Duration::from_secs(1_000);
    let effects = table.pass_to(end);
    assert_eq!(
        effects,
        ["forget", "close 1 retired"],
        "at 285 s it is of no use to anyone"
    );

    let mut table = served_once(60);
    let start = table.now;
    let dialled = table.pass_to(start + Duration::from_secs(28));
    assert_eq!(dialled, ["dial 2"], "it was used a moment ago");
    table.connect(2);
    let effects = table.pass_to(start + Duration::from_secs(1_000));
    assert_eq!(
        effects,
        ["close 1 retired", "forget", "close 2 retired"],
        "but the successor never was, so it has none"
    );
}

#[tokio::test]
async fn a_successor_that_fails_costs_nobody_the_old_tunnel() {
    let mut table = served_once(60);
    let start = table.now;
    table.pass_to(start + Duration::from_secs(28));
    let failed = |tunnel| Event::ConnectFailed {
        tunnel,
        error: changed(),
        jitter: 1.0,
    };
    assert_eq!(table.on(failed(2)), NOTHING);
    assert_eq!(table.on(asks_for(2, 10)), ["open 1"]);
    assert_eq!(
        table.pass_to(start + Duration::from_secs(30)),
        ["dial 3"],
        "and is tried again"
    );
    table.on(failed(3));
}

#[tokio::test]
async fn a_tunnel_through_an_endpoint_waits_for_one_of_its_connections() {
    let mut table = Table::new(settings());
    assert_eq!(table.feed(asks(1)), ["locate 1", "push"]);
    let located = Event::Located {
        tunnel: 1,
        by_endpoint: true,
    };
    assert_eq!(table.on(located), ["request slot 1 first"]);
    assert_eq!(table.core.awaited(table.now).unwrap().1, "endpoint_connection");
    assert_eq!(table.on(Event::SlotGranted { tunnel: 1 }), ["dial 1"]);
    assert_eq!(
        table.on(Event::EndpointRefused { tunnel: 1 }),
        ["request slot 1 first"],
        "others use the endpoint too: back into the queue, not an error"
    );
    table.pushed();
    assert_eq!(
        table.pass(Duration::from_secs(30)),
        ["refuse 1 endpoint_busy", "close 1 nobody waits for it any more"]
    );
}

/// The endpoint is tried again from time to time, and a waiter's time may be up at just that moment.
#[tokio::test]
async fn a_refused_tunnel_waits_for_the_endpoint_also_while_it_is_tried_again() {
    for (refusals, awaited, refusal) in [
        (0, "dial", "refuse 1 start_timeout"),
        (1, "endpoint_connection", "refuse 1 endpoint_busy"),
    ] {
        let mut table = Table::new(settings());
        table.feed(asks(1));
        let by_endpoint = true;
        table.feed(Event::Located {
            tunnel: 1,
            by_endpoint,
        });
        table.pushed();
        table.feed(Event::SlotGranted { tunnel: 1 });
        for _ in 0..refusals {
            table.feed(Event::EndpointRefused { tunnel: 1 });
            table.feed(Event::SlotGranted { tunnel: 1 });
        }
        assert_eq!(table.state(1), "dialing");
        assert_eq!(table.core.awaited(table.now).unwrap().1, awaited);
        assert_eq!(table.pass(Duration::from_secs(30)), [refusal]);
    }
}

#[tokio::test]
async fn no_key_is_pushed_for_a_tunnel_that_waits_for_a_connection() {
    let mut table = Table::new(CoreSettings {
        start_timeout: Duration::from_secs(300),
        ..settings()
    });
    table.feed(asks(1));
    table.pushed();
    table.on(Event::Located {
        tunnel: 1,
        by_endpoint: true,
    });
    assert_eq!(
        table.pass(Duration::from_secs(45)),
        ["forget"],
        "it would be too old"
    );
    assert_eq!(table.on(Event::SlotGranted { tunnel: 1 }), ["dial 1", "push"]);
}

#[tokio::test]
async fn an_idle_tunnel_gives_way_and_one_in_use_does_not() {
    let mut table = served_once(3_600);
    table.on(asks(2));
    table.on(Event::ChannelOpened { tunnel: 1 });
    let give_way = |if_second| Event::GiveWay { tunnel: 1, if_second };
    assert_eq!(
        table.on(give_way(true)),
        ["keep slot 1"],
        "its instance's only one"
    );
    table.on(leases(1, 0));
    assert_eq!(
        table.on(give_way(false)),
        ["close 1 another instance needs its connection"]
    );
    assert_eq!(table.on(give_way(false)), NOTHING, "gone already");
}

#[tokio::test]
async fn the_second_tunnel_in_use_takes_no_new_lease_when_another_instance_has_none() {
    let mut table = Table::new(settings());
    for ask in 1..=3 {
        table.on(asks(ask));
    }
    table.pushed();
    table.connect(1);
    for _ in 0..3 {
        table.on(Event::ChannelOpened { tunnel: 1 });
    }
    table.on(asks(4));
    assert_eq!(table.core.tunnels()[&2].purpose, Purpose::Second);
    table.connect(2);
    table.on(Event::ChannelOpened { tunnel: 2 });
    let give_way = |if_second| Event::GiveWay { tunnel: 2, if_second };
    assert_eq!(table.on(give_way(false)), ["keep slot 2"]);
    assert_eq!(table.on(give_way(true)), ["leave slot 2"]);
    assert_eq!(table.state(2), "retiring");
    assert_eq!(
        table.on(give_way(true)),
        ["leave slot 2"],
        "it will when its execs end"
    );
    assert_eq!(table.on(leases(2, 0)), ["close 2 retired"]);
}

#[tokio::test]
async fn two_refused_logins_a_minute_whatever_the_back_off_says() {
    let mut table = Table::new(settings());
    let start = table.now;
    let mut logins = Vec::new();
    for second in 0..600 {
        table.now = start + Duration::from_secs(second);
        let effects = table.on(asks(second + 1));
        let dialled = effects.iter().find_map(|effect| effect.strip_prefix("dial "));
        let Some(tunnel) = dialled.map(|tunnel| tunnel.parse().unwrap()) else {
            assert_eq!(effects, [format!("refuse {} login_refused", second + 1)]);
            continue;
        };
        table.pushed();
        table.on(Event::Dialed { tunnel, life: None });
        assert_eq!(
            table.on(Event::Handshaken { tunnel }),
            [format!("log in {tunnel}")]
        );
        logins.push(second);
        table.on(Event::ConnectFailed {
            tunnel,
            error: refused_login(),
            jitter: 0.0,
        });
    }
    assert!(
        logins.windows(3).all(|three| three[2] - three[0] >= 60),
        "{logins:?}"
    );
    assert!(logins.len() >= 18, "and it is not given up: {logins:?}");
}

#[tokio::test]
async fn refused_logins_count_over_all_logins_of_an_instance() {
    let shared = RefusedLogins::default();
    let mut table = Table::new(settings());
    table.core = SupervisorCore::new(settings(), shared.clone());
    table.on(asks(1));
    table.pushed();
    table.on(Event::Dialed {
        tunnel: 1,
        life: None,
    });
    shared.add(table.now);
    shared.add(table.now);
    assert_eq!(
        table.on(Event::Handshaken { tunnel: 1 }),
        [
            "close 1 the instance has refused too many logins lately",
            "note login_refused",
            "refuse 1 login_refused"
        ]
    );
    assert_eq!(table.on(asks(2)), ["refuse 2 login_refused"]);
    table.now += Duration::from_secs(60);
    assert_eq!(table.on(asks(3)), ["dial 2", "forget", "push"]);
}

#[tokio::test]
async fn a_penalised_address_waits_at_least_as_long_as_sshd_says() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.on(Event::ConnectFailed {
        tunnel: 1,
        error: TunnelError::LoginPenalised,
        jitter: 0.0,
    });
    assert_eq!(
        table.core.retry_at(table.now),
        Some(table.now + Duration::from_secs(15))
    );
}

#[tokio::test]
async fn whoever_is_told_of_a_failure_hears_when_to_come_again() {
    let mut table = Table::new(settings());
    let told = |effects: Vec<Effect>| -> Vec<Duration> {
        let refusals = effects.iter().filter_map(|effect| match effect {
            Effect::Refuse { error, .. } => error.retry_after(),
            _ => None,
        });
        refusals.collect()
    };
    table.on(asks(1));
    table.pushed();
    let failed = Event::ConnectFailed {
        tunnel: 1,
        error: TunnelError::LoginPenalised,
        jitter: 0.0,
    };
    let effects = table.core.on(failed, table.now);
    assert_eq!(told(effects), [Duration::from_secs(15)]);
    table.now += Duration::from_secs(5);
    let effects = table.core.on(asks(2), table.now);
    assert_eq!(told(effects), [Duration::from_secs(10)]);
}

#[tokio::test]
async fn drained_tunnels_end_with_their_execs_and_newcomers_get_another() {
    let mut table = served_once(3_600);
    table.on(asks(2));
    table.on(Event::ChannelOpened { tunnel: 1 });
    assert_eq!(table.on(Event::Drain), NOTHING);
    assert_eq!(table.on(asks(3)), ["dial 2"]);
    assert_eq!(table.on(leases(1, 0)), ["close 1 retired"]);
}

#[tokio::test]
async fn a_replaced_host_key_is_tried_at_once() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.on(Event::ConnectFailed {
        tunnel: 1,
        error: changed(),
        jitter: 1.0,
    });
    assert_eq!(table.on(asks(2)), ["refuse 2 host_key_changed"]);
    table.on(Event::HostKeyReplaced);
    assert_eq!(table.on(asks(3)), ["dial 2"]);
    assert_eq!(
        table.on(Event::HostKeyReplaced),
        ["close 2 host key pin was replaced", "dial 3"],
        "one on its way may have been checked against the old pin"
    );
}

#[tokio::test]
async fn nothing_is_dialled_in_a_shutdown() {
    let mut table = served_once(60);
    table.on(asks_for(2, 10));
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.on(Event::Shutdown);
    let end = table.now + Duration::from_secs(100);
    assert_eq!(table.pass_to(end), ["forget"]);
}

/// A crowd on a cold instance may keep the store so busy that the pin is not read in time: no reason to send it away.
#[tokio::test]
async fn a_pin_that_could_not_be_read_is_asked_for_once_more() {
    let failed = |tunnel| Event::ConnectFailed {
        tunnel,
        error: TunnelError::HostKeys(Arc::new(HostKeyError("no connection to the store".into()))),
        jitter: 1.0,
    };
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    assert_eq!(table.on(failed(1)), NOTHING);
    assert_eq!(table.pass(Duration::from_secs(1)), ["dial 2"]);
    assert_eq!(table.on(failed(2)), ["refuse 1 target_unreachable"]);
}
