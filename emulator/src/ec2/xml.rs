//! The XML of the answers, by the shapes of AWS's API model (ec2 2016-11-15).
//!
//! Only what a caller of Instance Connect may look at is there. It must know nothing of filters or pages.

use std::net::IpAddr;

use quick_xml::SeError;
use serde::Serialize;

use super::describe::state_name;
use crate::settings::{self, InstanceState};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// The one account of the emulator.
const ACCOUNT: &str = "000000000000";

/// When everything of the emulator was made.
const CREATED: &str = "2023-06-13T00:00:00.000Z";

#[derive(Debug, Serialize)]
struct Set<T> {
    item: Vec<T>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DescribeInstancesResponse {
    #[serde(rename = "@xmlns")]
    namespace: &'static str,
    request_id: String,
    reservation_set: Set<Reservation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reservation {
    reservation_id: String,
    owner_id: &'static str,
    group_set: Set<()>,
    instances_set: Set<Instance>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    instance_id: String,
    image_id: &'static str,
    instance_state: State,
    private_dns_name: String,
    instance_type: &'static str,
    launch_time: &'static str,
    placement: Placement,
    subnet_id: String,
    vpc_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_ip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6_address: Option<String>,
    source_dest_check: bool,
}

#[derive(Debug, Serialize)]
struct State {
    code: u16,
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Placement {
    availability_zone: String,
    group_name: &'static str,
    tenancy: &'static str,
}

impl Reservation {
    pub(super) fn new(
        instance: &settings::Instance,
        state: InstanceState,
        availability_zone: String,
    ) -> Self {
        let is_ipv6 = matches!(instance.private_ip_address.parse(), Ok(IpAddr::V6(_)));
        let address = instance.private_ip_address.clone();
        let (private_ip_address, own_ipv6) = if is_ipv6 {
            (None, Some(address))
        } else {
            (Some(address), None)
        };
        let code = match state {
            InstanceState::Running => 16,
            InstanceState::Stopped => 80,
        };
        let name = instance.id.replacen("i-", "r-", 1);
        Self {
            reservation_id: name,
            owner_id: ACCOUNT,
            group_set: Set { item: Vec::new() },
            instances_set: Set {
                item: vec![Instance {
                    instance_id: instance.id.clone(),
                    image_id: "ami-00000000000000000",
                    instance_state: State {
                        code,
                        name: state_name(state),
                    },
                    private_dns_name: format!("{}.ec2.internal", instance.id),
                    instance_type: "t3.micro",
                    launch_time: CREATED,
                    placement: Placement {
                        availability_zone,
                        group_name: "",
                        tenancy: "default",
                    },
                    subnet_id: instance.subnet_id.clone(),
                    vpc_id: instance.vpc_id.clone(),
                    private_ip_address,
                    ipv6_address: own_ipv6.or(instance.ipv6_address.map(|address| address.to_string())),
                    source_dest_check: true,
                }],
            },
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DescribeInstanceConnectEndpointsResponse {
    #[serde(rename = "@xmlns")]
    namespace: &'static str,
    request_id: String,
    instance_connect_endpoint_set: Set<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    owner_id: &'static str,
    instance_connect_endpoint_id: String,
    instance_connect_endpoint_arn: String,
    state: String,
    state_message: &'static str,
    dns_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fips_dns_name: Option<String>,
    network_interface_id_set: Set<&'static str>,
    vpc_id: String,
    availability_zone: String,
    created_at: &'static str,
    subnet_id: String,
    preserve_client_ip: bool,
    security_group_id_set: Set<&'static str>,
    tag_set: Set<()>,
    ip_address_type: &'static str,
}

impl Endpoint {
    pub(super) fn new(endpoint: &settings::Endpoint, region: &str, availability_zone: String) -> Self {
        Self {
            owner_id: ACCOUNT,
            instance_connect_endpoint_id: endpoint.id.clone(),
            instance_connect_endpoint_arn: format!(
                "arn:aws:ec2:{region}:{ACCOUNT}:instance-connect-endpoint/{}",
                endpoint.id
            ),
            state: endpoint.state.clone(),
            state_message: "",
            dns_name: endpoint.dns_name_in(region),
            fips_dns_name: endpoint.fips_dns_name.clone(),
            network_interface_id_set: Set {
                item: vec!["eni-00000000000000000"],
            },
            vpc_id: endpoint.vpc_id.clone(),
            availability_zone,
            created_at: CREATED,
            subnet_id: endpoint.subnet_id.clone(),
            preserve_client_ip: false,
            security_group_id_set: Set {
                item: vec!["sg-00000000000000000"],
            },
            tag_set: Set { item: Vec::new() },
            ip_address_type: "ipv4",
        }
    }
}

pub(super) fn instances(
    item: Vec<Reservation>,
    next_token: Option<String>,
    request_id: &str,
) -> Result<String, SeError> {
    document(&DescribeInstancesResponse {
        namespace: NAMESPACE,
        request_id: request_id.to_owned(),
        reservation_set: Set { item },
        next_token,
    })
}

pub(super) fn endpoints(
    item: Vec<Endpoint>,
    next_token: Option<String>,
    request_id: &str,
) -> Result<String, SeError> {
    document(&DescribeInstanceConnectEndpointsResponse {
        namespace: NAMESPACE,
        request_id: request_id.to_owned(),
        instance_connect_endpoint_set: Set { item },
        next_token,
    })
}

/// An error has no namespace, and its `RequestID` another spelling than an answer's `requestId`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response<'a> {
    errors: Errors<'a>,
    #[serde(rename = "RequestID")]
    request_id: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Errors<'a> {
    error: Error<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Error<'a> {
    code: &'a str,
    message: &'a str,
}

pub(super) fn error(code: &str, message: &str, request_id: &str) -> Result<String, SeError> {
    document(&Response {
        errors: Errors {
            error: Error { code, message },
        },
        request_id,
    })
}

fn document(content: &impl Serialize) -> Result<String, SeError> {
    let body = quick_xml::se::to_string(content)?;
    Ok(format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}"))
}
