//! What happened so far, as numbers for tests and for an operator.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Numbers for tests and for an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// `SendSSHPublicKey` requests since the start, refused ones too.
    pub push_attempts: u64,
    /// Keys accepted by `SendSSHPublicKey` since the start.
    pub pushes: u64,
    /// Tunnels open now.
    pub tunnels_open: usize,
    /// Tunnels opened since the start.
    pub tunnels_opened: u64,
    /// The most tunnels that were open at once.
    pub tunnels_peak: usize,
    /// `openTunnel` requests refused since the start, for whatever reason.
    pub tunnels_refused: u64,
    /// Keys that clients offered to in-process instances since the start, refused ones too: what sshd counts towards
    /// its `MaxAuthTries` and penalties. A probe and the signed request that follows it are one.
    pub login_attempts: u64,
    /// Those of them that were refused.
    pub logins_refused: u64,
    /// Session channels that in-process instances refused since the start.
    pub channel_opens_refused: u64,
    /// Sessions of in-process instances that take a slot now.
    pub sessions_open: usize,
    /// Commands that in-process instances started since the start.
    pub commands_started: u64,
    /// `DescribeInstances` requests since the start, with a good signature.
    pub describe_instances: u64,
    /// `DescribeInstanceConnectEndpoints` requests since the start, with a good signature.
    pub describe_endpoints: u64,
}

/// The tunnels of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointTunnels {
    /// The endpoint.
    pub endpoint_id: String,
    /// Tunnels open now.
    pub open: usize,
    /// The most that were open at once.
    pub peak: usize,
    /// Tunnels opened since the start.
    pub opened: u64,
    /// Requests refused since the start because all places were taken.
    pub too_many: u64,
}

/// The counters that only ever need counting. Those of tunnels are kept with the tunnels.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) push_attempts: Count,
    pub(crate) pushes: Count,
    pub(crate) tunnels_refused: Count,
    pub(crate) login_attempts: Count,
    pub(crate) logins_refused: Count,
    pub(crate) channel_opens_refused: Count,
    pub(crate) commands_started: Count,
    pub(crate) describe_instances: Count,
    pub(crate) describe_endpoints: Count,
    sessions_open: AtomicUsize,
}

impl Tally {
    pub(crate) fn session_opened(&self) {
        self.sessions_open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn session_ended(&self) {
        self.sessions_open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn sessions_open(&self) -> usize {
        self.sessions_open.load(Ordering::Relaxed)
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
