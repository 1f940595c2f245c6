//! Session slots of one SSH connection, as `MaxSessions` counts them.
//!
//! It owns which channels take a slot and which of them have begun a command. It must know nothing of processes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use russh::ChannelId;
use tokio::sync::oneshot;

use crate::shared::{InstanceEntry, Shared, lock};

/// The session slots of one connection.
#[derive(Debug)]
pub(crate) struct Slots {
    shared: Arc<Shared>,
    entry: Arc<InstanceEntry>,
    used: Mutex<HashMap<ChannelId, Stage>>,
}

/// How far a channel is.
#[derive(Debug)]
enum Stage {
    /// No exec request so far. The sender tells the session whether its command begins.
    Open(oneshot::Sender<bool>),
    /// Its one exec request came.
    Asked,
}

impl Slots {
    pub(crate) fn new(shared: Arc<Shared>, entry: Arc<InstanceEntry>) -> Self {
        Self {
            shared,
            entry,
            used: Mutex::default(),
        }
    }

    /// Takes a slot for a new channel, or nothing when all are taken.
    pub(crate) fn take(self: &Arc<Self>, channel: ChannelId) -> Option<Slot> {
        let told = self.entry.faults.read(|faults| faults.max_sessions);
        let mut used = lock(&self.used);
        if used.len() >= told.unwrap_or(self.shared.settings.max_sessions) {
            return None;
        }
        let (sender, decision) = oneshot::channel();
        used.insert(channel, Stage::Open(sender));
        self.shared.tally.session_opened();
        Some(Slot {
            channel,
            slots: Arc::clone(self),
            decision,
        })
    }

    /// Lets this channel begin its command, or leaves its exec request without an answer. False when it had one before.
    pub(crate) fn decide(&self, channel: ChannelId, begins: bool) -> bool {
        let mut used = lock(&self.used);
        let Some(stage) = used.get_mut(&channel) else {
            return false;
        };
        match std::mem::replace(stage, Stage::Asked) {
            Stage::Open(decision) => decision.send(begins).is_ok(),
            Stage::Asked => false,
        }
    }
}

/// A taken slot; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Slot {
    channel: ChannelId,
    slots: Arc<Slots>,
    decision: oneshot::Receiver<bool>,
}

impl Slot {
    /// Whether the command of the exec request that just came begins.
    pub(crate) async fn begins(&mut self) -> bool {
        (&mut self.decision).await.unwrap_or(false)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots.used).remove(&self.channel);
        self.slots.shared.tally.session_ended();
    }
}
