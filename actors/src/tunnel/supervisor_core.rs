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
use super::state::{TunnelEvent, TunnelState};
use crate::exec::TunnelTemperature;

/// Number of a tunnel within its supervisor.
pub(crate) type TunnelId = u64;
/// Number of an ask within the process.
pub(crate) type AskId = u64;

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

/// What happens to an instance.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An exec wants a channel.
    Ask {
        ask: AskId,
    },
    /// It does not any more.
    Withdraw {
        ask: AskId,
    },
    KeyPushed {
        pushed_at: Instant,
        request_id: Option<String>,
    },
    KeyPushFailed {
        error: TunnelError,
        jitter: f64,
    },
    Dialed {
        tunnel: TunnelId,
        max_duration: Option<Duration>,
    },
    Handshaken {
        tunnel: TunnelId,
    },
    LoggedIn {
        tunnel: TunnelId,
    },
    /// It failed before it was ready. `jitter` is in 0..1.
    ConnectFailed {
        tunnel: TunnelId,
        error: TunnelError,
        jitter: f64,
    },
    ChannelOpened {
        tunnel: TunnelId,
    },
    ChannelRefused {
        tunnel: TunnelId,
        retry_after: Duration,
        jitter: f64,
    },
    /// A leased channel came back unused.
    ChannelReturned {
        tunnel: TunnelId,
    },
    /// The lease guards were counted.
    Leases {
        tunnel: TunnelId,
        live: usize,
    },
    /// A process may be left behind one of its channels.
    Poisoned {
        tunnel: TunnelId,
    },
    Lost {
        tunnel: TunnelId,
    },
    Wake,
    Shutdown,
}

