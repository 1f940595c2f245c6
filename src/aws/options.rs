//! How AWS is to be reached.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_credential_types::Credentials;
use http::Uri;
use rustls::pki_types::CertificateDer;
use thiserror::Error;

use super::locator::Way;
use super::peer::without_brackets;
use crate::settings::ProxyVariables;

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
    /// URL of EC2 to ask for instances and endpoints. Absent in production: then the SDK's own settings apply, among them
    /// the variable `AWS_ENDPOINT_URL_EC2`.
    pub ec2_endpoint: Option<String>,
    /// Root certificates to trust beside the system's, for everything that goes over TLS.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// The proxies of the environment. With none of them set no proxy is used, whatever the process's environment says.
    pub proxies: ProxyVariables,
    /// How instances are reached.
    pub way: Way,
    /// How long an instance's address and a VPC's endpoints are believed, once EC2 has said them: 10 s or more, which is
    /// longer than EC2 is waited for.
    pub discovery_life: Duration,
}

impl AwsOptions {
    /// AWS itself: the SDK's own chain of credentials, no overrides, through the endpoint that EC2 names.
    #[must_use]
    pub fn new(region: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            credentials: None,
            key_push_endpoint: None,
            tunnel_endpoint: None,
            max_tunnel_duration: None,
            ec2_endpoint: None,
            extra_roots: Vec::new(),
            proxies: ProxyVariables::default(),
            way: Way::Endpoint { default: None },
            discovery_life: Duration::from_secs(300),
        }
    }

    /// Whether anything that is asked is asked over TLS: all is but what an override sends over plain HTTP.
    pub(super) fn needs_tls(&self) -> bool {
        let is_plain = |url: &Option<String>| {
            let scheme = url.as_ref().and_then(|url| url.split_once("://"));
            scheme.is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("http"))
        };
        let tunnels_are_plain = match self.way {
            Way::Direct => true,
            Way::Endpoint { .. } => self.tunnel_endpoint.as_ref().is_some_and(|to| !to.tls),
        };
        !(tunnels_are_plain && is_plain(&self.key_push_endpoint) && is_plain(&self.ec2_endpoint))
    }
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
            .field("ec2_endpoint", &self.ec2_endpoint)
            .field("way", &self.way)
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
            host: without_brackets(authority.host()).to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        })
    }
}

#[cfg(test)]
mod tests {
    use adit_actors::clock::Clock;

    use super::super::AwsConnection;
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
            credentials: Some(Credentials::new("AKIDVISIBLE", "wJalrSECRET", None, None, "test")),
            tunnel_endpoint: Some("ws://127.0.0.1:1".parse().unwrap()),
            ..AwsOptions::new("us-west-2")
        }
    }

    #[test]
    fn only_plain_overrides_of_all_that_is_asked_do_without_tls() {
        let (http, https) = (Some("http://h"), Some("https://h"));
        let table = [
            (false, Some("ws://h"), http, http, false),
            (true, None, http, http, false),
            (false, None, http, http, true),
            (false, Some("wss://h"), http, http, true),
            (false, Some("ws://h"), https, http, true),
            (false, Some("ws://h"), http, https, true),
            (true, None, None, http, true),
            (true, None, http, None, true),
        ];
        for row @ (direct, tunnel, key_push, ec2, expected) in table {
            let mut options = AwsOptions::new("us-west-2");
            if direct {
                options.way = Way::Direct;
            }
            options.tunnel_endpoint = tunnel.map(|url| url.parse().unwrap());
            options.key_push_endpoint = key_push.map(str::to_owned);
            options.ec2_endpoint = ec2.map(str::to_owned);
            assert_eq!(options.needs_tls(), expected, "{row:?}");
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
