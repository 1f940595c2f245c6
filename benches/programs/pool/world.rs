//! What the engines of this bench have around them: one instance that the emulator plays, and any number that nobody
//! answers for.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use adit::aws::{AwsConnection, AwsOptions, InstanceDialer};
use adit_actors::audit::{AuditRow, AuditStore, AuditStoreError, Chore, DueRow, Half};
use adit_actors::clock::Clock;
use adit_actors::engine::Boundaries;
use adit_actors::instance::{EndpointHint, InstanceKey, InstanceTarget};
use adit_actors::tunnel::{
    DialError, Dialed, Dialer, HostKey, HostKeyError, HostKeys, KeyGrants, LocateError, Location, Locator,
};
use adit_emulator::{Credentials, Emulator, Instance, Settings};
use async_trait::async_trait;
use uuid::Uuid;

/// Everything outside the engines.
pub(crate) struct World {
    /// Dials so far, those that failed too.
    pub(crate) dials: Arc<AtomicUsize>,
    connection: AwsConnection,
    /// Its end would be the instance's.
    _emulator: Emulator,
}

impl World {
    /// Where all instances are.
    pub(crate) const REGION: &str = "us-east-2";

    /// Number of the instance that the emulator plays.
    pub(crate) const REACHABLE: usize = 0;

    pub(crate) async fn start() -> Result<Self, Box<dyn Error>> {
        let mut settings = Settings::new(Credentials::new("bench", "bench"));
        settings.region = Self::REGION.to_owned();
        settings.instances = vec![Instance {
            id: Self::target(Self::REACHABLE).instance.instance_id,
            ..Instance::default()
        }];
        let emulator = Emulator::start(settings).await?;
        let options = AwsOptions {
            credentials: Some(aws_credential_types::Credentials::new(
                "bench", "bench", None, None, "bench",
            )),
            key_push_endpoint: Some(emulator.http_url()),
            tunnel_endpoint: Some(emulator.tunnel_url().parse()?),
            ..AwsOptions::new(Self::REGION)
        };
        Ok(Self {
            dials: Arc::default(),
            connection: AwsConnection::open(options, Clock::system()).await?,
            _emulator: emulator,
        })
    }

    pub(crate) fn target(number: usize) -> InstanceTarget {
        InstanceTarget {
            instance: InstanceKey {
                region: Self::REGION.to_owned(),
                instance_id: format!("i-{number:017x}"),
            },
            os_user: "bench".to_owned(),
            availability_zone: None,
            address: None,
            port: None,
            endpoint: None,
        }
    }

    pub(crate) fn boundaries(&self) -> Boundaries {
        let around = Arc::new(Around {
            dials: Arc::clone(&self.dials),
            dialer: self.connection.dialer(),
            key_grants: self.connection.key_grants(),
        });
        Boundaries {
            key_grants: around.clone(),
            dialer: around.clone(),
            locator: around.clone(),
            host_keys: around.clone(),
            audit_store: around,
        }
    }
}

/// All boundaries of one engine.
struct Around {
    dials: Arc<AtomicUsize>,
    dialer: Arc<InstanceDialer>,
    key_grants: Arc<adit::aws::InstanceConnectKeyGrants>,
}

fn is_reachable(target: &InstanceTarget) -> bool {
    *target == World::target(World::REACHABLE)
}

#[async_trait]
impl Locator for Around {
    async fn locate(&self, _: &InstanceTarget) -> Result<Location, LocateError> {
        Ok(Location {
            address: IpAddr::from([10, 0, 0, 10]),
            port: 22,
            endpoint: Some(EndpointHint {
                endpoint_id: "eice-0123456789abcdef0".to_owned(),
                dns_name: "eice-0123456789abcdef0.invalid".to_owned(),
            }),
        })
    }

    fn forget(&self, _: &InstanceTarget) {}
}

#[async_trait]
impl Dialer for Around {
    async fn dial(&self, target: &InstanceTarget, location: &Location) -> Result<Dialed, DialError> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        if is_reachable(target) {
            self.dialer.dial(target, location).await
        } else {
            Err(DialError::Unreachable("nobody answers for this instance".into()))
        }
    }
}

#[async_trait]
impl KeyGrants for Around {
    async fn push_key(
        &self,
        target: &InstanceTarget,
        public_key: &str,
    ) -> Result<adit_actors::tunnel::KeyGrantReceipt, adit_actors::tunnel::GrantError> {
        if is_reachable(target) {
            self.key_grants.push_key(target, public_key).await
        } else {
            Ok(adit_actors::tunnel::KeyGrantReceipt { request_id: None })
        }
    }
}

#[async_trait]
impl HostKeys for Around {
    async fn pinned(&self, _: &InstanceKey) -> Result<Option<HostKey>, HostKeyError> {
        Ok(None)
    }

    async fn pin_first_use(&self, _: &InstanceKey, key: &HostKey) -> Result<HostKey, HostKeyError> {
        Ok(key.clone())
    }
}

#[async_trait]
impl AuditStore for Around {
    async fn write(&self, _: Half, _: &[AuditRow]) -> Result<Vec<Uuid>, AuditStoreError> {
        Ok(Vec::new())
    }

    async fn due(&self, _: Chore, _: Option<DueRow>, _: u32) -> Result<Vec<DueRow>, AuditStoreError> {
        Ok(Vec::new())
    }

    async fn perform(&self, _: Chore, _: &[Uuid]) -> Result<Vec<Uuid>, AuditStoreError> {
        Ok(Vec::new())
    }
}
