//! The signed URL of OpenTunnel, an operation that no AWS SDK has.
//!
//! It is a SigV4 query signature over a plain GET: signing name `ec2-instance-connect`, `host` as the only signed
//! header, and the digest of an empty payload (not `UNSIGNED-PAYLOAD`). The parameters and their order are those of the
//! AWS CLI's `ec2-instance-connect open-tunnel`; its own test vector is among the tests below.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningError, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;

/// Signing name of the service; also the scope's service in the credential.
const SIGNING_NAME: &str = "ec2-instance-connect";

/// How long the URL may be used. The AWS CLI signs for 60 s too; a URL is used at once and only once.
const EXPIRES_IN: Duration = Duration::from_secs(60);

/// What SigV4 leaves unescaped in a query, and EC2 in a form: RFC 3986, section 2.3.
pub(super) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One tunnel to ask for.
#[derive(Clone, Debug)]
pub(super) struct OpenTunnelRequest<'a> {
    /// `ws` or `wss`.
    pub scheme: &'a str,
    /// Host, with the port unless it is the scheme's own: exactly what goes out as the `Host` header, which is signed.
    pub authority: &'a str,
    /// EC2 Instance Connect Endpoint id.
    pub endpoint_id: &'a str,
    /// Port on the instance; the service takes 22 and 3389.
    pub remote_port: u16,
    /// Private address of the instance. An IPv6 address goes without brackets.
    pub private_address: IpAddr,
    /// Longest life to ask for. Absent means that the parameter is not sent, and the service's 3,600 s apply.
    pub max_tunnel_duration: Option<Duration>,
}

