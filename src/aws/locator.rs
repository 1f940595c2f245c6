//! Where an instance is, from what its workspace says and, for the endpoint, from the settings.

use adit_actors::instance::{EndpointHint, InstanceTarget};
use adit_actors::tunnel::{LocateError, Location, Locator};
use async_trait::async_trait;

/// Port of sshd, and one of the two that EC2 Instance Connect Endpoint forwards to.
const SSH_PORT: u16 = 22;

/// Knows only what it is told: the workspace's columns, then the settings' endpoint. Asks nobody.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceLocator {
    default_endpoint: Option<EndpointHint>,
}

impl WorkspaceLocator {
    /// Uses `default_endpoint` for instances whose workspace names no endpoint.
    #[must_use]
    pub fn new(default_endpoint: Option<EndpointHint>) -> Self {
        Self { default_endpoint }
    }
}

#[async_trait]
impl Locator for WorkspaceLocator {
    async fn locate(&self, target: &InstanceTarget) -> Result<Location, LocateError> {
        let address = target.address.ok_or(LocateError::NoAddress)?;
        let endpoint = target
            .endpoint
            .as_ref()
            .or(self.default_endpoint.as_ref())
            .ok_or(LocateError::NoEndpoint)?;
        Ok(Location {
            address,
            port: target.port.unwrap_or(SSH_PORT),
            endpoint: Some(endpoint.clone()),
        })
    }

    /// What workspace and settings say stays as it is.
    fn forget(&self, _: &InstanceTarget) {}
}

#[cfg(test)]
mod tests {
    use adit_actors::instance::InstanceKey;

    use super::*;

    fn hint(endpoint_id: &str) -> EndpointHint {
        EndpointHint {
            endpoint_id: endpoint_id.to_owned(),
            dns_name: format!("{endpoint_id}.example"),
        }
    }

    fn target(address: Option<&str>, port: Option<u16>, endpoint: Option<EndpointHint>) -> InstanceTarget {
        InstanceTarget {
            instance: InstanceKey {
                region: "us-west-2".into(),
                instance_id: "i-0123456789abcdef0".into(),
            },
            os_user: "ubuntu".into(),
            availability_zone: None,
            address: address.map(|text| text.parse().unwrap()),
            port,
            endpoint,
        }
    }

    #[tokio::test]
    async fn the_workspace_comes_before_the_settings() {
        let locator = WorkspaceLocator::new(Some(hint("eice-settings")));
        let own = locator
            .locate(&target(Some("10.0.0.7"), Some(3389), Some(hint("eice-own"))))
            .await
            .unwrap();
        assert_eq!((own.endpoint, own.port), (Some(hint("eice-own")), 3389));
        let fallback = locator
            .locate(&target(Some("10.0.0.7"), None, None))
            .await
            .unwrap();
        assert_eq!(fallback.endpoint, Some(hint("eice-settings")));
        assert_eq!(
            (fallback.address.to_string().as_str(), fallback.port),
            ("10.0.0.7", 22)
        );
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let error = WorkspaceLocator::default()
            .locate(&target(Some("10.0.0.7"), None, None))
            .await
            .unwrap_err();
        assert!(matches!(error, LocateError::NoEndpoint), "{error:?}");
        let locator = WorkspaceLocator::new(Some(hint("eice-settings")));
        let error = locator.locate(&target(None, None, None)).await.unwrap_err();
        assert!(matches!(error, LocateError::NoAddress), "{error:?}");
    }
}
