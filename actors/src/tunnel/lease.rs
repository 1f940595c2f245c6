//! The right to use one channel of a tunnel, as a guard.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Message, Recipient};
use russh::Channel;
use russh::client::Msg;

use super::supervisor_core::TunnelId;
use super::warden::WardenHandle;
use crate::exec::LeaseFacts;

/// Tells a supervisor that the guards of a tunnel should be counted anew. Losing one does no harm: the count is read
/// from the guards, not kept by these messages.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LeaseDropped {
    pub(crate) tunnel: TunnelId,
    /// A process may be left behind the channel.
    pub(crate) poisoned: bool,
}

/// A leased channel on which nothing was ever asked for goes home and serves the next asker.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct ChannelReturned {
    pub(crate) tunnel: TunnelId,
    pub(crate) channel: Channel<Msg>,
}

/// How many leases a tunnel has: the number of guards alive, and of those that linger.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseCounter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    live: AtomicUsize,
    lingering: AtomicUsize,
}

impl LeaseCounter {
    pub(crate) fn live(&self) -> usize {
        self.0.live.load(Ordering::Acquire)
    }

    /// Leases whose exec is over, and whose channel something holds open.
    pub(crate) fn lingering(&self) -> usize {
        self.0.lingering.load(Ordering::Acquire)
    }
}

/// One lease. Its drop ends it, whatever the reason: an end, an error, a panic, a cancelled future.
#[derive(Debug)]
pub(crate) struct Lease {
    tunnel: TunnelId,
    counter: LeaseCounter,
    supervisor: Recipient<LeaseDropped>,
    warden: WardenHandle,
    poisoned: bool,
    lingers: bool,
}

impl Lease {
    pub(crate) fn new(
        tunnel: TunnelId,
        counter: LeaseCounter,
        supervisor: Recipient<LeaseDropped>,
        warden: WardenHandle,
    ) -> Self {
        counter.0.live.fetch_add(1, Ordering::AcqRel);
        Self {
            tunnel,
            counter,
            supervisor,
            warden,
            poisoned: false,
            lingers: false,
        }
    }

    /// The exec is over, and its channel is still open.
    pub(crate) fn linger(&mut self) {
        if !self.lingers {
            self.lingers = true;
            self.counter.0.lingering.fetch_add(1, Ordering::AcqRel);
            self.tell();
        }
    }

    /// The warden of its tunnel.
    pub(crate) fn warden(&self) -> &WardenHandle {
        &self.warden
    }

    fn tell(&self) {
        let message = LeaseDropped {
            tunnel: self.tunnel,
            poisoned: self.poisoned,
        };
        // Every sender has a place of its own in the mailbox, so this fails only when the supervisor is gone, and
        // with it the count.
        drop(self.supervisor.try_send(message));
    }

    /// Ends the lease and keeps new ones off its tunnel: a process may be left behind the channel.
    pub(crate) fn poison(mut self) {
        self.poisoned = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.lingers {
            self.counter.0.lingering.fetch_sub(1, Ordering::AcqRel);
        }
        self.counter.0.live.fetch_sub(1, Ordering::AcqRel);
        self.tell();
    }
}

/// A channel with its lease, ready for one exec request.
pub(crate) struct LeasedChannel {
    unused: Option<(Channel<Msg>, Lease)>,
    home: Recipient<ChannelReturned>,
    /// Facts for the exec's record.
    pub(crate) facts: LeaseFacts,
}

impl LeasedChannel {
    pub(crate) fn new(
        channel: Channel<Msg>,
        lease: Lease,
        home: Recipient<ChannelReturned>,
        facts: LeaseFacts,
    ) -> Self {
        Self {
            unused: Some((channel, lease)),
            home,
            facts,
        }
    }

    /// Takes the channel into use.
    pub(crate) fn into_parts(mut self) -> Option<(Channel<Msg>, Lease)> {
        self.unused.take()
    }
}

impl Drop for LeasedChannel {
    fn drop(&mut self) {
        if let Some((channel, lease)) = self.unused.take() {
            // First the channel, then the lease: it must never look as if the slot were free. If the supervisor is gone
            // the connection goes with it.
            drop(self.home.try_send(ChannelReturned {
                tunnel: lease.tunnel,
                channel,
            }));
            drop(lease);
        }
    }
}

impl fmt::Debug for LeasedChannel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LeasedChannel")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}
