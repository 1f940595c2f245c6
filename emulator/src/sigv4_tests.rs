//! Signatures made by botocore and by aws-sigv4, and what must not pass for one.

use http::Request;

use super::*;

const ENDPOINT: &str = "eice-123.ec2-instance-connect-endpoint.us-west-2.amazonaws.com";
const V1: &str = "3a56740422a5b9aebd22d860b7a30c729e459a6f71a83bc0de3a2b44b7353f28";

struct Vector {
    name: &'static str,
    parameters: &'static str,
    token: Option<&'static str>,
    signature: &'static str,
}

const VECTORS: [Vector; 4] = [
    Vector {
        name: "plain",
        parameters: "privateIpAddress=10.0.0.0&maxTunnelDuration=1",
        token: None,
        signature: V1,
    },
    Vector {
        name: "session token",
        parameters: "privateIpAddress=10.0.0.0&maxTunnelDuration=1",
        token: Some("TOK/+="),
        signature: "d3ffc658aaf87e1eec759e0c14481bfa1ae3d9b9e3c81f1eb6a0b2c06fc857bc",
    },
    Vector {
        name: "IPv6",
        parameters: "privateIpAddress=2600%3A1f10%3A4f8e%3Adb01%3A73f5%3A6b9d%3Ac0da%3A1c27&maxTunnelDuration=1",
        token: None,
        signature: "b39647451a3bffb834d18411c3b8421f97232572eae39188914d284fc4dabee8",
    },
    Vector {
        name: "no duration",
        parameters: "privateIpAddress=10.0.0.0",
        token: None,
        signature: "bec5abf8f46b1f97c0c4753ba0b8bc31c585c3a6dfa05025772a6b3c916a04aa",
    },
];

fn credentials(token: Option<&str>) -> Credentials {
    Credentials {
        session_token: token.map(str::to_owned),
        ..Credentials::new("access_key", "secret_key")
    }
}

/// 2020-01-01T01:01:01Z, when the vectors were signed.
fn signing_time() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_577_840_461).unwrap()
}

fn verifier(credentials: &Credentials) -> Verifier<'_> {
    Verifier {
        credentials,
        region: "us-west-2",
        service: "ec2-instance-connect",
        now: signing_time(),
    }
}

fn query(vector: &Vector) -> String {
    let token = vector.token.map_or(String::new(), |token| {
        format!("&X-Amz-Security-Token={}", encode(token))
    });
    format!(
        "instanceConnectEndpointId=eice-123&remotePort=22&{}&X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=access_key%2F20200101%2Fus-west-2%2Fec2-instance-connect%2Faws4_request\
         &X-Amz-Date=20200101T010101Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host{token}&X-Amz-Signature={}",
        vector.parameters, vector.signature
    )
}

fn get(query: &str, host: &str) -> Parts {
    let uri = format!("/openTunnel?{query}");
    Request::get(uri)
        .header("Host", host)
        .body(())
        .unwrap()
        .into_parts()
        .0
}

#[test]
fn the_vectors_of_botocore_verify() {
    for vector in &VECTORS {
        let credentials = credentials(vector.token);
        let request = get(&query(vector), ENDPOINT);
        assert_eq!(
            verifier(&credentials).verify_query(&request),
            Ok(()),
            "{}",
            vector.name
        );
    }
}

#[test]
fn the_order_of_parameters_does_not_matter() {
    for vector in &VECTORS {
        let credentials = credentials(vector.token);
        let query = query(vector);
        let mut pairs: Vec<&str> = query.split('&').collect();
        pairs.sort_unstable();
        let sorted = get(&pairs.join("&"), ENDPOINT);
        assert_eq!(
            verifier(&credentials).verify_query(&sorted),
            Ok(()),
            "{}",
            vector.name
        );
        pairs.reverse();
        let reversed = get(&pairs.join("&"), ENDPOINT);
        assert_eq!(
            verifier(&credentials).verify_query(&reversed),
            Ok(()),
            "{}",
            vector.name
        );
    }
}

