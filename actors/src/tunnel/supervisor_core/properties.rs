//! Whatever happens in whatever order, no rule about counts is broken and every asker is answered once.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::life::Life;
use super::super::state::TunnelState;
use super::super::warden::WardenEvent;
use super::tests::{Table, leases, refused_login, settings};
use super::*;

proptest! {
    #[test]
    fn counts_hold(steps in prop::collection::vec((0u8..21, 1u64..5, 0u64..40), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        let mut table = Table::new(CoreSettings { spare_channels: 1, idle_timeout: Duration::from_secs(20), ..settings() });
        let mut asked = 0;
        let mut answered = HashSet::new();
        for (kind, tunnel, seconds) in steps {
            let has_opening = table.core.channels(tunnel).is_some_and(|channels| channels.opening > 0);
            let leased = table.core.channels(tunnel).map_or(0, |channels| channels.leased);
            let event = match kind {
                0..=2 => {
                    asked += 1;
                    Event::Ask { ask: asked, timeout: Duration::from_secs(seconds * 3) }
                }
                3 if matches!(table.core.grant, Grant::Pushing) =>
                    Event::KeyPushed { pushed_at: table.now, request_id: None },
                4 => Event::Dialed { tunnel, life: Some(Life::new(table.now, Duration::from_secs(90))) },
                5 => Event::Handshaken { tunnel },
                6 => Event::LoggedIn { tunnel },
                7 if has_opening => Event::ChannelOpened { tunnel },
                8 if has_opening => Event::ChannelRefused { tunnel, asked_at: table.now, retry_after: Duration::from_millis(10), jitter: 0.5 },
                9 if leased > 0 => leases(tunnel, leased - 1),
                10 => Event::ConnectFailed { tunnel, error: refused_login(), jitter: 0.5 },
                11 => Event::Lost { tunnel, jitter: 1.0 },
                12 => Event::Located { tunnel, by_endpoint: seconds % 2 == 0 },
                13 => Event::SlotGranted { tunnel },
                14 => Event::EndpointRefused { tunnel },
                16 => Event::Warden { tunnel, news: WardenEvent::Opened },
                17 => Event::Warden { tunnel, news: if seconds % 2 == 0 { WardenEvent::Ready } else { WardenEvent::Dismissed } },
                18 => Event::Warden { tunnel, news: WardenEvent::Ended { now: table.now } },
                19 => Event::WardenRefused { tunnel, asked_at: table.now, retry_after: Duration::from_millis(10) },
                15 => Event::GiveWay { tunnel, if_second: seconds % 2 == 0 },
                _ => { table.now += Duration::from_secs(seconds); Event::Wake }
            };
            // Only events that a shell could send: a step's result for a tunnel that is at that step.
            let state = table.core.tunnels().get(&tunnel).map(|tunnel| tunnel.state.name());
            let fits = match &event {
                Event::Located { .. } => state == Some("locating"),
                Event::SlotGranted { .. } => state == Some("awaiting_slot"),
                Event::Dialed { .. } | Event::EndpointRefused { .. } => state == Some("dialing"),
                Event::Handshaken { .. } => state == Some("handshaking"),
                Event::LoggedIn { .. } => state == Some("authenticating"),
                Event::ConnectFailed { .. } =>
                    state.is_some_and(|state| state != "ready" && state != "retiring"),
                Event::WardenRefused { .. } => table.core.channels(tunnel)
                    .is_some_and(|channels| channels.warden.after(WardenEvent::Refused).is_some()),
                _ => true,
            };
            if !fits {
                continue;
            }
            let now = table.now;
            for effect in table.core.on(event, now) {
                if let Effect::HandOver { ask, .. } | Effect::Refuse { ask, .. } = effect {
                    prop_assert!(answered.insert(ask), "asker {} was answered twice", ask);
                }
            }
            for tunnel in table.core.tunnels().values() {
                let Some(channels) = tunnel.state.channels() else { continue };
                let has_more = channels.in_use() > 1 || !channels.warden.is_running();
                prop_assert!(has_more || channels.may_have_warden(), "a warden keeps the only channel: {:?}", channels);
            }
            let wake = table.core.next_wake(now);
            prop_assert!(wake.is_none_or(|wake| wake > now), "a wake in the past would spin");
            let waits_for_nothing = table.core.waiters() > 0 && table.core.tunnels().values()
                .all(|tunnel| matches!(tunnel.state, TunnelState::Retiring(_)));
            let is_promised = table.core.held_back(now).is_some_and(|(until, _)| wake.is_some_and(|wake| wake <= until))
                || table.core.untold.is_some();
            prop_assert!(!waits_for_nothing || is_promised, "someone waits for nothing");
            prop_assert_eq!(answered.len() + table.core.waiters(), usize::try_from(asked).unwrap());
            let lasting = table.core.tunnels().values().filter(|tunnel| match &tunnel.state {
                TunnelState::Retiring(_) => false,
                TunnelState::Ready(channels) =>
                    table.core.successor_due(channels).is_none_or(|due| now < due),
                _ => true,
            });
            prop_assert!(lasting.count() <= 2);
        }
    }
}
