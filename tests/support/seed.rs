//! What the store holds before a test: two orgs, workspaces of every tier, tokens live and revoked.

use std::net::{IpAddr, Ipv4Addr};

use adit::store::{NewToken, NewWorkspace, Store, TokenScope};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Instance behind every workspace but those that have none.
pub(crate) const INSTANCE: &str = "i-0123456789abcdef0";

/// Id of an instance of a fleet, from 0, which is [`INSTANCE`].
pub(crate) fn instance_id(number: usize) -> String {
    match number {
        0 => INSTANCE.to_owned(),
        _ => format!("i-{number:017x}"),
    }
}

/// Its private address.
pub(crate) fn address(number: usize) -> IpAddr {
    Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + u32::try_from(number).unwrap()).into()
}

const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);

/// A workspace and a token that opens it.
#[derive(Clone, Debug)]
pub(crate) struct Seeded {
    pub(crate) id: Uuid,
    pub(crate) token: String,
}

/// All that tests name.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    /// By tier, 1 to 4; the first is the root of its org.
    pub(crate) tiers: [Seeded; 4],
    /// Of tier 4 in the first org, one for each further instance of a fleet.
    further: Vec<Seeded>,
    /// Of tier 4, without an instance.
    pub(crate) without_instance: Seeded,
    /// Of tier 4, in another org.
    pub(crate) other_org: Seeded,
    /// Opens every workspace of the first org.
    pub(crate) org_token: String,
    /// Opened the workspace of tier 4 until it was revoked.
    pub(crate) revoked_token: String,
}

impl Seed {
    /// The workspace that most tests use: of tier 4, with an instance.
    pub(crate) fn workspace(&self) -> &Seeded {
        &self.tiers[3]
    }

    /// The workspace of tier 4 of an instance of a fleet, from 0.
    pub(crate) fn of_instance(&self, number: usize) -> &Seeded {
        match number.checked_sub(1) {
            None => self.workspace(),
            Some(further) => &self.further[further],
        }
    }

    /// Writes it all, for a fleet of so many instances, whose addresses the workspaces know or do not.
    pub(crate) async fn write(
        store: &dyn Store,
        os_user: &str,
        instances: usize,
        addresses_are_known: bool,
    ) -> Self {
        let (org, other_org) = (Uuid::new_v4(), Uuid::new_v4());
        let add = async |id: Uuid, org: Uuid, tier: i32, instance: Option<usize>| {
            store
                .add_workspace(&NewWorkspace {
                    address: addresses_are_known.then(|| address(instance.unwrap_or_default())),
                    ..workspace(id, org, tier, instance, os_user)
                })
                .await
                .unwrap();
            Seeded {
                id,
                token: issue(store, TokenScope::Workspace(id)).await.1,
            }
        };
        let tiers = [
            add(org, org, 1, Some(0)).await,
            add(Uuid::new_v4(), org, 2, Some(0)).await,
            add(Uuid::new_v4(), org, 3, Some(0)).await,
            add(Uuid::new_v4(), org, 4, Some(0)).await,
        ];
        let (revoked, revoked_token) = issue(store, TokenScope::Workspace(tiers[3].id)).await;
        assert!(store.revoke_token(revoked).await.unwrap());
        let mut further = Vec::new();
        for instance in 1..instances {
            further.push(add(Uuid::new_v4(), org, 4, Some(instance)).await);
        }
        Self {
            without_instance: add(Uuid::new_v4(), org, 4, None).await,
            other_org: add(other_org, other_org, 4, Some(0)).await,
            org_token: issue(store, TokenScope::Org(Some(org))).await.1,
            tiers,
            further,
            revoked_token,
        }
    }
}

fn workspace(id: Uuid, org: Uuid, tier: i32, instance: Option<usize>, os_user: &str) -> NewWorkspace {
    NewWorkspace {
        id,
        name: format!("tier {tier}"),
        org_id: Some(org),
        tier,
        instance_id: instance.map(instance_id),
        region: None,
        os_user: Some(os_user.to_owned()),
        address: None,
        endpoint_id: None,
        endpoint_dns_name: None,
    }
}

async fn issue(store: &dyn Store, scope: TokenScope) -> (Uuid, String) {
    let token = format!(
        "{}{}",
        Uuid::new_v4().simple(),
        &Uuid::new_v4().simple().to_string()[..11]
    );
    let id = Uuid::new_v4();
    let record = NewToken {
        id,
        scope,
        hash: Sha256::digest(token.as_bytes()).into(),
        prefix: token[..8].to_owned(),
        name: matches!(scope, TokenScope::Org(_)).then(|| "tests".to_owned()),
        expires_at: None,
    };
    store.add_token(&record).await.unwrap();
    (id, token)
}
