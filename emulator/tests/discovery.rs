//! `DescribeInstances` and `DescribeInstanceConnectEndpoints`, and tunnels through several endpoints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod support;

use std::time::Duration;

use adit_emulator::{
    Credentials, DiscoveryFaults, Emulator, EmulatorError, Endpoint, EndpointTunnels, Instance,
    InstanceState, Settings, Times,
};
use support::requests::{Answer, INSTANCE, Signer, TUNNEL, credentials, ec2, open_tunnel};
use support::ssh::dial;
use tokio::time::Instant;

const IPV6: &str = "2600:1f10:4f8e:db01:73f5:6b9d:c0da:1c27";

/// Two VPCs; the first has two endpoints and two instances, the second one of each, at an address of the first.
fn settings() -> Settings {
    let mut settings = Settings::new(credentials());
    let endpoint = |id: &str, vpc: &str, subnet: &str| Endpoint {
        id: id.to_owned(),
        vpc_id: vpc.to_owned(),
        subnet_id: subnet.to_owned(),
        ..Endpoint::default()
    };
    settings.endpoints = vec![
        Endpoint {
            fips_dns_name: Some("fips.example".to_owned()),
            ..endpoint("eice-0a", "vpc-1", "subnet-1")
        },
        Endpoint {
            state: "delete-complete".to_owned(),
            dns_name: Some("other.example".to_owned()),
            max_connections: Some(1),
            ..endpoint("eice-0b", "vpc-1", "subnet-2")
        },
        endpoint("eice-0c", "vpc-2", "subnet-3"),
    ];
    let instance = |id: &str, address: &str, vpc: &str, subnet: &str| Instance {
        id: id.to_owned(),
        private_ip_address: address.to_owned(),
        vpc_id: vpc.to_owned(),
        subnet_id: subnet.to_owned(),
        ..Instance::default()
    };
    settings.instances = vec![
        instance("i-0000000000000000a", "10.0.0.10", "vpc-1", "subnet-1"),
        Instance {
            availability_zone: Some("us-east-1c".to_owned()),
            ipv6_address: Some(IPV6.parse().unwrap()),
            ..instance("i-0000000000000000b", "10.0.0.11", "vpc-1", "subnet-2")
        },
        instance("i-0000000000000000c", "10.0.0.10", "vpc-2", "subnet-3"),
        Instance {
            state: InstanceState::Stopped,
            ..instance("i-0000000000000000d", "fd00::1", "vpc-2", "subnet-3")
        },
    ];
    settings
}

fn signer() -> Signer {
    Signer {
        service: "ec2",
        ..Signer::default()
    }
}

async fn start() -> Emulator {
    Emulator::start(settings()).await.unwrap()
}

async fn ask(emulator: &Emulator, parameters: &str) -> Answer {
    ec2(emulator, &signer(), parameters).await
}

/// The texts of all elements of this name. Enough for documents without attributes inside.
fn texts(answer: &Answer, name: &str) -> Vec<String> {
    answer
        .body
        .split(&format!("<{name}>"))
        .skip(1)
        .map(|rest| rest.split('<').next().unwrap().to_owned())
        .collect()
}

async fn ids(emulator: &Emulator, parameters: &str, element: &str) -> Vec<String> {
    let answer = ask(emulator, parameters).await;
    assert_eq!(answer.status, 200, "{parameters}: {answer:?}");
    texts(&answer, element)
}

