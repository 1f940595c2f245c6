//! State that all connections of one emulator share: instances, keys, open tunnels, counters, and the tasks.
//!
//! It owns admission (how many tunnels) and the end of everything. It must know nothing of HTTP or SSH.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::emulator::{Counters, EmulatorError};
use crate::instance::Account;
use crate::keys::Keys;
use crate::settings::{Instance, InstanceState, Settings};

/// Locks, also after a holder panicked: all values here are valid between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) keys: Keys,
    pub(crate) account: Arc<Account>,
    instances: HashMap<String, Arc<InstanceEntry>>,
    by_address: HashMap<IpAddr, Arc<InstanceEntry>>,
    tunnels: Mutex<Tunnels>,
    pushes: AtomicU64,
    sessions_open: AtomicUsize,
    commands_started: AtomicU64,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// One instance with what may change of it.
#[derive(Debug)]
pub(crate) struct InstanceEntry {
    pub(crate) instance: Instance,
    /// Held while a key is pushed to it.
    pub(crate) pushing: tokio::sync::Mutex<()>,
    state: Mutex<InstanceState>,
}

impl InstanceEntry {
    pub(crate) fn state(&self) -> InstanceState {
        *lock(&self.state)
    }
}

#[derive(Debug, Default)]
struct Tunnels {
    open: HashMap<u64, OpenTunnel>,
    opened: u64,
    peak: usize,
}

#[derive(Debug)]
struct OpenTunnel {
    instance_id: String,
    cut: CancellationToken,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Result<Self, EmulatorError> {
        let mut instances = HashMap::new();
        let mut by_address = HashMap::new();
        for instance in &settings.instances {
            let address: IpAddr =
                instance
                    .private_ip_address
                    .parse()
                    .map_err(|_| EmulatorError::InvalidAddress {
                        instance_id: instance.id.clone(),
                        value: instance.private_ip_address.clone(),
                    })?;
            let entry = Arc::new(InstanceEntry {
                instance: instance.clone(),
                pushing: tokio::sync::Mutex::default(),
                state: Mutex::new(instance.state),
            });
            if instances
                .insert(instance.id.clone(), Arc::clone(&entry))
                .is_some()
            {
                return Err(EmulatorError::DuplicateInstance {
                    what: "id",
                    value: instance.id.clone(),
                });
            }
            if by_address.insert(address, entry).is_some() {
                return Err(EmulatorError::DuplicateInstance {
                    what: "private address",
                    value: instance.private_ip_address.clone(),
                });
            }
        }
        Ok(Self {
            account: Arc::new(Account::current(settings.shell.as_deref())),
            keys: Keys::new(settings.clock.clone(), settings.key_lifetime),
            settings,
            instances,
            by_address,
            tunnels: Mutex::default(),
            pushes: AtomicU64::new(0),
            sessions_open: AtomicUsize::new(0),
            commands_started: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    pub(crate) fn instance(&self, id: &str) -> Option<&Arc<InstanceEntry>> {
        self.instances.get(id)
    }

    pub(crate) fn instance_at(&self, address: IpAddr) -> Option<&Arc<InstanceEntry>> {
        self.by_address.get(&address)
    }

    pub(crate) fn set_instance_state(&self, instance_id: &str, state: InstanceState) -> bool {
        let Some(entry) = self.instances.get(instance_id) else {
            return false;
        };
        *lock(&entry.state) = state;
        true
    }

    /// Takes one of the endpoint's connections, or nothing when all are taken.
    pub(crate) fn admit_tunnel(self: &Arc<Self>, instance_id: &str) -> Option<TunnelSlot> {
        let mut tunnels = lock(&self.tunnels);
        if tunnels.open.len() >= self.settings.max_connections {
            return None;
        }
        let id = tunnels.opened;
        tunnels.opened += 1;
        let cut = CancellationToken::new();
        tunnels.open.insert(
            id,
            OpenTunnel {
                instance_id: instance_id.to_owned(),
                cut: cut.clone(),
            },
        );
        tunnels.peak = tunnels.peak.max(tunnels.open.len());
        Some(TunnelSlot {
            id,
            cut,
            shared: Arc::clone(self),
        })
    }

    pub(crate) fn cut_tunnels(&self, instance_id: &str) -> usize {
        let tunnels = lock(&self.tunnels);
        tunnels
            .open
            .values()
            .filter(|tunnel| tunnel.instance_id == instance_id)
            .inspect(|tunnel| tunnel.cut.cancel())
            .count()
    }

    pub(crate) fn count_push(&self) {
        self.pushes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_command(&self) {
        self.commands_started.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn session_opened(&self) {
        self.sessions_open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn session_ended(&self) {
        self.sessions_open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn counters(&self) -> Counters {
        let tunnels = lock(&self.tunnels);
        Counters {
            pushes: self.pushes.load(Ordering::Relaxed),
            tunnels_open: tunnels.open.len(),
            tunnels_opened: tunnels.opened,
            tunnels_peak: tunnels.peak,
            sessions_open: self.sessions_open.load(Ordering::Relaxed),
            commands_started: self.commands_started.load(Ordering::Relaxed),
        }
    }

    /// Starts a task that [`Shared::stop`] waits for. It must end soon after [`Shared::stopping`] is cancelled.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    pub(crate) fn cancel(&self) {
        self.stopping.cancel();
    }

    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// One of the endpoint's connections; dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct TunnelSlot {
    id: u64,
    cut: CancellationToken,
    shared: Arc<Shared>,
}

impl TunnelSlot {
    /// Cancelled when the tunnel is to be cut without a CLOSE.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.cut
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        lock(&self.shared.tunnels).open.remove(&self.id);
    }
}
