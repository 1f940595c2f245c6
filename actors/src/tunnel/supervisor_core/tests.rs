use super::super::life::Life;
use super::super::state::TunnelState;
use super::*;

const MARGIN: Duration = Duration::from_secs(45);

pub(super) fn settings() -> CoreSettings {
    CoreSettings {
        start_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(300),
        grant_margin: MARGIN,
        channel_cap: 4,
        spare_channels: 0,
        max_tunnels: 2,
        max_waiters: 1_000,
    }
}

/// A core, a time of its own, and short names for what happens.
pub(super) struct Table {
    pub(super) core: SupervisorCore,
    pub(super) now: Instant,
    /// Of the tunnels that connect.
    pub(super) life: Duration,
}

pub(super) fn asks(ask: AskId) -> Event {
    let timeout = Duration::from_secs(30);
    Event::Ask { ask, timeout }
}

/// So many leases, none of which lingers.
pub(super) fn leases(tunnel: TunnelId, live: usize) -> Event {
    let lingering = 0;
    Event::Leases {
        tunnel,
        live,
        lingering,
    }
}

impl Table {
    pub(super) fn new(settings: CoreSettings) -> Self {
        Self {
            core: SupervisorCore::new(settings, RefusedLogins::default()),
            now: Instant::now(),
            life: Duration::from_secs(3_600),
        }
    }

    /// Feeds an event and names the effects. The way needs no endpoint: it is found at once.
    pub(super) fn on(&mut self, event: Event) -> Vec<String> {
        let mut effects = self.feed(event);
        while let Some(place) = effects.iter().position(|effect| effect.starts_with("locate ")) {
            let tunnel = effects
                .remove(place)
                .trim_start_matches("locate ")
                .parse()
                .unwrap();
            let by_endpoint = false;
            let located = self.feed(Event::Located { tunnel, by_endpoint });
            effects.splice(place..place, located);
        }
        effects
    }

    pub(super) fn feed(&mut self, event: Event) -> Vec<String> {
        self.core.on(event, self.now).iter().map(name).collect()
    }

    pub(super) fn pass(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.on(Event::Wake)
    }

    pub(super) fn pushed(&mut self) -> Vec<String> {
        let pushed_at = self.now;
        self.on(Event::KeyPushed {
            pushed_at,
            request_id: None,
        })
    }

    /// Brings tunnel `tunnel` to `Ready` with a fresh grant; returns the effects of the login.
    pub(super) fn connect(&mut self, tunnel: TunnelId) -> Vec<String> {
        self.on(Event::Dialed {
            tunnel,
            life: Some(Life::new(self.now, self.life)),
        });
        self.on(Event::Handshaken { tunnel });
        self.on(Event::LoggedIn { tunnel })
    }

    pub(super) fn channels(&self, tunnel: TunnelId) -> &super::super::state::Channels {
        self.core.channels(tunnel).unwrap()
    }
}

fn name(effect: &Effect) -> String {
    match effect {
        Effect::PushKey => "push".to_owned(),
        Effect::ForgetKey => "forget".to_owned(),
        Effect::Locate { tunnel } => format!("locate {tunnel}"),
        Effect::RequestSlot { tunnel, purpose } => format!("request slot {tunnel} {}", purpose.name()),
        Effect::KeepSlot { tunnel } => format!("keep slot {tunnel}"),
        Effect::LeaveSlot { tunnel } => format!("leave slot {tunnel}"),
        Effect::Note { error } => format!("note {}", error.code().as_str()),
        Effect::Dial { tunnel } => format!("dial {tunnel}"),
        Effect::Authenticate { tunnel } => format!("log in {tunnel}"),
        Effect::OpenChannel { tunnel } => format!("open {tunnel}"),
        Effect::OpenWarden { tunnel } => format!("warden {tunnel}"),
        Effect::DismissWarden { tunnel } => format!("dismiss warden {tunnel}"),
        Effect::HandOver {
            ask,
            tunnel,
            temperature,
        } => format!("give {ask} of {tunnel} {temperature:?}"),
        Effect::Refuse { ask, error } => format!("refuse {ask} {}", error.code().as_str()),
        Effect::Close { tunnel, reason } => format!("close {tunnel} {reason}"),
    }
}

pub(super) fn changed() -> TunnelError {
    TunnelError::HostKeyChanged {
        shown: "ssh-ed25519 SHA256:1".to_owned(),
        pinned: "ssh-ed25519 SHA256:2".to_owned(),
    }
}

pub(super) fn refused_login() -> TunnelError {
    TunnelError::LoginRefused {
        reason: "the key was refused",
    }
}

