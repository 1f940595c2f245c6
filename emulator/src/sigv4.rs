//! AWS Signature Version 4, the verifying side, for signatures in the header and in the query.
//!
//! Written from the specification ("Signature Version 4 signing process", AWS General Reference) and not on top of
//! `aws-sigv4`, so that a mistake in how Adit uses that crate is not repeated here. It must know nothing of what the
//! request asks for.

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use http::HeaderMap;
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::settings::Credentials;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How far a signing time may lie from now: 5 minutes (AWS General Reference, "Troubleshooting SigV4"). Also the
/// life of a signed URL without `X-Amz-Expires`, which Go's `PresignHTTP` leaves out and the service accepts.
const SKEW: time::Duration = time::Duration::minutes(5);

/// Longest `X-Amz-Expires`: 7 days (IAM user guide, "Elements of an AWS API request signature").
const MAX_EXPIRES_SECONDS: u32 = 604_800;

/// Bytes that stay as they are in a canonical query: RFC 3986's unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Whom and what signatures are accepted for.
#[derive(Debug)]
pub(crate) struct Verifier<'a> {
    pub(crate) credentials: &'a Credentials,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    pub(crate) now: OffsetDateTime,
}

/// Why a signature is not accepted. The texts are AWS's and go to the caller.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum SignatureError {
    #[error("Missing Authentication Token")]
    Missing,
    #[error("{0}")]
    Malformed(String),
    #[error("The security token included in the request is invalid.")]
    UnknownCredentials,
    #[error("Credential should be scoped to {expected}, not '{given}'.")]
    Scope { expected: String, given: String },
    #[error("Signature expired: {0}")]
    Expired(String),
    #[error("Signature not yet current: {0}")]
    NotYetCurrent(String),
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
         Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
}

impl SignatureError {
    /// The code that AWS front ends give with it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationTokenException",
            Self::Malformed(_) => "IncompleteSignatureException",
            Self::UnknownCredentials => "UnrecognizedClientException",
            Self::Scope { .. } | Self::Expired(_) | Self::NotYetCurrent(_) | Self::Mismatch => {
                "InvalidSignatureException"
            }
        }
    }
}

/// What a request says about its own signature.
#[derive(Debug)]
struct Claim {
    access_key_id: String,
    date: String,
    region: String,
    service: String,
    signed_at: OffsetDateTime,
    signed_at_text: String,
    signed_headers: Vec<String>,
    signature: String,
    session_token: Option<String>,
}

