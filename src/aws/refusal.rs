//! What an endpoint says when it gives no tunnel.

use std::fmt;

use http::StatusCode;
use serde::Deserialize;
use thiserror::Error;

use super::common_errors::{CommonError, classify};

/// An HTTP answer to OpenTunnel that is no upgrade. Its text is for operators.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct TunnelRefusal {
    /// HTTP status.
    pub status: StatusCode,
    /// `ErrorCode` of the body, when it had one.
    pub code: Option<String>,
    /// `Message` of the body, or the start of the body where it was no such JSON.
    pub message: String,
    /// AWS request id.
    pub request_id: Option<String>,
}

impl fmt::Display for TunnelRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "endpoint answered {}", self.status.as_u16())?;
        if let Some(code) = &self.code {
            write!(formatter, " `{code}`")?;
        }
        if !self.message.is_empty() {
            write!(formatter, ": {:?}", self.message)?;
        }
        match &self.request_id {
            Some(request_id) => write!(formatter, " (AWS request id `{request_id}`)"),
            None => Ok(()),
        }
    }
}

/// What a refusal means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalKind {
    /// IAM or the signature.
    Denied,
    /// Asked too often; says nothing of the endpoint's connections.
    Throttled,
    /// No connection left.
    Busy,
    /// Anything else.
    Other,
}

/// The refusal's body, as the service writes it. Not the `__type` of its other operations.
#[derive(Deserialize)]
struct Body {
    #[serde(rename = "ErrorCode")]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

/// Characters of an unexpected body that are kept: enough to recognise a proxy's error page.
const KEPT_OF_UNEXPECTED_BODY: usize = 256;

impl TunnelRefusal {
    /// Reads an answer. Never fails: a body that is not the service's own is kept as text.
    pub(super) fn from_answer(status: StatusCode, request_id: Option<String>, body: &[u8]) -> Self {
        match serde_json::from_slice::<Body>(body) {
            Ok(body) => Self {
                status,
                code: Some(body.code),
                message: body.message,
                request_id,
            },
            Err(_not_the_services_own) => {
                let message = String::from_utf8_lossy(body)
                    .chars()
                    .take(KEPT_OF_UNEXPECTED_BODY)
                    .collect();
                Self {
                    status,
                    code: None,
                    message,
                    request_id,
                }
            }
        }
    }

    /// What it means. AWS documents `AccessDeniedException` alone; the answer to the 21st connection is not documented, so
    /// every code that AWS uses elsewhere for a quota counts as busy, and a 429 whose code says nothing else.
    pub(super) fn kind(&self) -> RefusalKind {
        const BUSY: [&str; 4] = [
            "ConnectionLimit",
            "LimitExceeded",
            "ServiceQuotaExceeded",
            "TooManyConnections",
        ];
        let code = self.code.as_deref().unwrap_or_default();
        if BUSY.iter().any(|start| code.starts_with(start)) {
            return RefusalKind::Busy;
        }
        match (classify(code), self.status) {
            (CommonError::Throttled, _) => RefusalKind::Throttled,
            (CommonError::Denied, _) => RefusalKind::Denied,
            (CommonError::Other, StatusCode::TOO_MANY_REQUESTS) => RefusalKind::Busy,
            (CommonError::Other, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => RefusalKind::Denied,
            (CommonError::Other, _) => RefusalKind::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let table: [(u16, &[u8], RefusalKind); 7] = [
            (
                400,
                br#"{"ErrorCode":"AccessDeniedException","Message":"no"}"#,
                RefusalKind::Denied,
            ),
            (
                403,
                br#"{"ErrorCode":"Whatever","Message":"no"}"#,
                RefusalKind::Denied,
            ),
            (401, b"Failed to connect", RefusalKind::Denied),
            (429, b"", RefusalKind::Busy),
            (
                403,
                br#"{"ErrorCode":"TooManyConnections","Message":"20 are open"}"#,
                RefusalKind::Busy,
            ),
            (
                400,
                br#"{"ErrorCode":"InvalidParameter","Message":"bad port"}"#,
                RefusalKind::Other,
            ),
            (502, b"<html>bad gateway</html>", RefusalKind::Other),
        ];
        for (status, body, expected) in table {
            let refusal = TunnelRefusal::from_answer(StatusCode::from_u16(status).unwrap(), None, body);
            assert_eq!(refusal.kind(), expected, "{refusal}");
        }
    }

    /// The rate codes and the codes of credentials mean the same here as in EC2's answers.
    #[test]
    fn kinds_by_code() {
        let table = [
            ("Throttling", 400, RefusalKind::Throttled),
            ("ThrottlingException", 429, RefusalKind::Throttled),
            ("RequestLimitExceeded", 503, RefusalKind::Throttled),
            ("TooManyRequestsException", 429, RefusalKind::Throttled),
            ("ServiceQuotaExceededException", 402, RefusalKind::Busy),
            ("ConnectionLimitExceeded", 400, RefusalKind::Busy),
            ("LimitExceededException", 400, RefusalKind::Busy),
            ("Whatever", 429, RefusalKind::Busy),
            ("SignatureDoesNotMatch", 400, RefusalKind::Denied),
            ("RequestExpired", 400, RefusalKind::Denied),
            ("UnauthorizedOperation", 400, RefusalKind::Denied),
            ("MissingAuthenticationToken", 400, RefusalKind::Denied),
            ("InvalidSignatureException", 400, RefusalKind::Denied),
            ("AuthException", 400, RefusalKind::Denied),
            ("ExpiredTokenException", 400, RefusalKind::Denied),
        ];
        for (code, status, expected) in table {
            let body = format!(r#"{{"ErrorCode":"{code}"}}"#);
            let status = StatusCode::from_u16(status).unwrap();
            let refusal = TunnelRefusal::from_answer(status, None, body.as_bytes());
            assert_eq!(refusal.kind(), expected, "{refusal}");
        }
    }

    #[test]
    fn the_text_has_everything_that_support_asks_for() {
        let body = br#"{"ErrorCode":"InvalidParameter","Message":"The specified RemotePort is not valid."}"#;
        let refusal = TunnelRefusal::from_answer(StatusCode::BAD_REQUEST, Some("abc-123".into()), body);
        assert_eq!(
            refusal.to_string(),
            "endpoint answered 400 `InvalidParameter`: \"The specified RemotePort is not valid.\" \
             (AWS request id `abc-123`)"
        );
    }

    #[test]
    fn a_foreign_body_is_kept_short_and_on_one_line() {
        let refusal =
            TunnelRefusal::from_answer(StatusCode::BAD_GATEWAY, None, "é\n".repeat(5_000).as_bytes());
        assert_eq!(refusal.message.chars().count(), KEPT_OF_UNEXPECTED_BODY);
        assert!(!refusal.to_string().contains('\n'));
    }
}
