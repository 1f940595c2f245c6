//! Everything that is not a success: one table from code to status, and the `application/problem+json` body
//! (RFC 9457). Whoever adds a code to the actors must give it a line here; there is no default.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, HttpResponseBuilder};
use adit_actors::exec::ErrorCode;
use serde_json::{Map, Value};

use crate::store::StoreError;

/// Media type of problem bodies, RFC 9457 section 3.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";
/// No answer of this API may be kept or changed on the way.
pub(crate) const NO_STORE: &str = "no-store, no-transform";

/// The stable codes of the API. Their text forms never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemCode {
    /// The request breaks a rule; the detail names the field.
    InvalidRequest,
    /// The quoted command line is too long for an instance.
    CmdTooLong,
    /// No live token.
    Unauthenticated,
    /// The workspace's tier does not allow execs.
    TierForbidden,
    /// A token that is good, but not for `/admin`.
    NotAdmin,
    /// Nothing that this caller may know of.
    NotFound,
    /// The workspace has no instance.
    NoInstance,
    /// An exec with the same idempotency key has begun, and its final row is not there yet; or another process runs it.
    ExecInProgress,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// An idempotency key was used again with another body.
    IdempotencyMismatch,
    /// An exec came to a bad end.
    Exec(ErrorCode),
}

/// Retry-After where nothing better is known.
const SHORTLY: Duration = Duration::from_secs(1);
/// Retry-After where a step of its own back-off has to pass first.
const AFTER_A_STEP: Duration = Duration::from_secs(5);
/// Retry-After for sshd's penalties, which last from 15 s upwards (sshd_config(5), PerSourcePenalties `min`).
const AFTER_A_PENALTY: Duration = Duration::from_secs(15);

impl ProblemCode {
    /// The code as it stands in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::CmdTooLong => "cmd_too_long",
            Self::Unauthenticated => "unauthenticated",
            Self::TierForbidden => "tier_forbidden",
            Self::NotAdmin => "not_admin",
            Self::NotFound => "not_found",
            Self::NoInstance => "no_instance",
            Self::ExecInProgress => "exec_in_progress",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::Exec(code) => code.as_str(),
        }
    }

    /// The status that the code answers with. 400 to 429 and 503 mean that the command did not run (but for
    /// `exec_cancelled`, where `exec.ran` tells); 504 that it ran and was stopped; 502 leaves it to `exec.ran`.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::CmdTooLong | Self::Exec(ErrorCode::CwdNotFound) => {
                StatusCode::BAD_REQUEST
            }
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::TierForbidden | Self::NotAdmin => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NoInstance
            | Self::ExecInProgress
            | Self::Exec(ErrorCode::InstanceNotRunning | ErrorCode::ExecCancelled) => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::IdempotencyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Exec(ErrorCode::TooManyExecs) => StatusCode::TOO_MANY_REQUESTS,
            Self::Exec(
                ErrorCode::GrantDenied
                | ErrorCode::InstanceNotFound
                | ErrorCode::NoEndpoint
                | ErrorCode::LoginRefused
                | ErrorCode::HostKeyChanged
                | ErrorCode::TunnelLost,
            ) => StatusCode::BAD_GATEWAY,
            Self::Exec(
                ErrorCode::AuditUnavailable
                | ErrorCode::StartTimeout
                | ErrorCode::InstanceBusy
                | ErrorCode::EndpointBusy
                | ErrorCode::GrantThrottled
                | ErrorCode::LoginPenalised
                | ErrorCode::TargetUnreachable
                | ErrorCode::ShuttingDown,
            ) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Exec(ErrorCode::ExecTimeout) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The fixed text that a tenant reads. Names no host, address, key or cause.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::InvalidRequest => "the request is not valid",
            Self::CmdTooLong => "the quoted command line is too long",
            Self::Unauthenticated => "a valid bearer token is needed",
            Self::TierForbidden => "the workspace's tier does not allow execs on its host",
            Self::NotAdmin => "this token does not open the admin API",
            Self::NotFound => "there is nothing here",
            Self::NoInstance => "the workspace has no EC2 instance",
            Self::ExecInProgress => {
                "an exec with this idempotency key has begun, and its end is not known yet"
            }
            Self::BodyTooLarge => "the request body is too large",
            Self::UnsupportedMediaType => "the request body must be `application/json` in UTF-8",
            Self::IdempotencyMismatch => "this idempotency key was used with another body",
            Self::Exec(code) => code.message(),
        }
    }

    /// When a caller may try again if nothing better is known; for 429, 503, and where the wait is for an exec's end.
    fn default_retry_after(self) -> Option<Duration> {
        let status = self.status();
        if self == Self::ExecInProgress {
            return Some(SHORTLY);
        }
        if status != StatusCode::TOO_MANY_REQUESTS && status != StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        Some(match self {
            Self::Exec(ErrorCode::TooManyExecs | ErrorCode::InstanceBusy) => SHORTLY,
            Self::Exec(ErrorCode::LoginPenalised) => AFTER_A_PENALTY,
            _ => AFTER_A_STEP,
        })
    }
}

