//! Where an instance is and which endpoint leads to it, as EC2 says: DescribeInstances and
//! DescribeInstanceConnectEndpoints.
//!
//! What is found is kept by region and instance id, and a VPC's endpoints by region and VPC id, until it is too old or
//! did not lead to the instance. The choice of address and endpoint is the AWS CLI's.

mod answers;
mod cache;
mod failure;
mod query;
mod service_url;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_actors::instance::{EndpointHint, InstanceKey};
use adit_actors::tunnel::LocateError;
use async_trait::async_trait;

use cache::LookupCache;
pub use failure::DiscoveryError;
use failure::locate_error;
pub(super) use query::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT, Ec2Query};
pub(super) use service_url::ServiceUrl;

/// Instances kept at most: half as many again as the 10,000 that a process is made for. One takes some 300 bytes.
const MAX_INSTANCES: usize = 16_384;

/// VPCs kept at most. An account has 5 a region unless its quota was raised.
const MAX_VPCS: usize = 1_024;

/// A VPC's endpoints are not asked for again so soon, however many of its instances fail to answer at once: an endpoint
/// takes minutes to come and go, and the instances of a whole VPC fail together.
const ENDPOINTS_LEAST_AGE: Duration = Duration::from_secs(5);

/// What is asked of EC2. A trait so that keeping and forgetting can be tested without a socket.
#[async_trait]
trait Describe: Send + Sync + 'static {
    async fn instance(&self, instance: &InstanceKey) -> Result<InstancePlace, DiscoveryError>;

    /// The usable endpoints of a VPC, in EC2's order.
    async fn endpoints(&self, region: &str, vpc_id: &str) -> Result<Vec<EndpointFound>, DiscoveryError>;
}

/// An instance's place in its network.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InstancePlace {
    vpc_id: Option<String>,
    subnet_id: Option<String>,
    address: Option<IpAddr>,
}

/// An endpoint that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EndpointFound {
    endpoint_id: String,
    dns_name: Option<String>,
    fips_dns_name: Option<String>,
    subnet_id: Option<String>,
}

/// A VPC: region and id.
type VpcKey = (String, String);

/// What EC2 says of instances and endpoints, kept for a while.
pub(super) struct Discovery {
    ec2: Arc<dyn Describe>,
    use_fips: bool,
    instances: LookupCache<InstanceKey, InstancePlace>,
    endpoints: LookupCache<VpcKey, Arc<[EndpointFound]>>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Discovery")
            .field("use_fips", &self.use_fips)
            .finish_non_exhaustive()
    }
}

impl Discovery {
    /// Keeps answers for `life`, which must be longer than an operation may take (4.5 s).
    pub(super) fn new(ec2: Ec2Query, use_fips: bool, life: Duration) -> Self {
        Self::with(Arc::new(ec2), use_fips, life)
    }

    fn with(ec2: Arc<dyn Describe>, use_fips: bool, life: Duration) -> Self {
        Self {
            ec2,
            use_fips,
            instances: LookupCache::new(life, MAX_INSTANCES),
            endpoints: LookupCache::new(life, MAX_VPCS),
        }
    }

    /// The instance's private IPv4 address, else its IPv6 address.
    pub(super) async fn address(&self, instance: &InstanceKey) -> Result<IpAddr, LocateError> {
        let place = self.place(instance).await?;
        place.address.ok_or(LocateError::NoAddress)
    }

    /// The endpoint in the instance's subnet, else the first in its VPC.
    pub(super) async fn endpoint(&self, instance: &InstanceKey) -> Result<EndpointHint, LocateError> {
        let place = self.place(instance).await?;
        let no_vpc = || locate_error(Arc::new(DiscoveryError::Field { field: "vpcId" }));
        let vpc_id = place.vpc_id.ok_or_else(no_vpc)?;
        let key = (instance.region.clone(), vpc_id);
        let lookup = || {
            let (ec2, (region, vpc_id)) = (Arc::clone(&self.ec2), key.clone());
            async move { Ok(ec2.endpoints(&region, &vpc_id).await?.into()) }
        };
        let endpoints = self.endpoints.get(&key, lookup).await.map_err(locate_error)?;
        choose(&endpoints, place.subnet_id.as_deref(), self.use_fips)
    }

    async fn place(&self, instance: &InstanceKey) -> Result<InstancePlace, LocateError> {
        let lookup = || {
            let (ec2, instance) = (Arc::clone(&self.ec2), instance.clone());
            async move { ec2.instance(&instance).await }
        };
        self.instances.get(instance, lookup).await.map_err(locate_error)
    }

    /// What was said of the instance did not lead there.
    pub(super) fn forget(&self, instance: &InstanceKey) {
        let place = self.instances.forget(instance, Duration::ZERO);
        if let Some(vpc_id) = place.and_then(|place| place.vpc_id) {
            let key = (instance.region.clone(), vpc_id);
            self.endpoints.forget(&key, ENDPOINTS_LEAST_AGE);
        }
    }
}

fn choose(
    endpoints: &[EndpointFound],
    subnet_id: Option<&str>,
    use_fips: bool,
) -> Result<EndpointHint, LocateError> {
    let in_subnet =
        |endpoint: &&EndpointFound| subnet_id.is_some() && endpoint.subnet_id.as_deref() == subnet_id;
    let endpoint = endpoints
        .iter()
        .find(in_subnet)
        .or_else(|| endpoints.first())
        .ok_or(LocateError::NoEndpoint)?;
    let dns_name = if use_fips {
        let no_name = || LocateError::NoFipsName(endpoint.endpoint_id.clone());
        endpoint.fips_dns_name.clone().ok_or_else(no_name)?
    } else {
        let no_name = || locate_error(Arc::new(DiscoveryError::Field { field: "dnsName" }));
        endpoint.dns_name.clone().ok_or_else(no_name)?
    };
    Ok(EndpointHint {
        endpoint_id: endpoint.endpoint_id.clone(),
        dns_name,
    })
}

#[cfg(test)]
mod tests;
