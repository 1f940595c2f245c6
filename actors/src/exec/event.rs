//! What an exec is told, what it has done for it, and the phases it goes through.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::ErrorCode;
use super::record::{EndedBy, TunnelTemperature};

/// Where an exec stands.
///
/// ```text
///            begin committed and channel leased        sshd answers
/// Admitting ------------------------------> Requested --------------> Running
///     |                                         |                        |  \
///     | refused, cancelled                      | timeout, cancel        |   \ program ended
///     |                                         v                        v    v
///     |                                      Stopping <------------------+  Draining
///     |                                         |  program ended            ^  |
///     |                                         +---------------------------+  | closed, or silent
///     v                                         v kill budget spent            v
/// Recording <----------------------------- (channel abandoned) <---------------+
///     | row committed, or finish deadline
///     v
///   Ended
/// ```
///
/// Losing the tunnel leads from every phase between Requested and Draining to Recording. An exec that ends before its begin
/// is decided waits for that in Undecided, and goes on to Recording, or to Ended where there is no row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The audit row is being begun and a channel being waited for, both at once; one after the other where another try
    /// may own the exec's id.
    Admitting { begun: bool, leased: bool },
    /// It is over before it ran, and its row may yet be begun, or be another try's.
    Undecided,
    /// The exec request has left: the point of no return.
    Requested,
    /// sshd runs the command line.
    Running,
    /// Signals are on their way.
    Stopping,
    /// The program's end is known; its output may not be complete.
    Draining,
    /// The final row is on its way to the store.
    Recording,
    /// The caller has been told.
    Ended,
}

/// What happens to an exec.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Begun(BeginResult),
    Leased(LeaseFacts),
    NoLease {
        code: ErrorCode,
        retry_after: Option<Duration>,
    },
    Accepted,
    Refused,
    /// Adit's mark came: our line runs.
    Started,
    CwdNotFound,
    Exited(u32),
    Signaled(String),
    /// Both streams are complete.
    OutputComplete,
    Closed,
    TunnelLost,
    Cancel(EndedBy),
    Timer(Timer),
    /// When output came last, told with the silence timer.
    Silence {
        last_output: Option<Instant>,
    },
    Recorded,
}

/// How the begin row fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BeginResult {
    Committed,
    /// Another try owns the exec's id.
    Taken,
    /// Certainly not written: there is nothing to settle.
    NotWritten,
    /// It may yet appear: a final row must settle it.
    Uncertain,
}

/// What the supervisor knows of a lease it gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeaseFacts {
    pub(crate) temperature: TunnelTemperature,
    /// Key push, dial to login, and channel open, in milliseconds, as far as this asker waited for them.
    pub(crate) grant_ms: Option<f64>,
    pub(crate) connect_ms: Option<f64>,
    pub(crate) channel_ms: Option<f64>,
    /// The tunnel's AWS request ids, for the row of every exec that used it: many share one tunnel, and CloudTrail knows
    /// only the tunnel.
    pub(crate) aws_request_ids: AwsRequestIds,
}

/// What CloudTrail calls the two calls behind a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct AwsRequestIds {
    /// Of the SendSSHPublicKey that let the tunnel log in.
    pub(crate) key_push: Option<String>,
    /// Of the OpenTunnel.
    pub(crate) open_tunnel: Option<String>,
}

/// Timers an exec sets. Each is set at most once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timer {
    Start,
    Request,
    Timeout,
    TermGrace,
    KillBudget,
    Silence,
    Finish,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    BeginAudit,
    AskChannel,
    /// Give back the channel, or the place in the queue for one.
    ReleaseChannel,
    SendRequest,
    /// The program's start, for the record's wall time.
    NoteStart,
    AnnounceStart,
    Signal(&'static str),
    SetTimer(Timer, Duration),
    /// Let the channel drain by itself; `poison` when a process may be left behind it.
    AbandonChannel {
        poison: bool,
    },
    /// Seal the output and write the final row.
    Record,
    /// The same for a row that may have been begun or not; nobody waits for it.
    Settle,
    /// There is nothing to tell: another try owns the id.
    Disown,
    /// Tell the caller.
    Publish {
        committed: bool,
    },
}