#[tokio::test]
async fn single_flight_and_overlap() {
    let mut table = Table::new(settings());
    assert_eq!(table.on(asks(1)), ["dial 1", "push"]);
    assert_eq!(table.on(asks(2)), [""; 0]);
    assert_eq!(
        table.on(Event::Dialed {
            tunnel: 1,
            life: None
        }),
        [""; 0]
    );
    assert_eq!(
        table.on(Event::Handshaken { tunnel: 1 }),
        [""; 0],
        "the login waits for the key"
    );
    assert_eq!(table.pushed(), ["log in 1"]);
    assert_eq!(table.on(Event::LoggedIn { tunnel: 1 }), ["open 1", "open 1"]);
    assert_eq!(
        table.on(Event::ChannelOpened { tunnel: 1 }),
        ["give 1 of 1 Cold", "warden 1"]
    );
    assert_eq!(table.on(Event::ChannelOpened { tunnel: 1 }), ["give 2 of 1 Cold"]);
    assert_eq!(table.on(asks(3)), ["open 1"]);
    assert_eq!(table.on(Event::ChannelOpened { tunnel: 1 }), ["give 3 of 1 Warm"]);
}

#[tokio::test]
async fn key_first_then_transport() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    assert_eq!(table.pushed(), [""; 0]);
    table.on(Event::Dialed {
        tunnel: 1,
        life: None,
    });
    assert_eq!(table.on(Event::Handshaken { tunnel: 1 }), ["log in 1"]);
}

#[tokio::test]
async fn a_grant_past_its_margin_is_pushed_anew_before_the_login() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.on(Event::Dialed {
        tunnel: 1,
        life: None,
    });
    table.now += Duration::from_secs(20);
    table.core.waiters[0].deadline = table.now + Duration::from_secs(60);
    assert_eq!(table.pass(Duration::from_secs(25)), ["forget", "push"]);
    assert_eq!(table.on(Event::Handshaken { tunnel: 1 }), [""; 0]);
    assert_eq!(table.pushed(), ["log in 1"]);
}

#[tokio::test]
async fn no_push_while_a_login_is_pending() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.on(Event::Dialed {
        tunnel: 1,
        life: None,
    });
    table.now += Duration::from_secs(25);
    assert_eq!(table.on(Event::Handshaken { tunnel: 1 }), ["log in 1"]);
    table.core.waiters[0].deadline = table.now + Duration::from_secs(60);
    assert_eq!(
        table.pass(Duration::from_secs(21)),
        [""; 0],
        "the key in use stays"
    );
    assert_eq!(table.on(Event::LoggedIn { tunnel: 1 }), ["open 1", "forget"]);
}

#[tokio::test]
async fn second_tunnel_only_when_all_channels_are_taken_and_someone_waits() {
    let mut table = Table::new(settings());
    for ask in 1..=3 {
        table.on(asks(ask));
    }
    table.pushed();
    assert_eq!(table.connect(1), ["open 1", "open 1", "open 1"]);
    for _ in 0..3 {
        table.on(Event::ChannelOpened { tunnel: 1 });
    }
    assert_eq!(table.on(asks(4)), ["dial 2"], "the grant is reused");
    assert_eq!(table.on(asks(5)), [""; 0]);
    table.on(Event::Dialed {
        tunnel: 2,
        life: None,
    });
    assert_eq!(table.on(Event::Handshaken { tunnel: 2 }), ["log in 2"]);
    assert_eq!(table.on(Event::LoggedIn { tunnel: 2 }), ["open 2", "open 2"]);
    table.on(Event::ChannelOpened { tunnel: 2 });
    table.on(Event::ChannelOpened { tunnel: 2 });
    table.on(asks(6));
    table.on(Event::ChannelOpened { tunnel: 2 });
    assert_eq!(table.on(asks(7)), [""; 0], "never a third");
}

#[tokio::test]
async fn failures_are_told_to_all_and_backed_off_from() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.on(asks(2));
    table.pushed();
    let failed = |tunnel| Event::ConnectFailed {
        tunnel,
        error: changed(),
        jitter: 1.0,
    };
    assert_eq!(
        table.on(failed(1)),
        ["refuse 1 host_key_changed", "refuse 2 host_key_changed"]
    );
    assert_eq!(
        table.on(asks(3)),
        ["refuse 3 host_key_changed"],
        "at once, with the cause"
    );
    let mut expected = [1_u64, 2, 4, 8, 16, 30, 30].into_iter();
    for tunnel in 2..=7 {
        let pause = Duration::from_secs(expected.next().unwrap());
        assert_eq!(table.core.retry_at(table.now), Some(table.now + pause));
        table.now += pause;
        let effects = table.on(asks(tunnel));
        assert!(effects.contains(&format!("dial {tunnel}")), "{effects:?}");
        if table.core.grant == Grant::Pushing {
            table.pushed();
        }
        table.on(failed(tunnel));
    }
    table.now += Duration::from_secs(30);
    table.on(asks(100));
    table.pushed();
    table.connect(8);
    assert_eq!(table.core.failures(), 7, "a login alone proves nothing");
    table.on(Event::ChannelOpened { tunnel: 8 });
    assert_eq!((table.core.failures(), table.core.retry_at(table.now)), (0, None));
}

