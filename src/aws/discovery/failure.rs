//! Why a lookup failed, and what that means to whoever asked.

use std::sync::Arc;
use std::time::Duration;

use adit_actors::tunnel::LocateError;
use aws_sigv4::http_request::SigningError;
use aws_sigv4::sign::v4;
use http::StatusCode;
use thiserror::Error;

use super::super::common_errors::{CommonError, classify};
use super::super::credentials::CredentialsError;

/// DescribeInstances or DescribeInstanceConnectEndpoints did not say what was asked.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// No credentials to sign with.
    #[error("finding credentials for EC2 failed")]
    Credentials(#[source] CredentialsError),
    /// The SDK's rules know no EC2 for this region.
    #[error("no address of EC2 is known for region `{region}`")]
    ServiceUrl {
        /// The region.
        region: String,
        /// The rules' own words, where they have some.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The signer lacks a parameter.
    #[error("signing parameters are incomplete")]
    Parameters(#[source] v4::signing_params::BuildError),
    /// The signer refused the request.
    #[error("signing the request to EC2 failed")]
    Sign(#[source] SigningError),
    /// The request can't be written as HTTP.
    #[error("the request to EC2 is not valid HTTP")]
    Request(#[source] http::Error),
    /// No answer: name, proxy, connection, TLS or time.
    #[error("EC2 gave no answer")]
    NoAnswer(#[source] reqwest::Error),
    /// All tries together took too long.
    #[error("EC2 did not answer within {limit:?}")]
    Deadline {
        /// For one operation, its retries and pages included.
        limit: Duration,
        /// How the attempt before the one that was given up had failed; it says what was the matter.
        #[source]
        before: Option<Box<DiscoveryError>>,
    },
    /// More than any real answer.
    #[error("EC2's answer has more than {limit} bytes")]
    TooLong {
        /// Bytes that are read at most.
        limit: usize,
    },
    /// Not the XML of the operation.
    #[error("EC2's answer can't be read")]
    Answer(#[source] quick_xml::DeError),
    /// Valid XML without something that the operation always says.
    #[error("EC2's answer lacks a usable `{field}`")]
    Field {
        /// Element of the answer.
        field: &'static str,
    },
    /// A list that does not end.
    #[error("EC2's list has more than {pages} pages")]
    TooManyPages {
        /// Pages that are read at most.
        pages: usize,
    },
    /// EC2 answered with an error.
    #[error(
        "EC2 answered {} `{}`: {message:?} (AWS request id `{}`)",
        status.as_u16(), code.as_deref().unwrap_or("none"), request_id.as_deref().unwrap_or("none")
    )]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Code of the first error, when the body had one.
        code: Option<String>,
        /// Its message, or the start of a body of another form.
        message: String,
        /// AWS request id.
        request_id: Option<String>,
    },
    /// The answer holds no such instance.
    #[error("EC2 knows no instance `{instance_id}` in this account and region")]
    NoInstance {
        /// The instance.
        instance_id: String,
    },
    /// The instance will never run again.
    #[error("instance `{instance_id}` is `{state}`")]
    Terminated {
        /// The instance.
        instance_id: String,
        /// `terminated` or `shutting-down`.
        state: String,
    },
    /// The task that asked ended without an answer: its thread is gone.
    #[error("the lookup was given up")]
    GivenUp,
}

/// What a failure means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Denied,
    NoInstance,
    Throttled,
    Unreachable,
}

impl DiscoveryError {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::NoInstance { .. } | Self::Terminated { .. } => Kind::NoInstance,
            Self::Refused { status, code, .. } => refusal_kind(*status, code.as_deref()),
            Self::Deadline {
                before: Some(before), ..
            } => before.kind(),
            Self::Credentials(_)
            | Self::ServiceUrl { .. }
            | Self::Parameters(_)
            | Self::Sign(_)
            | Self::Request(_)
            | Self::NoAnswer(_)
            | Self::Deadline { before: None, .. }
            | Self::TooLong { .. }
            | Self::Answer(_)
            | Self::Field { .. }
            | Self::TooManyPages { .. }
            | Self::GivenUp => Kind::Unreachable,
        }
    }

    /// Whether the same request may well succeed in a moment: throttling, a fault of the service, a broken connection.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Refused { status, .. } => self.kind() == Kind::Throttled || status.is_server_error(),
            _ => false,
        }
    }
}

fn refusal_kind(status: StatusCode, code: Option<&str>) -> Kind {
    match code {
        Some("InvalidInstanceID.NotFound" | "InvalidInstanceID.Malformed") => return Kind::NoInstance,
        Some(code) => match classify(code) {
            CommonError::Denied => return Kind::Denied,
            CommonError::Throttled => return Kind::Throttled,
            CommonError::Other => {}
        },
        None => {}
    }
    match status {
        StatusCode::TOO_MANY_REQUESTS => Kind::Throttled,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
        _ => Kind::Unreachable,
    }
}

/// Many askers share one failure, so each gets the same source.
pub(super) fn locate_error(error: Arc<DiscoveryError>) -> LocateError {
    match error.kind() {
        Kind::Denied => LocateError::Denied(Box::new(error)),
        Kind::NoInstance => LocateError::InstanceNotFound(Box::new(error)),
        Kind::Throttled => LocateError::Throttled(Box::new(error)),
        Kind::Unreachable => LocateError::Unreachable(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refusal_means() {
        let table = [
            (403, Some("UnauthorizedOperation"), Kind::Denied, false),
            (401, Some("AuthFailure"), Kind::Denied, false),
            (400, Some("ExpiredTokenException"), Kind::Denied, false),
            (400, Some("InvalidInstanceID.NotFound"), Kind::NoInstance, false),
            (400, Some("InvalidInstanceID.Malformed"), Kind::NoInstance, false),
            (503, Some("RequestLimitExceeded"), Kind::Throttled, true),
            (400, Some("Throttling"), Kind::Throttled, true),
            (400, Some("ThrottlingException"), Kind::Throttled, true),
            (429, None, Kind::Throttled, true),
            (500, Some("InternalError"), Kind::Unreachable, true),
            (503, Some("Unavailable"), Kind::Unreachable, true),
            (502, None, Kind::Unreachable, true),
            (403, None, Kind::Denied, false),
            (400, Some("InvalidParameterValue"), Kind::Unreachable, false),
            (404, None, Kind::Unreachable, false),
        ];
        for (status, code, kind, is_passing) in table {
            let error = DiscoveryError::Refused {
                status: StatusCode::from_u16(status).unwrap(),
                code: code.map(str::to_owned),
                message: String::new(),
                request_id: None,
            };
            assert_eq!((error.kind(), error.is_passing()), (kind, is_passing), "{error}");
        }
    }
}
