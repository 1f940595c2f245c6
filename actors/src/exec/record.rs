//! `Exec`: the one object that says how an exec went, the same in the last frame, the JSON answer and the row.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::error_code::ErrorCode;

/// How an exec stands or ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Also the id of the audit row.
    pub exec_id: Uuid,
    /// Whether it is over.
    pub state: ExecState,
    /// Whether the command ran on the instance.
    pub ran: Ran,
    /// How it ended; null while it runs.
    pub outcome: Option<Outcome>,
    /// What ended it; null while it runs.
    pub ended_by: Option<EndedBy>,
    /// The program's exit code; null unless it exited.
    pub exit_code: Option<u32>,
    /// The signal that ended the program, without `SIG`.
    pub signal: Option<String>,
    /// What went wrong, if anything.
    pub error: Option<ExecError>,
    /// When the program started; the time of admission when it never did.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// From `started_at` to the end, or so far, in milliseconds.
    pub duration_ms: u64,
    /// The timeout as applied, in seconds.
    pub timeout_s: u32,
    /// What was printed.
    pub streams: Streams,
    /// Whether and how Adit stopped the program; null if it did not.
    pub kill: Option<Kill>,
    /// Whether a tunnel was open already when the exec asked for a channel.
    pub tunnel: Option<TunnelTemperature>,
    /// Where the time went.
    pub timing_ms: Timing,
    /// The audit row.
    pub audit: AuditReceipt,
}

/// Whether an exec is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecState {
    /// Not over.
    Running,
    /// Over; nothing of it changes any more but `audit`.
    Ended,
}

/// Whether the command ran on the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ran {
    /// It certainly did not.
    No,
    /// It certainly did, if only for a moment.
    Yes,
    /// The request left and no answer came back.
    Unknown,
}

/// How an exec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The program exited by itself.
    Exited,
    /// A signal that Adit did not send ended it.
    Signaled,
    /// It ran into its timeout and was stopped.
    Timeout,
    /// Someone ended it; `ended_by` says who.
    Cancelled,
    /// The tunnel was lost under it.
    TunnelLost,
    /// It did not get as far as running its program; `error` says why.
    Failed,
    /// Nobody knows: the service crashed meanwhile.
    Unknown,
}

/// What ended an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// Its own end.
    Exit,
    /// Its timeout.
    Timeout,
    /// The client closed its connection.
    ClientGone,
    /// A DELETE.
    Delete,
    /// An operator evicted the tunnel.
    Evict,
    /// The service stopped.
    Shutdown,
    /// The tunnel was lost.
    TunnelLost,
    /// The service crashed.
    Crash,
}

/// What went wrong with an exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecError {
    /// Stable code.
    pub code: ErrorCode,
    /// Fixed text for the code.
    pub message: String,
}

impl From<ErrorCode> for ExecError {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            message: code.message().to_owned(),
        }
    }
}

/// Both output streams, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard output.
    pub stdout: StreamSummary,
    /// Standard error, without Adit's own first line.
    pub stderr: StreamSummary,
}

/// One output stream, counted to its end also where it was not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSummary {
    /// Bytes the program printed.
    pub bytes: u64,
    /// Bytes of them that were kept for the caller.
    pub sent: u64,
    /// Whether `sent` is less than `bytes`.
    pub truncated: bool,
    /// SHA-256 of all bytes, lower-case hex. Null while it runs, and in audit rows: short output could be guessed from it.
    pub sha256: Option<String>,
}

/// How Adit stopped a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Signals sent, in order, without `SIG`.
    pub sent: Vec<String>,
    /// Whether it is known that nothing of the exec is left on the instance.
    pub confirmed: bool,
}

/// Whether the exec found its tunnel open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelTemperature {
    /// A tunnel had to be opened first.
    Cold,
    /// A tunnel was ready.
    Warm,
}

/// Where an exec's time went, in milliseconds; null for what did not happen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// From admission to a free channel slot.
    pub queued: Option<f64>,
    /// Key push, when this exec waited for one.
    pub grant: Option<f64>,
    /// Dial, key exchange and login, when this exec waited for them.
    pub connect: Option<f64>,
    /// Opening the channel.
    pub channel: Option<f64>,
    /// From the exec request to the first byte of output.
    pub first_byte: Option<f64>,
    /// From the start of the program to its end.
    pub run: Option<f64>,
}

/// The audit row of an exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReceipt {
    /// Id of the row in `activity_logs`.
    pub id: Uuid,
    /// Whether the row's final form was committed when this was written.
    pub committed: bool,
}
