//! The emulator as its owner holds it: start, counters, switches, stop.
//!
//! It owns the listener and the shared state. It must know nothing of the protocols.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;

use crate::counters::{Counters, EndpointTunnels};
use crate::faults::{DiscoveryFaults, Faults};
use crate::host_key::HostKey;
use crate::http;
use crate::settings::{InstanceState, Settings};
use crate::shared::{Shared, lock};

/// A running emulator. [`Emulator::stop`] ends it in order; dropping it only asks everything to end.
#[derive(Debug)]
pub struct Emulator {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Emulator {
    /// Binds the listener and begins to serve.
    ///
    /// # Errors
    /// When the settings contradict themselves or the address can't be bound.
    pub async fn start(settings: Settings) -> Result<Self, EmulatorError> {
        let listen = settings.listen;
        if !listen.ip().is_loopback() {
            return Err(EmulatorError::NotLoopback { address: listen });
        }
        let shared = Arc::new(Shared::new(settings)?);
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| EmulatorError::Bind {
                address: listen,
                source,
            })?;
        let address = listener.local_addr().map_err(|source| EmulatorError::Bind {
            address: listen,
            source,
        })?;
        shared.spawn(http::accept(listener, Arc::clone(&shared)));
        tracing::info!(emulator.address = %address, "emulator listens on {address}");
        Ok(Self { address, shared })
    }

    /// Address of the listener, with the port that was bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Base URL of the key push and of EC2's own API, for `AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT` and
    /// `AWS_ENDPOINT_URL_EC2`.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http{}://{}", self.scheme_suffix(), self.address)
    }

    fn scheme_suffix(&self) -> &'static str {
        if self.shared.settings.tls.is_some() {
            "s"
        } else {
            ""
        }
    }

    /// URL of `openTunnel`, without the query.
    #[must_use]
    pub fn tunnel_url(&self) -> String {
        format!("ws{}://{}/openTunnel", self.scheme_suffix(), self.address)
    }

    /// What happened so far and what is open now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// The tunnels of each endpoint, in the order of the settings.
    #[must_use]
    pub fn tunnels(&self) -> Vec<EndpointTunnels> {
        self.shared.tunnels.by_endpoint()
    }

    /// Changes how many tunnels an endpoint carries at once; open ones stay. False when there is no such endpoint.
    pub fn set_max_connections(&self, endpoint_id: &str, max_connections: usize) -> bool {
        self.shared.tunnels.set_limit(endpoint_id, max_connections)
    }

    /// Replaces all faults of `DescribeInstances` and `DescribeInstanceConnectEndpoints`.
    pub fn set_discovery_faults(&self, faults: DiscoveryFaults) {
        *lock(&self.shared.discovery_faults) = faults;
    }

    /// Starts or stops an instance. Open tunnels stay. False when there is no such instance.
    pub fn set_instance_state(&self, instance_id: &str, state: InstanceState) -> bool {
        self.shared.set_instance_state(instance_id, state)
    }

    /// Replaces all faults of an instance. False when there is no such instance.
    pub fn set_faults(&self, instance_id: &str, faults: Faults) -> bool {
        self.update_faults(instance_id, |current| *current = faults)
    }

    /// Changes some faults of an instance. False when there is no such instance.
    pub fn update_faults(&self, instance_id: &str, change: impl FnOnce(&mut Faults)) -> bool {
        let entry = self.shared.instance(instance_id);
        entry.map(|entry| entry.faults.update(change)).is_some()
    }

    /// The faults of an instance, counted down to what is left of them. `None` when there is no such instance.
    #[must_use]
    pub fn faults(&self, instance_id: &str) -> Option<Faults> {
        Some(self.shared.instance(instance_id)?.faults.get())
    }

    /// Gives an in-process instance another host key, as if it were installed anew. Connections that are past their key
    /// exchange stay. False when there is no such instance or an external sshd stands behind it.
    pub fn set_host_key(&self, instance_id: &str, host_key: HostKey) -> bool {
        self.shared
            .instance(instance_id)
            .is_some_and(|entry| entry.set_host_key(host_key))
    }

    /// Cuts all open tunnels of an instance as a network failure would, without a CLOSE frame. Returns how many.
    pub fn cut_tunnels(&self, instance_id: &str) -> usize {
        self.shared
            .tunnels
            .each_of(instance_id, |tunnel| tunnel.cut.cancel())
    }

    /// Stalls all open tunnels of an instance, as a network that loses every packet would: nothing arrives, nothing is
    /// answered, nothing is closed, and a client that leaves is not noticed. New tunnels are not touched. Returns how many.
    pub fn stall_tunnels(&self, instance_id: &str) -> usize {
        self.shared.tunnels.each_of(instance_id, |tunnel| {
            tunnel.stalled.send_replace(true);
        })
    }

    /// Lets all open tunnels of an instance carry again, as after TCP's retransmissions: what was under way arrives late
    /// and in order. Returns how many tunnels are open.
    pub fn resume_tunnels(&self, instance_id: &str) -> usize {
        self.shared.tunnels.each_of(instance_id, |tunnel| {
            tunnel.stalled.send_replace(false);
        })
    }

    /// Ends the listener, all tunnels and SSH connections, kills what in-process sessions still run, and returns
    /// when every task has ended and every child process has been reaped.
    pub async fn stop(self) {
        self.shared.stop().await;
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.shared.cancel();
    }
}

/// Why an emulator did not start.
#[derive(Debug, Error)]
pub enum EmulatorError {
    /// The emulator hands out shells, so it listens on loopback only.
    #[error("the emulator must listen on a loopback address, not `{address}`")]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address could not be bound.
    #[error("bind the emulator to `{address}`")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Two instances share an id or, in one VPC, an address; or two endpoints an id.
    #[error("two {of} have the same {what} `{value}`")]
    Duplicate {
        /// `instances` or `endpoints`.
        of: &'static str,
        /// `id` or `private address`.
        what: &'static str,
        /// The value that is there twice.
        value: String,
    },
    /// A private address is not an IP address.
    #[error("the private address `{value}` of instance `{instance_id}` is not an IP address")]
    InvalidAddress {
        /// The instance.
        instance_id: String,
        /// Its address.
        value: String,
    },
}
