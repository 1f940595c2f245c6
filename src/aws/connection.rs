//! What all calls to AWS share: credentials, region defaults, overrides, TLS.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use adit_actors::clock::Clock;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use http::Uri;
use rustls::pki_types::CertificateDer;
use thiserror::Error;

use super::credentials::CachedCredentials;
use super::key_grants::InstanceConnectKeyGrants;
use super::open_tunnel::OpenTunnelDialer;
use super::tls::{self, TlsError};

/// Longest life of a tunnel on AWS, and what applies when none is asked for.
pub(super) const SERVICE_MAX_TUNNEL_DURATION: Duration = Duration::from_secs(3_600);

/// How to reach AWS.
#[derive(Clone)]
pub struct AwsOptions {
    /// Region for calls that name none, as in `us-east-2`. Each instance's own region is used for that instance.
    pub region: String,
    /// Credentials to use. Absent in production: then the AWS SDK's default chain finds them (environment, profile, web
    /// identity, ECS, IMDS).
    pub credentials: Option<Credentials>,
    /// URL to send SendSSHPublicKey to. Absent in production: then the SDK's own settings apply, among them the variable
    /// `AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT`.
    pub key_push_endpoint: Option<String>,
    /// Where OpenTunnel goes instead of to the endpoint's DNS name. For development and tests.
    pub tunnel_endpoint: Option<TunnelEndpoint>,
    /// Longest life to ask for a tunnel, 1 s to 3,600 s in whole seconds. Needed where an IAM policy has a condition on
    /// `maxTunnelDuration`; absent means that it is not sent.
    pub max_tunnel_duration: Option<Duration>,
    /// Root certificates to trust for the tunnel beside the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for AwsOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AwsOptions")
            .field("region", &self.region)
            .field(
                "credentials",
                &self.credentials.as_ref().map(Credentials::access_key_id),
            )
            .field("key_push_endpoint", &self.key_push_endpoint)
            .field("tunnel_endpoint", &self.tunnel_endpoint)
            .field("max_tunnel_duration", &self.max_tunnel_duration)
            .finish_non_exhaustive()
    }
}

/// An address that stands in for every EC2 Instance Connect Endpoint, as in `ws://127.0.0.1:8081`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelEndpoint {
    pub(super) tls: bool,
    pub(super) authority: String,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Text that names no tunnel endpoint.
#[derive(Debug, Error)]
pub enum TunnelEndpointError {
    /// Not a URL at all.
    #[error("tunnel endpoint is no URL")]
    Url(#[source] http::uri::InvalidUri),
    /// A URL of another form.
    #[error("tunnel endpoint must have the form `ws://HOST:PORT` or `wss://HOST:PORT`")]
    Form,
}

impl FromStr for TunnelEndpoint {
    type Err = TunnelEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(TunnelEndpointError::Url)?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(TunnelEndpointError::Form),
        };
        let authority = uri.authority().ok_or(TunnelEndpointError::Form)?;
        // The operation's own path may be there; it is the only one.
        if !matches!(uri.path(), "/" | "/openTunnel")
            || uri.query().is_some()
            || authority.as_str().contains('@')
        {
            return Err(TunnelEndpointError::Form);
        }
        Ok(Self {
            tls,
            authority: authority.as_str().to_owned(),
            host: authority
                .host()
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        })
    }
}

/// AWS could not be set up.
#[derive(Debug, Error)]
pub enum AwsSetupError {
    /// The longest life of a tunnel is out of range.
    #[error("the longest life of a tunnel must be 1 s to 3600 s in whole seconds, not {0:?}")]
    MaxTunnelDuration(Duration),
    /// The SDK found no provider of credentials.
    #[error("no provider of AWS credentials is configured")]
    NoCredentialsProvider,
    /// TLS could not be set up.
    #[error("setting up TLS to the endpoints failed")]
    Tls(#[source] TlsError),
}

/// The process's connection to EC2 Instance Connect. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AwsConnection {
    key_grants: Arc<InstanceConnectKeyGrants>,
    dialer: Arc<OpenTunnelDialer>,
}

