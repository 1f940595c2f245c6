//! An exec as a row of `activity_logs`: never output, stdin, the values of variables, a token, or a secret that the
//! command names.

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::event::AwsRequestIds;
use super::record::{Exec, Outcome};
use super::redact::redact;
use super::request::ExecSpec;
use crate::audit::{AuditRow, RowStatus};

/// Longest part of the command in `summary`, in characters: a line in a list of rows.
const SUMMARY_LENGTH: usize = 120;

/// The row before the command runs.
pub(crate) fn begin(spec: &ExecSpec, admitted_at: OffsetDateTime) -> AuditRow {
    let request = &spec.request;
    let cmd = redact(&request.cmd);
    AuditRow {
        id: spec.exec_id,
        attempt_nonce: Uuid::new_v4(),
        body_hmac: spec.body_hmac,
        workspace_id: spec.workspace_id,
        status: RowStatus::Running,
        summary: summary(cmd.first().map(String::as_str), "running"),
        request_body: json!({
            "actor": spec.caller,
            "cmd": cmd,
            "cwd": request.cwd.as_ref().and_then(|cwd| redact(std::slice::from_ref(cwd)).pop()),
            "env_names": request.env.keys().collect::<Vec<_>>(),
            "stdin_bytes": request.stdin.len(),
            "timeout_s": request.timeout_s,
            "remote_addr": spec.remote_addr,
            "request_id": spec.request_id,
        }),
        response_body: None,
        duration_ms: None,
        error_detail: None,
        created_at: admitted_at,
    }
}

/// What a row says of an exec and its tenant is not told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Confidential<'a> {
    /// The chain of causes.
    pub(crate) failure: Option<&'a str>,
    /// Those of the tunnel, once the exec had a channel on it.
    pub(crate) aws_request_ids: Option<&'a AwsRequestIds>,
}

/// `response_body`.
#[derive(Serialize)]
struct ResponseBody<'a> {
    #[serde(flatten)]
    exec: &'a Exec,
    aws_request_ids: Option<&'a AwsRequestIds>,
}

/// The whole row after it ended, from the row that was begun.
pub(crate) fn finish(begun: &AuditRow, exec: &Exec, confidential: Confidential<'_>) -> AuditRow {
    let mut recorded = exec.clone();
    // Short output could be guessed from its digest.
    recorded.streams.stdout.sha256 = None;
    recorded.streams.stderr.sha256 = None;
    let body = ResponseBody {
        exec: &recorded,
        aws_request_ids: confidential.aws_request_ids,
    };
    let error_detail = exec.error.as_ref().map(|error| match confidential.failure {
        // Part of it may be a peer's words, and no database takes a NUL: the row's end must not be lost for one.
        Some(failure) => format!("{}: {}", error.code.as_str(), failure.replace('\0', "\u{fffd}")),
        None => error.code.as_str().to_owned(),
    });
    // As it was redacted, not as it was run.
    let program = begun.request_body.pointer("/cmd/0").and_then(Value::as_str);
    AuditRow {
        status: status(exec.outcome),
        summary: summary(program, &ending(exec)),
        // Serialising plain data with string keys has no way to fail; a null would show that it did.
        response_body: Some(serde_json::to_value(&body).unwrap_or_default()),
        duration_ms: Some(i32::try_from(exec.duration_ms).unwrap_or(i32::MAX)),
        error_detail,
        ..begun.clone()
    }
}

fn status(outcome: Option<Outcome>) -> RowStatus {
    match outcome {
        Some(Outcome::Exited) => RowStatus::Ok,
        Some(Outcome::Timeout) => RowStatus::Timeout,
        Some(
            Outcome::Signaled | Outcome::Cancelled | Outcome::TunnelLost | Outcome::Failed | Outcome::Unknown,
        )
        | None => RowStatus::Error,
    }
}

fn ending(exec: &Exec) -> String {
    match (exec.exit_code, &exec.signal, &exec.error) {
        (Some(code), _, _) => format!("exited {code}"),
        (None, _, Some(error)) => error.code.as_str().to_owned(),
        (None, Some(signal), None) => format!("signal {signal}"),
        (None, None, None) => "ended, how is not known".to_owned(),
    }
}

/// One line, whatever the program is called and whatever a peer calls the signal that ended it.
fn summary(program: Option<&str>, ending: &str) -> String {
    let program = on_one_line(program.unwrap_or_default());
    let shown: String = program.chars().take(SUMMARY_LENGTH).collect();
    format!("exec {shown}: {}", on_one_line(ending))
}

