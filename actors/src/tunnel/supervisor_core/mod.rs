//! One instance's tunnels as a plain struct: events in, effects out. Knows no actor, no SSH, no AWS and no clock.
//!
//! Each event changes the state; then [`SupervisorCore::settle`] brings it to rest: waiters get spare channels, channels
//! are opened for waiters, a tunnel is dialled when there is none, a key pushed when a login needs one. Nothing else
//! decides anything, so each rule stands in one place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::failure::TunnelError;
use super::grant::{Grant, GrantEvent};
use super::state::{Channels, TunnelEvent, TunnelState};
use crate::exec::TunnelTemperature;

mod event;
mod settle;

pub(crate) use event::{AskId, Effect, Event, TunnelId};

/// Longest pause between two tries to connect.
const BACKOFF_LIMIT: Duration = Duration::from_secs(30);

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
    deadline: Instant,
    temperature: TunnelTemperature,
}

#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) asked_at: Instant,
    pub(crate) state: TunnelState,
}

#[derive(Debug)]
struct BackOff {
    until: Instant,
    failures: u32,
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
    /// A failed dial whose waiters are still to be told: the key push beside it may know better why.
    untold: Option<TunnelError>,
    shutting_down: bool,
    effects: Vec<Effect>,
}

impl SupervisorCore {
    pub(crate) fn new(settings: CoreSettings) -> Self {
        Self {
            settings,
            grant: Grant::None,
            tunnels: BTreeMap::new(),
            waiters: VecDeque::new(),
            last_tunnel: 0,
            backoff: None,
            untold: None,
            shutting_down: false,
            effects: Vec::new(),
        }
    }

    /// Takes one event and comes to rest.
    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Ask { ask } => self.on_ask(ask, now),
            Event::Withdraw { ask } => self.waiters.retain(|waiter| waiter.ask != ask),
            Event::KeyPushed {
                pushed_at,
                request_id,
            } => {
                self.grant_on(GrantEvent::Accepted {
                    pushed_at,
                    request_id,
                });
                if let Some(error) = self.untold.take() {
                    self.refuse_stranded(&error);
                }
            }
            Event::KeyPushFailed { error, jitter } => self.on_key_push_failed(&error, jitter, now),
            Event::Dialed { tunnel, max_duration } => {
                self.tunnel_on(
                    tunnel,
                    TunnelEvent::Dialed {
                        expires_at: max_duration.map(|life| now + life),
                    },
                );
            }
            Event::Handshaken { tunnel } => self.tunnel_on(tunnel, TunnelEvent::Handshaken),
            Event::LoggedIn { tunnel } => {
                self.backoff = None;
                self.tunnel_on(
                    tunnel,
                    TunnelEvent::LoggedIn {
                        now,
                        cap: self.settings.channel_cap,
                    },
                );
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
            Event::ChannelOpened { tunnel } => self.with_channels(tunnel, |channels| channels.opened()),
            Event::ChannelRefused {
                tunnel,
                retry_after,
                jitter,
            } => {
                self.on_channel_refused(tunnel, retry_after, jitter, now);
            }
            Event::ChannelReturned { tunnel } => self.with_channels(tunnel, |channels| channels.spares += 1),
            Event::Leases { tunnel, live } => {
                self.with_channels(tunnel, |channels| channels.recount(live, now))
            }
            Event::Poisoned { tunnel } => self.tunnel_on(tunnel, TunnelEvent::Retire),
            Event::Lost { tunnel } => drop(self.tunnels.remove(&tunnel)),
            Event::Drain => self.retire_all(),
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
        let backoff = self
            .backoff
            .as_ref()
            .filter(|_| !self.waiters.is_empty())
            .map(|backoff| backoff.until);
        let channels = self.tunnels.values().filter_map(|tunnel| tunnel.state.channels());
        let tunnels = channels.flat_map(|channels| {
            let idle_end = channels
                .idle_since
                .map(|since| since + self.settings.idle_timeout);
            [channels.retry_at, idle_end].into_iter().flatten()
        });
        let dues = [waiter, grant, backoff].into_iter().flatten().chain(tunnels);
        // What is due and was not acted on waits for something else: a back-off that is over for a tunnel on its way.
        dues.filter(|due| now < *due).min()
    }

    // === Events ===

