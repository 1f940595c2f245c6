//! Where EC2 answers for a region.

use aws_config::SdkConfig;
use aws_sdk_ec2instanceconnect::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_types::service_config::ServiceConfigKey;

use super::failure::DiscoveryError;

/// EC2's address by region, and what the user has set instead.
#[derive(Debug)]
pub(in crate::aws) struct ServiceUrl {
    fixed: Option<String>,
    use_fips: bool,
    use_dual_stack: bool,
    rules: DefaultResolver,
}

impl ServiceUrl {
    /// From what the SDK has read of environment and profile; `fixed` goes over all of it.
    pub(in crate::aws) fn new(config: &SdkConfig, fixed: Option<String>) -> Self {
        Self {
            fixed: fixed.or_else(|| configured(config)),
            use_fips: config.use_fips().unwrap_or(false),
            use_dual_stack: config.use_dual_stack().unwrap_or(false),
            rules: DefaultResolver::new(),
        }
    }

    pub(in crate::aws) fn use_fips(&self) -> bool {
        self.use_fips
    }

    /// The URL for `region`, with a path.
    ///
    /// The rules for partitions, FIPS and dual stack are those that the SDK brings for EC2 Instance Connect: EC2's differ
    /// in the first label alone, and in that its names in AWS GovCloud are FIPS ones already.
    pub(super) async fn of(&self, region: &str) -> Result<String, DiscoveryError> {
        if let Some(fixed) = &self.fixed {
            return Ok(with_path(fixed));
        }
        let failure = |source| DiscoveryError::ServiceUrl {
            region: region.to_owned(),
            source,
        };
        let params = Params::builder()
            .region(region)
            .use_fips(self.use_fips)
            .use_dual_stack(self.use_dual_stack)
            .build()
            .map_err(|error| failure(Some(error.into())))?;
        let sister = self
            .rules
            .resolve_endpoint(&params)
            .await
            .map_err(|error| failure(Some(error)))?;
        let suffix = sister
            .url()
            .strip_prefix("https://ec2-instance-connect")
            .ok_or_else(|| failure(None))?;
        let suffix = if region.starts_with("us-gov-") && !self.use_dual_stack {
            suffix.strip_prefix("-fips").unwrap_or(suffix)
        } else {
            suffix
        };
        Ok(with_path(&format!("https://ec2{suffix}")))
    }
}

fn with_path(url: &str) -> String {
    format!("{}/", url.trim_end_matches('/'))
}

/// `AWS_ENDPOINT_URL_EC2`, `endpoint_url` of `ec2` in the profile's services, `AWS_ENDPOINT_URL`, the profile's
/// `endpoint_url`: in the SDK's own order.
fn configured(config: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("EC2")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    config
        .service_config()
        .and_then(|service| service.load_config(key))
        .or_else(|| config.endpoint_url().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use aws_config::Region;
    use aws_types::service_config::LoadServiceConfig;

    use super::*;

    async fn url(region: &str, use_fips: bool, use_dual_stack: bool) -> Option<String> {
        let config = SdkConfig::builder()
            .region(Region::new("eu-north-1"))
            .use_fips(use_fips)
            .use_dual_stack(use_dual_stack)
            .build();
        ServiceUrl::new(&config, None).of(region).await.ok()
    }

    /// Computed with botocore 1.44.5 from EC2's own rules.
    #[tokio::test]
    async fn urls_are_those_of_ec2s_own_rules() {
        let table = [
            (
                "us-west-2",
                false,
                false,
                Some("https://ec2.us-west-2.amazonaws.com/"),
            ),
            (
                "us-west-2",
                true,
                false,
                Some("https://ec2-fips.us-west-2.amazonaws.com/"),
            ),
            ("us-west-2", false, true, Some("https://ec2.us-west-2.api.aws/")),
            (
                "us-west-2",
                true,
                true,
                Some("https://ec2-fips.us-west-2.api.aws/"),
            ),
            (
                "cn-north-1",
                false,
                false,
                Some("https://ec2.cn-north-1.amazonaws.com.cn/"),
            ),
            (
                "cn-north-1",
                false,
                true,
                Some("https://ec2.cn-north-1.api.amazonwebservices.com.cn/"),
            ),
            (
                "us-gov-west-1",
                false,
                false,
                Some("https://ec2.us-gov-west-1.amazonaws.com/"),
            ),
            (
                "us-gov-west-1",
                true,
                false,
                Some("https://ec2.us-gov-west-1.amazonaws.com/"),
            ),
            (
                "us-gov-west-1",
                true,
                true,
                Some("https://ec2-fips.us-gov-west-1.api.aws/"),
            ),
            (
                "us-iso-east-1",
                false,
                false,
                Some("https://ec2.us-iso-east-1.c2s.ic.gov/"),
            ),
            ("not a region", false, false, None),
        ];
        for (region, use_fips, use_dual_stack, expected) in table {
            assert_eq!(
                url(region, use_fips, use_dual_stack).await.as_deref(),
                expected,
                "{region} {use_fips} {use_dual_stack}"
            );
        }
    }

    #[derive(Debug)]
    struct Environment;

    impl LoadServiceConfig for Environment {
        fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
            let wanted = ("EC2", "AWS_ENDPOINT_URL", "endpoint_url");
            ((key.service_id(), key.env(), key.profile()) == wanted).then(|| "http://127.0.0.1:1".to_owned())
        }
    }

    #[tokio::test]
    async fn what_the_user_has_set_goes_first() {
        let general = SdkConfig::builder().endpoint_url("http://127.0.0.1:2/").build();
        let own = general.to_builder().service_config(Environment).build();
        for (config, fixed, expected) in [
            (&general, None, "http://127.0.0.1:2/"),
            (&own, None, "http://127.0.0.1:1/"),
            (&own, Some("http://127.0.0.1:3".to_owned()), "http://127.0.0.1:3/"),
        ] {
            assert_eq!(
                ServiceUrl::new(config, fixed).of("us-west-2").await.unwrap(),
                expected
            );
        }
    }
}
