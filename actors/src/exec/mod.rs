//! Execs: what is asked, how it runs, how it ends.

pub mod command;
pub mod error_code;
pub mod record;
pub mod request;

pub use error_code::ErrorCode;
pub use record::{
    AuditReceipt, EndedBy, Exec, ExecError, ExecState, Kill, Outcome, Ran, StreamSummary, Timing, TunnelTemperature,
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