#[tokio::test]
async fn instances_are_found_by_id_and_filter() {
    let emulator = start().await;
    for (parameters, letters) in [
        ("", "abcd"),
        ("&InstanceId.1=i-0000000000000000c", "c"),
        (
            "&InstanceId.1=i-0000000000000000c&InstanceId.2=i-0000000000000000a",
            "ac",
        ),
        ("&Filter.1.Name=vpc-id&Filter.1.Value.1=vpc-1", "ab"),
        (
            "&Filter.1.Name=vpc-id&Filter.1.Value.1=vpc-1&Filter.1.Value.2=vpc-2&Filter.2.Name=subnet-id\
             &Filter.2.Value.1=subnet-2&Filter.2.Value.2=subnet-3",
            "bcd",
        ),
        ("&Filter.1.Name=instance-state-name&Filter.1.Value.1=stopped", "d"),
        (
            "&Filter.1.Name=private-ip-address&Filter.1.Value.1=10.0.0.10",
            "ac",
        ),
        ("&Filter.1.Name=vpc-id&Filter.1.Value.1=vpc-3", ""),
    ] {
        let found = ids(
            &emulator,
            &format!("Action=DescribeInstances{parameters}"),
            "instanceId",
        )
        .await;
        let expected: Vec<String> = letters
            .chars()
            .map(|letter| format!("i-0000000000000000{letter}"))
            .collect();
        assert_eq!(found, expected, "{parameters}");
    }
    assert_eq!(emulator.counters().describe_instances, 8);
}

#[tokio::test]
async fn an_instance_has_its_addresses_place_and_state() {
    let emulator = start().await;
    let all = ask(&emulator, "Action=DescribeInstances").await;
    assert!(
        all.body.starts_with(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>"
        ),
        "{}",
        all.body
    );
    assert_eq!(all.header("content-type"), Some("text/xml;charset=UTF-8"));
    assert_eq!(
        texts(&all, "requestId"),
        [all.header("x-amzn-requestid").unwrap()]
    );
    assert_eq!(
        texts(&all, "privateIpAddress"),
        ["10.0.0.10", "10.0.0.11", "10.0.0.10"]
    );
    assert_eq!(texts(&all, "ipv6Address"), [IPV6, "fd00::1"]);
    assert_eq!(texts(&all, "vpcId"), ["vpc-1", "vpc-1", "vpc-2", "vpc-2"]);
    assert_eq!(
        texts(&all, "subnetId"),
        ["subnet-1", "subnet-2", "subnet-3", "subnet-3"]
    );
    assert_eq!(
        texts(&all, "availabilityZone"),
        ["us-east-1a", "us-east-1c", "us-east-1a", "us-east-1a"]
    );
    assert_eq!(texts(&all, "code"), ["16", "16", "16", "80"]);
    assert!(emulator.set_instance_state("i-0000000000000000a", InstanceState::Stopped));
    let all = ask(&emulator, "Action=DescribeInstances").await;
    assert_eq!(texts(&all, "name"), ["stopped", "running", "running", "stopped"]);
}

#[tokio::test]
async fn endpoints_are_found_as_the_command_line_of_aws_looks_for_them() {
    let emulator = start().await;
    // What the AWS CLI sends, in its order.
    let of_vpc = |vpc: &str| {
        format!(
            "Action=DescribeInstanceConnectEndpoints&Filter.1.Name=state&Filter.1.Value.1=create-complete\
             &Filter.1.Value.2=update-in-progress&Filter.1.Value.3=update-failed&Filter.1.Value.4=update-complete\
             &Filter.2.Name=vpc-id&Filter.2.Value.1={vpc}"
        )
    };
    let id = "instanceConnectEndpointId";
    assert_eq!(ids(&emulator, &of_vpc("vpc-1"), id).await, ["eice-0a"]);
    assert_eq!(ids(&emulator, &of_vpc("vpc-2"), id).await, ["eice-0c"]);
    assert_eq!(ids(&emulator, &of_vpc("vpc-3"), id).await, Vec::<String>::new());
    let by_id = "Action=DescribeInstanceConnectEndpoints&InstanceConnectEndpointId.1=eice-0b";
    assert_eq!(ids(&emulator, by_id, id).await, ["eice-0b"]);

    let all = ask(&emulator, "Action=DescribeInstanceConnectEndpoints").await;
    assert_eq!(
        texts(&all, "dnsName"),
        [
            "eice-0a.0a1b2c3d.ec2-instance-connect-endpoint.us-east-1.amazonaws.com",
            "other.example",
            "eice-0c.0a1b2c3d.ec2-instance-connect-endpoint.us-east-1.amazonaws.com",
        ]
    );
    assert_eq!(texts(&all, "fipsDnsName"), ["fips.example"]);
    assert_eq!(
        texts(&all, "state"),
        ["create-complete", "delete-complete", "create-complete"]
    );
    assert_eq!(texts(&all, "subnetId"), ["subnet-1", "subnet-2", "subnet-3"]);
    assert_eq!(emulator.counters().describe_endpoints, 5);
}