/// `text` with escapes for what would end a line, or show it in another order than it stands in.
fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        // Separators and embeddings of Unicode: Bidirectional Algorithm (UAX #9), section 2, and line breaks (UAX #14).
        if letter.is_control() || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Caller, CallerKind, ErrorCode, ExecRequest, ExecRequestParts};
    use crate::instance::{InstanceKey, InstanceTarget};

    fn spec(cmd: &[&str]) -> ExecSpec {
        let parts = ExecRequestParts {
            cmd: vec!["true".to_owned()],
            ..ExecRequestParts::default()
        };
        let mut request = ExecRequest::validate(parts).unwrap();
        request.cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        ExecSpec {
            exec_id: Uuid::nil(),
            workspace_id: Uuid::nil(),
            target: InstanceTarget {
                instance: InstanceKey {
                    region: "us-east-2".to_owned(),
                    instance_id: "i-0123456789abcdef0".to_owned(),
                },
                os_user: "ubuntu".to_owned(),
                availability_zone: None,
                address: None,
                port: None,
                endpoint: None,
            },
            request,
            caller: Caller {
                kind: CallerKind::Workspace,
                id: Uuid::nil(),
                prefix: "12345678".to_owned(),
                name: None,
            },
            remote_addr: None,
            request_id: None,
            body_hmac: None,
        }
    }

    fn exec() -> Exec {
        let stream = json!({"bytes": 0, "sent": 0, "truncated": false, "sha256": null});
        serde_json::from_value(json!({
            "exec_id": Uuid::nil(), "state": "ended", "ran": "yes", "outcome": "exited", "ended_by": "exit",
            "exit_code": 3, "signal": null, "error": null, "started_at": "2024-01-01T00:00:00Z", "duration_ms": 1,
            "timeout_s": 30, "streams": {"stdout": stream, "stderr": stream}, "kill": null, "tunnel": "warm",
            "timing_ms": {"queued": null, "grant": null, "connect": null, "channel": null, "first_byte": null, "run": null},
            "audit": {"id": Uuid::nil(), "committed": true},
        }))
        .unwrap()
    }

    #[test]
    fn a_row_shows_of_a_command_only_what_was_redacted() {
        let table = [
            (
                vec!["ls", "TOKEN=abc"],
                json!(["ls", "TOKEN=[REDACTED:TOKEN]"]),
                "exec ls",
            ),
            (
                vec!["TOKEN=abc"],
                json!(["TOKEN=[REDACTED:TOKEN]"]),
                "exec TOKEN=[REDACTED:TOKEN]",
            ),
            // No valid request holds a NUL: it stands for all that makes a redaction fail.
            (
                vec!["ls", "a\0b"],
                json!(["[redaction failed]"]),
                "exec [redaction failed]",
            ),
        ];
        for (cmd, kept, summary) in table {
            let begun = begin(&spec(&cmd), OffsetDateTime::UNIX_EPOCH);
            let finished = finish(&begun, &exec(), Confidential::default());
            assert_eq!(
                (&begun.request_body["cmd"], &finished.request_body["cmd"]),
                (&kept, &kept)
            );
            assert_eq!(begun.summary, format!("{summary}: running"));
            assert_eq!(finished.summary, format!("{summary}: exited 3"));
        }
    }

    #[test]
    fn a_row_shows_of_a_directory_only_what_was_redacted() {
        let table = [
            (None, Value::Null),
            (Some("/srv/app"), json!("/srv/app")),
            (
                Some("/srv/postgres://bob:hunter2@db/TOKEN=abc"),
                json!("/srv/postgres://bob:[REDACTED:URL_CREDENTIALS]@db/TOKEN=[REDACTED:TOKEN]"),
            ),
            (Some("/srv/a\0b"), json!("[redaction failed]")),
        ];
        for (cwd, kept) in table {
            let mut spec = spec(&["ls"]);
            spec.request.cwd = cwd.map(str::to_owned);
            let begun = begin(&spec, OffsetDateTime::UNIX_EPOCH);
            let finished = finish(&begun, &exec(), Confidential::default());
            assert_eq!(
                (&begun.request_body["cwd"], &finished.request_body["cwd"]),
                (&kept, &kept)
            );
        }
    }

    #[test]
    fn a_summary_is_one_line() {
        let table = [
            ("a\nexec b: exited 0", r"exec a\nexec b: exited 0"),
            ("a\r\t\u{1b}[2J\u{7f}\u{85}", r"exec a\r\t\u{1b}[2J\u{7f}\u{85}"),
            ("a\u{2028}\u{202e}\u{2066}", r"exec a\u{2028}\u{202e}\u{2066}"),
            ("ä ✓ \\n", r"exec ä ✓ \n"),
        ];
        for (program, summary) in table {
            let begun = begin(&spec(&[program]), OffsetDateTime::UNIX_EPOCH);
            let finished = finish(&begun, &exec(), Confidential::default());
            assert_eq!(begun.summary, format!("{summary}: running"));
            assert_eq!(finished.summary, format!("{summary}: exited 3"));
        }
        let signaled = Exec {
            exit_code: None,
            signal: Some("KILL\nexec b".to_owned()),
            ..exec()
        };
        let begun = begin(&spec(&[&"a\n".repeat(200)]), OffsetDateTime::UNIX_EPOCH);
        let row = finish(&begun, &signaled, Confidential::default());
        assert_eq!(
            row.summary,
            format!(r"exec {}: signal KILL\nexec b", r"a\n".repeat(40))
        );
    }

    #[test]
    fn a_peer_cannot_spoil_a_row_by_what_it_says() {
        let exec = Exec {
            error: Some(ErrorCode::TargetUnreachable.into()),
            ..exec()
        };
        let confidential = Confidential {
            failure: Some("the peer hung up: bye\0bye"),
            ..Confidential::default()
        };
        let row = finish(
            &begin(&spec(&["ls"]), OffsetDateTime::UNIX_EPOCH),
            &exec,
            confidential,
        );
        assert_eq!(
            row.error_detail.as_deref(),
            Some("target_unreachable: the peer hung up: bye\u{fffd}bye")
        );
    }
}
