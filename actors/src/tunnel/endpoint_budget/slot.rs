//! What a tunnel holds of its endpoint's budget: a guard, and a cell that says whether the tunnel is idle.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::{Message, Recipient};
use tokio::time::Instant;

use super::SlotId;

/// Since when the tunnel with this slot has been idle. Written by its supervisor with every change, read by the budget only
/// when it must choose: the warm path sends no message for it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotUsage(Arc<Cell>);

#[derive(Debug, Default)]
struct Cell {
    idle_since: Mutex<Option<Instant>>,
    /// Shared by all slots of one endpoint: whether somebody waits for one.
    wanted: Arc<AtomicBool>,
}

impl SlotUsage {
    pub(super) fn new(wanted: Arc<AtomicBool>) -> Self {
        Self(Arc::new(Cell {
            idle_since: Mutex::new(None),
            wanted,
        }))
    }

    /// Says how it is now. True when the budget has to be told: the tunnel has just turned idle, and somebody waits.
    ///
    /// The budget raises `wanted` before it reads the cells and the lock orders the two, so one of them sees the other.
    pub(crate) fn set(&self, idle_since: Option<Instant>) -> bool {
        let before = std::mem::replace(&mut *self.lock(), idle_since);
        idle_since.is_some() && before != idle_since && self.0.wanted.load(Ordering::SeqCst)
    }

    pub(super) fn idle_since(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// News of one slot, from its tunnel to the budget.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SlotNews {
    pub(crate) slot: SlotId,
    pub(crate) what: SlotChange,
}

/// What happened to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotChange {
    Withdrawn,
    Opened,
    Refused,
    Released,
    TurnedIdle,
    Declined,
    Leaving,
}

/// One connection of an endpoint. Its drop gives it back, so it is held by the connection itself and dropped when that has
/// closed.
pub(crate) struct SlotGuard {
    slot: SlotId,
    budget: Recipient<SlotNews>,
    at_drop: SlotChange,
}

impl SlotGuard {
    pub(super) fn new(slot: SlotId, budget: Recipient<SlotNews>) -> Self {
        Self {
            slot,
            budget,
            at_drop: SlotChange::Released,
        }
    }

    /// The endpoint took the connection.
    pub(crate) fn opened(&self) {
        self.tell(SlotChange::Opened);
    }

    /// The endpoint has no connection left, whatever the budget thought.
    pub(crate) fn refused(mut self) {
        self.at_drop = SlotChange::Refused;
    }

    fn tell(&self, what: SlotChange) {
        let news = SlotNews {
            slot: self.slot,
            what,
        };
        // Each sender has a place of its own, so this fails only when the budget is gone; its successor counts anew.
        drop(self.budget.clone().try_send(news));
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.tell(self.at_drop);
    }
}

impl fmt::Debug for SlotGuard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SlotGuard")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
