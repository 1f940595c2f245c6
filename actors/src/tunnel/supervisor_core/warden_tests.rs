use super::super::warden::WardenEvent;
use super::tests::{Table, asks, leases, settings};
use super::*;

fn news(news: WardenEvent) -> Event {
    Event::Warden { tunnel: 1, news }
}

/// A tunnel that has served one exec, with these settings.
fn serving(settings: CoreSettings) -> Table {
    let mut table = Table::new(settings);
    table.on(asks(1));
    table.pushed();
    assert_eq!(
        table.connect(1),
        ["open 1"],
        "none before the first exec is served"
    );
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 1 }),
        ["give 1 of 1 Cold", "warden 1"]
    );
    table
}

pub(super) fn refused(table: &Table) -> Event {
    Event::WardenRefused {
        tunnel: 1,
        asked_at: table.now,
        retry_after: Duration::from_millis(10),
    }
}

#[tokio::test]
async fn a_warden_comes_after_the_first_exec_and_counts_as_a_channel() {
    let mut table = serving(settings());
    assert_eq!(table.core.warden_name(1), "starting");
    assert_eq!(table.channels(1).in_use(), 2);
    table.on(news(WardenEvent::Opened));
    table.on(news(WardenEvent::Ready));
    assert_eq!(table.core.warden_name(1), "ready");
    for ask in 2..=3 {
        assert_eq!(table.on(asks(ask)), ["open 1"]);
        assert_eq!(
            table.on(Event::ChannelOpened { tunnel: 1 }),
            [format!("give {ask} of 1 Warm")]
        );
    }
    assert_eq!(
        table.on(asks(4)),
        ["dial 2"],
        "three execs and the warden are the four that it has"
    );
}

/// Nobody has to wait because of it: those who come before it find room, and it does not take theirs.
#[tokio::test]
async fn its_place_is_kept_from_the_beginning() {
    let mut table = Table::new(settings());
    for ask in 1..=4 {
        table.on(asks(ask));
    }
    table.pushed();
    assert_eq!(table.connect(1), ["open 1", "open 1", "open 1", "dial 2"]);
    table.on(Event::ChannelOpened { tunnel: 1 });
    assert_eq!(table.channels(1).in_use(), 4);
}

#[tokio::test]
async fn it_comes_before_spare_channels() {
    let mut table = Table::new(CoreSettings {
        spare_channels: 2,
        ..settings()
    });
    table.on(asks(1));
    table.pushed();
    table.connect(1);
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 1 }),
        ["give 1 of 1 Cold", "warden 1", "open 1", "open 1"]
    );
}

#[tokio::test]
async fn an_instance_with_one_session_has_no_warden() {
    let mut table = serving(settings());
    assert_eq!(table.on(refused(&table)), [""; 0]);
    assert_eq!((table.channels(1).cap, table.core.warden_name(1)), (1, "none"));
    assert_eq!(table.pass(Duration::from_millis(10)), [""; 0]);
    table.on(leases(1, 0));
    table.now += Duration::from_millis(200);
    assert_eq!(table.on(asks(2)), ["open 1"], "the session is the execs'");
    assert_eq!(table.on(Event::ChannelOpened { tunnel: 1 }), ["give 2 of 1 Warm"]);
}

#[tokio::test]
async fn a_slot_that_is_freed_late_is_waited_for() {
    let mut table = serving(settings());
    table.on(asks(2));
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.on(leases(1, 1));
    assert_eq!(table.on(refused(&table)), [""; 0]);
    assert_eq!(table.channels(1).cap, 4, "nothing was learned");
    assert_eq!(table.pass(Duration::from_millis(10)), ["warden 1"]);
}

