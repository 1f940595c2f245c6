//! The two calls of EC2's own API that lead to a tunnel: `DescribeInstances` and `DescribeInstanceConnectEndpoints`.
//!
//! EC2 Query protocol, version 2016-11-15: a signed form comes in, XML goes out. It must know nothing of tunnels.

mod describe;
mod parameters;
mod xml;

use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use thiserror::Error;

use crate::clock::WallClock;
use crate::faults::{DiscoveryFaults, Times};
use crate::http::Answer;
use crate::shared::{Shared, lock};
use crate::sigv4::{SignatureError, Verifier};
use parameters::Parameters;

const VERSION: &str = "2016-11-15";

/// Service name in credential scopes of this API.
const SIGNING_NAME: &str = "ec2";

/// Media type of EC2 Query requests, which tells them from key pushes: both are POSTs to `/`.
pub(crate) const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// Why a call is refused: code, status and text as the EC2 API reference ("Error codes") has them. The texts go to the
/// caller.
#[derive(Debug, Error)]
enum Refusal {
    #[error("AWS was not able to validate the provided access credentials")]
    AuthFailure(#[source] SignatureError),
    #[error("Request has expired.")]
    RequestExpired(#[source] SignatureError),
    #[error("Request is missing Authentication Token")]
    MissingToken,
    #[error("You are not authorized to perform this operation.")]
    Unauthorized,
    #[error("Request limit exceeded.")]
    Throttled,
    #[error("The action {0} is not valid for this web service.")]
    InvalidAction(String),
    #[error("The requested version ({0}) is not supported.")]
    Version(String),
    #[error("The request is not a form.")]
    NotAForm,
    #[error("Invalid id: \"{id}\"")]
    Malformed { kind: &'static str, id: String },
    #[error("The {noun} {verb} not exist", noun = nouns(.kind, .ids), verb = if .ids.len() == 1 { "does" } else { "do" })]
    NotFound { kind: &'static str, ids: Vec<String> },
    #[error("The filter '{0}' is invalid")]
    UnknownFilter(String),
    #[error("Value ( {value} ) for parameter {name} is invalid. {rule}")]
    Value {
        name: &'static str,
        value: String,
        rule: String,
    },
    #[error("The parameter {0} cannot be used with the parameter maxResults")]
    Combination(&'static str),
    #[error("The specified pagination token is not valid.")]
    PaginationToken,
    #[error("An internal error has occurred")]
    Encode(#[source] quick_xml::SeError),
}

fn nouns(kind: &str, ids: &[String]) -> String {
    let what = match kind {
        "InvalidInstanceID" => "instance ID",
        _ => "EC2 Instance Connect Endpoint ID",
    };
    let plural = if ids.len() == 1 { "" } else { "s" };
    format!("{what}{plural} '{}'", ids.join(", "))
}

impl Refusal {
    fn code(&self) -> String {
        match self {
            Self::AuthFailure(_) => "AuthFailure".to_owned(),
            Self::RequestExpired(_) => "RequestExpired".to_owned(),
            Self::MissingToken => "MissingAuthenticationToken".to_owned(),
            Self::Unauthorized => "UnauthorizedOperation".to_owned(),
            Self::Throttled => "RequestLimitExceeded".to_owned(),
            Self::InvalidAction(_) => "InvalidAction".to_owned(),
            Self::Version(_) => "NoSuchVersion".to_owned(),
            Self::NotAForm => "MalformedQueryString".to_owned(),
            Self::Malformed { kind, .. } => format!("{kind}.Malformed"),
            Self::NotFound { kind, .. } => format!("{kind}.NotFound"),
            Self::UnknownFilter(_) | Self::Value { .. } => "InvalidParameterValue".to_owned(),
            Self::Combination(_) => "InvalidParameterCombination".to_owned(),
            Self::PaginationToken => "InvalidPaginationToken".to_owned(),
            Self::Encode(_) => "InternalError".to_owned(),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::AuthFailure(_) => StatusCode::UNAUTHORIZED,
            Self::Unauthorized | Self::MissingToken => StatusCode::FORBIDDEN,
            Self::Throttled => StatusCode::SERVICE_UNAVAILABLE,
            Self::Encode(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<SignatureError> for Refusal {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Missing => Self::MissingToken,
            SignatureError::Expired(_) | SignatureError::NotYetCurrent(_) => Self::RequestExpired(error),
            SignatureError::Malformed(_)
            | SignatureError::UnknownCredentials
            | SignatureError::Scope { .. }
            | SignatureError::Mismatch => Self::AuthFailure(error),
        }
    }
}

/// Whether a request to `/` is for this API.
pub(crate) fn is_asked(head: &Parts) -> bool {
    head.headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with(MEDIA_TYPE))
}

/// Answers one call.
pub(crate) async fn answer(head: &Parts, body: &[u8], shared: &Shared, request_id: &str) -> Answer {
    match call(head, body, shared, request_id).await {
        Ok(text) => xml_answer(StatusCode::OK, text),
        Err(refusal) => {
            tracing::info!(
                error = &refusal as &dyn std::error::Error,
                aws.request_id = request_id,
                "a call of EC2's API was refused with {}",
                refusal.code()
            );
            let text = xml::error(&refusal.code(), &refusal.to_string(), request_id).unwrap_or_default();
            xml_answer(refusal.status(), text)
        }
    }
}

async fn call(head: &Parts, body: &[u8], shared: &Shared, request_id: &str) -> Result<String, Refusal> {
    Verifier {
        credentials: &shared.settings.credentials,
        region: &shared.settings.region,
        service: SIGNING_NAME,
        now: WallClock::real_now(),
    }
    .verify_header(head, body)?;
    let parameters = Parameters::parse(body)?;
    let version = parameters.one("Version").unwrap_or_default();
    if version != VERSION {
        return Err(Refusal::Version(version.to_owned()));
    }
    match parameters.one("Action").unwrap_or_default() {
        "DescribeInstances" => {
            shared.tally.describe_instances.add();
            disturb(shared).await?;
            describe::instances(&parameters, shared, request_id)
        }
        "DescribeInstanceConnectEndpoints" => {
            shared.tally.describe_endpoints.add();
            disturb(shared).await?;
            describe::endpoints(&parameters, shared, request_id)
        }
        other => Err(Refusal::InvalidAction(other.to_owned())),
    }
}

/// The faults that both calls meet.
async fn disturb(shared: &Shared) -> Result<(), Refusal> {
    let take = |of: fn(&mut DiscoveryFaults) -> &mut Times| of(&mut lock(&shared.discovery_faults)).take();
    let latency: Duration = lock(&shared.discovery_faults).latency;
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    if take(|faults| &mut faults.throttled) {
        return Err(Refusal::Throttled);
    }
    if take(|faults| &mut faults.denied) {
        return Err(Refusal::Unauthorized);
    }
    Ok(())
}

fn xml_answer(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/xml;charset=UTF-8"),
    );
    answer
}
