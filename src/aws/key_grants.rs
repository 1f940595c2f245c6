//! SendSSHPublicKey, by the AWS SDK.

use std::time::Duration;

use adit_actors::instance::InstanceTarget;
use adit_actors::tunnel::{GrantError, KeyGrantReceipt, KeyGrants};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_ec2instanceconnect::Client;
use aws_sdk_ec2instanceconnect::config::Region;
use aws_sdk_ec2instanceconnect::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2instanceconnect::operation::RequestId;
use aws_sdk_ec2instanceconnect::operation::send_ssh_public_key::SendSSHPublicKeyError;
use dashmap::DashMap;
use thiserror::Error;

use super::common_errors::{CommonError, classify};

/// One request of the SDK, retries apart. The call itself answers in a few hundred milliseconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// The call with its retries. Less than the 30 s in which an exec must start, so that a waiter hears the cause.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Attempts, the first included: the SDK's own default, written down because throttling is told apart after them.
const MAX_ATTEMPTS: u32 = 3;

/// Pushes keys with one SDK client a region, made at first use and kept.
#[derive(Debug)]
pub struct InstanceConnectKeyGrants {
    config: SdkConfig,
    endpoint_url: Option<String>,
    clients: DashMap<String, Client>,
}

/// Why a push gave no grant, as an operator reads it, with the request id that AWS support asks for.
#[derive(Debug, Error)]
enum KeyPushFailure {
    /// An answer that says so. The SDK's own error is not kept: it has no text but the `Debug` output of these fields.
    #[error(
        "EC2 Instance Connect answered {status} `{}`: {:?} (AWS request id `{}`)",
        code.as_deref().unwrap_or("none"),
        message.as_deref().unwrap_or_default(),
        request_id.as_deref().unwrap_or("none")
    )]
    Refused {
        status: u16,
        code: Option<String>,
        message: Option<String>,
        request_id: Option<String>,
    },
    /// No answer, or none that is HTTP of this operation's.
    #[error("EC2 Instance Connect gave no usable answer (AWS request id `{}`)", request_id.as_deref().unwrap_or("none"))]
    Unanswered {
        request_id: Option<String>,
        #[source]
        source: Box<SdkError<SendSSHPublicKeyError>>,
    },
}

impl From<SdkError<SendSSHPublicKeyError>> for KeyPushFailure {
    fn from(error: SdkError<SendSSHPublicKeyError>) -> Self {
        let request_id = error.request_id().map(str::to_owned);
        match error {
            SdkError::ServiceError(answer) => Self::Refused {
                status: answer.raw().status().as_u16(),
                code: answer.err().code().map(str::to_owned),
                message: answer.err().message().map(str::to_owned),
                request_id,
            },
            source => Self::Unanswered {
                request_id,
                source: Box::new(source),
            },
        }
    }
}

impl InstanceConnectKeyGrants {
    pub(super) fn new(config: SdkConfig, endpoint_url: Option<String>) -> Self {
        Self {
            config,
            endpoint_url,
            clients: DashMap::new(),
        }
    }

    fn client(&self, region: &str) -> Client {
        if let Some(client) = self.clients.get(region) {
            return client.clone();
        }
        self.clients
            .entry(region.to_owned())
            .or_insert_with(|| self.new_client(region))
            .clone()
    }

    fn new_client(&self, region: &str) -> Client {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let mut config = aws_sdk_ec2instanceconnect::config::Builder::from(&self.config)
            .region(Region::new(region.to_owned()))
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS));
        if let Some(url) = &self.endpoint_url {
            config = config.endpoint_url(url);
        }
        Client::from_conf(config.build())
    }
}

#[async_trait]
impl KeyGrants for InstanceConnectKeyGrants {
    async fn push_key(
        &self,
        target: &InstanceTarget,
        public_key: &str,
    ) -> Result<KeyGrantReceipt, GrantError> {
        let answer = self
            .client(&target.instance.region)
            .send_ssh_public_key()
            .instance_id(&target.instance.instance_id)
            .instance_os_user(&target.os_user)
            .ssh_public_key(public_key)
            .set_availability_zone(target.availability_zone.clone())
            .send()
            .await
            .map_err(grant_error)?;
        // The header's id is the one in CloudTrail; the body repeats it.
        let request_id = RequestId::request_id(&answer)
            .or(answer.request_id())
            .map(str::to_owned);
        if answer.success() {
            Ok(KeyGrantReceipt { request_id })
        } else {
            Err(GrantError::Denied(
                format!("answer says no success, request id {request_id:?}").into(),
            ))
        }
    }
}

/// What an error means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Denied,
    InstanceNotFound,
    InstanceNotRunning,
    Throttled,
    Unreachable,
}

fn grant_error(error: SdkError<SendSSHPublicKeyError>) -> GrantError {
    let kind = match &error {
        SdkError::ServiceError(answer) => service_error_kind(answer.err()),
        // Nothing was heard that says more: no request, no connection, no answer in time, or none that can be read.
        SdkError::ConstructionFailure(_)
        | SdkError::TimeoutError(_)
        | SdkError::DispatchFailure(_)
        | SdkError::ResponseError(_) => Kind::Unreachable,
        // The SDK's enum is open.
        _ => Kind::Unreachable,
    };
    let source = Box::new(KeyPushFailure::from(error));
    match kind {
        Kind::Denied => GrantError::Denied(source),
        Kind::InstanceNotFound => GrantError::InstanceNotFound(source),
        Kind::InstanceNotRunning => GrantError::InstanceNotRunning(source),
        Kind::Throttled => GrantError::Throttled(source),
        Kind::Unreachable => GrantError::Unreachable(source),
    }
}

fn service_error_kind(error: &SendSSHPublicKeyError) -> Kind {
    use SendSSHPublicKeyError as E;
    match error {
        E::AuthException(_) | E::InvalidArgsException(_) => Kind::Denied,
        E::Ec2InstanceNotFoundException(_) => Kind::InstanceNotFound,
        E::Ec2InstanceStateInvalidException(_) | E::Ec2InstanceUnavailableException(_) => {
            Kind::InstanceNotRunning
        }
        E::ThrottlingException(_) => Kind::Throttled,
        E::ServiceException(_) => Kind::Unreachable,
        // What every AWS service may answer is in no service's model. An IAM denial is such an answer, with HTTP 400.
        other => match other.code().map(classify) {
            Some(CommonError::Denied) => Kind::Denied,
            Some(CommonError::Throttled) => Kind::Throttled,
            Some(CommonError::Other) | None => Kind::Unreachable,
        },
    }
}

#[cfg(test)]
#[path = "key_grants_tests.rs"]
mod tests;
