//! How `adit exec` ends: its exit code, and what it says on standard error.

use std::error::Error;
use std::io;

use adit_actors::exec::{Exec, Outcome, Ran};

use super::super::service_access::{self, ADIT_FAILED};
use crate::client::ClientError;

/// Exit code for a timeout, as coreutils' `timeout` has it.
const TIMED_OUT: u8 = 124;
/// Exit code after Ctrl-C, as a shell reports a death by SIGINT.
const INTERRUPTED: u8 = 130;
/// Exit code when the reader of our output has gone, as a shell reports a death by SIGPIPE.
const READER_GONE: u8 = 141;
/// Added to a signal's number, as shells do.
const BY_SIGNAL: u8 = 128;

/// How this program ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    /// The exit code.
    pub(super) code: u8,
    complaint: Option<String>,
}

impl Finished {
    fn quietly(code: u8) -> Self {
        Self {
            code,
            complaint: None,
        }
    }

    fn with_complaint(code: u8, complaint: impl Into<String>) -> Self {
        Self {
            code,
            complaint: Some(complaint.into()),
        }
    }

    /// Adit failed.
    pub(super) fn failed(complaint: impl Into<String>) -> Self {
        Self::with_complaint(ADIT_FAILED, complaint)
    }

    /// The answer can't be understood.
    pub(super) fn not_understood(error: &dyn Error) -> Self {
        Self::failed(format!("the answer is not one of Adit's: {error}"))
    }

    /// Nobody reads our output any more, which needs no message.
    pub(super) fn unread() -> Self {
        Self::quietly(READER_GONE)
    }

    /// Output that can't be written: a reader that has gone needs no message, all else does.
    pub(super) fn unwritable(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::unread(),
            _ => Self::failed(format!("output can't be written: {error}")),
        }
    }

    /// The exec has ended.
    pub(super) fn after(exec: &Exec) -> Self {
        match (exec.outcome, exec.exit_code, &exec.signal) {
            // An exit status has eight bits (POSIX, `exit`).
            (Some(Outcome::Exited), Some(code), _) => Self::quietly((code & 0xff) as u8),
            (Some(Outcome::Signaled), _, Some(signal)) => {
                Self::quietly(BY_SIGNAL.saturating_add(number(signal)))
            }
            (Some(Outcome::Timeout), ..) => Self::with_complaint(
                TIMED_OUT,
                format!(
                    "exec_timeout: the command ran longer than {} s and was stopped",
                    exec.timeout_s
                ),
            ),
            _ => match &exec.error {
                Some(error) => Self::failed(format!("{}: {}", error.code.as_str(), error.message)),
                None => Self::failed("the exec did not end by itself"),
            },
        }
    }

    /// The service refused, or could not be talked to.
    pub(super) fn after_error(error: &ClientError) -> Self {
        let code = match error {
            ClientError::Problem(problem) if problem.code == "exec_timeout" => TIMED_OUT,
            _ => ADIT_FAILED,
        };
        Self::with_complaint(code, service_access::one_line(error))
    }

    /// After Ctrl-C, where nobody can tell how the exec ends: closing the connection cancels it.
    pub(super) fn interrupted() -> Self {
        Self::with_complaint(INTERRUPTED, "interrupted; the exec is cancelled")
    }

    /// After Ctrl-C, when the exec has ended.
    pub(super) fn after_interrupt(exec: &Exec) -> Self {
        let confirmed = exec.kill.as_ref().is_some_and(|kill| kill.confirmed);
        let complaint = match (exec.outcome, exec.ran) {
            (Some(Outcome::Cancelled), Ran::No) => "cancelled before it ran".to_owned(),
            (Some(Outcome::Cancelled), _) if confirmed => {
                "cancelled; everything it started is gone".to_owned()
            }
            (Some(Outcome::Cancelled), _) => {
                "cancelled; whether everything it started is gone is not known".to_owned()
            }
            _ => {
                let ended = Self::after(exec);
                let how = ended
                    .complaint
                    .unwrap_or_else(|| format!("exit code {}", ended.code));
                format!("interrupted, but the command had ended: {how}")
            }
        };
        Self::with_complaint(INTERRUPTED, complaint)
    }

    /// Says what there is to say.
    pub(super) fn report(&self) {
        if let Some(complaint) = &self.complaint {
            eprintln!("adit: {complaint}");
        }
    }
}

