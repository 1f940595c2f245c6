//! What names an instance, and what is known of the way to it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An EC2 instance: region and instance id together. Never an address: private addresses are reused and repeat
/// across VPCs, so a key pushed "to an address" may reach another machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceKey {
    /// AWS region, as in `us-east-2`.
    pub region: String,
    /// Instance id, as in `i-0123456789abcdef0`.
    pub instance_id: String,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.region, self.instance_id)
    }
}

/// Where an exec is to run: the instance, the login, and whatever the workspace already says of the way there.
/// What is absent is the [`crate::tunnel::Locator`]'s to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceTarget {
    /// The instance.
    pub instance: InstanceKey,
    /// Login name on the instance; SendSSHPublicKey takes 1 to 32 characters.
    pub os_user: String,
    /// Availability zone, passed on to SendSSHPublicKey when known.
    pub availability_zone: Option<String>,
    /// The instance's private address, when the workspace says it.
    pub address: Option<IpAddr>,
    /// The SSH port, when the workspace says it. EC2 Instance Connect Endpoint forwards to 22 and 3389 only.
    pub port: Option<u16>,
    /// EC2 Instance Connect Endpoint to go through, when the workspace says it.
    pub endpoint: Option<EndpointHint>,
}

/// An EC2 Instance Connect Endpoint that a workspace names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointHint {
    /// Endpoint id, as in `eice-0123456789abcdef0`.
    pub endpoint_id: String,
    /// DNS name of the endpoint, as DescribeInstanceConnectEndpoints reports it.
    pub dns_name: String,
}