impl From<ErrorCode> for ProblemCode {
    fn from(code: ErrorCode) -> Self {
        Self::Exec(code)
    }
}

/// A problem on its way out.
#[derive(Debug)]
pub(crate) struct Problem {
    code: ProblemCode,
    detail: Option<String>,
    retry_after: Option<Duration>,
    members: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(code: impl Into<ProblemCode>) -> Self {
        Self {
            code: code.into(),
            detail: None,
            retry_after: None,
            members: Map::new(),
        }
    }

    /// An `invalid_request` that says what is wrong with which field.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemCode::InvalidRequest).with_detail(detail)
    }

    /// The store did not answer. Its error is for the log, with `what` could not be done; the caller reads the fixed text.
    pub(crate) fn store_unavailable(error: &StoreError, what: &'static str) -> Self {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "the store is not available: {what}"
        );
        Self::new(ErrorCode::AuditUnavailable)
    }

    /// Replaces the code's fixed text. For what the caller itself sent or may know, never for a cause.
    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// Adds a member of Adit's own (RFC 9457 section 3.2).
    pub(crate) fn with_member(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> ProblemCode {
        self.code
    }

    /// Retry-After in whole seconds, at least 1: of every 429 and 503, and of whatever else is worth waiting for.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        let wait = self.retry_after.or(self.code.default_retry_after())?;
        Some(
            u64::try_from(wait.as_millis().div_ceil(1_000))
                .unwrap_or(u64::MAX)
                .max(1),
        )
    }

    /// Head and body. `type` is `about:blank`, so `title` is the status's own phrase (RFC 9457 section 4.2.1); `code`
    /// is what programs look at.
    pub(crate) fn into_parts(self) -> (HttpResponseBuilder, Vec<u8>) {
        let status = self.code.status();
        let mut head = HttpResponse::build(status);
        head.content_type(PROBLEM_JSON)
            .insert_header((CACHE_CONTROL, NO_STORE));
        if let Some(seconds) = self.retry_after_s() {
            head.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        if self.code == ProblemCode::Unauthenticated {
            // RFC 9110 section 11.6.1 wants a challenge with every 401.
            head.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        let mut body = self.members;
        body.insert("type".to_owned(), "about:blank".into());
        body.insert("title".to_owned(), status.canonical_reason().into());
        body.insert("status".to_owned(), status.as_u16().into());
        body.insert("code".to_owned(), self.code.as_str().into());
        body.insert(
            "detail".to_owned(),
            self.detail
                .unwrap_or_else(|| self.code.detail().to_owned())
                .into(),
        );
        (head, Value::Object(body).to_string().into_bytes())
    }

    /// The whole answer.
    pub(crate) fn into_response(self) -> HttpResponse {
        let (mut head, body) = self.into_parts();
        head.body(body)
    }

    /// The same, as the last answer on its connection.
    pub(crate) fn into_closing_response(self) -> HttpResponse {
        let (mut head, body) = self.into_parts();
        head.force_close().body(body)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use actix_web::http::StatusCode;
    use adit_actors::exec::ErrorCode;
    use serde_json::Value;

    use super::{Problem, ProblemCode};

    const OWN: [(ProblemCode, u16, &str); 11] = [
        (ProblemCode::InvalidRequest, 400, "invalid_request"),
        (ProblemCode::CmdTooLong, 400, "cmd_too_long"),
        (ProblemCode::Unauthenticated, 401, "unauthenticated"),
        (ProblemCode::TierForbidden, 403, "tier_forbidden"),
        (ProblemCode::NotAdmin, 403, "not_admin"),
        (ProblemCode::NotFound, 404, "not_found"),
        (ProblemCode::NoInstance, 409, "no_instance"),
        (ProblemCode::ExecInProgress, 409, "exec_in_progress"),
        (ProblemCode::BodyTooLarge, 413, "body_too_large"),
        (ProblemCode::UnsupportedMediaType, 415, "unsupported_media_type"),
        (ProblemCode::IdempotencyMismatch, 422, "idempotency_mismatch"),
    ];

    const OF_EXECS: [(u16, &[&str]); 6] = [
        (400, &["cwd_not_found"]),
        (409, &["instance_not_running", "exec_cancelled"]),
        (429, &["too_many_execs"]),
        (
            502,
            &[
                "grant_denied",
                "instance_not_found",
                "no_endpoint",
                "login_refused",
                "host_key_changed",
                "tunnel_lost",
            ],
        ),
        (
            503,
            &[
                "audit_unavailable",
                "start_timeout",
                "instance_busy",
                "endpoint_busy",
                "grant_throttled",
                "login_penalised",
                "target_unreachable",
                "shutting_down",
            ],
        ),
        (504, &["exec_timeout"]),
    ];

    #[test]
    fn every_code_has_the_status_of_the_contract() {
        for (code, status, text) in OWN {
            assert_eq!((code.status().as_u16(), code.as_str()), (status, text));
        }
        let mut seen = HashSet::new();
        for (status, codes) in OF_EXECS {
            for text in codes {
                let code = ErrorCode::ALL
                    .into_iter()
                    .find(|code| code.as_str() == *text)
                    .expect(text);
                assert_eq!(ProblemCode::from(code).status().as_u16(), status, "{text}");
                seen.insert(code);
            }
        }
        assert_eq!(seen.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn retry_after_stands_on_429_and_503_and_where_the_wait_is_known() {
        for code in ErrorCode::ALL {
            let problem = Problem::new(code);
            let expected = matches!(
                problem.code().status(),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            let (mut head, _) = problem.into_parts();
            assert_eq!(
                head.finish().headers().contains_key("retry-after"),
                expected,
                "{}",
                code.as_str()
            );
            let (mut head, _) = Problem::new(code)
                .with_retry_after(Some(Duration::from_secs(50)))
                .into_parts();
            let answer = head.finish();
            let wait = answer.headers().get("retry-after");
            assert_eq!(
                wait.and_then(|value| value.to_str().ok()),
                Some("50"),
                "{}",
                code.as_str()
            );
        }
    }

    #[test]
    fn who_waits_for_an_exec_hears_when_to_ask_again() {
        assert_eq!(Problem::new(ProblemCode::ExecInProgress).retry_after_s(), Some(1));
        assert_eq!(Problem::new(ProblemCode::NoInstance).retry_after_s(), None);
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (wait, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (29_500, 30)] {
            let problem =
                Problem::new(ErrorCode::InstanceBusy).with_retry_after(Some(Duration::from_millis(wait)));
            assert_eq!(problem.retry_after_s(), Some(seconds));
        }
    }

    #[test]
    fn body_has_the_members_of_rfc_9457() {
        let (_, body) = Problem::invalid("`cmd` is missing").into_parts();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "code": "invalid_request",
                "detail": "`cmd` is missing",
            })
        );
    }
}
