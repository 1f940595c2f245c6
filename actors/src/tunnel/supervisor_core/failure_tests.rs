//! What failed, who is told, and what is tried again.

use super::tests::{Table, asks, changed, refused_login, settings};
use super::*;

/// A stopped instance fails both: the endpoint can't reach it, and the key push knows why.
#[tokio::test]
async fn the_key_push_has_the_last_word_on_a_failed_dial() {
    let failed = || Event::ConnectFailed {
        tunnel: 1,
        error: TunnelError::Deadline {
            step: "dial",
            limit: Duration::from_secs(25),
        },
        jitter: 0.0,
    };
    let mut table = Table::new(settings());
    table.on(asks(1));
    assert_eq!(table.on(failed()), [""; 0], "the push is still under way");
    let effects = table.on(Event::KeyPushFailed {
        error: refused_login(),
        jitter: 0.0,
    });
    assert_eq!(effects, ["refuse 1 login_refused"]);
    assert_eq!(table.core.failures(), 1, "one try is one failure");

    let mut table = Table::new(settings());
    table.on(asks(1));
    table.on(failed());
    assert_eq!(table.pushed(), ["refuse 1 target_unreachable"]);

    let mut table = Table::new(settings());
    table.on(asks(1));
    let (error, jitter) = (changed(), 0.0);
    let said = Event::ConnectFailed {
        tunnel: 1,
        error,
        jitter,
    };
    assert_eq!(
        table.on(said),
        ["refuse 1 host_key_changed"],
        "it says its own reason"
    );
}

fn cut() -> TunnelError {
    TunnelError::Handshake {
        peer_said: None,
        source: None,
    }
}

/// One cut is absorbed for those who wait; the second is their answer. Newcomers hear of it at once.
#[tokio::test]
async fn a_connection_cut_on_its_way_up_is_tried_once_more() {
    let failed = |tunnel| Event::ConnectFailed {
        tunnel,
        error: cut(),
        jitter: 1.0,
    };
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    assert_eq!(table.on(failed(1)), [""; 0]);
    assert_eq!(table.core.awaited(table.now).unwrap().1, "retry");
    assert_eq!(table.on(asks(2)), ["refuse 2 target_unreachable"]);
    assert_eq!(
        table.core.next_wake(table.now),
        Some(table.now + Duration::from_secs(1))
    );
    assert_eq!(table.pass(Duration::from_secs(1)), ["dial 2"]);
    assert_eq!(table.on(failed(2)), ["refuse 1 target_unreachable"]);

    let mut table = Table::new(settings());
    table.on(asks(1));
    assert_eq!(table.on(failed(1)), [""; 0]);
    let error = refused_login();
    let jitter = 0.0;
    assert_eq!(
        table.on(Event::KeyPushFailed { error, jitter }),
        ["refuse 1 login_refused"],
        "the key push still has the last word"
    );
}

/// An sshd that hangs up on everyone right after the login must not be dialled without end.
#[tokio::test]
async fn a_tunnel_lost_before_it_carried_anything_counts_as_a_failure() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.connect(1);
    let lost = |tunnel| Event::Lost { tunnel, jitter: 1.0 };
    assert_eq!(table.on(lost(1)), [""; 0]);
    assert_eq!(table.pass(Duration::from_secs(1)), ["dial 2"]);
    table.connect(2);
    assert_eq!(
        table.on(lost(2)),
        ["refuse 1 target_unreachable"],
        "it never had a tunnel to lose"
    );
    assert_eq!(
        table.core.retry_at(table.now),
        Some(table.now + Duration::from_secs(2))
    );
}