#[tokio::test]
async fn answers_come_in_pages() {
    let emulator = start().await;
    let mut found = Vec::new();
    let mut next = String::new();
    for _ in 0..3 {
        let parameters = format!("Action=DescribeInstanceConnectEndpoints&MaxResults=1{next}");
        let answer = ask(&emulator, &parameters).await;
        found.extend(texts(&answer, "instanceConnectEndpointId"));
        next = texts(&answer, "nextToken")
            .first()
            .map(|token| format!("&NextToken={token}"))
            .unwrap_or_default();
    }
    assert_eq!(found, ["eice-0a", "eice-0b", "eice-0c"]);
    assert_eq!(next, "");
}

#[tokio::test]
async fn refusals_have_the_codes_of_ec2() {
    let emulator = start().await;
    for (parameters, status, code, message) in [
        (
            "Action=DescribeInstances&InstanceId.1=i-0fffffffffffffff0",
            400,
            "InvalidInstanceID.NotFound",
            "The instance ID 'i-0fffffffffffffff0' does not exist",
        ),
        (
            "Action=DescribeInstances&InstanceId.1=i-0fffffffffffffff0&InstanceId.2=i-0fffffffffffffff1",
            400,
            "InvalidInstanceID.NotFound",
            "The instance IDs 'i-0fffffffffffffff0, i-0fffffffffffffff1' do not exist",
        ),
        (
            "Action=DescribeInstances&InstanceId.1=j-1",
            400,
            "InvalidInstanceID.Malformed",
            "Invalid id: \"j-1\"",
        ),
        (
            "Action=DescribeInstances&Filter.1.Name=colour&Filter.1.Value.1=red",
            400,
            "InvalidParameterValue",
            "The filter 'colour' is invalid",
        ),
        (
            "Action=DescribeInstances&InstanceId.1=i-0000000000000000a&MaxResults=5",
            400,
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        ),
        (
            "Action=DescribeInstances&MaxResults=4",
            400,
            "InvalidParameterValue",
            "Value ( 4 ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.",
        ),
        (
            "Action=DescribeInstanceConnectEndpoints&InstanceConnectEndpointId.1=eice-0f",
            400,
            "InvalidInstanceConnectEndpointId.NotFound",
            "The EC2 Instance Connect Endpoint ID 'eice-0f' does not exist",
        ),
        (
            "Action=DescribeInstanceConnectEndpoints&NextToken=x",
            400,
            "InvalidPaginationToken",
            "The specified pagination token is not valid.",
        ),
        (
            "Action=TerminateInstances",
            400,
            "InvalidAction",
            "The action TerminateInstances is not valid for this web service.",
        ),
    ] {
        let answer = ask(&emulator, parameters).await;
        assert_eq!(answer.status, status, "{parameters}: {answer:?}");
        let request_id = answer.header("x-amzn-requestid").unwrap();
        assert_eq!(
            answer.body.replace("&quot;", "\""),
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
                 <Message>{message}</Message></Error></Errors><RequestID>{request_id}</RequestID></Response>"
            ),
            "{parameters}"
        );
    }
}

#[tokio::test]
async fn only_the_given_credentials_and_scope_sign() {
    let emulator = start().await;
    let other = Signer {
        credentials: Credentials::new(credentials().access_key_id, "other"),
        ..signer()
    };
    let other_service = Signer::default();
    let late = Signer {
        time: signer().time - Duration::from_secs(310),
        ..signer()
    };
    for (signer, status, code) in [
        (other, 401, "AuthFailure"),
        (other_service, 401, "AuthFailure"),
        (late, 400, "RequestExpired"),
    ] {
        let answer = ec2(&emulator, &signer, "Action=DescribeInstances").await;
        assert_eq!(
            (answer.status, texts(&answer, "Code")),
            (status, vec![code.to_owned()])
        );
    }
    let counters = emulator.counters();
    assert_eq!((counters.describe_instances, counters.push_attempts), (0, 0));
}