#[tokio::test]
async fn a_warden_that_has_the_only_session_gives_it_up() {
    let mut table = serving(settings());
    table.on(news(WardenEvent::Opened));
    table.on(news(WardenEvent::Ready));
    table.on(leases(1, 0));
    table.now += Duration::from_millis(200);
    assert_eq!(table.on(asks(2)), ["open 1"]);
    let refused = Event::ChannelRefused {
        tunnel: 1,
        asked_at: table.now,
        retry_after: Duration::from_millis(10),
        jitter: 0.0,
    };
    assert_eq!(table.on(refused), ["dismiss warden 1", "dial 2"]);
    assert_eq!(table.core.warden_name(1), "none");
    assert_eq!(
        table.pass(Duration::from_millis(10)),
        [""; 0],
        "its channel is still open"
    );
    let now = table.now;
    assert_eq!(table.on(news(WardenEvent::Ended { now })), ["open 1"]);
}

#[tokio::test]
async fn what_is_no_warden_is_not_tried_again_and_counts_until_it_closes() {
    let mut table = serving(settings());
    table.on(news(WardenEvent::Opened));
    table.on(news(WardenEvent::Dismissed));
    assert_eq!(
        (table.core.warden_name(1), table.channels(1).in_use()),
        ("none", 2)
    );
    let now = table.now;
    assert_eq!(table.on(news(WardenEvent::Ended { now })), [""; 0]);
    assert_eq!(
        (table.core.warden_name(1), table.channels(1).in_use()),
        ("none", 1)
    );
    for ask in 2..=4 {
        table.on(asks(ask));
        table.on(Event::ChannelOpened { tunnel: 1 });
    }
    assert_eq!(table.channels(1).leased, 4, "its place is the execs'");
}

#[tokio::test]
async fn one_that_ends_is_started_again_after_a_pause() {
    let mut table = serving(settings());
    let mut pauses = Vec::new();
    loop {
        table.on(news(WardenEvent::Opened));
        table.on(news(WardenEvent::Ready));
        let now = table.now;
        assert_eq!(table.on(news(WardenEvent::Ended { now })), [""; 0]);
        if table.core.warden_name(1) == "none" {
            break;
        }
        // The grant may end before the pause does.
        while !table
            .pass(Duration::from_secs(1))
            .contains(&"warden 1".to_owned())
        {
            assert!(
                table
                    .core
                    .next_wake(table.now)
                    .is_some_and(|wake| wake <= now + Duration::from_secs(60))
            );
        }
        pauses.push((table.now - now).as_secs());
    }
    assert_eq!(pauses, [1, 5, 15]);
}

/// A tunnel whose warden has ended over an order.
fn in_doubt() -> Table {
    let mut table = serving(settings());
    table.on(news(WardenEvent::Opened));
    table.on(news(WardenEvent::Ready));
    let now = table.now;
    table.on(news(WardenEvent::Ended { now }));
    table.on(Event::Poisoned { tunnel: 1 });
    table
}

/// A warden that can't fork ends, in the middle of an order that then has no answer.
#[tokio::test]
async fn a_tunnel_in_doubt_ends_only_once_somebody_can_end_what_is_left() {
    let mut table = in_doubt();
    assert_eq!(table.on(leases(1, 0)), [""; 0], "not yet");
    assert_eq!(
        table.core.next_wake(table.now),
        Some(table.now + Duration::from_secs(1)),
        "when the next warden is due"
    );
    assert_eq!(table.pass(Duration::from_secs(1)), ["warden 1"]);
    assert_eq!(table.on(news(WardenEvent::Opened)), [""; 0]);
    assert_eq!(table.on(news(WardenEvent::Ready)), ["close 1 retired"]);
}

#[tokio::test]
async fn a_tunnel_is_not_held_for_ever_for_a_warden() {
    let mut table = in_doubt();
    table.on(leases(1, 0));
    for (pause, then) in [(1, [].as_slice()), (5, &[]), (15, &["close 1 retired"])] {
        let passed = table.pass(Duration::from_secs(pause));
        assert!(passed.contains(&"warden 1".to_owned()), "{passed:?}");
        table.on(news(WardenEvent::Opened));
        let now = table.now;
        assert_eq!(
            table.on(news(WardenEvent::Ended { now })),
            then,
            "after {pause} s"
        );
    }

    let mut table = serving(settings());
    table.on(Event::Poisoned { tunnel: 1 });
    assert_eq!(
        table.on(leases(1, 0)),
        ["close 1 retired"],
        "the first is still to come"
    );
}
