//! The XML of EC2's answers, as far as it is used. Elements that are not named here are passed over.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceConnectEndpoints.html>

use std::net::IpAddr;

use http::StatusCode;
use serde::Deserialize;

use super::failure::DiscoveryError;
use super::{EndpointFound, InstancePlace};

/// Characters of an error's message that are kept. EC2 puts an encoded policy decision of any length behind the readable part.
const KEPT_OF_MESSAGE: usize = 256;

/// How EC2 writes a list.
#[derive(Deserialize)]
struct Set<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

// The set itself must be there: a page of somebody else's that is XML too must not read as "none found".
#[derive(Deserialize)]
struct DescribeInstances {
    #[serde(rename = "reservationSet")]
    reservations: Set<Reservation>,
}

#[derive(Deserialize)]
struct Reservation {
    #[serde(rename = "instancesSet")]
    instances: Set<Instance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    instance_id: String,
    instance_state: State,
    vpc_id: Option<String>,
    subnet_id: Option<String>,
    private_ip_address: Option<String>,
    ipv6_address: Option<String>,
}

#[derive(Deserialize)]
struct State {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeInstanceConnectEndpoints {
    instance_connect_endpoint_set: Set<Endpoint>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    instance_connect_endpoint_id: String,
    dns_name: Option<String>,
    fips_dns_name: Option<String>,
    subnet_id: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    #[serde(rename = "Errors")]
    errors: Errors,
    #[serde(rename = "RequestID")]
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(rename = "Error", default)]
    error: Vec<Error>,
}

#[derive(Deserialize)]
struct Error {
    #[serde(rename = "Code")]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

/// One page of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page<T> {
    pub(super) found: Vec<T>,
    /// What the next page is asked for with.
    pub(super) next_token: Option<String>,
}

/// An element that is there and empty says as much as one that is not there.
fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// The answer to DescribeInstances for one id.
pub(super) fn instance(xml: &str, instance_id: &str) -> Result<InstancePlace, DiscoveryError> {
    let answer: DescribeInstances = quick_xml::de::from_str(xml).map_err(DiscoveryError::Answer)?;
    let instance = answer
        .reservations
        .item
        .into_iter()
        .flat_map(|reservation| reservation.instances.item)
        .find(|instance| instance.instance_id == instance_id)
        .ok_or_else(|| DiscoveryError::NoInstance {
            instance_id: instance_id.to_owned(),
        })?;
    // A stopped one keeps its place, and the key push says that it is stopped. These never come back.
    if matches!(
        instance.instance_state.name.as_str(),
        "terminated" | "shutting-down"
    ) {
        return Err(DiscoveryError::Terminated {
            instance_id: instance.instance_id,
            state: instance.instance_state.name,
        });
    }
    let ipv4 = address("privateIpAddress", instance.private_ip_address)?;
    let ipv6 = address("ipv6Address", instance.ipv6_address)?;
    Ok(InstancePlace {
        vpc_id: filled(instance.vpc_id),
        subnet_id: filled(instance.subnet_id),
        address: ipv4.or(ipv6),
    })
}

fn address(field: &'static str, text: Option<String>) -> Result<Option<IpAddr>, DiscoveryError> {
    filled(text)
        .map(|text| text.parse().map_err(|_| DiscoveryError::Field { field }))
        .transpose()
}

/// One page of the answer to DescribeInstanceConnectEndpoints.
pub(super) fn endpoints(xml: &str) -> Result<Page<EndpointFound>, DiscoveryError> {
    let answer: DescribeInstanceConnectEndpoints =
        quick_xml::de::from_str(xml).map_err(DiscoveryError::Answer)?;
    let found = answer.instance_connect_endpoint_set.item.into_iter();
    Ok(Page {
        found: found
            .map(|endpoint| EndpointFound {
                endpoint_id: endpoint.instance_connect_endpoint_id,
                dns_name: filled(endpoint.dns_name),
                fips_dns_name: filled(endpoint.fips_dns_name),
                subnet_id: filled(endpoint.subnet_id),
            })
            .collect(),
        next_token: filled(answer.next_token),
    })
}

/// An answer that is no success. Never fails: a body of another form is kept as text.
pub(super) fn refusal(status: StatusCode, header_request_id: Option<String>, body: &[u8]) -> DiscoveryError {
    let text = String::from_utf8_lossy(body);
    let response: Option<Response> = quick_xml::de::from_str(&text).ok();
    let (error, request_id) = match response {
        Some(response) => (response.errors.error.into_iter().next(), response.request_id),
        None => (None, None),
    };
    let (code, message) = match error {
        Some(error) => (Some(error.code), error.message),
        None => (None, text.into_owned()),
    };
    DiscoveryError::Refused {
        status,
        code,
        message: message.chars().take(KEPT_OF_MESSAGE).collect(),
        request_id: filled(request_id).or(header_request_id),
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