/// The URL could not be signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// The endpoint's name makes no URL.
    #[error("endpoint authority `{authority}` makes no URL")]
    Url {
        /// Host and port as configured.
        authority: String,
        /// What is wrong with it.
        #[source]
        source: http::Error,
    },
    /// The signer lacks a parameter.
    #[error("signing parameters are incomplete")]
    Parameters(#[source] v4::signing_params::BuildError),
    /// The signer refused the request.
    #[error("signing the OpenTunnel URL failed")]
    Signature(#[source] SigningError),
}

impl OpenTunnelRequest<'_> {
    /// Signs the request for one use at `time`.
    pub(super) fn sign(
        &self,
        credentials: Credentials,
        region: &str,
        time: SystemTime,
    ) -> Result<Uri, SignError> {
        let mut request = http::Request::get(self.url())
            .body(())
            .map_err(|source| SignError::Url {
                authority: self.authority.to_owned(),
                source,
            })?;
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(EXPIRES_IN);
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(SIGNING_NAME)
            .time(time)
            .settings(settings)
            .build()
            .map_err(SignError::Parameters)?
            .into();
        let signable = SignableRequest::new(
            "GET",
            request.uri().to_string(),
            std::iter::empty(),
            SignableBody::Bytes(&[]),
        )
        .map_err(SignError::Signature)?;
        let (instructions, _signature) = sign(signable, &parameters)
            .map_err(SignError::Signature)?
            .into_parts();
        instructions.apply_to_request_http1x(&mut request);
        Ok(request.into_parts().0.uri)
    }

    fn url(&self) -> String {
        let mut url = format!(
            "{}://{}/openTunnel?instanceConnectEndpointId={}&remotePort={}&privateIpAddress={}",
            self.scheme,
            self.authority,
            utf8_percent_encode(self.endpoint_id, ESCAPED),
            self.remote_port,
            utf8_percent_encode(&self.private_address.to_string(), ESCAPED),
        );
        if let Some(duration) = self.max_tunnel_duration {
            url.push_str(&format!("&maxTunnelDuration={}", duration.as_secs()));
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const HOST: &str = "eice-123.ec2-instance-connect-endpoint.us-west-2.amazonaws.com";

    struct Vector {
        name: &'static str,
        address: &'static str,
        token: Option<&'static str>,
        max_tunnel_duration: Option<Duration>,
        signature: &'static str,
    }

    /// The first is the AWS CLI's own (`test_opentunnel.py::test_single_connection_mode`); the others were computed with
    /// botocore and with an independent implementation, which agree.
    const VECTORS: [Vector; 4] = [
        Vector {
            name: "the CLI's own",
            address: "10.0.0.0",
            token: None,
            max_tunnel_duration: Some(Duration::from_secs(1)),
            signature: "3a56740422a5b9aebd22d860b7a30c729e459a6f71a83bc0de3a2b44b7353f28",
        },
        Vector {
            name: "session token",
            address: "10.0.0.0",
            token: Some("TOK/+="),
            max_tunnel_duration: Some(Duration::from_secs(1)),
            signature: "d3ffc658aaf87e1eec759e0c14481bfa1ae3d9b9e3c81f1eb6a0b2c06fc857bc",
        },
        Vector {
            name: "IPv6",
            address: "2600:1f10:4f8e:db01:73f5:6b9d:c0da:1c27",
            token: None,
            max_tunnel_duration: Some(Duration::from_secs(1)),
            signature: "b39647451a3bffb834d18411c3b8421f97232572eae39188914d284fc4dabee8",
        },
        Vector {
            name: "no duration",
            address: "10.0.0.0",
            token: None,
            max_tunnel_duration: None,
            signature: "bec5abf8f46b1f97c0c4753ba0b8bc31c585c3a6dfa05025772a6b3c916a04aa",
        },
    ];

    fn signed(vector: &Vector, authority: &str) -> Uri {
        let credentials = Credentials::new(
            "access_key",
            "secret_key",
            vector.token.map(str::to_owned),
            None,
            "test",
        );
        OpenTunnelRequest {
            scheme: "wss",
            authority,
            endpoint_id: "eice-123",
            remote_port: 22,
            private_address: vector.address.parse().unwrap(),
            max_tunnel_duration: vector.max_tunnel_duration,
        }
        .sign(
            credentials,
            "us-west-2",
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_840_461),
        )
        .unwrap()
    }

    fn query(uri: &Uri) -> BTreeMap<&str, &str> {
        uri.query()
            .unwrap()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap())
            .collect()
    }

    #[test]
    fn signatures_are_those_of_the_published_vectors() {
        for vector in &VECTORS {
            let uri = signed(vector, HOST);
            assert_eq!(
                query(&uri)["X-Amz-Signature"],
                vector.signature,
                "{}",
                vector.name
            );
            assert_eq!(uri.path(), "/openTunnel");
            assert_eq!(uri.authority().unwrap(), HOST);
        }
    }

    #[test]
    fn the_first_vector_is_the_clis_url_to_the_letter() {
        let expected = format!(
            "wss://{HOST}/openTunnel?instanceConnectEndpointId=eice-123&remotePort=22&privateIpAddress=10.0.0.0\
             &maxTunnelDuration=1&X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=access_key%2F20200101%2Fus-west-2%2Fec2-instance-connect%2Faws4_request\
             &X-Amz-Date=20200101T010101Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={}",
            VECTORS[0].signature
        );
        assert_eq!(signed(&VECTORS[0], HOST).to_string(), expected);
    }

    #[test]
    fn a_session_token_is_sent_escaped() {
        // botocore puts it before the signature, aws-sigv4 behind; the service signs over the sorted parameters.
        assert_eq!(
            query(&signed(&VECTORS[1], HOST))["X-Amz-Security-Token"],
            "TOK%2F%2B%3D"
        );
    }

    #[test]
    fn an_ipv6_address_is_escaped_and_has_no_brackets() {
        let uri = signed(&VECTORS[2], HOST);
        assert_eq!(
            query(&uri)["privateIpAddress"],
            "2600%3A1f10%3A4f8e%3Adb01%3A73f5%3A6b9d%3Ac0da%3A1c27"
        );
    }

    #[test]
    fn another_port_is_part_of_the_signed_host() {
        let plain = signed(&VECTORS[0], "127.0.0.1");
        let with_port = signed(&VECTORS[0], "127.0.0.1:8443");
        assert_ne!(
            query(&plain)["X-Amz-Signature"],
            query(&with_port)["X-Amz-Signature"]
        );
        assert_eq!(with_port.authority().unwrap(), "127.0.0.1:8443");
    }

    #[test]
    fn an_authority_that_makes_no_url_is_an_error() {
        let request = OpenTunnelRequest {
            scheme: "wss",
            authority: "not a host",
            endpoint_id: "eice-123",
            remote_port: 22,
            private_address: "10.0.0.0".parse().unwrap(),
            max_tunnel_duration: None,
        };
        let credentials = Credentials::new("access_key", "secret_key", None, None, "test");
        let error = request
            .sign(credentials, "us-west-2", SystemTime::UNIX_EPOCH)
            .unwrap_err();
        assert!(matches!(error, SignError::Url { .. }), "{error:?}");
    }
}
