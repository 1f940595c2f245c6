//! Bearer tokens: reading one from a request, and comparing it with the admin tokens.
//!
//! The text of a token never leaves this file: everything else sees its SHA-256.

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::store::TokenHash;

/// Longest token that is looked at. Adit's own are 43 characters; the rest is room for those of a host platform.
const MAX_TOKEN: usize = 512;

/// SHA-256 of the request's bearer token, or `None` when there is not exactly one well-formed token (RFC 6750
/// section 2.1; the scheme's case does not matter, RFC 9110 section 11.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<TokenHash> {
    let mut values = headers.get_all(AUTHORIZATION);
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    let well_formed =
        (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && well_formed).then(|| hash(token))
}

/// Whether the token is one of `admin_tokens`. Takes the same time whichever it is, or none.
pub(crate) fn is_admin(token: &TokenHash, admin_tokens: &[SecretString]) -> bool {
    let matches = admin_tokens.iter().fold(0_u8, |found, admin| {
        let admin = admin.expose_secret();
        // An empty token in the settings must not open the door.
        let usable = u8::from(!admin.is_empty());
        found | (usable & hash(admin).ct_eq(token).unwrap_u8())
    });
    matches == 1
}

fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
    use secrecy::SecretString;

    use super::{bearer, hash, is_admin};

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_one_well_formed_bearer_token_counts() {
        let long = format!("Bearer {}", "x".repeat(513));
        let table: [(&[&str], Option<&str>); 11] = [
            (&["Bearer abc"], Some("abc")),
            (&["bearer abc"], Some("abc")),
            (&["BEARER  abc"], Some("abc")),
            (&[], None),
            (&["abc"], None),
            (&["Basic abc"], None),
            (&["Bearer "], None),
            (&["Bearer"], None),
            (&["Bearer a b"], None),
            (&["Bearer a", "Bearer b"], None),
            (&[long.as_str()], None),
        ];
        for (values, token) in table {
            assert_eq!(bearer(&headers(values)), token.map(hash), "{values:?}");
        }
    }

    #[test]
    fn any_admin_token_opens_and_nothing_else_does() {
        let tokens = [
            SecretString::from("old"),
            SecretString::from("new"),
            SecretString::from(""),
        ];
        for (token, admin) in [
            ("old", true),
            ("new", true),
            ("other", false),
            ("", false),
            ("ol", false),
        ] {
            assert_eq!(is_admin(&hash(token), &tokens), admin, "{token:?}");
        }
        assert!(!is_admin(&hash("old"), &[]));
    }
}
