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
            "cwd": request.cwd,
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
        Some(failure) => format!("{}: {failure}", error.code.as_str()),
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

fn summary(program: Option<&str>, ending: &str) -> String {
    let shown: String = program.unwrap_or_default().chars().take(SUMMARY_LENGTH).collect();
    format!("exec {shown}: {ending}")
}