impl AwsConnection {
    /// Prepares clients and TLS. Reads files and environment, but asks AWS nothing yet.
    ///
    /// # Errors
    /// [`AwsSetupError`] when an option is out of range, or the system has no root certificates to trust.
    pub async fn open(options: AwsOptions, clock: Clock) -> Result<Self, AwsSetupError> {
        if let Some(duration) = options.max_tunnel_duration
            && (duration.subsec_nanos() != 0 || duration.is_zero() || duration > SERVICE_MAX_TUNNEL_DURATION)
        {
            return Err(AwsSetupError::MaxTunnelDuration(duration));
        }
        let needs_tls = options
            .tunnel_endpoint
            .as_ref()
            .is_none_or(|endpoint| endpoint.tls);
        let tls = needs_tls
            .then(|| tls::connector(&options.extra_roots))
            .transpose()
            .map_err(AwsSetupError::Tls)?;

        let mut loader = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(options.region));
        if let Some(credentials) = options.credentials {
            loader = loader.credentials_provider(SharedCredentialsProvider::new(credentials));
        }
        let config = loader.load().await;
        let provider = config
            .credentials_provider()
            .ok_or(AwsSetupError::NoCredentialsProvider)?;
        Ok(Self {
            dialer: Arc::new(OpenTunnelDialer::new(
                CachedCredentials::new(provider, clock.clone()),
                clock,
                options.tunnel_endpoint,
                tls,
                options.max_tunnel_duration,
            )),
            key_grants: Arc::new(InstanceConnectKeyGrants::new(config, options.key_push_endpoint)),
        })
    }

    /// SendSSHPublicKey.
    #[must_use]
    pub fn key_grants(&self) -> Arc<InstanceConnectKeyGrants> {
        Arc::clone(&self.key_grants)
    }

    /// OpenTunnel.
    #[must_use]
    pub fn dialer(&self) -> Arc<OpenTunnelDialer> {
        Arc::clone(&self.dialer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_endpoints() {
        let table = [
            (
                "ws://127.0.0.1:8081",
                Some((false, "127.0.0.1:8081", "127.0.0.1", 8081)),
            ),
            (
                "ws://127.0.0.1:8081/",
                Some((false, "127.0.0.1:8081", "127.0.0.1", 8081)),
            ),
            ("wss://localhost", Some((true, "localhost", "localhost", 443))),
            ("ws://[::1]:9", Some((false, "[::1]:9", "::1", 9))),
            ("http://127.0.0.1:8081", None),
            ("127.0.0.1:8081", None),
            (
                "ws://127.0.0.1:8081/openTunnel",
                Some((false, "127.0.0.1:8081", "127.0.0.1", 8081)),
            ),
            ("ws://127.0.0.1:8081/other", None),
            ("ws://user@127.0.0.1:8081", None),
            ("", None),
        ];
        for (text, expected) in table {
            let parsed = text.parse::<TunnelEndpoint>().ok();
            let expected =
                expected.map(
                    |(tls, authority, host, port): (bool, &str, &str, u16)| TunnelEndpoint {
                        tls,
                        authority: authority.to_owned(),
                        host: host.to_owned(),
                        port,
                    },
                );
            assert_eq!(parsed, expected, "{text}");
        }
    }

    fn options() -> AwsOptions {
        AwsOptions {
            region: "us-west-2".into(),
            credentials: Some(Credentials::new("AKIDVISIBLE", "wJalrSECRET", None, None, "test")),
            key_push_endpoint: None,
            tunnel_endpoint: Some("ws://127.0.0.1:1".parse().unwrap()),
            max_tunnel_duration: None,
            extra_roots: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_tunnel_lives_for_1_s_to_an_hour() {
        for (milliseconds, accepted) in [
            (0, false),
            (999, false),
            (1_000, true),
            (1_500, false),
            (3_600_000, true),
            (3_601_000, false),
        ] {
            let mut options = options();
            options.max_tunnel_duration = Some(Duration::from_millis(milliseconds));
            let result = AwsConnection::open(options, Clock::system()).await;
            assert_eq!(result.is_ok(), accepted, "{milliseconds} ms: {result:?}");
        }
    }

    #[test]
    fn the_secret_key_is_not_printed() {
        let printed = format!("{:?}", options());
        assert!(
            printed.contains("AKIDVISIBLE") && !printed.contains("wJalrSECRET"),
            "{printed}"
        );
    }
}
