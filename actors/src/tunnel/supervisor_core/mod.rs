//! One instance's tunnels as a plain struct: events in, effects out. Knows no actor, no SSH, no AWS and no clock.
//!
//! Each event changes the state; then [`SupervisorCore::settle`] brings it to rest: waiters get spare channels, channels
//! are opened for waiters, a tunnel is dialled when there is none, a key pushed when a login needs one. Nothing else
//! decides anything, so each rule stands in one place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint_budget::Purpose;
use super::failure::TunnelError;
use super::grant::{Grant, GrantEvent};
use super::refused_logins::{LoginUnderWay, RefusedLogins};
use super::state::{Channels, TunnelEvent, TunnelState};
use crate::exec::TunnelTemperature;

/// How often a login asks whether it is its turn, while those of other supervisors on the instance are under way: a login
/// takes about as long.
const LOGIN_TURN: Duration = Duration::from_millis(100);

mod event;
mod failures;
mod planning;
mod settle;
mod wardens;

pub(crate) use event::{AskId, Effect, Event, TunnelId};

/// The numbers a supervisor works with.
#[derive(Clone, Debug)]
pub(crate) struct CoreSettings {
    pub(crate) start_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) grant_margin: Duration,
    pub(crate) channel_cap: usize,
    pub(crate) spare_channels: usize,
    pub(crate) max_tunnels: usize,
    /// Bound of the queue of waiters.
    pub(crate) max_waiters: usize,
}

#[derive(Debug)]
struct Waiter {
    ask: AskId,
    asked_at: Instant,
    deadline: Instant,
    /// The exec's own.
    timeout: Duration,
    temperature: TunnelTemperature,
}

#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) asked_at: Instant,
    pub(crate) purpose: Purpose,
    /// Whether the endpoint has refused it before.
    endpoint_refused: bool,
    /// While it logs in: others on the instance wait their turn.
    login: Option<LoginUnderWay>,
    pub(crate) state: TunnelState,
}

impl Tunnel {
    /// What an exec waits for whose tunnel this is. One that the endpoint has refused asks for a connection each time that
    /// it is dialled, and waits for nothing else.
    fn awaited(&self) -> &'static str {
        match &self.state {
            TunnelState::Dialing if self.endpoint_refused => TunnelState::AwaitingSlot.awaited(),
            state => state.awaited(),
        }
    }
}

#[derive(Debug)]
struct BackOff {
    until: Instant,
    failures: u32,
    /// The latest tunnel when it failed: a channel on a later one shows that the failure is over.
    after: TunnelId,
    cause: Arc<TunnelError>,
}

/// The state of one supervisor.
#[derive(Debug)]
pub(crate) struct SupervisorCore {
    settings: CoreSettings,
    grant: Grant,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    waiters: VecDeque<Waiter>,
    last_tunnel: TunnelId,
    backoff: Option<BackOff>,
    refused_logins: RefusedLogins,
    /// Of all execs that asked: tunnels are replaced before they live too short for it.
    longest_timeout: Duration,
    /// A failed dial whose waiters are still to be told: the key push beside it may know better why.
    untold: Option<TunnelError>,
    shutting_down: bool,
    effects: Vec<Effect>,
}

impl SupervisorCore {
    pub(crate) fn new(settings: CoreSettings, refused_logins: RefusedLogins) -> Self {
        Self {
            settings,
            grant: Grant::None,
            tunnels: BTreeMap::new(),
            waiters: VecDeque::new(),
            last_tunnel: 0,
            backoff: None,
            refused_logins,
            longest_timeout: Duration::ZERO,
            untold: None,
            shutting_down: false,
            effects: Vec::new(),
        }
    }