/// Numbers of the signals that POSIX names, as on Linux; 0 for others.
fn number(signal: &str) -> u8 {
    match signal {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "XCPU" => 24,
        "XFSZ" => 25,
        "SYS" => 31,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use adit_actors::exec::{EndedBy, ErrorCode, Exec, Kill, Outcome, Ran};

    use super::Finished;
    use crate::http::test_support::{ended, exited};

    fn signaled(name: &str) -> Exec {
        Exec {
            signal: Some(name.to_owned()),
            ..ended(Outcome::Signaled, EndedBy::Exit, Ran::Yes)
        }
    }

    fn cancelled(ran: Ran, confirmed: Option<bool>) -> Exec {
        Exec {
            kill: confirmed.map(|confirmed| Kill {
                sent: vec!["TERM".to_owned()],
                confirmed,
            }),
            ..ended(Outcome::Cancelled, EndedBy::Delete, ran)
        }
    }

    #[test]
    fn exit_codes() {
        let failed = |code: ErrorCode| Exec {
            error: Some(code.into()),
            ..ended(Outcome::Failed, EndedBy::Exit, Ran::No)
        };
        let timed_out = ended(Outcome::Timeout, EndedBy::Timeout, Ran::Yes);
        let lost = ended(Outcome::TunnelLost, EndedBy::TunnelLost, Ran::Yes);
        let table = [
            (exited(0), 0, None),
            (exited(7), 7, None),
            (exited(255), 255, None),
            (signaled("TERM"), 143, None),
            (signaled("KILL"), 137, None),
            (signaled("WINCH"), 128, None),
            (timed_out, 124, Some("exec_timeout: ")),
            (failed(ErrorCode::GrantDenied), 125, Some("grant_denied: AWS")),
            (cancelled(Ran::Yes, None), 125, Some("did not end by itself")),
            (lost, 125, Some("did not end by itself")),
        ];
        for (exec, code, complaint) in table {
            let finished = Finished::after(&exec);
            assert_eq!(finished.code, code, "{exec:?}");
            assert_eq!(finished.complaint.is_some(), complaint.is_some(), "{exec:?}");
            if let (Some(found), Some(part)) = (finished.complaint, complaint) {
                assert!(found.contains(part), "{found}");
            }
        }
    }

    #[test]
    fn what_is_said_after_an_interrupt() {
        let table = [
            (
                cancelled(Ran::Yes, Some(true)),
                "cancelled; everything it started is gone",
            ),
            (
                cancelled(Ran::Yes, Some(false)),
                "cancelled; whether everything it started is gone is not known",
            ),
            (
                cancelled(Ran::Unknown, None),
                "cancelled; whether everything it started is gone is not known",
            ),
            (cancelled(Ran::No, None), "cancelled before it ran"),
            (exited(3), "interrupted, but the command had ended: exit code 3"),
            (
                signaled("TERM"),
                "interrupted, but the command had ended: exit code 143",
            ),
        ];
        for (exec, complaint) in table {
            let expected = Finished::with_complaint(130, complaint);
            assert_eq!(Finished::after_interrupt(&exec), expected, "{exec:?}");
        }
    }

    #[test]
    fn a_reader_that_has_gone_needs_no_message() {
        let finished = Finished::unwritable(&std::io::ErrorKind::BrokenPipe.into());
        assert_eq!(finished, Finished::quietly(141));
    }
}
