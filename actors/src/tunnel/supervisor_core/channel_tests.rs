use super::tests::{Table, asks, leases, settings};
use super::warden_tests::refused as warden_refused;
use super::*;

#[tokio::test]
async fn open_failed_means_busy() {
    let mut table = Table::new(settings());
    for ask in 1..=2 {
        table.on(asks(ask));
    }
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    let pause = Duration::from_millis(10);
    let refused = Event::ChannelRefused {
        tunnel: 1,
        asked_at: table.now,
        retry_after: pause,
        jitter: 0.0,
    };
    assert_eq!(
        table.on(refused),
        ["dial 2"],
        "all channels are taken now: the cap was learned"
    );
    assert_eq!(table.channels(1).cap, 2, "the warden may still get a channel");
    table.on(warden_refused(&table));
    assert_eq!(table.channels(1).cap, 1);
    assert_eq!(table.on(leases(1, 0)), [""; 0], "not before the pause is over");
    assert_eq!(table.core.next_wake(table.now), Some(table.now + pause));
    assert_eq!(table.pass(pause), ["open 1"]);
    assert_eq!(table.on(Event::ChannelOpened { tunnel: 1 }), ["give 2 of 1 Cold"]);
}

#[tokio::test]
async fn a_login_that_gets_no_session_at_all_is_refused() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.connect(1);
    let refused = Event::ChannelRefused {
        tunnel: 1,
        asked_at: table.now,
        retry_after: Duration::from_millis(10),
        jitter: 0.0,
    };
    assert_eq!(
        table.on(refused),
        [
            "close 1 every session refused",
            "note login_refused",
            "refuse 1 login_refused"
        ]
    );
}

#[tokio::test]
async fn a_returned_channel_serves_the_next_asker() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.on(Event::ChannelReturned { tunnel: 1 });
    table.on(leases(1, 0));
    assert_eq!(table.on(asks(2)), ["give 2 of 1 Warm"]);
}

#[tokio::test]
async fn a_spare_is_kept_ready() {
    let mut table = Table::new(CoreSettings {
        spare_channels: 1,
        ..settings()
    });
    table.on(asks(1));
    table.pushed();
    table.connect(1);
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 1 }),
        ["give 1 of 1 Cold", "warden 1", "open 1"]
    );
    assert_eq!(table.on(Event::ChannelOpened { tunnel: 1 }), [""; 0]);
    assert_eq!(table.on(asks(2)), ["give 2 of 1 Warm", "open 1"]);
}

#[tokio::test]
async fn a_slot_that_is_freed_late_is_neither_a_refused_login_nor_a_reason_for_a_second_tunnel() {
    let refused = |asked_at| Event::ChannelRefused {
        tunnel: 1,
        asked_at,
        retry_after: Duration::from_millis(10),
        jitter: 0.0,
    };
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.on(leases(1, 0));
    table.on(warden_refused(&table));
    table.pass(Duration::from_millis(10));
    assert_eq!(table.on(asks(2)), ["open 1"]);
    let asked_at = table.now;
    table.now += Duration::from_millis(250);
    assert_eq!(
        table.on(refused(asked_at)),
        [""; 0],
        "none is open, but one was when this was asked, however slow the link"
    );
    assert_eq!(table.pass(Duration::from_millis(10)), ["open 1"]);
    assert_eq!(
        table.on(refused(table.now)),
        [
            "close 1 every session refused",
            "note login_refused",
            "refuse 2 login_refused"
        ]
    );

    let mut table = Table::new(settings());
    for ask in 1..=3 {
        table.on(asks(ask));
    }
    table.pushed();
    table.connect(1);
    for _ in 0..3 {
        table.on(Event::ChannelOpened { tunnel: 1 });
    }
    table.on(leases(1, 2));
    assert_eq!(table.on(asks(4)), ["open 1"]);
    assert_eq!(table.on(refused(table.now)), [""; 0]);
    assert_eq!(table.pass(Duration::from_millis(10)), ["open 1"]);
}

fn lingering(tunnel: TunnelId, live: usize, lingering: usize) -> Event {
    Event::Leases {
        tunnel,
        live,
        lingering,
    }
}

/// A table whose one tunnel has three execs on it and no further place.
fn full(settings: CoreSettings) -> Table {
    let mut table = Table::new(settings);
    for ask in 1..=3 {
        table.on(asks(ask));
    }
    table.pushed();
    table.connect(1);
    for _ in 0..3 {
        table.on(Event::ChannelOpened { tunnel: 1 });
    }
    table
}

fn one_tunnel() -> CoreSettings {
    CoreSettings {
        max_tunnels: 1,
        ..settings()
    }
}

#[tokio::test]
async fn a_tunnel_that_is_full_of_execs_that_are_over_makes_room_for_who_waits() {
    let mut table = full(one_tunnel());
    assert_eq!(table.on(lingering(1, 3, 3)), [""; 0], "nobody waits");
    assert_eq!(table.on(asks(4)), ["dial 2", "close 1 retired"]);
}

#[tokio::test]
async fn one_with_an_exec_that_goes_on_does_not() {
    let mut table = full(one_tunnel());
    table.on(lingering(1, 3, 2));
    assert_eq!(table.on(asks(4)), [""; 0], "that one will make room");
    assert_eq!(table.on(lingering(1, 3, 3)), ["dial 2", "close 1 retired"]);
}

#[tokio::test]
async fn nor_does_it_before_there_is_a_second_tunnel() {
    let mut table = full(settings());
    table.on(lingering(1, 3, 3));
    assert_eq!(table.on(asks(4)), ["dial 2"]);
    table.connect(2);
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 2 }),
        ["give 4 of 2 Warm", "warden 2"]
    );
}

/// Whatever holds their channels ends with the tunnel.
#[tokio::test]
async fn execs_that_are_over_keep_no_retired_tunnel() {
    let mut table = full(settings());
    table.on(lingering(1, 3, 1));
    table.on(Event::Poisoned { tunnel: 1 });
    assert_eq!(table.on(lingering(1, 2, 1)), [""; 0]);
    assert_eq!(table.on(lingering(1, 2, 2)), ["close 1 retired"]);
}
