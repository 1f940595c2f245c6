//! The stable codes of everything that can go wrong with an exec, and what a tenant reads for each.

use serde::{Deserialize, Serialize};

/// Why an exec did not end as its program meant to. The text forms are part of the API and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The directory asked for is not there, or may not be entered.
    CwdNotFound,
    /// The instance is not running.
    InstanceNotRunning,
    /// The exec was cancelled before it had printed anything.
    ExecCancelled,
    /// Too many execs of this token or org are in flight.
    TooManyExecs,
    /// AWS refused the key push or the tunnel.
    GrantDenied,
    /// AWS knows no such instance.
    InstanceNotFound,
    /// No EC2 Instance Connect Endpoint leads to the instance.
    NoEndpoint,
    /// The instance refused the login, or did not run the command line through a POSIX shell.
    LoginRefused,
    /// The instance shows another host key than the pinned one.
    HostKeyChanged,
    /// The tunnel ended while the exec was under way.
    TunnelLost,
    /// The audit row could not be committed, so nothing was run.
    AuditUnavailable,
    /// No channel became free in time.
    StartTimeout,
    /// Too many execs wait for this instance.
    InstanceBusy,
    /// The endpoint has no connection left.
    EndpointBusy,
    /// AWS throttled the key push.
    GrantThrottled,
    /// The instance refuses connections for a while.
    LoginPenalised,
    /// The instance can't be reached.
    TargetUnreachable,
    /// The service is stopping.
    ShuttingDown,
    /// The program ran longer than it was allowed to and was stopped.
    ExecTimeout,
}

impl ErrorCode {
    /// Every code, for tables and tests.
    pub const ALL: [Self; 19] = [
        Self::CwdNotFound,
        Self::InstanceNotRunning,
        Self::ExecCancelled,
        Self::TooManyExecs,
        Self::GrantDenied,
        Self::InstanceNotFound,
        Self::NoEndpoint,
        Self::LoginRefused,
        Self::HostKeyChanged,
        Self::TunnelLost,
        Self::AuditUnavailable,
        Self::StartTimeout,
        Self::InstanceBusy,
        Self::EndpointBusy,
        Self::GrantThrottled,
        Self::LoginPenalised,
        Self::TargetUnreachable,
        Self::ShuttingDown,
        Self::ExecTimeout,
    ];

    /// The code as it stands in answers and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CwdNotFound => "cwd_not_found",
            Self::InstanceNotRunning => "instance_not_running",
            Self::ExecCancelled => "exec_cancelled",
            Self::TooManyExecs => "too_many_execs",
            Self::GrantDenied => "grant_denied",
            Self::InstanceNotFound => "instance_not_found",
            Self::NoEndpoint => "no_endpoint",
            Self::LoginRefused => "login_refused",
            Self::HostKeyChanged => "host_key_changed",
            Self::TunnelLost => "tunnel_lost",
            Self::AuditUnavailable => "audit_unavailable",
            Self::StartTimeout => "start_timeout",
            Self::InstanceBusy => "instance_busy",
            Self::EndpointBusy => "endpoint_busy",
            Self::GrantThrottled => "grant_throttled",
            Self::LoginPenalised => "login_penalised",
            Self::TargetUnreachable => "target_unreachable",
            Self::ShuttingDown => "shutting_down",
            Self::ExecTimeout => "exec_timeout",
        }
    }

    /// The fixed text for tenants. It names no host, address, key or cause: those are for operators.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::CwdNotFound => "the directory in `cwd` does not exist on the instance or can't be entered",
            Self::InstanceNotRunning => "the workspace's instance is not running",
            Self::ExecCancelled => "the exec was cancelled",
            Self::TooManyExecs => "too many execs are in flight; try again when one has ended",
            Self::GrantDenied => "AWS denied access to the instance",
            Self::InstanceNotFound => "AWS knows no such instance",
            Self::NoEndpoint => "no EC2 Instance Connect Endpoint leads to the instance",
            Self::LoginRefused => "the instance refused the login",
            Self::HostKeyChanged => {
                "the instance's host key is not the one on record; an operator must look at it"
            }
            Self::TunnelLost => "the connection to the instance was lost",
            Self::AuditUnavailable => "the exec can't be recorded at present, so it was not run",
            Self::StartTimeout => "no channel to the instance became free in time; the command was not run",
            Self::InstanceBusy => "too many execs wait for this instance; the command was not run",
            Self::EndpointBusy => {
                "the endpoint to the instance has no connection left; the command was not run"
            }
            Self::GrantThrottled => "AWS is throttling calls for this instance; the command was not run",
            Self::LoginPenalised => {
                "the instance refuses new connections for a while; the command was not run"
            }
            Self::TargetUnreachable => "the instance can't be reached; the command was not run",
            Self::ShuttingDown => "the service is stopping; the command was not run",
            Self::ExecTimeout => "the command ran longer than its `timeout_s` and was stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn serialised_form_is_the_code() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
