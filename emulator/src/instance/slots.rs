//! Session slots of one SSH connection, as `MaxSessions` counts them.
//!
//! It owns which channels take a slot and which of them have begun a command. It must know nothing of processes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use russh::ChannelId;

use crate::shared::{Shared, lock};

/// The session slots of one connection.
#[derive(Debug)]
pub(crate) struct Slots {
    shared: Arc<Shared>,
    used: Mutex<HashMap<ChannelId, Stage>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Begun,
}

impl Slots {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            used: Mutex::default(),
        }
    }

    /// Takes a slot for a new channel, or nothing when all are taken.
    pub(crate) fn take(self: &Arc<Self>, channel: ChannelId) -> Option<Slot> {
        let mut used = lock(&self.used);
        if used.len() >= self.shared.settings.max_sessions {
            return None;
        }
        used.insert(channel, Stage::Open);
        self.shared.session_opened();
        Some(Slot {
            channel,
            slots: Arc::clone(self),
        })
    }

    /// Whether this channel may begin its command now. It may once.
    pub(crate) fn begin(&self, channel: ChannelId) -> bool {
        match lock(&self.used).get_mut(&channel) {
            Some(stage @ Stage::Open) => {
                *stage = Stage::Begun;
                true
            }
            Some(Stage::Begun) | None => false,
        }
    }
}

/// A taken slot; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Slot {
    channel: ChannelId,
    slots: Arc<Slots>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots.used).remove(&self.channel);
        self.slots.shared.session_ended();
    }
}
