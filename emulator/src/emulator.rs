//! The emulator as its owner holds it: start, counters, switches, stop.
//!
//! It owns the listener and the shared state. It must know nothing of the protocols.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;

use crate::http;
use crate::settings::{InstanceState, Settings};
use crate::shared::Shared;

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

    /// Base URL of the key push, for `AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT`.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// URL of `openTunnel`, without the query.
    #[must_use]
    pub fn tunnel_url(&self) -> String {
        format!("ws://{}/openTunnel", self.address)
    }

    /// What happened so far and what is open now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Starts or stops an instance. Open tunnels stay. False when there is no such instance.
    pub fn set_instance_state(&self, instance_id: &str, state: InstanceState) -> bool {
        self.shared.set_instance_state(instance_id, state)
    }

    /// Cuts all open tunnels of an instance as a network failure would, without a CLOSE frame. Returns how many.
    pub fn cut_tunnels(&self, instance_id: &str) -> usize {
        self.shared.cut_tunnels(instance_id)
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

/// Numbers for tests and for an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Keys accepted by `SendSSHPublicKey` since the start.
    pub pushes: u64,
    /// Tunnels open now.
    pub tunnels_open: usize,
    /// Tunnels opened since the start.
    pub tunnels_opened: u64,
    /// The most tunnels that were open at once.
    pub tunnels_peak: usize,
    /// Sessions of in-process instances that take a slot now.
    pub sessions_open: usize,
    /// Commands that in-process instances started since the start.
    pub commands_started: u64,
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
    /// Two instances share an id or an address.
    #[error("two instances have the same {what} `{value}`")]
    DuplicateInstance {
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