    fn on_ask(&mut self, ask: AskId, now: Instant) {
        let has_ready = self.ready().next().is_some();
        let has_way = has_ready || self.tunnels.values().any(|tunnel| tunnel.state.is_connecting());
        let refusal = if self.shutting_down {
            Some(TunnelError::ShuttingDown)
        } else if self.waiters.len() >= self.settings.max_waiters {
            Some(TunnelError::QueueFull)
        } else {
            self.backoff
                .as_ref()
                .filter(|backoff| !has_way && now < backoff.until)
                .map(|backoff| TunnelError::BackingOff {
                    cause: Arc::clone(&backoff.cause),
                    retry_after: backoff.until.saturating_duration_since(now),
                })
        };
        match refusal {
            Some(error) => self.effects.push(Effect::Refuse { ask, error }),
            None => self.waiters.push_back(Waiter {
                ask,
                deadline: now + self.settings.start_timeout,
                temperature: if has_ready {
                    TunnelTemperature::Warm
                } else {
                    TunnelTemperature::Cold
                },
            }),
        }
    }

    fn on_key_push_failed(&mut self, error: &TunnelError, jitter: f64, now: Instant) {
        self.grant_on(GrantEvent::Failed);
        self.untold = None;
        self.close_connecting("key push failed");
        self.on_connect_failed(error, jitter, now);
    }

    /// The tunnel is forgotten already. Those who wait have another one to wait for, or learn the cause.
    fn on_connect_failed(&mut self, error: &TunnelError, jitter: f64, now: Instant) {
        let failures = self
            .backoff
            .as_ref()
            .map_or(0, |backoff| backoff.failures)
            .saturating_add(1);
        let doubled =
            Duration::from_secs(1).saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        // Between half and all of it, so that many instances behind one failed endpoint don't try in step.
        let pause = doubled
            .min(BACKOFF_LIMIT)
            .mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        self.backoff = Some(BackOff {
            until: now + pause,
            failures,
            cause: Arc::new(error.clone()),
        });
        if self.grant == Grant::Pushing {
            self.untold = Some(error.clone());
        } else {
            self.refuse_stranded(error);
        }
    }

    /// Tells those who wait and have no tunnel to wait for.
    fn refuse_stranded(&mut self, error: &TunnelError) {
        if self
            .tunnels
            .values()
            .all(|tunnel| matches!(tunnel.state, TunnelState::Retiring(_)))
        {
            for waiter in self.waiters.drain(..) {
                self.effects.push(Effect::Refuse {
                    ask: waiter.ask,
                    error: error.clone(),
                });
            }
        }
    }

    /// A key that the instance refused is not tried again: the next login gets a fresh one.
    fn distrust_grant_after(&mut self, error: &TunnelError) {
        if matches!(error, TunnelError::LoginRefused { .. }) && matches!(self.grant, Grant::Live { .. }) {
            self.grant_on(GrantEvent::Expired);
            self.effects.push(Effect::ForgetKey);
        }
    }

    fn on_channel_refused(&mut self, tunnel: TunnelId, retry_after: Duration, jitter: f64, now: Instant) {
        let retry_at = now + retry_after;
        self.with_channels(tunnel, |channels| channels.refused(retry_at, now));
        let is_bare = self
            .channels(tunnel)
            .is_some_and(|channels| channels.in_use() == 0 && !channels.slot_may_be_late(now));
        if is_bare {
            // Nothing of ours is open, so no slot will come free: the login is good for nothing.
            self.close(tunnel, "every session refused");
            let error = TunnelError::LoginRefused {
                reason: "every session is refused",
            };
            self.on_connect_failed(&error, jitter, now);
        }
    }

    fn retire_all(&mut self) {
        let ready: Vec<TunnelId> = self.ready().map(|(id, _)| id).collect();
        for tunnel in ready {
            self.tunnel_on(tunnel, TunnelEvent::Retire);
        }
    }

    /// Whatever was checked against the old pin is not to be trusted, and what failed because of it may be tried again.
    fn on_host_key_replaced(&mut self) {
        self.backoff = None;
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
            .filter_map(|(id, tunnel)| match &tunnel.state {
                TunnelState::Ready(channels) => Some((*id, channels)),
                TunnelState::Retiring(_)
                | TunnelState::Dialing
                | TunnelState::Handshaking { .. }
                | TunnelState::AwaitingGrant { .. }
                | TunnelState::Authenticating { .. } => None,
            })
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
        let Some(Tunnel { asked_at, state }) = self.tunnels.remove(&id) else {
            return;
        };
        let state = state.after(event).unwrap_or_else(|state| {
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
        self.tunnels.insert(id, Tunnel { asked_at, state });
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

    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.backoff.as_ref().map(|backoff| backoff.until)
    }
}

#[cfg(test)]
mod channel_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
