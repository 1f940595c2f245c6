//! One dialer for both ways: through an EC2 Instance Connect Endpoint, or straight to the instance.

use std::net::SocketAddr;

use adit_actors::instance::InstanceTarget;
use adit_actors::tunnel::{DialError, Dialed, Dialer, Location};
use async_trait::async_trait;

use super::open_tunnel::OpenTunnelDialer;
use super::peer;

/// Goes by [`Location::endpoint`]: OpenTunnel where it names one, plain TCP to the address where it does not.
#[derive(Debug)]
pub struct InstanceDialer {
    open_tunnel: OpenTunnelDialer,
}

impl InstanceDialer {
    pub(super) fn new(open_tunnel: OpenTunnelDialer) -> Self {
        Self { open_tunnel }
    }
}

#[async_trait]
impl Dialer for InstanceDialer {
    async fn dial(&self, target: &InstanceTarget, location: &Location) -> Result<Dialed, DialError> {
        match &location.endpoint {
            Some(endpoint) => {
                let region = &target.instance.region;
                Ok(self.open_tunnel.open(region, location, endpoint).await?)
            }
            None => dial_directly(location).await,
        }
    }
}

/// No proxy: who is told to go straight sits in the instance's own network.
async fn dial_directly(location: &Location) -> Result<Dialed, DialError> {
    let address = SocketAddr::new(location.address, location.port);
    let (host, authority) = (location.address.to_string(), address.to_string());
    let socket = peer::connect(&host, location.port, &authority)
        .await
        .map_err(|error| DialError::Unreachable(Box::new(error)))?;
    Ok(Dialed {
        stream: Box::new(socket),
        request_id: None,
        max_duration: None,
    })
}

#[cfg(test)]
#[path = "dialer_tests.rs"]
mod tests;
