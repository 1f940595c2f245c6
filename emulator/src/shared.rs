//! State that all connections of one emulator share: instances, keys, open tunnels, counters, and the tasks.
//!
//! It owns the end of everything. It must know nothing of HTTP or SSH.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::counters::{Counters, Tally};
use crate::emulator::EmulatorError;
use crate::faults::{DiscoveryFaults, FaultSwitch};
use crate::host_key::HostKey;
use crate::instance::Account;
use crate::keys::Keys;
use crate::settings::{Instance, InstanceBackend, InstanceState, Settings};
use crate::tunnels::Tunnels;

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
    by_address: HashMap<(String, IpAddr), Arc<InstanceEntry>>,
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) tally: Tally,
    pub(crate) discovery_faults: Mutex<DiscoveryFaults>,
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
            let known = instances.insert(instance.id.clone(), Arc::clone(&entry));
            if known.is_some() {
                return Err(duplicate("instances", "id", &instance.id));
            }
            for address in [Some(address), instance.ipv6_address.map(IpAddr::V6)]
                .into_iter()
                .flatten()
            {
                let place = (instance.vpc_id.clone(), address);
                if by_address.insert(place, Arc::clone(&entry)).is_some() {
                    return Err(duplicate("instances", "private address", &address));
                }
            }
        }
        let tunnels = Tunnels::new(&settings.endpoints, settings.max_connections)
            .map_err(|id| duplicate("endpoints", "id", &id))?;
        Ok(Self {
            account: Arc::new(Account::current(settings.shell.as_deref())),
            keys: Keys::new(settings.clock.clone(), settings.key_lifetime),
            settings,
            instances,
            by_address,
            tunnels,
            tally: Tally::default(),
            discovery_faults: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    pub(crate) fn instance(&self, id: &str) -> Option<&Arc<InstanceEntry>> {
        self.instances.get(id)
    }

    /// The instance of this VPC that has the address.
    pub(crate) fn instance_at(&self, vpc_id: &str, address: IpAddr) -> Option<&Arc<InstanceEntry>> {
        self.by_address.get(&(vpc_id.to_owned(), address))
    }

    pub(crate) fn set_instance_state(&self, instance_id: &str, state: InstanceState) -> bool {
        let Some(entry) = self.instances.get(instance_id) else {
            return false;
        };
        *lock(&entry.state) = state;
        true
    }

    pub(crate) fn counters(&self) -> Counters {
        let tally = &self.tally;
        let tunnels = self.tunnels.total();
        Counters {
            push_attempts: tally.push_attempts.get(),
            pushes: tally.pushes.get(),
            tunnels_open: tunnels.open,
            tunnels_opened: tunnels.opened,
            tunnels_peak: tunnels.peak,
            tunnels_refused: tally.tunnels_refused.get(),
            login_attempts: tally.login_attempts.get(),
            logins_refused: tally.logins_refused.get(),
            channel_opens_refused: tally.channel_opens_refused.get(),
            sessions_open: tally.sessions_open(),
            commands_started: tally.commands_started.get(),
            describe_instances: tally.describe_instances.get(),
            describe_endpoints: tally.describe_endpoints.get(),
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

fn duplicate(of: &'static str, what: &'static str, value: &dyn std::fmt::Display) -> EmulatorError {
    EmulatorError::Duplicate {
        of,
        what,
        value: value.to_string(),
    }
}
