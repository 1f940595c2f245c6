//! Answers in EC2's form: what real ones hold beside what is read here stays in, as it must be passed over.

use super::*;

const ID: &str = "i-0123456789abcdef0";

fn instances(state: &str, network: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>8f7724cf-496f-496e-8fe3-example</requestId>
    <reservationSet>
        <item>
            <reservationId>r-1234567890abcdef0</reservationId>
            <ownerId>123456789012</ownerId>
            <groupSet/>
            <instancesSet>
                <item>
                    <instanceId>{ID}</instanceId>
                    <imageId>ami-bff32ccc</imageId>
                    <instanceState>
                        <code>16</code>
                        <name>{state}</name>
                    </instanceState>
                    <privateDnsName>ip-192-168-1-88.eu-west-1.compute.internal</privateDnsName>
                    <reason/>
                    <amiLaunchIndex>0</amiLaunchIndex>
                    <productCodes/>
                    <instanceType>t2.micro</instanceType>
                    <placement>
                        <availabilityZone>eu-west-1c</availabilityZone>
                        <groupName/>
                        <tenancy>default</tenancy>
                    </placement>
                    <monitoring><state>disabled</state></monitoring>
                    {network}
                    <sourceDestCheck>true</sourceDestCheck>
                    <groupSet>
                        <item><groupId>sg-e4076980</groupId><groupName>a &amp; b</groupName></item>
                    </groupSet>
                    <tagSet>
                        <item><key>Name</key><value>Server &lt;1&gt;</value></item>
                        <item><key>privateIpAddress</key><value>6.6.6.6</value></item>
                    </tagSet>
                    <networkInterfaceSet>
                        <item>
                            <networkInterfaceId>eni-551ba033</networkInterfaceId>
                            <subnetId>subnet-other</subnetId>
                            <vpcId>vpc-other</vpcId>
                            <privateIpAddress>10.6.6.6</privateIpAddress>
                            <privateIpAddressesSet>
                                <item><privateIpAddress>10.6.6.7</privateIpAddress><primary>true</primary></item>
                            </privateIpAddressesSet>
                            <ipv6AddressesSet/>
                        </item>
                    </networkInterfaceSet>
                    <ebsOptimized>false</ebsOptimized>
                </item>
            </instancesSet>
        </item>
    </reservationSet>
</DescribeInstancesResponse>"#
    )
}

#[test]
fn an_instances_place_is_read() {
    let ipv4 = "<privateIpAddress>192.168.1.88</privateIpAddress>";
    let ipv6 = "<ipv6Address>2600:1f10:4f8e:db01:73f5:6b9d:c0da:1c27</ipv6Address>";
    let place = "<subnetId>subnet-56f5f633</subnetId><vpcId>vpc-11112222</vpcId>";
    let table = [
        ("running", format!("{place}{ipv4}{ipv6}"), Some("192.168.1.88")),
        (
            "running",
            format!("{place}{ipv6}"),
            Some("2600:1f10:4f8e:db01:73f5:6b9d:c0da:1c27"),
        ),
        (
            "pending",
            format!("{place}<privateIpAddress/>{ipv6}"),
            Some("2600:1f10:4f8e:db01:73f5:6b9d:c0da:1c27"),
        ),
        ("stopped", format!("{place}{ipv4}"), Some("192.168.1.88")),
        ("running", place.to_owned(), None),
    ];
    for (state, network, address) in table {
        let found = instance(&instances(state, &network), ID).unwrap();
        let expected = InstancePlace {
            vpc_id: Some("vpc-11112222".to_owned()),
            subnet_id: Some("subnet-56f5f633".to_owned()),
            address: address.map(|text| text.parse().unwrap()),
        };
        assert_eq!(found, expected, "{state} {network}");
    }
}

#[test]
fn an_instance_that_is_gone_is_told_from_one_that_was_never_there() {
    for state in ["terminated", "shutting-down"] {
        let error = instance(&instances(state, ""), ID).unwrap_err();
        assert!(
            error.to_string().contains(&format!("`{ID}` is `{state}`")),
            "{error}"
        );
    }
    for empty in ["<reservationSet/>", "<reservationSet></reservationSet>"] {
        let xml = format!("<DescribeInstancesResponse>{empty}</DescribeInstancesResponse>");
        let error = instance(&xml, ID).unwrap_err();
        assert!(matches!(error, DiscoveryError::NoInstance { .. }), "{error:?}");
    }
    let error = instance(&instances("running", ""), "i-0").unwrap_err();
    assert!(matches!(error, DiscoveryError::NoInstance { .. }), "{error:?}");
}