#[tokio::test]
async fn discovery_is_slow_throttled_and_denied_as_told() {
    let emulator = start().await;
    let latency = Duration::from_millis(200);
    emulator.set_discovery_faults(DiscoveryFaults {
        latency,
        throttled: Times::Next(1),
        denied: Times::Next(1),
    });
    let asked = Instant::now();
    for (status, code) in [
        (503, Some("RequestLimitExceeded")),
        (403, Some("UnauthorizedOperation")),
        (200, None),
    ] {
        let answer = ask(&emulator, "Action=DescribeInstances").await;
        assert_eq!(answer.status, status);
        assert_eq!(texts(&answer, "Code").first().map(String::as_str), code);
    }
    assert!(asked.elapsed() >= latency * 3);
}

fn tunnel(endpoint: &str, address: &str) -> String {
    format!("instanceConnectEndpointId={endpoint}&remotePort=22&privateIpAddress={address}")
}

#[tokio::test]
async fn an_endpoint_leads_to_its_own_vpc_and_has_places_of_its_own() {
    let emulator = start().await;
    let (first, second) = ("i-0000000000000000a", "i-0000000000000000c");
    let _a = dial(&emulator, &tunnel("eice-0a", "10.0.0.10")).await;
    let _b = dial(&emulator, &tunnel("eice-0b", "10.0.0.10")).await;
    let _c = dial(&emulator, &tunnel("eice-0c", "10.0.0.10")).await;
    let _d = dial(&emulator, &tunnel("eice-0a", &IPV6.replace(':', "%3A"))).await;
    let refused = [
        (tunnel("eice-0c", "10.0.0.11"), 400, "InvalidParameter"),
        (
            tunnel("eice-0b", "10.0.0.10"),
            429,
            "ServiceQuotaExceededException",
        ),
        (
            TUNNEL.to_owned(),
            404,
            "InvalidInstanceConnectEndpointId.NotFound",
        ),
    ];
    for (parameters, status, code) in &refused {
        let answer = open_tunnel(&emulator, &Signer::default(), parameters).await;
        assert_eq!(answer.status, *status, "{parameters}");
        assert_eq!(answer.json()["ErrorCode"], *code, "{parameters}");
    }
    let numbers = |id: &str, open, opened, too_many| EndpointTunnels {
        endpoint_id: id.to_owned(),
        open,
        peak: open,
        opened,
        too_many,
    };
    assert_eq!(
        emulator.tunnels(),
        [
            numbers("eice-0a", 2, 2, 0),
            numbers("eice-0b", 1, 1, 1),
            numbers("eice-0c", 1, 1, 0)
        ]
    );
    assert_eq!(emulator.counters().tunnels_refused, 3);
    assert!(!emulator.set_max_connections("eice-0f", 2));
    assert!(emulator.set_max_connections("eice-0b", 2));
    let _e = dial(&emulator, &tunnel("eice-0b", "10.0.0.10")).await;
    // By address alone the two would be one.
    assert_eq!(
        (emulator.cut_tunnels(first), emulator.cut_tunnels(second)),
        (3, 1)
    );
}

#[tokio::test]
async fn settings_that_contradict_themselves_are_refused() {
    let mut twice = settings();
    twice.endpoints.push(Endpoint {
        id: "eice-0a".to_owned(),
        ..Endpoint::default()
    });
    let mut address = settings();
    address.instances.push(Instance {
        id: INSTANCE.to_owned(),
        private_ip_address: IPV6.to_owned(),
        vpc_id: "vpc-1".to_owned(),
        ..Instance::default()
    });
    for (settings, expected) in [
        (twice, ("endpoints", "id")),
        (address, ("instances", "private address")),
    ] {
        match Emulator::start(settings).await {
            Err(EmulatorError::Duplicate { of, what, .. }) => assert_eq!((of, what), expected),
            other => panic!("{other:?}"),
        }
    }
}
