//! State that all connections of one emulator share: instances, keys, open tunnels, counters, and the tasks.
//!
//! It owns admission (how many tunnels) and the end of everything. It must know nothing of HTTP or SSH.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::counters::{Counters, Tally};
use crate::emulator::EmulatorError;
use crate::faults::FaultSwitch;
use crate::host_key::HostKey;
use crate::instance::Account;
use crate::keys::Keys;
use crate::settings::{Instance, InstanceBackend, InstanceState, Settings};

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
    pub(crate) tally: Tally,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// One instance with what may change of it.
#[derive(Debug)]
pub(crate) struct InstanceEntry {
    pub(crate) instance: Instance,
    /// Held while a key is pushed to it.
    pub(crate) pushing: tokio::sync::Mutex<()>,
    pub(crate) faults: FaultSwitch,
    state: Mutex<InstanceState>,
    backend: Mutex<InstanceBackend>,
}

impl InstanceEntry {
    fn new(instance: &Instance) -> Self {
        Self {
            instance: instance.clone(),
            pushing: tokio::sync::Mutex::default(),
            faults: FaultSwitch::new(instance.faults.clone()),
            state: Mutex::new(instance.state),
            backend: Mutex::new(instance.backend.clone()),
        }
    }

    pub(crate) fn backend(&self) -> InstanceBackend {
        lock(&self.backend).clone()
    }

    /// False when the instance has no host key of its own here.
    pub(crate) fn set_host_key(&self, new: HostKey) -> bool {
        match &mut *lock(&self.backend) {
            InstanceBackend::InProcess { host_key } => {
                *host_key = new;
                true
            }
            InstanceBackend::External { .. } => false,
        }
    }

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
    switches: Arc<TunnelSwitches>,
}

/// What an open tunnel is told from outside.
#[derive(Debug, Default)]
pub(crate) struct TunnelSwitches {
    /// Cancelled when the tunnel is to be cut without a CLOSE.
    pub(crate) cut: CancellationToken,
    /// Whether it carries nothing.
    pub(crate) stalled: watch::Sender<bool>,
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
            let entry = Arc::new(InstanceEntry::new(instance));
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
            tally: Tally::default(),
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
        let switches = Arc::new(TunnelSwitches::default());
        tunnels.open.insert(
            id,
            OpenTunnel {
                instance_id: instance_id.to_owned(),
                switches: Arc::clone(&switches),
            },
        );
        tunnels.peak = tunnels.peak.max(tunnels.open.len());
        Some(TunnelSlot {
            id,
            switches,
            shared: Arc::clone(self),
        })
    }

    /// Does something to all open tunnels of an instance and returns how many there are.
    pub(crate) fn tunnels_of(&self, instance_id: &str, act: impl Fn(&TunnelSwitches)) -> usize {
        let tunnels = lock(&self.tunnels);
        tunnels
            .open
            .values()
            .filter(|tunnel| tunnel.instance_id == instance_id)
            .inspect(|tunnel| act(&tunnel.switches))
            .count()
    }

    pub(crate) fn counters(&self) -> Counters {
        let tally = &self.tally;
        let tunnels = lock(&self.tunnels);
        Counters {
            push_attempts: tally.push_attempts.get(),
            pushes: tally.pushes.get(),
            tunnels_open: tunnels.open.len(),
            tunnels_opened: tunnels.opened,
            tunnels_peak: tunnels.peak,
            tunnels_refused: tally.tunnels_refused.get(),
            login_attempts: tally.login_attempts.get(),
            logins_refused: tally.logins_refused.get(),
            channel_opens_refused: tally.channel_opens_refused.get(),
            sessions_open: tally.sessions_open(),
            commands_started: tally.commands_started.get(),
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
    switches: Arc<TunnelSwitches>,
    shared: Arc<Shared>,
}

impl TunnelSlot {
    pub(crate) fn switches(&self) -> &TunnelSwitches {
        &self.switches
    }

    /// Frees the slot while its owner still has something to close: whoever sees the end of one tunnel may open the next.
    pub(crate) fn release(&self) {
        lock(&self.shared.tunnels).open.remove(&self.id);
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        self.release();
    }
}
