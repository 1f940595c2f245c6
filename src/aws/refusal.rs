//! What an endpoint says when it gives no tunnel.

use std::fmt;

use http::StatusCode;
use serde::Deserialize;
use thiserror::Error;

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
    /// No connection left, or asked too often.
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
    /// every code and status that AWS uses elsewhere for "too many" counts as busy.
    pub(super) fn kind(&self) -> RefusalKind {
        const DENIED: [&str; 7] = [
            "AccessDenied",
            "AuthException",
            "ExpiredToken",
            "IncompleteSignature",
            "InvalidClientTokenId",
            "InvalidSignature",
            "UnrecognizedClient",
        ];
        const BUSY: [&str; 7] = [
            "ConnectionLimit",
            "LimitExceeded",
            "RequestLimitExceeded",
            "ServiceQuotaExceeded",
            "Throttling",
            "TooManyConnections",
            "TooManyRequests",
        ];
        let code_starts = |starts: &[&str]| {
            self.code
                .as_deref()
                .is_some_and(|code| starts.iter().any(|start| code.starts_with(start)))
        };
        if code_starts(&BUSY) || self.status == StatusCode::TOO_MANY_REQUESTS {
            RefusalKind::Busy
        } else if code_starts(&DENIED)
            || matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        {
            RefusalKind::Denied
        } else {
            RefusalKind::Other
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