/// What the shell is to do.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    PushKey,
    /// The grant has ended: forget the private key.
    ForgetKey,
    Dial {
        tunnel: TunnelId,
    },
    Authenticate {
        tunnel: TunnelId,
    },
    OpenChannel {
        tunnel: TunnelId,
    },
    /// Give one of the tunnel's spare channels to the asker.
    HandOver {
        ask: AskId,
        tunnel: TunnelId,
        temperature: TunnelTemperature,
    },
    Refuse {
        ask: AskId,
        error: TunnelError,
    },
    Close {
        tunnel: TunnelId,
        reason: &'static str,
    },
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
            Event::Wake => {}
            Event::Shutdown => self.on_shutdown(),
        }
        self.settle(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Wake`] is due, if nothing else happens before.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let waiter = self.waiters.iter().map(|waiter| waiter.deadline).min();
        let grant = self.grant.expires_at(self.settings.grant_margin);
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
        [waiter, grant, backoff]
            .into_iter()
            .flatten()
            .chain(tunnels)
            .min()
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
        let connecting: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.state.is_connecting())
            .map(|(id, _)| *id)
            .collect();
        for tunnel in connecting {
            self.close(tunnel, "key push failed");
        }
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
        self.with_channels(tunnel, |channels| channels.refused(now + retry_after, now));
        let is_bare = self
            .channels(tunnel)
            .is_some_and(|channels| channels.in_use() == 0);
        if is_bare {
            // Nothing of ours is open, so no slot will come free: the login is good for nothing.
            self.close(tunnel, "every session refused");
            let error = TunnelError::LoginRefused {
                reason: "every session is refused",
            };
            self.on_connect_failed(&error, jitter, now);
        }
    }

    fn on_shutdown(&mut self) {
        self.shutting_down = true;
        for waiter in self.waiters.drain(..) {
            self.effects.push(Effect::Refuse {
                ask: waiter.ask,
                error: TunnelError::ShuttingDown,
            });
        }
        let ids: Vec<TunnelId> = self.tunnels.keys().copied().collect();
        for tunnel in ids {
            let is_connecting = self
                .tunnels
                .get(&tunnel)
                .is_some_and(|tunnel| tunnel.state.is_connecting());
            if is_connecting {
                self.close(tunnel, "shutdown");
            } else {
                self.tunnel_on(tunnel, TunnelEvent::Retire);
            }
        }
    }

    // === Coming to rest ===

    fn settle(&mut self, now: Instant) {
        self.expire_waiters(now);
        self.clear_due_retries(now);
        self.hand_over_spares();
        self.open_channels();
        self.dial_if_needed(now);
        self.log_in(now);
        self.close_unused(now);
    }

    fn expire_waiters(&mut self, now: Instant) {
        let (late, waiting): (VecDeque<_>, VecDeque<_>) =
            self.waiters.drain(..).partition(|waiter| waiter.deadline <= now);
        self.waiters = waiting;
        self.effects.extend(late.into_iter().map(|waiter| Effect::Refuse {
            ask: waiter.ask,
            error: TunnelError::StartTimeout,
        }));
    }

    fn clear_due_retries(&mut self, now: Instant) {
        for tunnel in self.tunnels.values_mut() {
            if let Some(channels) = tunnel.state.channels_mut() {
                channels.retry_at = channels.retry_at.filter(|at| now < *at);
            }
        }
    }

    fn hand_over_spares(&mut self) {
        for (id, tunnel) in &mut self.tunnels {
            let TunnelState::Ready(channels) = &mut tunnel.state else {
                continue;
            };
            while channels.spares > 0
                && let Some(waiter) = self.waiters.pop_front()
            {
                channels.hand_over();
                let (ask, temperature) = (waiter.ask, waiter.temperature);
                self.effects.push(Effect::HandOver {
                    ask,
                    tunnel: *id,
                    temperature,
                });
            }
        }
    }

    fn open_channels(&mut self) {
        let on_the_way: usize = self.ready().map(|(_, channels)| channels.opening).sum();
        let mut needed = self.waiters.len().saturating_sub(on_the_way);
        let nobody_waits = self.waiters.is_empty();
        for (id, tunnel) in &mut self.tunnels {
            let TunnelState::Ready(channels) = &mut tunnel.state else {
                continue;
            };
            let spares_missing = if nobody_waits {
                self.settings
                    .spare_channels
                    .saturating_sub(channels.spares + channels.opening)
            } else {
                0
            };
            let mut wanted = needed.max(spares_missing);
            while wanted > 0 && channels.has_room() {
                channels.opening += 1;
                wanted -= 1;
                needed = needed.saturating_sub(1);
                self.effects.push(Effect::OpenChannel { tunnel: *id });
            }
        }
    }

    /// A tunnel when there is none, a second one only when every channel of the first is taken and someone waits.
    fn dial_if_needed(&mut self, now: Instant) {
        let on_the_way: usize = self.ready().map(|(_, channels)| channels.opening).sum();
        let is_connecting = self.tunnels.values().any(|tunnel| tunnel.state.is_connecting());
        let usable = self
            .tunnels
            .values()
            .filter(|tunnel| !matches!(tunnel.state, TunnelState::Retiring(_)))
            .count();
        let backing_off = self.backoff.as_ref().is_some_and(|backoff| now < backoff.until);
        if self.waiters.len() <= on_the_way
            || is_connecting
            || usable >= self.settings.max_tunnels
            || backing_off
        {
            return;
        }
        self.last_tunnel += 1;
        let tunnel = self.last_tunnel;
        self.tunnels.insert(
            tunnel,
            Tunnel {
                asked_at: now,
                state: TunnelState::Dialing,
            },
        );
        self.effects.push(Effect::Dial { tunnel });
    }

    /// A key beside dial and key exchange; a login when both are there.
    fn log_in(&mut self, now: Instant) {
        let margin = self.settings.grant_margin;
        let is_authenticating = self
            .tunnels
            .values()
            .any(|tunnel| matches!(tunnel.state, TunnelState::Authenticating { .. }));
        let is_stale = matches!(self.grant, Grant::Live { .. }) && !self.grant.is_usable(margin, now);
        if is_stale && !is_authenticating {
            self.grant_on(GrantEvent::Expired);
            self.effects.push(Effect::ForgetKey);
        }
        let is_wanted = self.tunnels.values().any(|tunnel| {
            tunnel.state.is_connecting() && !matches!(tunnel.state, TunnelState::Authenticating { .. })
        });
        if is_wanted && self.grant == Grant::None && !is_authenticating {
            self.grant_on(GrantEvent::Push);
            self.effects.push(Effect::PushKey);
        }
        if self.grant.is_usable(margin, now) {
            let waiting = self
                .tunnels
                .iter()
                .filter(|(_, t)| matches!(t.state, TunnelState::AwaitingGrant { .. }));
            for tunnel in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.tunnel_on(tunnel, TunnelEvent::LoginStarted);
                self.effects.push(Effect::Authenticate { tunnel });
            }
        }
    }

    fn close_unused(&mut self, now: Instant) {
        let idle_timeout = self.settings.idle_timeout;
        let unused: Vec<(TunnelId, &'static str)> = self
            .tunnels
            .iter()
            .filter_map(|(id, tunnel)| match &tunnel.state {
                TunnelState::Retiring(channels) if channels.leased == 0 => Some((*id, "retired")),
                TunnelState::Ready(channels)
                    if channels
                        .idle_since
                        .is_some_and(|since| since + idle_timeout <= now) =>
                {
                    Some((*id, "idle"))
                }
                TunnelState::Ready(_)
                | TunnelState::Retiring(_)
                | TunnelState::Dialing
                | TunnelState::Handshaking { .. }
                | TunnelState::AwaitingGrant { .. }
                | TunnelState::Authenticating { .. } => None,
            })
            .collect();
        for (tunnel, reason) in unused {
            self.close(tunnel, reason);
        }
    }

    // === Small parts ===

    fn ready(&self) -> impl Iterator<Item = (TunnelId, &super::state::Channels)> {
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

    fn channels(&self, tunnel: TunnelId) -> Option<&super::state::Channels> {
        self.tunnels
            .get(&tunnel)
            .and_then(|tunnel| tunnel.state.channels())
    }

    /// An event about a tunnel that has been closed meanwhile means nothing.
    fn with_channels(&mut self, tunnel: TunnelId, change: impl FnOnce(&mut super::state::Channels)) {
        if let Some(channels) = self
            .tunnels
            .get_mut(&tunnel)
            .and_then(|tunnel| tunnel.state.channels_mut())
        {
            change(channels);
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
#[path = "supervisor_core_tests.rs"]
mod tests;
