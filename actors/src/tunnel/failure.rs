//! Why there is no channel to an instance, one enum a step.
//!
//! The step enums carry the chain of causes for operators; [`crate::exec::ErrorCode`] is what a tenant gets to see.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::exec::ErrorCode;

/// The step of [`TunnelError::Deadline`] that sshd takes for a login that never came.
pub(crate) const LOGIN_STEP: &str = "login";

/// A cause below one of ours, kept for the log.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// SendSSHPublicKey did not give a grant.
#[derive(Debug, Error)]
pub enum GrantError {
    /// IAM or the service refused: AccessDeniedException, AuthException, InvalidArgsException.
    #[error("key push was denied")]
    Denied(#[source] Source),
    /// EC2InstanceNotFoundException.
    #[error("key push found no such instance")]
    InstanceNotFound(#[source] Source),
    /// EC2InstanceStateInvalidException or EC2InstanceUnavailableException.
    #[error("key push found the instance not running")]
    InstanceNotRunning(#[source] Source),
    /// ThrottlingException, after the client's own retries.
    #[error("key push was throttled")]
    Throttled(#[source] Source),
    /// No usable answer: connection, TLS, timeout or a service fault.
    #[error("key push did not reach EC2 Instance Connect")]
    Unreachable(#[source] Source),
}

/// The way to the instance is not known.
#[derive(Debug, Error)]
pub enum LocateError {
    /// Neither workspace nor settings name an address.
    #[error("no private address is known for the instance")]
    NoAddress,
    /// Neither workspace nor settings name an endpoint, and AWS has none in the instance's VPC.
    #[error("no EC2 Instance Connect Endpoint is known for the instance")]
    NoEndpoint,
    /// FIPS endpoints are asked for, and the instance's EC2 Instance Connect Endpoint has no FIPS name.
    #[error("EC2 Instance Connect Endpoint `{0}` has no FIPS name, and FIPS endpoints are asked for")]
    NoFipsName(String),
    /// IAM refused DescribeInstances or DescribeInstanceConnectEndpoints.
    #[error("looking the instance up was denied")]
    Denied(#[source] Source),
    /// DescribeInstances knows no such instance.
    #[error("looking the instance up found none")]
    InstanceNotFound(#[source] Source),
    /// EC2 answered `RequestLimitExceeded` or the like, after the client's own retries.
    #[error("looking the instance up was throttled")]
    Throttled(#[source] Source),
    /// No usable answer: connection, TLS, timeout, a service fault, or XML that says something else.
    #[error("looking the instance up did not reach EC2")]
    Unreachable(#[source] Source),
}

/// The endpoint gave no stream.
#[derive(Debug, Error)]
pub enum DialError {
    /// IAM or the signature was refused.
    #[error("OpenTunnel was denied")]
    Denied(#[source] Source),
    /// OpenTunnel was asked for too often; that says nothing of the endpoint's connections.
    #[error("OpenTunnel was throttled")]
    Throttled(#[source] Source),
    /// The endpoint has no connection left (20 on AWS).
    #[error("the endpoint has no connection left")]
    EndpointBusy(#[source] Source),
    /// The endpoint refused for another reason; the source has its code and message.
    #[error("the endpoint refused the tunnel")]
    Refused(#[source] Source),
    /// Connecting to the endpoint failed.
    #[error("the endpoint could not be reached")]
    Unreachable(#[source] Source),
}

/// Reading or writing a host key pin failed.
#[derive(Debug, Error)]
#[error("host key pins are not available")]
pub struct HostKeyError(#[source] pub Source);

/// Why an ask for a channel ended without one, or why a tunnel ended. Cheap to clone: many waiters share one cause.
#[derive(Clone, Debug, Error)]
pub enum TunnelError {
    /// The key push failed.
    #[error("pushing the key failed")]
    Grant(#[source] Arc<GrantError>),
    /// Finding the way failed.
    #[error("locating the instance failed")]
    Locate(#[source] Arc<LocateError>),
    /// Opening the tunnel failed.
    #[error("opening the tunnel failed")]
    Dial(#[source] Arc<DialError>),
    /// The SSH transport failed before the login; `peer_said` is what came instead of an SSH banner.
    #[error("the SSH handshake failed")]
    Handshake {
        /// Text that the peer sent before closing, for example `Not allowed at this time` (OpenSSH 9.8 penalties).
        peer_said: Option<String>,
        /// The transport's own error.
        #[source]
        source: Option<Arc<Source>>,
    },
    /// sshd refuses this source address for a while (OpenSSH 9.8 PerSourcePenalties, MaxStartups).
    #[error("sshd does not accept connections from this address at present")]
    LoginPenalised,
    /// sshd refused the key, or logged in and then refused every session.
    #[error("the instance refused the login: {reason}")]
    LoginRefused {
        /// In a word or two, which step was refused.
        reason: &'static str,
    },
    /// The instance showed another host key than the pinned one.
    #[error("the instance showed host key {shown}, and {pinned} is pinned")]
    HostKeyChanged {
        /// Type and fingerprint of the key that came, for an operator to compare with the instance's own.
        shown: String,
        /// The same of the pinned one.
        pinned: String,
    },
    /// The pins could not be read or written.
    #[error("checking the host key failed")]
    HostKeys(#[source] Arc<HostKeyError>),
    /// A step took longer than its deadline.
    #[error("`{step}` took longer than {limit:?}")]
    Deadline {
        /// Which step.
        step: &'static str,
        /// The deadline it missed.
        limit: Duration,
    },
    /// The tunnel ended under the exec.
    #[error("the tunnel was lost")]
    Lost,
    /// The tunnel ended before any exec was on it.
    #[error("the tunnel was lost before it carried anything")]
    LostUnused,
    /// No channel became free within the start timeout.
    #[error("no channel became free in time")]
    StartTimeout,
    /// The endpoint's connections were all in use for the whole of the start timeout.
    #[error("no connection of the endpoint became free in time")]
    EndpointBusy,
    /// The queue of waiters is full.
    #[error("too many execs wait for this instance")]
    QueueFull,
    /// A recent failure is still being backed off from.
    #[error("waiting before the next try")]
    BackingOff {
        /// What failed.
        #[source]
        cause: Arc<TunnelError>,
        /// When the next try is allowed, from now.
        retry_after: Duration,
    },
    /// This exec's own try failed; the next one is allowed later.
    #[error("connecting failed")]
    JustFailed {
        /// What failed.
        #[source]
        cause: Arc<TunnelError>,
        /// When the next try is allowed, from now.
        retry_after: Duration,
    },
    /// The supervisor failed and a new one is not started yet.
    #[error("the instance's supervisor is restarting")]
    Restarting {
        /// When it will have been, from now.
        retry_after: Duration,
    },
    /// The service is stopping.
    #[error("the tunnel pool is shutting down")]
    ShuttingDown,
}

impl TunnelError {
    /// How long to wait before asking again, when that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BackingOff { retry_after, .. }
            | Self::JustFailed { retry_after, .. }
            | Self::Restarting { retry_after } => Some(*retry_after),
            Self::Grant(_)
            | Self::Locate(_)
            | Self::Dial(_)
            | Self::Handshake { .. }
            | Self::LoginPenalised
            | Self::LoginRefused { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeys(_)
            | Self::Deadline { .. }
            | Self::Lost
            | Self::LostUnused
            | Self::StartTimeout
            | Self::EndpointBusy
            | Self::QueueFull
            | Self::ShuttingDown => None,
        }
    }

    /// Whether the connection just broke on the way up, or the store was too busy to say which host key is pinned, so that
    /// another one may well hold: those who wait then wait for that.
    pub(crate) fn is_a_cut(&self) -> bool {
        matches!(
            self,
            Self::Handshake { peer_said: None, .. } | Self::HostKeys(_) | Self::LostUnused
        ) || matches!(self, Self::Dial(error) if matches!(error.as_ref(), DialError::Unreachable(_)))
    }

    /// Whether the instance may be elsewhere than was thought: nothing of it answered.
    pub(crate) fn may_be_the_wrong_way(&self) -> bool {
        matches!(
            self,
            Self::Locate(_)
                | Self::Dial(_)
                | Self::Handshake { .. }
                | Self::HostKeyChanged { .. }
                | Self::Deadline { .. }
        )
    }

    /// Whether sshd counts this against the address that it came from.
    pub(crate) fn is_a_refused_login(&self) -> bool {
        matches!(
            self,
            Self::LoginRefused { .. } | Self::Deadline { step: LOGIN_STEP, .. }
        )
    }

    /// The code that a tenant gets for this failure.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Grant(error) => match error.as_ref() {
                GrantError::Denied(_) => ErrorCode::GrantDenied,
                GrantError::InstanceNotFound(_) => ErrorCode::InstanceNotFound,
                GrantError::InstanceNotRunning(_) => ErrorCode::InstanceNotRunning,
                GrantError::Throttled(_) => ErrorCode::GrantThrottled,
                GrantError::Unreachable(_) => ErrorCode::TargetUnreachable,
            },
            Self::Locate(error) => match error.as_ref() {
                LocateError::NoAddress => ErrorCode::TargetUnreachable,
                LocateError::NoEndpoint | LocateError::NoFipsName(_) => ErrorCode::NoEndpoint,
                LocateError::Denied(_) => ErrorCode::GrantDenied,
                LocateError::InstanceNotFound(_) => ErrorCode::InstanceNotFound,
                LocateError::Throttled(_) => ErrorCode::GrantThrottled,
                LocateError::Unreachable(_) => ErrorCode::TargetUnreachable,
            },
            Self::Dial(error) => match error.as_ref() {
                DialError::Denied(_) => ErrorCode::GrantDenied,
                DialError::Throttled(_) => ErrorCode::GrantThrottled,
                DialError::EndpointBusy(_) => ErrorCode::EndpointBusy,
                DialError::Refused(_) | DialError::Unreachable(_) => ErrorCode::TargetUnreachable,
            },
            Self::Handshake { .. }
            | Self::HostKeys(_)
            | Self::Deadline { .. }
            | Self::LostUnused
            | Self::Restarting { .. } => ErrorCode::TargetUnreachable,
            Self::LoginPenalised => ErrorCode::LoginPenalised,
            Self::LoginRefused { .. } => ErrorCode::LoginRefused,
            Self::HostKeyChanged { .. } => ErrorCode::HostKeyChanged,
            Self::Lost => ErrorCode::TunnelLost,
            Self::StartTimeout => ErrorCode::StartTimeout,
            Self::EndpointBusy => ErrorCode::EndpointBusy,
            Self::QueueFull => ErrorCode::InstanceBusy,
            Self::BackingOff { cause, .. } | Self::JustFailed { cause, .. } => cause.code(),
            Self::ShuttingDown => ErrorCode::ShuttingDown,
        }
    }
}

/// An error and all its causes in one line, outermost first. For logs and operators.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