#[tokio::test]
async fn a_failed_push_ends_what_waits_for_it() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    let effects = table.on(Event::KeyPushFailed {
        error: refused_login(),
        jitter: 0.0,
    });
    assert_eq!(effects, ["close 1 key push failed", "refuse 1 login_refused"]);
    assert_eq!(table.core.grant(), &Grant::None);
}

#[tokio::test]
async fn waiters_leave_after_the_start_timeout_and_on_withdrawal() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.now += Duration::from_secs(1);
    table.on(asks(2));
    table.on(asks(3));
    table.on(Event::Withdraw { ask: 2 });
    assert_eq!(table.core.waiters(), 2);
    assert_eq!(table.pass(Duration::from_secs(29)), ["refuse 1 start_timeout"]);
    assert_eq!(table.pass(Duration::from_secs(1)), ["refuse 3 start_timeout"]);
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let mut table = Table::new(CoreSettings {
        max_waiters: 1,
        ..settings()
    });
    table.on(asks(1));
    assert_eq!(table.on(asks(2)), ["refuse 2 instance_busy"]);
}

#[tokio::test]
async fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    assert_eq!(table.pass(Duration::from_secs(1_000)), ["forget"]);
    table.on(leases(1, 0));
    assert_eq!(
        table.core.next_wake(table.now),
        Some(table.now + Duration::from_secs(300))
    );
    assert_eq!(table.pass(Duration::from_secs(299)), [""; 0]);
    assert_eq!(table.pass(Duration::from_secs(1)), ["close 1 idle"]);
}

#[tokio::test]
async fn a_lost_tunnel_is_replaced_for_those_who_wait() {
    let mut table = Table::new(CoreSettings {
        max_tunnels: 1,
        ..settings()
    });
    for ask in 1..=4 {
        table.on(asks(ask));
    }
    table.pushed();
    table.connect(1);
    for _ in 0..3 {
        table.on(Event::ChannelOpened { tunnel: 1 });
    }
    assert_eq!(
        table.on(Event::Lost {
            tunnel: 1,
            jitter: 1.0
        }),
        ["dial 2"]
    );
    assert_eq!(table.on(leases(1, 0)), [""; 0], "late news of the lost one");
}

#[tokio::test]
async fn a_poisoned_tunnel_takes_no_lease_and_goes_with_the_last() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.on(asks(2));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.on(Event::ChannelOpened { tunnel: 1 });
    table.on(Event::Poisoned { tunnel: 1 });
    table.on(leases(1, 1));
    assert!(matches!(table.core.tunnels()[&1].state, TunnelState::Retiring(_)));
    assert_eq!(table.on(asks(3)), ["dial 2"]);
    assert_eq!(table.on(leases(1, 0)), ["close 1 retired"]);
}

#[tokio::test]
async fn shutdown_refuses_retires_and_closes() {
    let mut table = Table::new(CoreSettings {
        max_tunnels: 1,
        channel_cap: 1,
        ..settings()
    });
    table.on(asks(1));
    table.on(asks(2));
    table.pushed();
    table.connect(1);
    table.on(Event::ChannelOpened { tunnel: 1 });
    assert_eq!(table.on(Event::Shutdown), ["refuse 2 shutting_down"]);
    assert_eq!(table.on(asks(3)), ["refuse 3 shutting_down"]);
    assert_eq!(table.on(leases(1, 0)), ["close 1 retired"]);
}

/// sshd frees a slot later than the client hears of the close.
#[tokio::test]
async fn no_wake_is_due_in_the_past() {
    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.on(Event::ConnectFailed {
        tunnel: 1,
        error: refused_login(),
        jitter: 0.0,
    });
    table.now += Duration::from_secs(2);
    table.on(asks(2));
    table.pass(Duration::from_millis(1));
    assert!(
        table.core.next_wake(table.now).unwrap() > table.now,
        "the back-off is over and a tunnel on its way"
    );

    let mut table = Table::new(settings());
    table.on(asks(1));
    table.pushed();
    table.now += Duration::from_secs(29);
    table.on(asks(2));
    table.on(Event::Dialed {
        tunnel: 1,
        life: None,
    });
    table.on(Event::Handshaken { tunnel: 1 });
    table.pass(Duration::from_secs(17));
    assert!(
        table.core.next_wake(table.now).unwrap() > table.now,
        "the grant is over and a login on its way"
    );
}
