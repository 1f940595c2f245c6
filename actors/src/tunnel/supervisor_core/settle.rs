//! Coming to rest after an event: who gets a channel, what is opened, pushed, logged in and closed.

use std::time::Duration;

use tokio::time::Instant;

use super::event::{Effect, TunnelId};
use super::{SupervisorCore, Tunnel};
use crate::tunnel::failure::TunnelError;
use crate::tunnel::grant::{Grant, GrantEvent};
use crate::tunnel::refused_logins::Turn;
use crate::tunnel::state::{TunnelEvent, TunnelState};

impl SupervisorCore {
    pub(super) fn settle(&mut self, now: Instant) {
        self.expire_waiters(now);
        self.clear_due_retries(now);
        self.retire_aged(now);
        self.hand_over_spares(now);
        self.settle_wardens(now);
        self.open_channels(now);
        self.retire_clogged(now);
        self.promote_second();
        self.dial_if_needed(now);
        self.log_in(now);
        self.leave_endpoint_queue(now);
        self.close_unused(now);
        if self.tunnels.is_empty() && self.waiters.is_empty() {
            self.longest_timeout = Duration::ZERO;
        }
    }

    fn expire_waiters(&mut self, now: Instant) {
        if self.waiters.front().is_none_or(|waiter| now < waiter.deadline) {
            return;
        }
        let awaits_endpoint =
            matches!(self.awaited(now), Some((_, what)) if what == TunnelState::AwaitingSlot.awaited());
        while let Some(waiter) = self.waiters.pop_front_if(|waiter| waiter.deadline <= now) {
            let error = if awaits_endpoint {
                TunnelError::EndpointBusy
            } else {
                TunnelError::StartTimeout
            };
            self.effects.push(Effect::Refuse {
                ask: waiter.ask,
                error,
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

    /// In the order of the queue; whoever needs more life than the spare channels' tunnels have is passed over.
    fn hand_over_spares(&mut self, now: Instant) {
        let mut place = 0;
        while let Some(waiter) = self.waiters.get(place)
            && self.ready().any(|(_, channels)| channels.spares > 0)
        {
            let (ask, timeout, temperature) = (waiter.ask, waiter.timeout, waiter.temperature);
            let suited = self
                .ready()
                .find(|(_, channels)| channels.spares > 0 && channels.serves(timeout, now));
            let Some((tunnel, _)) = suited else {
                place += 1;
                continue;
            };
            self.waiters.remove(place);
            self.with_channels(tunnel, |channels| channels.hand_over());
            self.effects.push(Effect::HandOver {
                ask,
                tunnel,
                temperature,
            });
        }
    }

    fn open_channels(&mut self, now: Instant) {
        let on_the_way: usize = self.ready().map(|(_, channels)| channels.opening).sum();
        let mut needed = self.waiters.len().saturating_sub(on_the_way);
        for (id, tunnel) in &mut self.tunnels {
            let TunnelState::Ready(channels) = &mut tunnel.state else {
                continue;
            };
            let mut wanted = if self.waiters.is_empty() {
                self.settings
                    .spare_channels
                    .saturating_sub(channels.spares + channels.opening)
            } else if channels.serves(self.longest_timeout, now) {
                needed
            } else {
                let suited = self
                    .waiters
                    .iter()
                    .filter(|waiter| channels.serves(waiter.timeout, now));
                needed.min(suited.count().saturating_sub(channels.opening))
            };
            while wanted > 0 && channels.has_room() {
                channels.opening += 1;
                wanted -= 1;
                needed = needed.saturating_sub(1);
                self.effects.push(Effect::OpenChannel { tunnel: *id });
            }
        }
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
        // Not while an endpoint's connection is waited for: the key could be too old by then.
        let is_wanted = self.tunnels.values().any(|tunnel| match tunnel.state {
            TunnelState::Locating | TunnelState::Handshaking { .. } | TunnelState::AwaitingGrant { .. } => {
                true
            }
            TunnelState::Dialing => !tunnel.endpoint_refused,
            TunnelState::AwaitingSlot
            | TunnelState::Authenticating { .. }
            | TunnelState::Ready(_)
            | TunnelState::Retiring(_) => false,
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
                self.start_login(tunnel, now);
            }
        }
    }

    /// Other logins on the instance may be under way, or have been refused while this tunnel was on its way.
    fn start_login(&mut self, tunnel: TunnelId, now: Instant) {
        match self.refused_logins.turn(now) {
            Turn::Yours(login) => {
                self.tunnel_on(tunnel, TunnelEvent::LoginStarted);
                if let Some(tunnel) = self.tunnels.get_mut(&tunnel) {
                    tunnel.login = Some(login);
                }
                self.effects.push(Effect::Authenticate { tunnel });
            }
            Turn::Wait => {}
            Turn::Blocked(until) => {
                self.close(tunnel, "the instance has refused too many logins lately");
                let error = TunnelError::BackingOff {
                    cause: self.too_many_refused_logins(),
                    retry_after: until.saturating_duration_since(now),
                };
                self.effects.push(Effect::Note { error: error.clone() });
                self.refuse_stranded(&error, now);
            }
        }
    }

    /// Whether a tunnel has all that its login needs, and is still not logging in.
    pub(super) fn waits_for_its_turn(&self) -> bool {
        let is_ready = |tunnel: &Tunnel| matches!(tunnel.state, TunnelState::AwaitingGrant { .. });
        matches!(self.grant, Grant::Live { .. }) && self.tunnels.values().any(is_ready)
    }

    fn close_unused(&mut self, now: Instant) {
        let idle_timeout = self.settings.idle_timeout;
        let unused: Vec<(TunnelId, &'static str)> = self
            .tunnels
            .iter()
            .filter_map(|(id, tunnel)| match &tunnel.state {
                TunnelState::Retiring(channels) if channels.working() == 0 && !channels.awaits_warden() => {
                    Some((*id, "retired"))
                }
                TunnelState::Ready(channels)
                    if channels.opening == 0
                        && !self.is_waited_for(channels, now)
                        && channels
                            .idle_since
                            .is_some_and(|since| since + idle_timeout <= now) =>
                {
                    Some((*id, "idle"))
                }
                TunnelState::Ready(_)
                | TunnelState::Retiring(_)
                | TunnelState::Locating
                | TunnelState::AwaitingSlot
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
