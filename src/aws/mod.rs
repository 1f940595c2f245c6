//! EC2 Instance Connect, as the core's boundaries want it: key push, tunnel, and the way to an instance.
//!
//! [`AwsConnection`] owns the credentials, one SDK client a region and the TLS settings, and hands out the
//! [`KeyGrants`](adit_actors::tunnel::KeyGrants) and [`Dialer`](adit_actors::tunnel::Dialer) built on them.
//! [`WorkspaceLocator`] says where an instance is from what its workspace and the settings say.
//!
//! Nothing here knows of SSH, execs, HTTP requests of tenants or the store. Back-off between failed calls is the
//! supervisor's; what is tried again here is one request, inside its own deadline.

mod connection;
mod credentials;
mod key_grants;
mod locator;
mod open_tunnel;
mod refusal;
mod sign;
mod tls;
mod websocket_stream;

pub use connection::{AwsConnection, AwsOptions, AwsSetupError, TunnelEndpoint, TunnelEndpointError};
pub use credentials::CredentialsError;
pub use key_grants::InstanceConnectKeyGrants;
pub use locator::WorkspaceLocator;
pub use open_tunnel::{OpenTunnelDialer, OpenTunnelError};
pub use refusal::TunnelRefusal;
pub use sign::SignError;
pub use tls::TlsError;
pub use websocket_stream::WebSocketByteStream;
