//! What tunnels do for other instances, for other logins, and for operators.

use super::tests::{Table, asks, changed, leases, settings};
use super::*;

const NOTHING: [&str; 0] = [];

fn asks_for(ask: AskId, seconds: u64) -> Event {
    Event::Ask {
        ask,
        timeout: Duration::from_secs(seconds),
    }
}

/// One tunnel of 60 s in use, at the age when its successor has just become ready.
fn with_successor() -> Table {
    let mut table = Table::new(settings());
    table.life = Duration::from_secs(60);
    table.on(asks_for(1, 10));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    assert_eq!(table.pass(Duration::from_secs(28)), ["dial 2"]);
    table.connect(2);
    table
}

/// It would be dialled anew at once, and cost the endpoint a connection and the instance a login each time.
#[tokio::test]
async fn a_successor_that_has_yet_to_take_over_is_not_idle() {
    let mut table = with_successor();
    assert!(table.channels(2).idle_since.is_some());
    assert_eq!(table.core.idle_since(2), None);
    table.on(leases(1, 0));
    table.pass(Duration::from_secs(8));
    assert!(table.core.idle_since(2).is_some(), "the old one is gone");
}

#[tokio::test]
async fn a_channel_on_an_old_tunnel_does_not_end_the_back_off_of_a_new_one() {
    let mut table = Table::new(settings());
    table.life = Duration::from_secs(60);
    table.on(asks_for(1, 10));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.pass(Duration::from_secs(28));
    let (error, jitter) = (changed(), 1.0);
    table.on(Event::ConnectFailed {
        tunnel: 2,
        error,
        jitter,
    });
    assert_eq!(table.on(asks_for(2, 10)), ["open 1"]);
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 1 }),
        ["give 2 of 1 Warm"],
        "and nothing is dialled"
    );
    assert_eq!(table.core.failures(), 1);
}

#[tokio::test]
async fn an_idle_tunnel_gives_way_to_its_own_successor() {
    let mut table = Table::new(CoreSettings {
        idle_timeout: Duration::from_secs(3_600),
        ..settings()
    });
    table.on(asks_for(1, 10));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.on(leases(1, 0));
    table.now += Duration::from_secs(3_470);
    table.feed(asks_for(2, 120));
    let by_endpoint = true;
    table.feed(Event::Located {
        tunnel: 2,
        by_endpoint,
    });
    let give_way = Event::GiveWay {
        tunnel: 1,
        if_second: false,
    };
    assert_eq!(
        table.on(give_way),
        ["close 1 another instance needs its connection"],
        "whoever waits here can't use it"
    );
}

#[tokio::test]
async fn a_tunnel_is_not_idle_while_a_channel_is_opened_for_someone() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.on(leases(1, 0));
    table.now += Duration::from_millis(299_990);
    assert_eq!(table.on(asks(2)), ["open 1", "forget"]);
    assert_eq!(table.pass(Duration::from_millis(20)), NOTHING);
    assert_eq!(table.on(Event::ChannelOpened { tunnel: 1 }), ["give 2 of 1 Warm"]);
}

#[tokio::test]
async fn a_second_tunnel_that_waits_for_a_connection_becomes_the_first_when_that_is_lost() {
    let mut table = Table::new(settings());
    for ask in 1..=3 {
        table.on(asks(ask));
    }
    table.pushed();
    table.connect(1);
    for _ in 0..3 {
        table.on(Event::ChannelOpened { tunnel: 1 });
    }
    table.feed(asks(4));
    let by_endpoint = true;
    let located = Event::Located {
        tunnel: 2,
        by_endpoint,
    };
    assert_eq!(table.feed(located), ["request slot 2 second"]);
    let lost = Event::Lost {
        tunnel: 1,
        jitter: 0.0,
    };
    assert_eq!(table.feed(lost), ["request slot 2 first"]);
}

/// Two cores stand for two logins on one instance.
#[tokio::test]
async fn logins_under_way_on_an_instance_are_no_more_than_may_be_refused() {
    let shared = RefusedLogins::default();
    let at_its_login = |number: u64| {
        let mut table = Table::new(settings());
        table.core = SupervisorCore::new(settings(), shared.clone());
        table.on(asks(number));
        table.pushed();
        table.on(Event::Dialed {
            tunnel: 1,
            life: None,
        });
        let effects = table.on(Event::Handshaken { tunnel: 1 });
        (table, effects)
    };
    let (mut first, login) = at_its_login(1);
    assert_eq!(login, ["log in 1"]);
    let (_second, login) = at_its_login(2);
    assert_eq!(login, ["log in 1"]);
    let (mut third, login) = at_its_login(3);
    assert_eq!(login, NOTHING, "if both are refused a third would be too many");
    assert_eq!(third.core.next_wake(third.now), Some(third.now + LOGIN_TURN));
    first.on(Event::LoggedIn { tunnel: 1 });
    assert_eq!(third.pass(LOGIN_TURN), ["log in 1"]);
}

#[tokio::test]
async fn drained_tunnels_on_their_way_are_dialled_anew_for_those_who_wait() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    assert_eq!(table.on(Event::Drain), ["close 1 drained", "dial 2"]);
    assert_eq!(
        table.on(Event::Evict),
        ["close 2 drained"],
        "after an evict nobody waits any more"
    );
    assert_eq!(table.core.waiters(), 0);
    assert_eq!(table.on(Event::Withdraw { ask: 1 }), NOTHING);
}

#[tokio::test]
async fn a_new_pin_ends_no_other_back_off() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.on(Event::ConnectFailed {
        tunnel: 1,
        error: TunnelError::LoginPenalised,
        jitter: 0.0,
    });
    table.on(Event::HostKeyReplaced);
    assert_eq!(table.on(asks(2)), ["refuse 2 login_penalised"]);
}

#[tokio::test]
async fn no_key_is_pushed_for_a_dial_that_the_endpoint_may_refuse_again() {
    let mut table = Table::new(CoreSettings {
        start_timeout: Duration::from_secs(300),
        ..settings()
    });
    table.feed(asks(1));
    table.pushed();
    let by_endpoint = true;
    table.feed(Event::Located {
        tunnel: 1,
        by_endpoint,
    });
    table.feed(Event::SlotGranted { tunnel: 1 });
    table.feed(Event::EndpointRefused { tunnel: 1 });
    assert_eq!(table.pass(Duration::from_secs(45)), ["forget"]);
    assert_eq!(table.feed(Event::SlotGranted { tunnel: 1 }), ["dial 1"]);
    let life = None;
    assert_eq!(table.feed(Event::Dialed { tunnel: 1, life }), ["push"]);
}
