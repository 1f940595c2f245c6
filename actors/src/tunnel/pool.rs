//! The process's supervisors: one for each login on each instance, found without a scan and made anew when one fails.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::{Addr, Handler, Message};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::failure::TunnelError;
use super::inbox::{Ask, AskAnswer, Shutdown, Withdraw};
use super::observe::Observe;
use super::refused_logins::RefusedLogins;
use super::snapshot::{EndpointSnapshot, InstanceSnapshot};
use super::supervisor::{InstanceSupervisor, Surroundings};
use super::supervisor_core::{AskId, CoreSettings};
use crate::arbiters::Arbiters;
use crate::instance::{InstanceKey, InstanceTarget};

/// A supervisor that fails is not replaced sooner than this after it was started, doubling with each one that failed so.
const RESPAWN_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_RESPAWN_PAUSE: Duration = Duration::from_secs(30);

/// A login on an instance: what a tunnel leads to. Two workspaces that name one instance with different logins must not
/// share a tunnel, since a command runs as whoever logged in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Login {
    instance: InstanceKey,
    os_user: String,
}

impl Login {
    pub(crate) fn of(target: &InstanceTarget) -> Self {
        Self {
            instance: target.instance.clone(),
            os_user: target.os_user.clone(),
        }
    }
}

/// Finds and makes supervisors. Holds no tunnel state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TunnelPool {
    shared: Arc<Shared>,
}

struct Shared {
    slots: DashMap<Login, Slot>,
    /// One an instance, whatever its logins.
    refused_logins: DashMap<InstanceKey, RefusedLogins>,
    arbiters: Arbiters,
    settings: CoreSettings,
    around: Surroundings,
    last_ask: AtomicU64,
    closing: AtomicBool,
}

#[derive(Clone)]
struct Slot {
    supervisor: Addr<InstanceSupervisor>,
    generation: u64,
    started: Instant,
    /// Supervisors before this one that did not live longer than their pause.
    early_deaths: u32,
}

/// An ask under way. Its drop takes the place in the queue back.
pub(crate) struct PendingAsk {
    ask: AskId,
    supervisor: Option<Addr<InstanceSupervisor>>,
    answer: oneshot::Receiver<AskAnswer>,
}

impl PendingAsk {
    /// The answer; [`TunnelError::Restarting`] if the supervisor failed meanwhile.
    pub(crate) async fn wait(mut self) -> AskAnswer {
        let answer = (&mut self.answer).await;
        self.supervisor = None;
        answer.unwrap_or(Err(TunnelError::Restarting {
            retry_after: RESPAWN_PAUSE,
        }))
    }
}

impl Drop for PendingAsk {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            // A supervisor that is gone has no queue to leave.
            drop(supervisor.try_send(Withdraw(self.ask)));
        }
    }
}