#[test]
fn a_changed_request_does_not_verify() {
    let good = query(&VECTORS[0]);
    let credentials = credentials(None);
    let cases = [
        (
            "port",
            good.replace("remotePort=22", "remotePort=3389"),
            ENDPOINT,
            "InvalidSignatureException",
        ),
        (
            "address",
            good.replace("10.0.0.0", "10.0.0.1"),
            ENDPOINT,
            "InvalidSignatureException",
        ),
        (
            "host",
            good.clone(),
            "127.0.0.1:8443",
            "InvalidSignatureException",
        ),
        (
            "signature",
            good.replace(V1, &V1.replace('3', "4")),
            ENDPOINT,
            "InvalidSignatureException",
        ),
        (
            "short signature",
            good.replace(V1, V1.strip_suffix('8').unwrap()),
            ENDPOINT,
            "InvalidSignatureException",
        ),
        (
            "region",
            good.replace("us-west-2", "us-east-1"),
            ENDPOINT,
            "InvalidSignatureException",
        ),
        (
            "service",
            good.replace("ec2-instance-connect%2F", "ec2%2F"),
            ENDPOINT,
            "InvalidSignatureException",
        ),
        (
            "scope date",
            good.replace("access_key%2F20200101", "access_key%2F20200102"),
            ENDPOINT,
            "InvalidSignatureException",
        ),
        (
            "longer life",
            good.replace("Expires=60", "Expires=600"),
            ENDPOINT,
            "InvalidSignatureException",
        ),
        (
            "key id",
            good.replace("access_key%2F", "other_key%2F"),
            ENDPOINT,
            "UnrecognizedClientException",
        ),
        (
            "a token",
            format!("{good}&X-Amz-Security-Token=x"),
            ENDPOINT,
            "UnrecognizedClientException",
        ),
        (
            "no signature",
            good.replace("&X-Amz-Signature=", "&x="),
            ENDPOINT,
            "MissingAuthenticationTokenException",
        ),
        (
            "no date",
            good.replace("X-Amz-Date=", "x="),
            ENDPOINT,
            "IncompleteSignatureException",
        ),
        (
            "odd date",
            good.replace("20200101T010101Z", "20200101"),
            ENDPOINT,
            "IncompleteSignatureException",
        ),
        (
            "short scope",
            good.replace("%2Faws4_request", ""),
            ENDPOINT,
            "IncompleteSignatureException",
        ),
        (
            "host not signed",
            good.replace("SignedHeaders=host", "SignedHeaders=x"),
            ENDPOINT,
            "IncompleteSignatureException",
        ),
        (
            "twice",
            format!("{good}&X-Amz-Date=20200101T010101Z"),
            ENDPOINT,
            "IncompleteSignatureException",
        ),
        (
            "endless",
            good.replace("Expires=60", "Expires=604801"),
            ENDPOINT,
            "IncompleteSignatureException",
        ),
    ];
    for (name, query, host, code) in cases {
        let refused = verifier(&credentials)
            .verify_query(&get(&query, host))
            .unwrap_err();
        assert_eq!(refused.code(), code, "{name}: {refused}");
    }
}

#[test]
fn a_url_lives_as_long_as_it_says() {
    let credentials = credentials(None);
    let request = get(&query(&VECTORS[0]), ENDPOINT);
    for (seconds, ok) in [(-301, false), (-300, true), (0, true), (60, true), (61, false)] {
        let verifier = Verifier {
            now: signing_time() + time::Duration::seconds(seconds),
            ..verifier(&credentials)
        };
        assert_eq!(verifier.verify_query(&request).is_ok(), ok, "{seconds} s");
    }
}

/// As Go's `PresignHTTP` makes them. Signed by a Python program of its own, which gives `V1` for the URL with an expiry.
#[test]
fn a_url_without_expiry_lives_five_minutes() {
    let credentials = credentials(None);
    let signature = "8715d75351f084e3e001090a4107f5e5b1a5722018fcea4809ffa1d05600ffb8";
    let query = query(&VECTORS[0])
        .replace("&X-Amz-Expires=60", "")
        .replace(V1, signature);
    let request = get(&query, ENDPOINT);
    for (seconds, ok) in [(0, true), (300, true), (301, false)] {
        let verifier = Verifier {
            now: signing_time() + time::Duration::seconds(seconds),
            ..verifier(&credentials)
        };
        assert_eq!(verifier.verify_query(&request).is_ok(), ok, "{seconds} s");
    }
}

/// The example of the AWS General Reference's test suite, `post-x-www-form-urlencoded`, with its published signature.
#[test]
fn a_published_header_signature_verifies_within_its_skew() {
    let credentials = Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    let authorization = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                         SignedHeaders=content-type;host;x-amz-date, \
                         Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a";
    let request = Request::post("/")
        .header("Host", "example.amazonaws.com")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Amz-Date", "20150830T123600Z")
        .header("Authorization", authorization)
        .body(())
        .unwrap()
        .into_parts()
        .0;
    let signed_at = OffsetDateTime::from_unix_timestamp(1_440_938_160).unwrap();
    for (seconds, body, ok) in [
        (0, "Param1=value1", true),
        (300, "Param1=value1", true),
        (-300, "Param1=value1", true),
        (301, "Param1=value1", false),
        (-301, "Param1=value1", false),
        (0, "Param1=value2", false),
    ] {
        let now = signed_at + time::Duration::seconds(seconds);
        let verifier = Verifier {
            credentials: &credentials,
            region: "us-east-1",
            service: "service",
            now,
        };
        assert_eq!(
            verifier.verify_header(&request, body.as_bytes()).is_ok(),
            ok,
            "{seconds} s, {body}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_query_of_anyones_making_verifies_or_panics(query in "[!-~&&[^#<>\"`{}]]{0,200}") {
        let credentials = credentials(None);
        if let Ok(request) = Request::get(format!("/openTunnel?{query}")).header("Host", ENDPOINT).body(()) {
            proptest::prop_assert!(verifier(&credentials).verify_query(&request.into_parts().0).is_err());
        }
    }

    #[test]
    fn a_good_url_with_one_byte_changed_does_not_verify(at in 0..500_usize, byte in 0x21..0x7f_u8) {
        let credentials = credentials(None);
        let good = query(&VECTORS[0]);
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        // The same parameters written differently (`%2f` for `%2F`) are the same request.
        proptest::prop_assume!(decoded_query(&changed).ok() != decoded_query(&good).ok());
        if let Ok(request) = Request::get(format!("/openTunnel?{changed}")).header("Host", ENDPOINT).body(()) {
            let query = request.uri().query().unwrap_or_default().to_owned();
            proptest::prop_assume!(decoded_query(&query).ok() != decoded_query(&good).ok());
            proptest::prop_assert!(verifier(&credentials).verify_query(&request.into_parts().0).is_err());
        }
    }
}
