//! The ids that a caller gives its request: `X-Request-Id` and `traceparent`. They are returned as they came, and the
//! former goes into the audit row; so both are checked and bounded first, and what fails the check is ignored.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

/// The caller's own id for a request.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context, section 3.2.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest `X-Request-Id`: room for two UUIDs and a prefix; the row keeps it.
const MAX_REQUEST_ID: usize = 128;

/// What of a request's ids may be returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestIds {
    request_id: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
}

impl RequestIds {
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let keep = |name: &HeaderName, valid: fn(&[u8]) -> bool| {
            headers.get(name).filter(|value| valid(value.as_bytes())).cloned()
        };
        Self {
            request_id: keep(&X_REQUEST_ID, is_request_id),
            traceparent: keep(&TRACEPARENT, is_traceparent),
        }
    }

    /// The request id as text.
    pub(crate) fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref().and_then(|value| value.to_str().ok())
    }

    /// Puts the ids on an answer.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        if let Some(value) = self.request_id {
            headers.insert(X_REQUEST_ID, value);
        }
        if let Some(value) = self.traceparent {
            headers.insert(TRACEPARENT, value);
        }
    }
}

fn is_request_id(value: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// `version-traceid-parentid-flags` in lower-case hex; version `ff`, an all-zero trace id and an all-zero parent id are
/// not valid (W3C Trace Context, sections 3.2.2.1 to 3.2.2.4).
fn is_traceparent(value: &[u8]) -> bool {
    let mut fields = value.split(|byte| *byte == b'-');
    let mut hex = |length: usize| {
        fields.next().filter(|field| {
            field.len() == length && field.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let not_zero = |field: &[u8]| field.iter().any(|byte| *byte != b'0');
    let valid = hex(2).is_some_and(|version| version != b"ff")
        && hex(32).is_some_and(not_zero)
        && hex(16).is_some_and(not_zero)
        && hex(2).is_some();
    valid && fields.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::{is_request_id, is_traceparent};

    #[test]
    fn request_ids() {
        let longest = "x".repeat(128);
        let too_long = "x".repeat(129);
        for (value, valid) in [
            ("3f2b", true),
            ("a/b:c=d", true),
            (longest.as_str(), true),
            ("", false),
            ("two words", false),
            ("tab\there", false),
            ("caf\u{e9}", false),
            (too_long.as_str(), false),
        ] {
            assert_eq!(is_request_id(value.as_bytes()), valid, "{value:?}");
        }
    }

    #[test]
    fn traceparents() {
        for (value, valid) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
            ("", false),
        ] {
            assert_eq!(is_traceparent(value.as_bytes()), valid, "{value:?}");
        }
    }
}
