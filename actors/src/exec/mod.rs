//! Execs: what is asked, how it runs, how it ends.

mod actor;
pub mod admission;
mod admitting;
mod audit_row;
pub mod command;
mod drive;
pub mod error_code;
mod event;
mod learned;
pub(crate) mod live;
mod mark;
mod output;
mod phase;
pub mod record;
pub(crate) mod redact;
pub mod request;
mod stopping;

pub use actor::LiveLook;
pub(crate) use actor::{Cancel, ExecActor, ExecSurroundings, Look};
pub use error_code::ErrorCode;
pub(crate) use event::{AwsRequestIds, LeaseFacts};
pub(crate) use learned::milliseconds;
pub use output::ExecEvent;
pub(crate) use output::SharedOutput;
pub use record::{
    AuditReceipt, EndedBy, Exec, ExecError, ExecState, Kill, Outcome, Ran, StreamSummary, Streams, Timing,
    TunnelTemperature,
};
pub use request::{Caller, CallerKind, ExecRequest, ExecRequestParts, ExecSpec, InvalidRequest};

use serde::{Deserialize, Serialize};

/// One of a program's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