#[test]
fn what_is_not_the_answer_is_no_answer() {
    for text in [
        "",
        "no XML",
        "<html><body>Sign in to the network</body></html>",
        "<DescribeInstancesResponse><requestId>1</requestId></DescribeInstancesResponse>",
        "<DescribeInstancesResponse><reservationSet><item>",
    ] {
        assert!(
            matches!(instance(text, ID), Err(DiscoveryError::Answer(_))),
            "{text}"
        );
        assert!(
            matches!(endpoints(text), Err(DiscoveryError::Answer(_))),
            "{text}"
        );
    }
    let error = instance(
        &instances("running", "<privateIpAddress>here</privateIpAddress>"),
        ID,
    )
    .unwrap_err();
    assert!(error.to_string().contains("`privateIpAddress`"), "{error}");
}

const ENDPOINTS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstanceConnectEndpointsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>2d81d5f8-example</requestId>
    <instanceConnectEndpointSet>
        <item>
            <ownerId>123456789012</ownerId>
            <instanceConnectEndpointId>eice-0123456789example</instanceConnectEndpointId>
            <instanceConnectEndpointArn>arn:aws:ec2:us-east-1:123456789012:instance-connect-endpoint/eice-0123456789example</instanceConnectEndpointArn>
            <state>create-complete</state>
            <stateMessage/>
            <dnsName>eice-0123456789example.0123abcd.ec2-instance-connect-endpoint.us-east-1.amazonaws.com</dnsName>
            <fipsDnsName>eice-0123456789example.0123abcd.fips.ec2-instance-connect-endpoint.us-east-1.amazonaws.com</fipsDnsName>
            <networkInterfaceIdSet><item>eni-0123456789example</item></networkInterfaceIdSet>
            <vpcId>vpc-0123abcd</vpcId>
            <availabilityZone>us-east-1a</availabilityZone>
            <createdAt>2023-04-07T15:43:53.000Z</createdAt>
            <subnetId>subnet-0123abcd</subnetId>
            <preserveClientIp>true</preserveClientIp>
            <securityGroupIdSet><item>sg-0123abcd</item></securityGroupIdSet>
            <tagSet/>
            <ipAddressType>dualstack</ipAddressType>
            <publicDnsNames>
                <ipv4><dnsName>v4.example</dnsName><fipsDnsName>v4.fips.example</fipsDnsName></ipv4>
                <dualstack><dnsName>ds.example</dnsName></dualstack>
            </publicDnsNames>
        </item>
        <item>
            <instanceConnectEndpointId>eice-2</instanceConnectEndpointId>
            <state>update-failed</state>
            <dnsName>eice-2.example</dnsName>
            <fipsDnsName/>
            <subnetId>subnet-2</subnetId>
        </item>
    </instanceConnectEndpointSet>
    <nextToken>eyJ2IjoiMiJ9</nextToken>
</DescribeInstanceConnectEndpointsResponse>"#;

#[test]
fn a_page_of_endpoints_is_read() {
    let page = endpoints(ENDPOINTS).unwrap();
    let host = "ec2-instance-connect-endpoint.us-east-1.amazonaws.com";
    let expected = Page {
        found: vec![
            EndpointFound {
                endpoint_id: "eice-0123456789example".to_owned(),
                dns_name: Some(format!("eice-0123456789example.0123abcd.{host}")),
                fips_dns_name: Some(format!("eice-0123456789example.0123abcd.fips.{host}")),
                subnet_id: Some("subnet-0123abcd".to_owned()),
            },
            EndpointFound {
                endpoint_id: "eice-2".to_owned(),
                dns_name: Some("eice-2.example".to_owned()),
                fips_dns_name: None,
                subnet_id: Some("subnet-2".to_owned()),
            },
        ],
        next_token: Some("eyJ2IjoiMiJ9".to_owned()),
    };
    assert_eq!(page, expected);
    let last = "<DescribeInstanceConnectEndpointsResponse><instanceConnectEndpointSet/>\
                <nextToken/></DescribeInstanceConnectEndpointsResponse>";
    let page = endpoints(last).unwrap();
    assert_eq!((page.found.len(), page.next_token), (0, None));
}

#[test]
fn errors_are_read_and_foreign_bodies_kept_short() {
    let body = r#"<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to perform this operation.
Encoded authorization failure message: 4GIOHlTkIaWHQD0Q</Message></Error></Errors><RequestID>4e8d-example</RequestID></Response>"#;
    let error = refusal(StatusCode::FORBIDDEN, Some("header".to_owned()), body.as_bytes());
    let text = error.to_string();
    assert!(
        text.starts_with("EC2 answered 403 `UnauthorizedOperation`: \"You are not authorized"),
        "{text}"
    );
    assert!(text.contains("`4e8d-example`") && !text.contains('\n'), "{text}");

    for body in [
        "<html>é".repeat(5_000),
        "<Response><Errors/></Response>".to_owned(),
        String::new(),
    ] {
        let error = refusal(
            StatusCode::BAD_GATEWAY,
            Some("header".to_owned()),
            body.as_bytes(),
        );
        let DiscoveryError::Refused {
            code,
            message,
            request_id,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((code, request_id.as_deref()), (None, Some("header")));
        assert!(message.chars().count() <= KEPT_OF_MESSAGE);
    }
}