    /// Takes one event and comes to rest.
    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Ask { ask, timeout } => self.on_ask(ask, timeout, now),
            Event::Withdraw { ask } => self.waiters.retain(|waiter| waiter.ask != ask),
            Event::KeyPushed {
                pushed_at,
                request_id,
            } => self.on_key_pushed(pushed_at, request_id, now),
            Event::KeyPushFailed { error, jitter } => self.on_key_push_failed(&error, jitter, now),
            Event::Located { tunnel, by_endpoint } => self.on_located(tunnel, by_endpoint),
            Event::SlotGranted { tunnel } => {
                self.tunnel_on(tunnel, TunnelEvent::SlotGranted);
                self.effects.push(Effect::Dial { tunnel });
            }
            Event::EndpointRefused { tunnel } => {
                self.tunnel_on(tunnel, TunnelEvent::EndpointRefused);
                if let Some(tunnel) = self.tunnels.get_mut(&tunnel) {
                    tunnel.endpoint_refused = true;
                }
                self.request_slot(tunnel);
            }
            Event::Dialed { tunnel, life } => self.tunnel_on(tunnel, TunnelEvent::Dialed { life }),
            Event::Handshaken { tunnel } => self.tunnel_on(tunnel, TunnelEvent::Handshaken),
            Event::LoggedIn { tunnel } => {
                let cap = self.settings.channel_cap;
                if let Some(tunnel) = self.tunnels.get_mut(&tunnel) {
                    tunnel.login = None;
                }
                self.tunnel_on(tunnel, TunnelEvent::LoggedIn { now, cap });
            }
            Event::ConnectFailed {
                tunnel,
                error,
                jitter,
            } => {
                if self.tunnels.remove(&tunnel).is_some() {
                    self.distrust_grant_after(&error);
                    self.on_connect_failed(&error, jitter, now);
                }
            }
            Event::ChannelOpened { tunnel } => {
                self.backoff.take_if(|backoff| backoff.after < tunnel);
                self.with_channels(tunnel, |channels| channels.opened());
            }
            Event::ChannelRefused {
                tunnel,
                asked_at,
                retry_after,
                jitter,
            } => self.on_channel_refused(tunnel, asked_at, now + retry_after, jitter, now),
            Event::ChannelReturned { tunnel } => self.with_channels(tunnel, |channels| channels.spares += 1),
            Event::Leases {
                tunnel,
                live,
                lingering,
            } => self.with_channels(tunnel, |channels| channels.recount(live, lingering, now)),
            Event::Poisoned { tunnel } => self.tunnel_on(tunnel, TunnelEvent::Retire),
            Event::Lost { tunnel, jitter } => self.on_lost(tunnel, jitter, now),
            Event::WardenRefused {
                tunnel,
                asked_at,
                retry_after,
            } => self.with_channels(tunnel, |channels| {
                channels.warden_refused(now + retry_after, asked_at);
            }),
            Event::Warden { tunnel, news } => self.with_channels(tunnel, |channels| channels.warden_on(news)),
            Event::GiveWay { tunnel, if_second } => self.on_give_way(tunnel, if_second, now),
            Event::Drain => self.on_drain(),
            Event::Evict => {
                self.waiters.clear();
                self.on_drain();
            }
            Event::HostKeyReplaced => self.on_host_key_replaced(),
            Event::Wake => {}
            Event::Shutdown => self.on_shutdown(),
        }
        self.settle(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Wake`] is due, if nothing else happens before. Always after `now`, right after an event.
    pub(crate) fn next_wake(&self, now: Instant) -> Option<Instant> {
        // All wait equally long, so the first in the queue is the first to leave.
        let waiter = self.waiters.front().map(|waiter| waiter.deadline);
        let grant = self
            .grant
            .expires_at(self.settings.grant_margin)
            .filter(|_| !self.is_authenticating());
        // Without a waiter or a tunnel to succeed nothing would be dialled at its end.
        let may_dial = !self.waiters.is_empty() || self.ready().next().is_some();
        let backoff = self.retry_at(now).filter(|_| may_dial);
        let channels = self.tunnels.values().filter_map(|tunnel| tunnel.state.channels());
        let tunnels = channels.flat_map(|channels| {
            let idle_end = channels
                .idle_since
                .map(|since| since + self.settings.idle_timeout);
            let due = [channels.retry_at, idle_end, channels.warden.paused_until()];
            due.into_iter().flatten().chain(self.next_ageing(channels))
        });
        let turn = self.waits_for_its_turn().then_some(now + LOGIN_TURN);
        let dues = [waiter, grant, backoff, turn]
            .into_iter()
            .flatten()
            .chain(tunnels);
        // What is due and was not acted on waits for something else: a back-off that is over for a tunnel on its way.
        dues.filter(|due| now < *due).min()
    }

    // === Events ===

    fn on_ask(&mut self, ask: AskId, timeout: Duration, now: Instant) {
        self.longest_timeout = self.longest_timeout.max(timeout);
        let is_warm = self.is_served(timeout, now);
        let has_way = is_warm || self.is_connecting();
        let refusal = if self.shutting_down {
            Some(TunnelError::ShuttingDown)
        } else if self.waiters.len() >= self.settings.max_waiters {
            Some(TunnelError::QueueFull)
        } else {
            let held_back = self.held_back(now).filter(|_| !has_way);
            held_back.map(|(until, cause)| TunnelError::BackingOff {
                cause,
                retry_after: until.saturating_duration_since(now),
            })
        };
        match refusal {
            Some(error) => self.effects.push(Effect::Refuse { ask, error }),
            None => self.waiters.push_back(Waiter {
                ask,
                asked_at: now,
                deadline: now + self.settings.start_timeout,
                timeout,
                temperature: if is_warm {
                    TunnelTemperature::Warm
                } else {
                    TunnelTemperature::Cold
                },
            }),
        }
    }

    fn on_key_pushed(&mut self, pushed_at: Instant, request_id: Option<String>, now: Instant) {
        self.grant_on(GrantEvent::Accepted {
            pushed_at,
            request_id,
        });
        if let Some(error) = self.untold.take() {
            self.refuse_stranded(&error, now);
        }
    }

    fn on_located(&mut self, tunnel: TunnelId, by_endpoint: bool) {
        if by_endpoint {
            self.tunnel_on(tunnel, TunnelEvent::LocatedEndpoint);
            self.request_slot(tunnel);
        } else {
            self.tunnel_on(tunnel, TunnelEvent::LocatedDirect);
            self.effects.push(Effect::Dial { tunnel });
        }
    }

    fn request_slot(&mut self, tunnel: TunnelId) {
        if let Some(Tunnel { purpose, .. }) = self.tunnels.get(&tunnel) {
            self.effects.push(Effect::RequestSlot {
                tunnel,
                purpose: *purpose,
            });
        }
    }

    fn retire_all(&mut self) {
        let ready: Vec<TunnelId> = self.ready().map(|(id, _)| id).collect();
        for tunnel in ready {
            self.tunnel_on(tunnel, TunnelEvent::Retire);
        }
    }

    fn on_drain(&mut self) {
        self.retire_all();
        self.close_connecting("drained");
    }

    /// Whatever was checked against the old pin is not to be trusted, and what failed because of it may be tried again.
    fn on_host_key_replaced(&mut self) {
        self.backoff
            .take_if(|backoff| matches!(*backoff.cause, TunnelError::HostKeyChanged { .. }));
        self.retire_all();
        self.close_connecting("host key pin was replaced");
    }

    fn on_shutdown(&mut self) {
        self.shutting_down = true;
        for waiter in self.waiters.drain(..) {
            self.effects.push(Effect::Refuse {
                ask: waiter.ask,
                error: TunnelError::ShuttingDown,
            });
        }
        self.close_connecting("shutdown");
        self.retire_all();
    }

    // === Small parts ===

    fn ready(&self) -> impl Iterator<Item = (TunnelId, &Channels)> {
        self.tunnels
            .iter()
            .filter(|(_, tunnel)| matches!(tunnel.state, TunnelState::Ready(_)))
            .filter_map(|(id, tunnel)| Some((*id, tunnel.state.channels()?)))
    }

    /// Whether a ready tunnel takes an exec with this timeout.
    fn is_served(&self, timeout: Duration, now: Instant) -> bool {
        self.ready().any(|(_, channels)| channels.serves(timeout, now))
    }

    /// Whether somebody waits who could use a channel of these.
    fn is_waited_for(&self, channels: &Channels, now: Instant) -> bool {
        self.waiters
            .iter()
            .any(|waiter| channels.serves(waiter.timeout, now))
    }

    fn is_connecting(&self) -> bool {
        self.tunnels.values().any(|tunnel| tunnel.state.is_connecting())
    }

    fn is_authenticating(&self) -> bool {
        self.tunnels
            .values()
            .any(|tunnel| matches!(tunnel.state, TunnelState::Authenticating { .. }))
    }

    fn channels(&self, tunnel: TunnelId) -> Option<&Channels> {
        self.tunnels
            .get(&tunnel)
            .and_then(|tunnel| tunnel.state.channels())
    }

    /// An event about a tunnel that has been closed meanwhile means nothing.
    fn with_channels(&mut self, tunnel: TunnelId, change: impl FnOnce(&mut Channels)) {
        if let Some(channels) = self
            .tunnels
            .get_mut(&tunnel)
            .and_then(|tunnel| tunnel.state.channels_mut())
        {
            change(channels);
        }
    }

    fn close_connecting(&mut self, reason: &'static str) {
        let connecting: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.state.is_connecting())
            .map(|(id, _)| *id)
            .collect();
        for tunnel in connecting {
            self.close(tunnel, reason);
        }
    }

    fn close(&mut self, tunnel: TunnelId, reason: &'static str) {
        if self.tunnels.remove(&tunnel).is_some() {
            self.effects.push(Effect::Close { tunnel, reason });
        }
    }

    fn grant_on(&mut self, event: GrantEvent) {
        match self.grant.after(event.clone()) {
            Some(next) => self.grant = next,
            None => tracing::error!(grant = ?self.grant, ?event, "grant event does not belong to this state"),
        }
    }

    fn tunnel_on(&mut self, id: TunnelId, event: TunnelEvent) {
        let Some(tunnel) = self.tunnels.remove(&id) else {
            return;
        };
        let state = tunnel.state.after(event).unwrap_or_else(|state| {
            // Retiring twice is no news; everything else would be a fault of ours.
            if event != TunnelEvent::Retire {
                tracing::error!(
                    tunnel = id,
                    state = state.name(),
                    ?event,
                    "tunnel event does not belong to this state"
                );
            }
            state
        });
        self.tunnels.insert(id, Tunnel { state, ..tunnel });
    }

    // === What snapshots are made of ===

    pub(crate) fn tunnels(&self) -> &BTreeMap<TunnelId, Tunnel> {
        &self.tunnels
    }

    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    pub(crate) fn grant_margin(&self) -> Duration {
        self.settings.grant_margin
    }

    pub(crate) fn initial_cap(&self) -> usize {
        self.settings.channel_cap
    }

    pub(crate) fn waiters(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn failures(&self) -> u32 {
        self.backoff.as_ref().map_or(0, |backoff| backoff.failures)
    }

    pub(crate) fn retry_at(&self, now: Instant) -> Option<Instant> {
        self.held_back(now).map(|(until, _)| until)
    }

    /// Since when the head of the queue waits, and what for.
    pub(crate) fn awaited(&self, now: Instant) -> Option<(Instant, &'static str)> {
        let waiter = self.waiters.front()?;
        let is_served = self.is_served(waiter.timeout, now);
        let connecting = self.tunnels.values().find(|tunnel| tunnel.state.is_connecting());
        let what = match connecting {
            _ if is_served => "channel",
            Some(tunnel) => tunnel.awaited(),
            None => "retry",
        };
        Some((waiter.asked_at, what))
    }
}

#[cfg(test)]
mod channel_tests;
#[cfg(test)]
mod failure_tests;
#[cfg(test)]
mod planning_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod warden_tests;
