//! How `adit exec` ends: its exit code, and what it says on standard error.

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
            (Some(Outcome::Signaled), _, Some(signal)) => Self::by_signal(signal),
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

    /// A signal ended the command. Without its number the code says nothing more, so its name has to.
    fn by_signal(name: &str) -> Self {
        match number(name) {
            Some(number) => Self::quietly(BY_SIGNAL + number),
            None if matches!(name, "SIG" | "UNKNOWN") => {
                Self::with_complaint(BY_SIGNAL, "a signal that SSH has no name for ended the command")
            }
            None => Self::with_complaint(
                BY_SIGNAL,
                format!("the signal `{name}`, whose number is not known, ended the command"),
            ),
        }
    }

    /// The service refused, or could not be talked to. `lookup` is the request by which the workspace's execs are looked up.
    pub(super) fn unanswered(lookup: &str, error: &ClientError) -> Self {
        match error {
            // Without a connection nothing was asked.
            ClientError::Transport(cause) if !cause.is_connect() => Self::broken_off(lookup, error),
            ClientError::Problem(problem) if problem.code == "exec_timeout" => {
                Self::with_complaint(TIMED_OUT, service_access::one_line(error))
            }
            _ => Self::failed(service_access::one_line(error)),
        }
    }

    /// The answer can't be followed to its end.
    pub(super) fn broken_off(lookup: &str, error: &ClientError) -> Self {
        Self::lost(lookup, &service_access::one_line(error))
    }

    /// The answer has no end. `lookup` is the request that may tell how the exec has.
    pub(super) fn lost(lookup: &str, reason: &str) -> Self {
        Self::failed(format!(
            "what has become of the command is not known, look at `{lookup}`: {reason}"
        ))
    }

    /// After Ctrl-C, when the service had not been asked for anything.
    pub(super) fn interrupted_unasked() -> Self {
        Self::with_complaint(INTERRUPTED, "interrupted; nothing was run")
    }

    /// After Ctrl-C, when no answer says how the exec ended. `lookup` is the request that may.
    pub(super) fn interrupted_unheard(lookup: &str, reason: &str) -> Self {
        Self::with_complaint(
            INTERRUPTED,
            format!("interrupted; whether the exec was cancelled is not known, look at `{lookup}`: {reason}"),
        )
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
                format!("interrupted, but the exec had ended: {how}")
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

/// Numbers of the signals that end a program unless it does something about them, by their names in signal(7), as Linux
/// has them on all architectures of EC2.
fn number(signal: &str) -> Option<u8> {
    let number = match signal {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" | "IOT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "STKFLT" => 16,
        "XCPU" => 24,
        "XFSZ" => 25,
        "VTALRM" => 26,
        "PROF" => 27,
        "IO" | "POLL" => 29,
        "PWR" => 30,
        "SYS" => 31,
        _ => return None,
    };
    Some(number)
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
            (signaled("BUS"), 135, None),
            (signaled("TRAP"), 133, None),
            (signaled("SYS"), 159, None),
            (signaled("RTMIN"), 128, Some("the signal `RTMIN`")),
            (signaled("SIG"), 128, Some("no name")),
            (signaled("UNKNOWN"), 128, Some("no name")),
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
            (exited(3), "interrupted, but the exec had ended: exit code 3"),
            (
                signaled("TERM"),
                "interrupted, but the exec had ended: exit code 143",
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
