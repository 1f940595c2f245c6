//! Which layer says what, with the real client against an EC2 that counts what it is asked.

use adit_actors::clock::Clock;
use aws_credential_types::Credentials;

use super::super::test_support::{Service, hint, target};
use super::super::{AwsConnection, AwsOptions};
use super::*;

const INSTANCES: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r-1</requestId>
<reservationSet><item><instancesSet><item><instanceId>i-0123456789abcdef0</instanceId>
<instanceState><code>80</code><name>stopped</name></instanceState><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId>
<privateIpAddress>10.9.8.7</privateIpAddress></item></instancesSet></item></reservationSet></DescribeInstancesResponse>"#;

const ENDPOINTS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstanceConnectEndpointsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r-2</requestId>
<instanceConnectEndpointSet><item><instanceConnectEndpointId>eice-found</instanceConnectEndpointId>
<dnsName>eice-found.example</dnsName></item></instanceConnectEndpointSet></DescribeInstanceConnectEndpointsResponse>"#;

async fn ec2() -> Service {
    Service::start(None, |asked, _| {
        let answer = if asked.body.starts_with("Action=DescribeInstances&") {
            INSTANCES
        } else {
            ENDPOINTS
        };
        (200, answer.to_owned())
    })
    .await
}

async fn locator(ec2: &Service, way: Way) -> Arc<InstanceLocator> {
    let options = AwsOptions {
        credentials: Some(Credentials::new("access_key", "secret_key", None, None, "test")),
        ec2_endpoint: Some(format!("http://{}", ec2.address)),
        way,
        ..AwsOptions::new("us-west-2")
    };
    let aws = AwsConnection::open(options, Clock::system()).await.unwrap();
    aws.locator()
}

fn actions(ec2: &Service) -> Vec<String> {
    let action = |body: &str| body.split(['=', '&']).nth(1).unwrap().to_owned();
    ec2.asked().iter().map(|asked| action(&asked.body)).collect()
}

#[tokio::test]
async fn only_what_nobody_says_is_asked_for() {
    let by_default = || Way::Endpoint {
        default: Some(hint("eice-settings")),
    };
    let by_none = || Way::Endpoint { default: None };
    let own = Some(hint("eice-own"));
    let (instances, endpoints) = ("DescribeInstances", "DescribeInstanceConnectEndpoints");
    let table: [(_, Option<&str>, _, _, _, &[&str]); 7] = [
        (
            by_default(),
            Some("10.0.0.7"),
            own.clone(),
            "10.0.0.7",
            own.clone(),
            &[],
        ),
        (
            by_default(),
            Some("10.0.0.7"),
            None,
            "10.0.0.7",
            Some(hint("eice-settings")),
            &[],
        ),
        (by_default(), None, own.clone(), "10.9.8.7", own, &[instances]),
        (
            by_none(),
            Some("10.0.0.7"),
            None,
            "10.0.0.7",
            Some(hint("eice-found")),
            &[instances, endpoints],
        ),
        (
            by_none(),
            None,
            None,
            "10.9.8.7",
            Some(hint("eice-found")),
            &[instances, endpoints],
        ),
        (
            Way::Direct,
            None,
            Some(hint("eice-own")),
            "10.9.8.7",
            None,
            &[instances],
        ),
        (Way::Direct, Some("10.0.0.7"), None, "10.0.0.7", None, &[]),
    ];
    for (way, address, endpoint, expected_address, expected_endpoint, asked) in table {
        let ec2 = ec2().await;
        let locator = locator(&ec2, way.clone()).await;
        let mut target = target();
        target.address = address.map(|text| text.parse().unwrap());
        target.endpoint = endpoint;
        for _ in 0..2 {
            let location = locator.locate(&target).await.unwrap();
            assert_eq!(
                location.address.to_string(),
                expected_address,
                "{way:?} {target:?}"
            );
            assert_eq!(location.endpoint, expected_endpoint, "{way:?} {target:?}");
            assert_eq!(location.port, 22);
        }
        assert_eq!(actions(&ec2), asked, "{way:?} {target:?}");
    }
}

#[tokio::test]
async fn the_workspaces_port_goes_before_sshs_own() {
    let ec2 = ec2().await;
    let locator = locator(&ec2, Way::Direct).await;
    let mut target = target();
    target.port = Some(2222);
    assert_eq!(locator.locate(&target).await.unwrap().port, 2222);
}

#[tokio::test]
async fn what_did_not_lead_there_is_asked_for_anew() {
    let ec2 = ec2().await;
    let locator = locator(&ec2, Way::Direct).await;
    for asked in 1..=3 {
        locator.locate(&target()).await.unwrap();
        assert_eq!(ec2.asked().len(), asked);
        locator.forget(&target());
    }
}
