//! What an operator may see of an instance's supervisor. Serialised as it is by the admin API.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::exec::ErrorCode;

/// Everything a supervisor knows, at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InstanceSnapshot {
    /// AWS region.
    pub region: String,
    /// Instance id.
    pub instance_id: String,
    /// Login on the instance.
    pub os_user: String,
    /// Counts the supervisors this instance has had in this process, from 1.
    pub generation: u64,
    /// Execs that wait for a channel.
    pub waiters: usize,
    /// Seconds that the one at the head of the queue has waited.
    pub longest_wait_s: Option<f64>,
    /// What the one at the head of the queue waits for: `location`, `endpoint_connection`, `dial`, `handshake`,
    /// `key_grant`, `login`, `channel` or `retry`.
    pub waiting_for: Option<String>,
    /// Tunnels to this instance, oldest first.
    pub tunnels: Vec<TunnelSnapshot>,
    /// The key grant, when there is one.
    pub grant: Option<GrantSnapshot>,
    /// Failures to connect in a row; a channel on a tunnel that came after them begins anew.
    pub failures: u32,
    /// Seconds until the next try is allowed, while backing off.
    pub retry_in_s: Option<f64>,
    /// The failure seen last, however long ago.
    pub last_error: Option<LastError>,
}

/// One tunnel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunnelSnapshot {
    /// Number of the tunnel within its supervisor, from 1.
    pub tunnel_id: u64,
    /// `locating`, `awaiting_slot`, `dialing`, `handshaking`, `awaiting_grant`, `authenticating`, `ready` or `retiring`.
    pub state: String,
    /// Why it was dialled: `first`, `second` or `successor`.
    pub purpose: String,
    /// EC2 Instance Connect Endpoint that it goes through; none before it is known, and for a direct connection.
    pub endpoint_id: Option<String>,
    /// Live leases on the tunnel.
    pub refcount: usize,
    /// Channels that are open or being opened.
    pub channels_in_use: usize,
    /// How many channels Adit opens at most.
    pub channel_cap: usize,
    /// The program on the instance that ends what an exec has started: `starting`, `ready`, or `none` where the login does
    /// not run a POSIX shell, or has one session only. Without one nothing that is stopped is confirmed.
    pub warden: String,
    /// Seconds since the tunnel was asked for.
    pub age_s: f64,
    /// Seconds until the endpoint ends the tunnel, once it is open.
    pub remaining_life_s: Option<f64>,
    /// Seconds until its successor is dialled, should the tunnel be in use then.
    pub replaced_in_s: Option<f64>,
    /// Seconds without a lease, when there is none.
    pub idle_s: Option<f64>,
    /// Bytes received from the instance, below SSH.
    pub bytes_in: u64,
    /// Bytes sent to the instance, below SSH.
    pub bytes_out: u64,
    /// AWS request id of the OpenTunnel call.
    pub open_tunnel_request_id: Option<String>,
    /// AWS request id of the key push that let it log in.
    pub key_push_request_id: Option<String>,
}

/// The key grant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantSnapshot {
    /// `pushing` or `live`.
    pub state: String,
    /// Seconds since the key was accepted.
    pub age_s: Option<f64>,
    /// Seconds in which Adit still starts a login with it.
    pub remaining_s: Option<f64>,
    /// AWS request id of the push.
    pub request_id: Option<String>,
}

/// The connections of one EC2 Instance Connect Endpoint, as this process shares them out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointSnapshot {
    /// AWS region.
    pub region: String,
    /// Endpoint id.
    pub endpoint_id: String,
    /// Connections that this process may hold now: lower than configured after the endpoint refused one.
    pub limit: usize,
    /// Connections that it may hold by its settings.
    pub configured_limit: usize,
    /// Of these, how many only successors of ageing tunnels may take.
    pub reserved_for_successors: usize,
    /// Connections held, those that are closing included.
    pub in_use: usize,
    /// Seconds until a connection is asked for again after the endpoint refused one.
    pub retry_in_s: Option<f64>,
    /// Who holds a connection, longest idle first, then the busy ones.
    pub holders: Vec<EndpointHolder>,
    /// Who waits for one, in the order in which they will get it.
    pub waiting: Vec<EndpointWaiter>,
}

/// A tunnel that holds one of an endpoint's connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointHolder {
    /// Instance id.
    pub instance_id: String,
    /// Login on the instance.
    pub os_user: String,
    /// Number of the tunnel within its supervisor.
    pub tunnel_id: u64,
    /// Seconds without a lease, when there is none.
    pub idle_s: Option<f64>,
}

/// A tunnel that waits for one of an endpoint's connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointWaiter {
    /// Instance id.
    pub instance_id: String,
    /// Login on the instance.
    pub os_user: String,
    /// `first`, `second` or `successor`.
    pub purpose: String,
    /// Seconds since it asked.
    pub waiting_s: f64,
}

/// A failure, with its time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastError {
    /// The code a tenant got.
    pub code: ErrorCode,
    /// The chain of causes.
    pub message: String,
    /// When it happened, RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// To the millisecond: finer is noise to a reader.
pub(crate) fn seconds_between(from: Instant, to: Instant) -> f64 {
    (to.saturating_duration_since(from).as_secs_f64() * 1_000.0).round() / 1_000.0
}
