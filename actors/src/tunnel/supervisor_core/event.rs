//! What a supervisor is told, and what it has done for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::exec::TunnelTemperature;
use crate::tunnel::failure::TunnelError;

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
    Dialed {
        tunnel: TunnelId,
        max_duration: Option<Duration>,
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
    },
    /// A process may be left behind one of its channels.
    Poisoned {
        tunnel: TunnelId,
    },
    Lost {
        tunnel: TunnelId,
    },
    /// No new leases on the tunnels there are.
    Drain,
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
    Dial {
        tunnel: TunnelId,
    },
    Authenticate {
        tunnel: TunnelId,
    },
    OpenChannel {
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
