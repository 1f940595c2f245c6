//! What a supervisor is told, and what it has done for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::exec::TunnelTemperature;
use crate::tunnel::endpoint_budget::Purpose;
use crate::tunnel::failure::TunnelError;
use crate::tunnel::life::Life;
use crate::tunnel::warden::WardenEvent;

/// Number of a tunnel within its supervisor.
pub(crate) type TunnelId = u64;
/// Number of an ask within the process.
pub(crate) type AskId = u64;

/// What happens to an instance.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An exec wants a channel.
    Ask {
        ask: AskId,
        /// The exec's own timeout: how much life its tunnel needs.
        timeout: Duration,
    },
    /// It does not any more.
    Withdraw {
        ask: AskId,
    },
    KeyPushed {
        pushed_at: Instant,
        request_id: Option<String>,
    },
    KeyPushFailed {
        error: TunnelError,
        jitter: f64,
    },
    Located {
        tunnel: TunnelId,
        /// Whether the way leads through an endpoint.
        by_endpoint: bool,
    },
    /// The endpoint's budget has a connection for it.
    SlotGranted {
        tunnel: TunnelId,
    },
    /// The endpoint itself has none.
    EndpointRefused {
        tunnel: TunnelId,
    },
    Dialed {
        tunnel: TunnelId,
        life: Option<Life>,
    },
    Handshaken {
        tunnel: TunnelId,
    },
    LoggedIn {
        tunnel: TunnelId,
    },
    /// It failed before it was ready. `jitter` is in 0..1.
    ConnectFailed {
        tunnel: TunnelId,
        error: TunnelError,
        jitter: f64,
    },
    ChannelOpened {
        tunnel: TunnelId,
    },
    ChannelRefused {
        tunnel: TunnelId,
        /// When the open was sent.
        asked_at: Instant,
        retry_after: Duration,
        jitter: f64,
    },
    /// A leased channel came back unused.
    ChannelReturned {
        tunnel: TunnelId,
    },
    /// The lease guards were counted.
    Leases {
        tunnel: TunnelId,
        live: usize,
        /// Of these, how many belong to execs that are over.
        lingering: usize,
    },
    /// A process may be left behind one of its channels.
    Poisoned {
        tunnel: TunnelId,
    },
    /// `jitter` is in 0..1.
    Lost {
        tunnel: TunnelId,
        jitter: f64,
    },
    /// The warden's channel was refused.
    WardenRefused {
        tunnel: TunnelId,
        /// When the open was sent.
        asked_at: Instant,
        retry_after: Duration,
    },
    /// Everything else that happens to a warden.
    Warden {
        tunnel: TunnelId,
        news: WardenEvent,
    },
    /// Another instance behind the endpoint needs its connection.
    GiveWay {
        tunnel: TunnelId,
        if_second: bool,
    },
    /// No new leases on the tunnels there are.
    Drain,
    /// The same, and those who wait have been cancelled.
    Evict,
    /// The pin of the host key is another one now, or gone.
    HostKeyReplaced,
    Wake,
    Shutdown,
}

/// What the shell is to do.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    PushKey,
    /// The grant has ended: forget the private key.
    ForgetKey,
    Locate {
        tunnel: TunnelId,
    },
    /// Ask the endpoint's budget for a connection.
    RequestSlot {
        tunnel: TunnelId,
        purpose: Purpose,
    },
    Dial {
        tunnel: TunnelId,
    },
    /// Tell the endpoint's budget that the tunnel is in use.
    KeepSlot {
        tunnel: TunnelId,
    },
    /// Tell it that the tunnel takes no new exec.
    LeaveSlot {
        tunnel: TunnelId,
    },
    /// A failure that the shell has not brought itself, for the log and for operators.
    Note {
        error: TunnelError,
    },
    Authenticate {
        tunnel: TunnelId,
    },
    OpenChannel {
        tunnel: TunnelId,
    },
    /// Open a channel and start the tunnel's warden on it.
    OpenWarden {
        tunnel: TunnelId,
    },
    /// The warden is to leave its channel.
    DismissWarden {
        tunnel: TunnelId,
    },
    /// Give one of the tunnel's spare channels to the asker.
    HandOver {
        ask: AskId,
        tunnel: TunnelId,
        temperature: TunnelTemperature,
    },
    Refuse {
        ask: AskId,
        error: TunnelError,
    },
    Close {
        tunnel: TunnelId,
        reason: &'static str,
    },
}
