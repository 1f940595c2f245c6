//! EC2 and EC2 Instance Connect, as the core's boundaries want them: key push, tunnel, and the way to an instance.
//!
//! [`AwsConnection`] owns the credentials, one SDK client a region, TLS and proxies, and hands out the
//! [`KeyGrants`](adit_actors::tunnel::KeyGrants), [`Dialer`](adit_actors::tunnel::Dialer) and
//! [`Locator`](adit_actors::tunnel::Locator) built on them.
//!
//! Nothing here knows of SSH, execs, HTTP requests of tenants or the store. Back-off between failed calls is the
//! supervisor's; what is tried again here is one request, inside its own deadline.

mod common_errors;
mod connection;
mod credentials;
mod dialer;
mod discovery;
mod key_grants;
mod locator;
#[cfg(test)]
mod moto_tests;
mod open_tunnel;
mod options;
mod peer;
mod proxy;
mod refusal;
mod sign;
#[cfg(test)]
mod test_support;
mod tls;
mod websocket_stream;

pub use connection::{AwsConnection, AwsSetupError};
pub use credentials::CredentialsError;
pub use dialer::InstanceDialer;
pub use discovery::DiscoveryError;
pub use key_grants::InstanceConnectKeyGrants;
pub use locator::{InstanceLocator, Way};
pub use open_tunnel::{OpenTunnelDialer, OpenTunnelError};
pub use options::{AwsOptions, TunnelEndpoint, TunnelEndpointError};
pub use peer::ConnectError;
pub use proxy::{ProxyError, ProxySetupError};
pub use refusal::TunnelRefusal;
pub use sign::SignError;
pub use tls::TlsError;
pub use websocket_stream::WebSocketByteStream;

/// Not signed, and free: it lets an endpoint's owner tell Adit from other clients.
const AGENT: &str = concat!("adit/", env!("CARGO_PKG_VERSION"));

/// Header with the AWS request id, on refusals and successes alike.
const REQUEST_ID_HEADER: &str = "x-amzn-requestid";
