//! Which execs are in flight in this process: to look at one, to end one, and to end them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::Addr;
use dashmap::DashMap;
use tokio::sync::Notify;
use uuid::Uuid;

use super::actor::{Cancel, ExecActor};
use super::record::EndedBy;
use crate::instance::InstanceKey;

/// Names one try within the process.
type Try = u64;

/// The execs whose actors live. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveExecs {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By try and not by id: two tries may want one id, and both must be found by a shutdown.
    tries: DashMap<Try, Entry>,
    /// The try that an id belongs to, once its row says so.
    owners: DashMap<Uuid, Try>,
    last_try: AtomicU64,
    one_ended: Notify,
}

#[derive(Debug)]
struct Entry {
    exec_id: Uuid,
    workspace_id: Uuid,
    instance: InstanceKey,
    /// None until the actor has started.
    actor: Option<Addr<ExecActor>>,
}

impl LiveExecs {
    pub(crate) fn add(&self, exec_id: Uuid, workspace_id: Uuid, instance: InstanceKey) -> LiveExec {
        let this = self.shared.last_try.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            exec_id,
            workspace_id,
            instance,
            actor: None,
        };
        self.shared.tries.insert(this, entry);
        LiveExec {
            exec_id,
            this,
            all: self.clone(),
        }
    }

    /// The actor of the exec that owns `exec_id`, where it runs for one of these workspaces.
    pub(crate) fn owner(&self, exec_id: Uuid, is_meant: impl Fn(Uuid) -> bool) -> Option<Addr<ExecActor>> {
        let owner = *self.shared.owners.get(&exec_id)?;
        let entry = self.shared.tries.get(&owner)?;
        entry.actor.clone().filter(|_| is_meant(entry.workspace_id))
    }

    /// Ends them all.
    pub(crate) fn cancel_all(&self, by: EndedBy) {
        self.cancel_where(by, |_| true);
    }

    /// Ends those on the instances that `is_meant` names, and says how many.
    pub(crate) fn cancel_where(&self, by: EndedBy, is_meant: impl Fn(&InstanceKey) -> bool) -> usize {
        let execs: Vec<Addr<ExecActor>> = self
            .shared
            .tries
            .iter()
            .filter(|entry| is_meant(&entry.instance))
            .filter_map(|entry| entry.actor.clone())
            .collect();
        for exec in &execs {
            // One that is gone has ended.
            drop(exec.try_send(Cancel(by)));
        }
        execs.len()
    }

    /// Waits until there is none.
    pub(crate) async fn none_left(&self) {
        loop {
            let one_ended = self.shared.one_ended.notified();
            if self.shared.tries.is_empty() {
                return;
            }
            one_ended.await;
        }
    }

    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.shared.tries.iter().map(|entry| entry.exec_id).collect()
    }
}

/// An exec's entry among the living; its drop removes it.
#[derive(Debug)]
pub(crate) struct LiveExec {
    exec_id: Uuid,
    this: Try,
    all: LiveExecs,
}

impl LiveExec {
    pub(crate) fn register(&self, actor: Addr<ExecActor>) {
        if let Some(mut entry) = self.all.shared.tries.get_mut(&self.this) {
            entry.actor = Some(actor);
        }
    }

    /// The row of the id is this try's, or may be.
    pub(crate) fn claim_id(&self) {
        self.all.shared.owners.insert(self.exec_id, self.this);
    }
}

impl Drop for LiveExec {
    fn drop(&mut self) {
        let shared = &self.all.shared;
        shared
            .owners
            .remove_if(&self.exec_id, |_, owner| *owner == self.this);
        shared.tries.remove(&self.this);
        shared.one_ended.notify_waiters();
    }
}