impl Verifier<'_> {
    /// Checks the `Authorization` header of a request with this body.
    pub(crate) fn verify_header(&self, request: &Parts, body: &[u8]) -> Result<(), SignatureError> {
        let claim = header_claim(&request.headers)?;
        self.check_scope(&claim)?;
        let text = &claim.signed_at_text;
        if claim.signed_at + SKEW < self.now {
            return Err(SignatureError::Expired(format!("{text} is more than 5 min. old")));
        }
        self.check_not_ahead(&claim)?;
        self.check_signature(request, &claim, &hex(&Sha256::digest(body)))
    }

    /// Checks the signature in the query. The payload is the empty one, hashed, not `UNSIGNED-PAYLOAD`.
    pub(crate) fn verify_query(&self, request: &Parts) -> Result<(), SignatureError> {
        let query = decoded_query(request.uri.query().unwrap_or_default())?;
        let claim = query_claim(&query)?;
        self.check_scope(&claim)?;
        let life = match single(&query, "X-Amz-Expires")? {
            None => SKEW,
            Some(text) => match text.parse::<u32>() {
                Ok(seconds @ 1..=MAX_EXPIRES_SECONDS) => time::Duration::seconds(i64::from(seconds)),
                _ => {
                    return Err(SignatureError::Malformed(
                        "X-Amz-Expires must be a number of seconds from 1 to 604800".to_owned(),
                    ));
                }
            },
        };
        if claim.signed_at + life < self.now {
            let text = &claim.signed_at_text;
            return Err(SignatureError::Expired(format!(
                "{text} is older than {} s",
                life.whole_seconds()
            )));
        }
        self.check_not_ahead(&claim)?;
        self.check_signature(request, &claim, &hex(&Sha256::digest(b"")))
    }

    fn check_not_ahead(&self, claim: &Claim) -> Result<(), SignatureError> {
        if claim.signed_at > self.now + SKEW {
            let text = &claim.signed_at_text;
            return Err(SignatureError::NotYetCurrent(format!(
                "{text} is more than 5 min. ahead"
            )));
        }
        Ok(())
    }

    fn check_scope(&self, claim: &Claim) -> Result<(), SignatureError> {
        let known = same(&claim.access_key_id, &self.credentials.access_key_id);
        let token = match (&claim.session_token, &self.credentials.session_token) {
            (None, None) => true,
            (Some(given), Some(expected)) => same(given, expected),
            _ => false,
        };
        if !(known && token) {
            return Err(SignatureError::UnknownCredentials);
        }
        for (expected, wanted, given) in [
            ("a valid region", self.region, &claim.region),
            ("correct service", self.service, &claim.service),
            (
                "the date of the signature",
                claim.signed_at_text.get(..8).unwrap_or_default(),
                &claim.date,
            ),
        ] {
            if wanted != given {
                return Err(SignatureError::Scope {
                    expected: expected.to_owned(),
                    given: given.clone(),
                });
            }
        }
        Ok(())
    }

    fn check_signature(
        &self,
        request: &Parts,
        claim: &Claim,
        payload_hash: &str,
    ) -> Result<(), SignatureError> {
        let canonical = canonical_request(request, &claim.signed_headers, payload_hash)?;
        let scope = format!("{}/{}/{}/aws4_request", claim.date, claim.region, claim.service);
        let to_sign = format!(
            "{ALGORITHM}\n{}\n{scope}\n{}",
            claim.signed_at_text,
            hex(&Sha256::digest(canonical.as_bytes()))
        );
        let mut key = hmac(
            format!("AWS4{}", self.credentials.secret_access_key).as_bytes(),
            claim.date.as_bytes(),
        );
        for part in [claim.region.as_str(), claim.service.as_str(), "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        if same(&hex(&hmac(&key, to_sign.as_bytes())), &claim.signature) {
            Ok(())
        } else {
            Err(SignatureError::Mismatch)
        }
    }
}

fn canonical_request(
    request: &Parts,
    signed_headers: &[String],
    payload_hash: &str,
) -> Result<String, SignatureError> {
    let mut query: Vec<(String, String)> = decoded_query(request.uri.query().unwrap_or_default())?
        .into_iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| (encode(&name), encode(&value)))
        .collect();
    query.sort();
    let query: Vec<String> = query
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut headers = String::new();
    for name in signed_headers {
        let value = header_value(&request.headers, name)?.ok_or(SignatureError::Mismatch)?;
        headers.push_str(&format!("{name}:{value}\n"));
    }
    Ok(format!(
        "{}\n{}\n{}\n{headers}\n{}\n{payload_hash}",
        request.method,
        request.uri.path(),
        query.join("&"),
        signed_headers.join(";"),
    ))
}

fn header_claim(headers: &HeaderMap) -> Result<Claim, SignatureError> {
    let authorization = header_value(headers, "authorization")?.ok_or(SignatureError::Missing)?;
    let fields = authorization
        .strip_prefix(ALGORITHM)
        .ok_or_else(|| SignatureError::Malformed(format!("Authorization must begin with {ALGORITHM}")))?;
    let field = |name: &str| {
        fields
            .split(',')
            .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
            .ok_or_else(|| {
                SignatureError::Malformed(format!("Authorization header requires '{name}' parameter."))
            })
    };
    let signed_at = header_value(headers, "x-amz-date")?
        .ok_or_else(|| SignatureError::Malformed("a request must have an X-Amz-Date header".to_owned()))?;
    claim(
        field("Credential")?,
        signed_at,
        field("SignedHeaders")?,
        field("Signature")?,
        header_value(headers, "x-amz-security-token")?,
    )
}

