//! What the end of an exec is worth as a status.

use adit_actors::exec::{EndedBy, ErrorCode, Exec, Outcome, Ran};

/// The code to refuse with, or `None` for an exec that ended by itself, whatever its exit code.
pub(crate) fn failure(exec: &Exec) -> Option<ErrorCode> {
    match exec.outcome {
        Some(Outcome::Exited | Outcome::Signaled) => None,
        Some(Outcome::Timeout) => Some(ErrorCode::ExecTimeout),
        // 503 says that the command did not run, so only an exec that certainly did not may get it.
        Some(Outcome::Cancelled) if exec.ended_by == Some(EndedBy::Shutdown) && exec.ran == Ran::No => {
            Some(ErrorCode::ShuttingDown)
        }
        Some(Outcome::Cancelled) => Some(ErrorCode::ExecCancelled),
        Some(Outcome::Failed) => Some(
            exec.error
                .as_ref()
                .map_or(ErrorCode::TunnelLost, |error| error.code),
        ),
        // 502 is the status that promises nothing of the command.
        Some(Outcome::TunnelLost | Outcome::Unknown) | None => Some(ErrorCode::TunnelLost),
    }
}

#[cfg(test)]
mod tests {
    use adit_actors::exec::{EndedBy, ErrorCode, Outcome, Ran};

    use super::failure;
    use crate::http::test_support::ended;

    #[test]
    fn every_outcome_has_its_code() {
        let table = [
            (Outcome::Exited, EndedBy::Exit, Ran::Yes, None, None),
            (Outcome::Signaled, EndedBy::Exit, Ran::Yes, None, None),
            (
                Outcome::Timeout,
                EndedBy::Timeout,
                Ran::Yes,
                None,
                Some(ErrorCode::ExecTimeout),
            ),
            (
                Outcome::Cancelled,
                EndedBy::Delete,
                Ran::Yes,
                None,
                Some(ErrorCode::ExecCancelled),
            ),
            (
                Outcome::Cancelled,
                EndedBy::Evict,
                Ran::No,
                None,
                Some(ErrorCode::ExecCancelled),
            ),
            (
                Outcome::Cancelled,
                EndedBy::Shutdown,
                Ran::Yes,
                None,
                Some(ErrorCode::ExecCancelled),
            ),
            (
                Outcome::Cancelled,
                EndedBy::Shutdown,
                Ran::No,
                None,
                Some(ErrorCode::ShuttingDown),
            ),
            (
                Outcome::TunnelLost,
                EndedBy::TunnelLost,
                Ran::Unknown,
                None,
                Some(ErrorCode::TunnelLost),
            ),
            (
                Outcome::Failed,
                EndedBy::Exit,
                Ran::No,
                Some(ErrorCode::GrantThrottled),
                Some(ErrorCode::GrantThrottled),
            ),
            (
                Outcome::Failed,
                EndedBy::Exit,
                Ran::No,
                None,
                Some(ErrorCode::TunnelLost),
            ),
            (
                Outcome::Unknown,
                EndedBy::Crash,
                Ran::Unknown,
                None,
                Some(ErrorCode::TunnelLost),
            ),
        ];
        for (outcome, ended_by, ran, error, expected) in table {
            let mut exec = ended(outcome, ended_by, ran);
            exec.error = error.map(Into::into);
            assert_eq!(failure(&exec), expected, "{outcome:?} by {ended_by:?}");
        }
    }
}
