//! The messages a supervisor takes, each turned into an event.

use std::time::Duration;

use actix::{Handler, Message};
use tokio::sync::oneshot;

use super::failure::TunnelError;
use super::lease::{ChannelReturned, LeaseDropped, LeasedChannel};
use super::supervisor::InstanceSupervisor;
use super::supervisor_core::{AskId, Event};
use crate::instance::InstanceTarget;

/// What an exec gets for its ask.
pub(crate) type AskAnswer = Result<LeasedChannel, TunnelError>;

/// An exec wants a channel.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Ask {
    pub(crate) ask: AskId,
    /// The way as the asker's workspace has it at present.
    pub(crate) target: InstanceTarget,
    /// The exec's own timeout.
    pub(crate) timeout: Duration,
    pub(crate) answer: oneshot::Sender<AskAnswer>,
}

/// It does not any more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Withdraw(pub(crate) AskId);

/// Refuse everyone, close everything.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown;

/// Let no new lease onto the tunnels there are.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;

/// The same, after everyone who waits was cancelled.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Evict;

/// An operator has pinned or forgotten the host key.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct HostKeyReplaced;

impl Handler<Ask> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, message: Ask, ctx: &mut Self::Context) {
        let Ask {
            ask,
            target,
            timeout,
            answer,
        } = message;
        self.target = target;
        self.asks.insert(ask, answer);
        self.feed(Event::Ask { ask, timeout }, ctx);
    }
}

impl Handler<Withdraw> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, Withdraw(ask): Withdraw, ctx: &mut Self::Context) {
        self.asks.remove(&ask);
        self.feed(Event::Withdraw { ask }, ctx);
    }
}

impl Handler<LeaseDropped> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, LeaseDropped { tunnel, poisoned }: LeaseDropped, ctx: &mut Self::Context) {
        let Some(parts) = self.parts.get(&tunnel) else {
            return;
        };
        let (live, lingering) = (parts.leases.live(), parts.leases.lingering());
        if poisoned {
            self.feed(Event::Poisoned { tunnel }, ctx);
        }
        self.feed(
            Event::Leases {
                tunnel,
                live,
                lingering,
            },
            ctx,
        );
    }
}

impl Handler<ChannelReturned> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, ChannelReturned { tunnel, channel }: ChannelReturned, ctx: &mut Self::Context) {
        if let Some(parts) = self.parts.get_mut(&tunnel) {
            parts.spares.push((channel, Duration::ZERO));
            self.feed(Event::ChannelReturned { tunnel }, ctx);
        }
    }
}

impl Handler<Shutdown> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.feed(Event::Shutdown, ctx);
    }
}

impl Handler<Drain> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.feed(Event::Drain, ctx);
    }
}

impl Handler<Evict> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, _: Evict, ctx: &mut Self::Context) {
        self.feed(Event::Evict, ctx);
    }
}

impl Handler<HostKeyReplaced> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, _: HostKeyReplaced, ctx: &mut Self::Context) {
        self.feed(Event::HostKeyReplaced, ctx);
    }
}