impl TunnelPool {
    pub(crate) fn new(arbiters: Arbiters, settings: CoreSettings, around: Surroundings) -> Self {
        let shared = Shared {
            slots: DashMap::new(),
            refused_logins: DashMap::new(),
            arbiters,
            settings,
            around,
            last_ask: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Asks for a channel to `target`, for an exec with this timeout. The answer comes within the start timeout.
    ///
    /// # Errors
    /// At once when the pool is closing, or the supervisor has just failed.
    pub(crate) fn ask(&self, target: &InstanceTarget, timeout: Duration) -> Result<PendingAsk, TunnelError> {
        if self.shared.closing.load(Ordering::Acquire) {
            return Err(TunnelError::ShuttingDown);
        }
        let supervisor = self.supervisor(target)?;
        let ask = self.shared.last_ask.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let message = Ask {
            ask,
            target: target.clone(),
            timeout,
            answer: sender,
        };
        // This clone of the address has a place of its own in the mailbox, so only a supervisor that has just failed
        // refuses; then the dropped sender says so to `wait`.
        drop(supervisor.try_send(message));
        Ok(PendingAsk {
            ask,
            supervisor: Some(supervisor),
            answer,
        })
    }

    fn supervisor(&self, target: &InstanceTarget) -> Result<Addr<InstanceSupervisor>, TunnelError> {
        let login = Login::of(target);
        match self.shared.slots.entry(login) {
            Entry::Occupied(mut entry) => {
                let slot = entry.get();
                if slot.supervisor.connected() {
                    return Ok(slot.supervisor.clone());
                }
                let successor = self.successor(slot, target)?;
                tracing::error!(
                    instance = %target.instance,
                    generation = successor.generation,
                    "the instance's supervisor failed; a new one takes over"
                );
                entry.insert(successor.clone());
                Ok(successor.supervisor)
            }
            Entry::Vacant(entry) => {
                let slot = self.start(target, 1, 0);
                let supervisor = slot.supervisor.clone();
                entry.insert(slot);
                Ok(supervisor)
            }
        }
    }

    fn successor(&self, failed: &Slot, target: &InstanceTarget) -> Result<Slot, TunnelError> {
        let doublings = failed.early_deaths.min(5);
        let pause = RESPAWN_PAUSE
            .saturating_mul(1 << doublings)
            .min(LONGEST_RESPAWN_PAUSE);
        let age = failed.started.elapsed();
        if age < pause {
            return Err(TunnelError::Restarting {
                retry_after: pause.saturating_sub(age),
            });
        }
        let early_deaths = if age < LONGEST_RESPAWN_PAUSE {
            failed.early_deaths + 1
        } else {
            0
        };
        Ok(self.start(target, failed.generation + 1, early_deaths))
    }

    fn start(&self, target: &InstanceTarget, generation: u64, early_deaths: u32) -> Slot {
        let settings = self.shared.settings.clone();
        let around = self.shared.around.clone();
        let refused_logins = self
            .shared
            .refused_logins
            .entry(target.instance.clone())
            .or_default()
            .clone();
        let owned = target.clone();
        let supervisor = self.shared.arbiters.run(&Login::of(target), move |_| {
            InstanceSupervisor::new(owned, generation, settings, refused_logins, around)
        });
        Slot {
            supervisor,
            generation,
            started: Instant::now(),
            early_deaths,
        }
    }

    /// What every supervisor knows, by region, instance id and login.
    pub(crate) async fn snapshots(&self, is_wanted: impl Fn(&InstanceKey) -> bool) -> Vec<InstanceSnapshot> {
        let supervisors: Vec<Addr<InstanceSupervisor>> = self
            .shared
            .slots
            .iter()
            .filter(|entry| is_wanted(&entry.key().instance))
            .map(|entry| entry.value().supervisor.clone())
            .collect();
        let answers = join_all(supervisors.iter().map(|supervisor| supervisor.send(Observe))).await;
        // One that fails just now has nothing to show.
        let mut snapshots: Vec<InstanceSnapshot> = answers.into_iter().flatten().collect();
        snapshots.sort_by(|a, b| {
            (&a.region, &a.instance_id, &a.os_user).cmp(&(&b.region, &b.instance_id, &b.os_user))
        });
        snapshots
    }

    /// How the endpoints' connections are shared out.
    pub(crate) async fn endpoints(&self) -> Vec<EndpointSnapshot> {
        self.shared.around.endpoint_budgets.snapshots().await
    }

    /// Sends a message to the supervisors of the instances that `is_meant` names, and says how many they are.
    pub(crate) fn tell<M>(&self, is_meant: impl Fn(&InstanceKey) -> bool, message: impl Fn() -> M) -> usize
    where
        M: Message<Result = ()> + Send + 'static,
        InstanceSupervisor: Handler<M>,
    {
        let meant = self
            .shared
            .slots
            .iter()
            .filter(|entry| is_meant(&entry.key().instance));
        meant
            .map(|entry| {
                let supervisor = entry.value().supervisor.clone();
                // A supervisor that is gone has no tunnels.
                drop(supervisor.try_send(message()));
            })
            .count()
    }

    /// Refuses new asks and those that wait, and lets every tunnel go as soon as its leases have ended.
    pub(crate) fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.tell(|_| true, || Shutdown);
    }
}

impl fmt::Debug for TunnelPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TunnelPool")
            .field("supervisors", &self.shared.slots.len())
            .finish_non_exhaustive()
    }
}
