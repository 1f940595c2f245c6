//! The warden: a small shell program that Adit keeps on a channel of its own in each tunnel, to end what an exec has
//! started and to know that it has.
//!
//! SSH alone can do neither. A channel that closes, or a connection that breaks, ends no process; and the `signal` request
//! reaches one process group, and has no answer. `warden.sh` says how it finds processes and what is said over its channel.

mod dialogue;
mod handle;
mod state;
mod task;

pub(crate) use handle::{TUNNEL_MARK_LENGTH, WardenHandle};
pub(crate) use state::{WardenEvent, WardenState};
pub(crate) use task::{WardenNews, WardenTask};

/// What the warden did to an exec, and what it could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// Signals that it sent, in order, without `SIG`.
    pub(crate) sent: Vec<&'static str>,
    /// Processes of the exec that were alive when it looked last: another user's, or stuck in the kernel.
    pub(crate) left: u32,
}

/// Why there is no receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoReceipt {
    /// The tunnel has no warden and never will.
    NoWarden,
    /// It had one that ended, or one is still to come; none has answered in time.
    Unanswered,
}
