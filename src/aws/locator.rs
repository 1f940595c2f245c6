//! Where an instance is: from its workspace, then from the settings, and for what neither says from EC2.

use std::sync::Arc;

use adit_actors::instance::{EndpointHint, InstanceTarget};
use adit_actors::tunnel::{LocateError, Location, Locator};
use async_trait::async_trait;

use super::discovery::Discovery;

/// Port of sshd, and one of the two that EC2 Instance Connect Endpoint forwards to.
const SSH_PORT: u16 = 22;

/// How instances are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through an EC2 Instance Connect Endpoint.
    Endpoint {
        /// For instances whose workspace names none. Absent: then EC2 is asked for the one in the instance's VPC.
        default: Option<EndpointHint>,
    },
    /// Straight to the instance's address, for a service that sits in its network.
    Direct,
}

/// Asks EC2 only for what it is not told.
#[derive(Clone, Debug)]
pub struct InstanceLocator {
    way: Way,
    discovery: Arc<Discovery>,
}

impl InstanceLocator {
    pub(super) fn new(way: Way, discovery: Arc<Discovery>) -> Self {
        Self { way, discovery }
    }

    async fn endpoint(&self, target: &InstanceTarget) -> Result<Option<EndpointHint>, LocateError> {
        let Way::Endpoint { default } = &self.way else {
            return Ok(None);
        };
        match target.endpoint.as_ref().or(default.as_ref()) {
            Some(endpoint) => Ok(Some(endpoint.clone())),
            None => self.discovery.endpoint(&target.instance).await.map(Some),
        }
    }
}

#[async_trait]
impl Locator for InstanceLocator {
    async fn locate(&self, target: &InstanceTarget) -> Result<Location, LocateError> {
        let address = match target.address {
            Some(address) => address,
            None => self.discovery.address(&target.instance).await?,
        };
        Ok(Location {
            address,
            port: target.port.unwrap_or(SSH_PORT),
            endpoint: self.endpoint(target).await?,
        })
    }

    /// What workspace and settings say stays as it is.
    fn forget(&self, target: &InstanceTarget) {
        self.discovery.forget(&target.instance);
    }
}

#[cfg(test)]
#[path = "locator_tests.rs"]
mod tests;
