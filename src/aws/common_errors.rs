//! Codes that any AWS service may answer, in no service's own model.

/// What such a code means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommonError {
    /// The credentials, their signature, or what IAM lets them do.
    Denied,
    /// Asked too often.
    Throttled,
    /// Not one of these.
    Other,
}

/// By the codes of <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonErrors.html> and of EC2's own list of
/// client errors; JSON services put `Exception` behind some of them.
pub(super) fn classify(code: &str) -> CommonError {
    match code.trim_end_matches("Exception") {
        "AccessDenied"
        // EC2 Instance Connect's `AuthException`.
        | "Auth"
        | "AuthFailure"
        | "Blocked"
        | "ExpiredToken"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSignature"
        | "MissingAuthenticationToken"
        | "NotAuthorized"
        | "OptInRequired"
        | "PendingVerification"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnauthorizedOperation"
        | "UnrecognizedClient"
        | "Validation" => CommonError::Denied,
        "BandwidthLimitExceeded"
        | "EC2Throttled"
        | "PriorRequestNotComplete"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "SlowDown"
        | "Throttled"
        | "ThrottledRequest"
        | "Throttling"
        | "TooManyRequests" => CommonError::Throttled,
        _ => CommonError::Other,
    }
}
