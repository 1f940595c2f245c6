//! What all calls to AWS share: credentials, region defaults, overrides, TLS, proxies.

use std::sync::Arc;
use std::time::Duration;

use adit_actors::clock::Clock;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_ec2instanceconnect::config::SharedHttpClient;
use aws_smithy_http_client::ConnectorBuilder;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext};
use rustls::ClientConfig;
use thiserror::Error;
use tokio_rustls::TlsConnector;

use super::credentials::CachedCredentials;
use super::dialer::InstanceDialer;
use super::discovery::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT, Discovery, Ec2Query, ServiceUrl};
use super::key_grants::InstanceConnectKeyGrants;
use super::locator::InstanceLocator;
use super::open_tunnel::OpenTunnelDialer;
use super::options::AwsOptions;
use super::peer::Route;
use super::proxy::{Proxies, ProxySetupError};
use super::tls::{Roots, TlsError};

/// Longest life of a tunnel on AWS, and what applies when none is asked for.
pub(super) const SERVICE_MAX_TUNNEL_DURATION: Duration = Duration::from_secs(3_600);

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
    /// What the environment says of proxies can't be used.
    #[error("setting up the proxies of the environment failed")]
    Proxy(#[source] ProxySetupError),
    /// The HTTP client for EC2 could not be made.
    #[error("setting up the client for EC2 failed")]
    Client(#[source] reqwest::Error),
}

/// The process's connection to EC2 and EC2 Instance Connect. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AwsConnection {
    key_grants: Arc<InstanceConnectKeyGrants>,
    dialer: Arc<InstanceDialer>,
    locator: Arc<InstanceLocator>,
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
        let proxies = Proxies::new(&options.proxies).map_err(AwsSetupError::Proxy)?;
        let needs_tls = options.needs_tls();
        let roots = Roots::of_the_system_and(options.extra_roots);
        if needs_tls && roots.is_empty() {
            return Err(AwsSetupError::Tls(TlsError::NoRoots));
        }
        let tls = roots.client_config().map_err(AwsSetupError::Tls)?;
        let http = http_client(&tls, &proxies)?;
        let route = Route {
            tls: (!roots.is_empty()).then(|| TlsConnector::from(Arc::new(tls))),
            proxies,
        };

        let mut loader = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(options.region));
        if let Some(credentials) = options.credentials {
            loader = loader.credentials_provider(SharedCredentialsProvider::new(credentials));
        }
        let config = loader
            .http_client(sdk_http_client(&roots, &route.proxies)?)
            .load()
            .await;
        let credentials = Arc::new(credentials(&config, clock.clone())?);
        let service_url = ServiceUrl::new(&config, options.ec2_endpoint);
        let use_fips = service_url.use_fips();
        let ec2 = Ec2Query::new(http, Arc::clone(&credentials), clock.clone(), service_url);
        let discovery = Discovery::new(ec2, use_fips, options.discovery_life);
        let open_tunnel = OpenTunnelDialer::new(
            credentials,
            clock,
            options.tunnel_endpoint,
            route,
            options.max_tunnel_duration,
        );
        Ok(Self {
            dialer: Arc::new(InstanceDialer::new(open_tunnel)),
            locator: Arc::new(InstanceLocator::new(options.way, Arc::new(discovery))),
            key_grants: Arc::new(InstanceConnectKeyGrants::new(config, options.key_push_endpoint)),
        })
    }

    /// SendSSHPublicKey.
    #[must_use]
    pub fn key_grants(&self) -> Arc<InstanceConnectKeyGrants> {
        Arc::clone(&self.key_grants)
    }

    /// OpenTunnel, or plain TCP.
    #[must_use]
    pub fn dialer(&self) -> Arc<InstanceDialer> {
        Arc::clone(&self.dialer)
    }

    /// Workspace, settings, and EC2 for what they don't say.
    #[must_use]
    pub fn locator(&self) -> Arc<InstanceLocator> {
        Arc::clone(&self.locator)
    }
}

fn credentials(config: &SdkConfig, clock: Clock) -> Result<CachedCredentials, AwsSetupError> {
    let provider = config
        .credentials_provider()
        .ok_or(AwsSetupError::NoCredentialsProvider)?;
    Ok(CachedCredentials::new(provider, clock))
}

/// For what is signed by hand.
fn http_client(tls: &ClientConfig, proxies: &Proxies) -> Result<reqwest::Client, AwsSetupError> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        // EC2 redirects nobody, and a signature holds for one host.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ATTEMPT_TIMEOUT);
    let builder = proxies.apply_to(builder).map_err(AwsSetupError::Proxy)?;
    builder.build().map_err(AwsSetupError::Client)
}

/// For the SDK's clients: as its own default, but with our roots, and deaf to the environment where no proxy is to be
/// used. Its settings take one proxy for both schemes at most, so where one is set it reads the environment itself.
fn sdk_http_client(roots: &Roots, proxies: &Proxies) -> Result<SharedHttpClient, AwsSetupError> {
    let context = TlsContext::builder()
        .with_trust_store(roots.sdk_trust_store())
        .build()
        .map_err(|error| AwsSetupError::Tls(TlsError::Context(error.into())))?;
    let proxy = if proxies.is_none() {
        ProxyConfig::disabled()
    } else {
        ProxyConfig::from_env()
    };
    let client =
        aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
            let mut connector = ConnectorBuilder::default()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .proxy_config(proxy.clone());
            connector.set_tls_context(context.clone());
            connector.set_connector_settings(settings.cloned());
            if let Some(components) = components {
                connector.set_sleep_impl(components.sleep_impl());
            }
            connector.build()
        });
    Ok(client)
}
