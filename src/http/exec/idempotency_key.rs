//! `Idempotency-Key`: what one is, which exec it names, and the HMAC by which a request is known again.

use actix_web::http::header::{HeaderMap, HeaderName};
use adit_actors::exec::ExecRequest;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

use crate::http::problem::Problem;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest key: room for two UUIDs and a prefix, as for a request id.
const MAX_KEY: usize = 128;
/// Namespace of the ids of execs with a key (RFC 9562 section 5.5). Drawn once at random; another one would make every key
/// that is in use run its command again.
const NAMESPACE: Uuid = Uuid::from_u128(0x29f2_49c3_952d_4245_a6d8_e3c0_17f0_f852);

/// A well-formed key. Its text is the caller's and stays out of logs and rows.
#[derive(Clone)]
pub(crate) struct IdempotencyKey {
    text: Vec<u8>,
    hmac: Hmac<Sha256>,
}

impl IdempotencyKey {
    /// The request's key, if it has one.
    ///
    /// # Errors
    /// `invalid_request` for what is not one header of 1 to 128 visible ASCII characters.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(&IDEMPOTENCY_KEY);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        // Two of them could be read one way by a proxy and another way here.
        if values.next().is_some() {
            return Err(Problem::invalid("`Idempotency-Key`: must not be given twice"));
        }
        let text = Some(value.as_bytes())
            .filter(|text| (1..=MAX_KEY).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic));
        // HMAC takes keys of any length (RFC 2104 section 3).
        let key = text.and_then(|text| {
            Some(Self {
                text: text.to_vec(),
                hmac: Hmac::new_from_slice(text).ok()?,
            })
        });
        key.map(Some).ok_or_else(|| {
            Problem::invalid(format!(
                "`Idempotency-Key`: must be 1 to {MAX_KEY} visible ASCII characters"
            ))
        })
    }

    /// Id of the exec that is a key's attempt in a workspace, counted from 0. What stands before the key has one length, so
    /// no two names are alike.
    pub(crate) fn exec_id(&self, workspace_id: Uuid, attempt: u32) -> Uuid {
        let name = [
            workspace_id.as_bytes().as_slice(),
            &attempt.to_be_bytes(),
            &self.text,
        ]
        .concat();
        Uuid::new_v5(&NAMESPACE, &name)
    }

    /// HMAC-SHA256 of the request, under the key: the row keeps no digest of stdin or of variables that could be compared
    /// with guesses by who does not know the key.
    pub(crate) fn hmac_of(&self, request: &ExecRequest) -> [u8; 32] {
        let mut hmac = self.hmac.clone();
        request.feed_canonical_form(|piece| hmac.update(piece));
        hmac.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for IdempotencyKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("IdempotencyKey")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use actix_web::http::header::{HeaderMap, HeaderValue};
    use uuid::Uuid;

    use super::{IDEMPOTENCY_KEY, IdempotencyKey};
    use crate::http::exec::request_body;

    fn key(text: &str) -> IdempotencyKey {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(text).unwrap());
        IdempotencyKey::of(&headers).unwrap().unwrap()
    }

    #[test]
    fn a_key_is_one_header_of_visible_ascii() {
        let longest = [b'~'; 128];
        let too_long = [b'~'; 129];
        let table: [(&[&[u8]], bool); 11] = [
            (&[b"k"], true),
            (&[b"8e03978e-40d5-43e8-bc93-6894a57f9324"], true),
            (&[b"\"quoted\",and=more!"], true),
            (&[&longest], true),
            (&[&too_long], false),
            (&[b""], false),
            (&[b"two words"], false),
            (&[b"tab\there"], false),
            (&[b"caf\xc3\xa9"], false),
            (&[b"\xff"], false),
            (&[b"k", b"k"], false),
        ];
        for (values, valid) in table {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
            }
            match IdempotencyKey::of(&headers) {
                Ok(key) => assert!(valid && key.unwrap().text == values[0], "{values:?}"),
                Err(problem) => {
                    let (_, body) = problem.into_parts();
                    let body = String::from_utf8(body).unwrap();
                    assert!(!valid && body.contains("`Idempotency-Key`"), "{values:?}: {body}");
                }
            }
        }
        assert!(IdempotencyKey::of(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn each_workspace_key_and_attempt_has_its_id() {
        let [one, other] = [1, 2].map(Uuid::from_u128);
        let mut ids = HashSet::new();
        for workspace in [one, other] {
            for text in ["k", "K", "kk", "0", "00"] {
                for attempt in [0, 1, 255, 256, u32::from_be_bytes(*b"kkkk")] {
                    let id = key(text).exec_id(workspace, attempt);
                    assert_eq!(id.get_version_num(), 5);
                    assert!(ids.insert(id), "{text} {attempt}");
                }
            }
        }
    }

    /// Both are compared with what rows hold, so neither may ever change. The HMAC is Python's `hmac` of the form that
    /// `feed_canonical_form` describes.
    #[test]
    fn ids_and_hmacs_stay_as_they_are() {
        let body = br#"{"cmd":["echo","h\u00e9"],"timeout_s":5,"cwd":"/tmp","env":{"A":"1"},"stdin":"x"}"#;
        let request = request_body::parse(body).unwrap().request;
        let key = key("key-1");
        assert_eq!(
            key.exec_id(Uuid::from_u128(0xa11ce), 3).to_string(),
            "97a5c7b2-49f3-5427-9e39-9e663cf85741"
        );
        let hmac = key.hmac_of(&request);
        let hexadecimal: String = hmac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hexadecimal,
            "8219f749d1c3653ce8dc95e83cedb77742c90c82a68c8e4c1628e6291b1a866b"
        );
    }

    #[test]
    fn form_does_not_count_and_content_does() {
        let hmac = |body: &str| {
            let request = request_body::parse(body.as_bytes()).unwrap().request;
            key("k").hmac_of(&request)
        };
        let plain = hmac(r#"{"cmd":["true"]}"#);
        for same in [
            r#" { "cmd" : [ "tr\u0075e" ] , "announce" : true } "#,
            r#"{"cmd":["true"],"timeout_s":0}"#,
            r#"{"cmd":["true"],"timeout_s":30,"env":{},"stdin":""}"#,
        ] {
            assert_eq!(hmac(same), plain, "{same}");
        }
        for other in [
            r#"{"cmd":["true",""]}"#,
            r#"{"cmd":["true"],"timeout_s":31}"#,
            r#"{"cmd":["true"],"cwd":"/"}"#,
            r#"{"cmd":["true"],"env":{"A":""}}"#,
            r#"{"cmd":["true"],"stdin":"x"}"#,
        ] {
            assert_ne!(hmac(other), plain, "{other}");
        }
        let request = request_body::parse(br#"{"cmd":["true"]}"#).unwrap().request;
        assert_ne!(key("l").hmac_of(&request), plain, "another key");
    }
}
