//! Which tunnels there should be: one when somebody waits, a second one under need, a successor before the life of one in
//! use ends, none when another instance needs the connection more.

use std::time::Duration;

use tokio::time::Instant;

use super::event::{Effect, TunnelId};
use super::{SupervisorCore, Tunnel, Waiter};
use crate::tunnel::endpoint_budget::Purpose;
use crate::tunnel::state::{Channels, TunnelEvent, TunnelState};

/// A tunnel whose last exec ended this long ago counts as in use: its callers come back, and should not meet a cold one.
const RECENTLY: Duration = Duration::from_secs(60);

impl SupervisorCore {
    pub(super) fn dial_if_needed(&mut self, now: Instant) {
        if self.shutting_down || self.is_connecting() || self.held_back(now).is_some() {
            return;
        }
        let Some(purpose) = self.missing_tunnel(now) else {
            return;
        };
        self.last_tunnel += 1;
        let tunnel = self.last_tunnel;
        self.tunnels.insert(
            tunnel,
            Tunnel {
                asked_at: now,
                purpose,
                endpoint_refused: false,
                state: TunnelState::Locating,
                login: None,
            },
        );
        self.effects.push(Effect::Locate { tunnel });
    }

    /// What a tunnel would be dialled for now. None is on its way.
    fn missing_tunnel(&self, now: Instant) -> Option<Purpose> {
        let has_any = self.ready().next().is_some();
        let are_all_served = self.is_served(self.longest_timeout, now);
        let is_stranded = |waiter: &Waiter| !self.is_served(waiter.timeout, now);
        if !are_all_served && self.waiters.iter().any(is_stranded) {
            return Some(if has_any {
                Purpose::Successor
            } else {
                Purpose::First
            });
        }
        let lasting = self
            .ready()
            .filter(|(_, channels)| !self.is_ageing(channels, now))
            .count();
        if lasting == 0
            && self
                .ready()
                .any(|(_, channels)| channels.was_used_within(RECENTLY, now))
        {
            return Some(Purpose::Successor);
        }
        let on_the_way: usize = self.ready().map(|(_, channels)| channels.opening).sum();
        let has_free_channel = self.ready().any(|(_, channels)| !channels.is_full());
        let is_short = self.waiters.len() > on_the_way && !has_free_channel;
        (is_short && lasting < self.settings.max_tunnels).then_some(Purpose::Second)
    }

    /// Whether it is time for a successor: soon the tunnel lives too short for the longest exec that this login has seen.
    fn is_ageing(&self, channels: &Channels, now: Instant) -> bool {
        self.successor_due(channels).is_some_and(|due| due <= now)
    }

    pub(crate) fn successor_due(&self, channels: &Channels) -> Option<Instant> {
        channels.life.map(|life| life.successor_due(self.longest_timeout))
    }

    /// A tunnel takes no new lease when another one serves all that it does and longer, or when it serves nothing any more.
    pub(super) fn retire_aged(&mut self, now: Instant) {
        let has_lasting = self.ready().any(|(_, channels)| !self.is_ageing(channels, now));
        let aged: Vec<TunnelId> = self
            .ready()
            .filter(|(_, channels)| {
                let is_replaced = has_lasting && !channels.serves(self.longest_timeout, now);
                is_replaced || !channels.serves(Duration::ZERO, now)
            })
            .map(|(id, _)| id)
            .collect();
        for tunnel in aged {
            self.tunnel_on(tunnel, TunnelEvent::Retire);
        }
    }

    /// When no tunnel has a place for those who wait, and no further one may be dialled, one whose channels all belong to execs
    /// that are over makes room. Its end ends what holds them.
    pub(super) fn retire_clogged(&mut self, now: Instant) {
        let is_stuck = self.ready().count() >= self.settings.max_tunnels
            && !self.is_connecting()
            && self.ready().all(|(_, channels)| channels.is_full());
        if !is_stuck {
            return;
        }
        let clogged = self
            .ready()
            .find(|(_, channels)| channels.is_clogged() && self.is_waited_for(channels, now))
            .map(|(id, _)| id);
        if let Some(tunnel) = clogged {
            self.tunnel_on(tunnel, TunnelEvent::Retire);
        }
    }

    /// When a tunnel's age next asks for something.
    pub(super) fn next_ageing(&self, channels: &Channels) -> impl Iterator<Item = Instant> + use<> {
        let life = channels.life;
        let timeout = self.longest_timeout;
        life.into_iter().flat_map(move |life| {
            [
                life.successor_due(timeout),
                life.serves_until(timeout),
                life.useless_from(),
            ]
        })
    }

    /// A tunnel that waits for an endpoint's connection and that nobody waits for any more leaves the queue.
    pub(super) fn leave_endpoint_queue(&mut self, now: Instant) {
        let is_in_use = self
            .ready()
            .any(|(_, channels)| channels.was_used_within(RECENTLY, now));
        if !self.waiters.is_empty() {
            return;
        }
        let unwanted: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| matches!(tunnel.state, TunnelState::AwaitingSlot))
            .filter(|(_, tunnel)| tunnel.purpose != Purpose::Successor || !is_in_use)
            .map(|(id, _)| *id)
            .collect();
        for tunnel in unwanted {
            self.close(tunnel, "nobody waits for it any more");
        }
    }

    /// Since when other instances may have the tunnel's connection. A successor that has yet to take over is not idle: it would
    /// be dialled anew at once.
    pub(crate) fn idle_since(&self, tunnel: TunnelId) -> Option<Instant> {
        let channels = self.channels(tunnel)?;
        let takes_over =
            !channels.was_leased && self.ready().any(|(id, other)| id != tunnel && other.was_leased);
        channels.idle_since.filter(|_| !takes_over)
    }

    /// A second tunnel that still waits for a connection when the first is gone is the first.
    pub(super) fn promote_second(&mut self) {
        if self.ready().next().is_some() {
            return;
        }
        let waiting = self.tunnels.iter_mut().find(|(_, tunnel)| {
            tunnel.purpose == Purpose::Second && matches!(tunnel.state, TunnelState::AwaitingSlot)
        });
        if let Some((id, tunnel)) = waiting {
            tunnel.purpose = Purpose::First;
            let tunnel = *id;
            self.request_slot(tunnel);
        }
    }

    /// Another instance needs the connection: an idle tunnel closes, and of two the one asked takes no new lease.
    pub(super) fn on_give_way(&mut self, tunnel: TunnelId, if_second: bool, now: Instant) {
        let has_another = self.ready().any(|(id, _)| id != tunnel);
        let is_idle = match self.tunnels.get(&tunnel).map(|tunnel| &tunnel.state) {
            Some(TunnelState::Ready(channels)) => channels.leased == 0 && !self.is_waited_for(channels, now),
            Some(TunnelState::Retiring(_)) => return self.effects.push(Effect::LeaveSlot { tunnel }),
            None => return,
            Some(_) => false,
        };
        if is_idle {
            self.close(tunnel, "another instance needs its connection");
        } else if if_second && has_another {
            self.tunnel_on(tunnel, TunnelEvent::Retire);
            self.effects.push(Effect::LeaveSlot { tunnel });
        } else {
            self.effects.push(Effect::KeepSlot { tunnel });
        }
    }
}
