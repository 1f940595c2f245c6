//! Coming to rest after an event: who gets a channel, what is opened, pushed, logged in and closed.

use tokio::time::Instant;

use super::event::{Effect, TunnelId};
use super::{SupervisorCore, Tunnel};
use crate::tunnel::failure::TunnelError;
use crate::tunnel::grant::{Grant, GrantEvent};
use crate::tunnel::state::{TunnelEvent, TunnelState};

impl SupervisorCore {
    pub(super) fn settle(&mut self, now: Instant) {
        self.expire_waiters(now);
        self.clear_due_retries(now);
        self.hand_over_spares();
        self.open_channels();
        self.dial_if_needed(now);
        self.log_in(now);
        self.close_unused(now);
    }

    fn expire_waiters(&mut self, now: Instant) {
        while let Some(waiter) = self.waiters.pop_front_if(|waiter| waiter.deadline <= now) {
            self.effects.push(Effect::Refuse {
                ask: waiter.ask,
                error: TunnelError::StartTimeout,
            });
        }
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
        let has_free_channel = self.ready().any(|(_, channels)| channels.in_use() < channels.cap);
        if self.waiters.len() <= on_the_way
            || has_free_channel
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
        let is_authenticating = self.is_authenticating();
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
}