fn query_claim(query: &[(String, String)]) -> Result<Claim, SignatureError> {
    if !query.iter().any(|(name, _)| name == "X-Amz-Signature") {
        return Err(SignatureError::Missing);
    }
    let required = |name: &'static str| {
        single(query, name)?.ok_or_else(|| SignatureError::Malformed(format!("the query lacks {name}")))
    };
    if required("X-Amz-Algorithm")? != ALGORITHM {
        return Err(SignatureError::Malformed(format!(
            "X-Amz-Algorithm must be {ALGORITHM}"
        )));
    }
    claim(
        required("X-Amz-Credential")?,
        required("X-Amz-Date")?.to_owned(),
        required("X-Amz-SignedHeaders")?,
        required("X-Amz-Signature")?,
        single(query, "X-Amz-Security-Token")?.map(str::to_owned),
    )
}

fn claim(
    credential: &str,
    signed_at_text: String,
    signed_headers: &str,
    signature: &str,
    session_token: Option<String>,
) -> Result<Claim, SignatureError> {
    let [access_key_id, date, region, service, "aws4_request"] = credential
        .split('/')
        .collect::<Vec<_>>()
        .try_into()
        .unwrap_or([""; 5])
    else {
        return Err(SignatureError::Malformed(
            "the credential must be KEY/DATE/REGION/SERVICE/aws4_request".to_owned(),
        ));
    };
    let signed_headers: Vec<String> = signed_headers.split(';').map(str::to_owned).collect();
    if !signed_headers.iter().any(|name| name == "host") {
        return Err(SignatureError::Malformed(
            "'Host' must be a 'SignedHeader'".to_owned(),
        ));
    }
    Ok(Claim {
        access_key_id: access_key_id.to_owned(),
        date: date.to_owned(),
        region: region.to_owned(),
        service: service.to_owned(),
        signed_at: parse_time(&signed_at_text)?,
        signed_at_text,
        signed_headers,
        signature: signature.to_owned(),
        session_token,
    })
}

fn parse_time(text: &str) -> Result<OffsetDateTime, SignatureError> {
    let malformed = || SignatureError::Malformed("the date must be in ISO8601 'basic format'".to_owned());
    let format = time::format_description::parse_borrowed::<2>("[year][month][day]T[hour][minute][second]Z")
        .map_err(|_| malformed())?;
    PrimitiveDateTime::parse(text, &format)
        .map(PrimitiveDateTime::assume_utc)
        .map_err(|_| malformed())
}

/// Name and value pairs of a query, percent-decoded. A `+` is a plus: SigV4 knows no form encoding.
pub(crate) fn decoded_query(query: &str) -> Result<Vec<(String, String)>, SignatureError> {
    let decode = |text: &str| {
        percent_decode_str(text)
            .decode_utf8()
            .map(|text| text.into_owned())
            .map_err(|_| SignatureError::Malformed("the query is not UTF-8".to_owned()))
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// The value of a parameter that may be there once.
pub(crate) fn single<'a>(
    query: &'a [(String, String)],
    name: &str,
) -> Result<Option<&'a str>, SignatureError> {
    let mut values = query
        .iter()
        .filter(|(given, _)| given == name)
        .map(|(_, value)| value.as_str());
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(SignatureError::Malformed(format!("the query has {name} twice"))),
    }
}

/// All values of a header as a canonical request has them: trimmed, inner spaces single, joined by commas.
fn header_value(headers: &HeaderMap, name: &str) -> Result<Option<String>, SignatureError> {
    let mut joined: Option<String> = None;
    for value in headers.get_all(name) {
        let value = value
            .to_str()
            .map_err(|_| SignatureError::Malformed(format!("the header {name} is not visible ASCII")))?;
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        joined = Some(match joined {
            None => value,
            Some(before) => format!("{before},{value}"),
        });
    }
    Ok(joined)
}

fn encode(text: &str) -> String {
    percent_encode(text.as_bytes(), ENCODED).to_string()
}

/// Compares without telling by its time where the difference is.
fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length, so the error can't happen; the empty mac would match no signature.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; 32];
    };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").ok(); // writing to a String can't fail
            text
        })
}

#[cfg(test)]
#[path = "sigv4_tests.rs"]
mod tests;
