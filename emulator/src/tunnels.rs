//! The open tunnels and their endpoints: who gets in, how many there are, and what an open one is told from outside.
//!
//! It must know nothing of what flows through a tunnel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::counters::EndpointTunnels;
use crate::settings::Endpoint;
use crate::shared::lock;

/// All tunnels of an emulator.
#[derive(Debug)]
pub(crate) struct Tunnels(Mutex<State>);

#[derive(Debug)]
struct State {
    open: HashMap<u64, OpenTunnel>,
    endpoints: Vec<EndpointState>,
    opened: u64,
    peak: usize,
}

#[derive(Debug)]
struct EndpointState {
    limit: usize,
    tunnels: EndpointTunnels,
}

#[derive(Debug)]
struct OpenTunnel {
    instance_id: String,
    endpoint_id: String,
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

/// All places of an endpoint are taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) limit: usize,
}

impl Tunnels {
    /// Fails with the id that two endpoints share.
    pub(crate) fn new(endpoints: &[Endpoint], max_connections: usize) -> Result<Arc<Self>, String> {
        let mut states: Vec<EndpointState> = Vec::new();
        for endpoint in endpoints {
            if states
                .iter()
                .any(|state| state.tunnels.endpoint_id == endpoint.id)
            {
                return Err(endpoint.id.clone());
            }
            states.push(EndpointState {
                limit: endpoint.max_connections.unwrap_or(max_connections),
                tunnels: EndpointTunnels {
                    endpoint_id: endpoint.id.clone(),
                    ..EndpointTunnels::default()
                },
            });
        }
        Ok(Arc::new(Self(Mutex::new(State {
            open: HashMap::new(),
            endpoints: states,
            opened: 0,
            peak: 0,
        }))))
    }

    /// Takes one of the endpoint's places. An endpoint that is not there has none.
    pub(crate) fn admit(
        self: &Arc<Self>,
        endpoint_id: &str,
        instance_id: &str,
    ) -> Result<TunnelSlot, TooMany> {
        let mut state = lock(&self.0);
        let endpoint = state.endpoint(endpoint_id).ok_or(TooMany { limit: 0 })?;
        if endpoint.tunnels.open >= endpoint.limit {
            endpoint.tunnels.too_many += 1;
            return Err(TooMany {
                limit: endpoint.limit,
            });
        }
        endpoint.tunnels.open += 1;
        endpoint.tunnels.opened += 1;
        endpoint.tunnels.peak = endpoint.tunnels.peak.max(endpoint.tunnels.open);
        let id = state.opened;
        state.opened += 1;
        let switches = Arc::new(TunnelSwitches::default());
        state.open.insert(
            id,
            OpenTunnel {
                instance_id: instance_id.to_owned(),
                endpoint_id: endpoint_id.to_owned(),
                switches: Arc::clone(&switches),
            },
        );
        state.peak = state.peak.max(state.open.len());
        Ok(TunnelSlot {
            id,
            switches,
            tunnels: Arc::clone(self),
        })
    }

    /// Changes how many may be open. Those that are stay. False when there is no such endpoint.
    pub(crate) fn set_limit(&self, endpoint_id: &str, limit: usize) -> bool {
        let mut state = lock(&self.0);
        let endpoint = state.endpoint(endpoint_id);
        endpoint.map(|endpoint| endpoint.limit = limit).is_some()
    }

    /// Does something to all open tunnels of an instance and returns how many there are.
    pub(crate) fn each_of(&self, instance_id: &str, act: impl Fn(&TunnelSwitches)) -> usize {
        let state = lock(&self.0);
        state
            .open
            .values()
            .filter(|tunnel| tunnel.instance_id == instance_id)
            .inspect(|tunnel| act(&tunnel.switches))
            .count()
    }

    /// The numbers of each endpoint, in the order of the settings.
    pub(crate) fn by_endpoint(&self) -> Vec<EndpointTunnels> {
        let state = lock(&self.0);
        state
            .endpoints
            .iter()
            .map(|endpoint| endpoint.tunnels.clone())
            .collect()
    }

    /// The numbers of all endpoints together.
    pub(crate) fn total(&self) -> Total {
        let state = lock(&self.0);
        Total {
            open: state.open.len(),
            opened: state.opened,
            peak: state.peak,
        }
    }
}

/// Tunnels of all endpoints together.
#[derive(Debug)]
pub(crate) struct Total {
    pub(crate) open: usize,
    pub(crate) opened: u64,
    pub(crate) peak: usize,
}

impl State {
    fn endpoint(&mut self, id: &str) -> Option<&mut EndpointState> {
        self.endpoints
            .iter_mut()
            .find(|endpoint| endpoint.tunnels.endpoint_id == id)
    }
}

/// One of an endpoint's places; dropping it frees it.
#[derive(Debug)]
pub(crate) struct TunnelSlot {
    id: u64,
    switches: Arc<TunnelSwitches>,
    tunnels: Arc<Tunnels>,
}

impl TunnelSlot {
    pub(crate) fn switches(&self) -> &TunnelSwitches {
        &self.switches
    }

    /// Frees the place while its owner still has something to close: whoever sees the end of one tunnel may open the
    /// next.
    pub(crate) fn release(&self) {
        let mut state = lock(&self.tunnels.0);
        if let Some(tunnel) = state.open.remove(&self.id)
            && let Some(endpoint) = state.endpoint(&tunnel.endpoint_id)
        {
            endpoint.tunnels.open -= 1;
        }
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        self.release();
    }
}
