//! Workspaces and tokens: what they are, the SQL that both databases read alike, and what its rows mean.

use std::net::{AddrParseError, IpAddr};

use adit_actors::exec::{Caller, CallerKind};
use adit_actors::instance::{EndpointHint, InstanceKey, InstanceTarget};
use time::OffsetDateTime;
use uuid::Uuid;

use super::row::{Columns, required, undecodable};

/// SHA-256 of a token's text: the only form in which a store knows a token.
pub type TokenHash = [u8; 32];

/// What holds for a workspace whose row does not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetDefaults {
    /// AWS region.
    pub region: String,
    /// Login name on the instance.
    pub os_user: String,
    /// Port of the instance's sshd.
    pub port: u16,
}

/// What one query says of a caller.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one a request, taken apart at once and never kept"
)]
pub enum Authorization {
    /// No live token has this hash.
    UnknownToken,
    /// The token is live; the workspace is there when it exists, is not removed, and the token may open it.
    Known {
        /// Who asks.
        caller: Caller,
        /// The org that the token, or the workspace, belongs to.
        org_id: Option<Uuid>,
        /// The workspace asked for.
        workspace: Option<Workspace>,
    },
}

/// A workspace, as far as Adit needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The org it belongs to, when the store serves many.
    pub org_id: Option<Uuid>,
    /// 1 sandboxed, 2 standard, 3 privileged, 4 full host. NULL in the database counts as 1.
    pub tier: i32,
    /// As the host platform writes it: `online`, `failed`, `paused`, ...
    pub status: String,
    /// The EC2 instance behind it, with what the row says of the way there and the settings' defaults for the rest.
    pub target: Option<InstanceTarget>,
}

/// A workspace to add.
#[derive(Clone, Debug)]
pub struct NewWorkspace {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The org it belongs to.
    pub org_id: Option<Uuid>,
    /// 1 to 4.
    pub tier: i32,
    /// EC2 instance id.
    pub instance_id: Option<String>,
    /// AWS region; the settings' default when absent.
    pub region: Option<String>,
    /// Login name; the settings' default when absent.
    pub os_user: Option<String>,
    /// Private address of the instance.
    pub address: Option<IpAddr>,
    /// EC2 Instance Connect Endpoint id.
    pub endpoint_id: Option<String>,
    /// DNS name of that endpoint.
    pub endpoint_dns_name: Option<String>,
}

/// What a token opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenScope {
    /// One workspace.
    Workspace(Uuid),
    /// Every workspace of an org; of the whole store when the org is absent and a tenant guard is set.
    Org(Option<Uuid>),
}

/// A token to store. The token's text itself never gets here.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Id of the token.
    pub id: Uuid,
    /// What it opens.
    pub scope: TokenScope,
    /// SHA-256 of its text.
    pub hash: TokenHash,
    /// First 8 characters of its text.
    pub prefix: String,
    /// A name for people. Only org tokens have a column for it.
    pub name: Option<String>,
    /// From when on it opens nothing any more; never when absent, as the host platform's tokens.
    pub expires_at: Option<OffsetDateTime>,
}

/// A token as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Id of the token.
    pub id: Uuid,
    /// What it opens.
    pub scope: TokenScope,
    /// First 8 characters of its text.
    pub prefix: String,
    /// Its name.
    pub name: Option<String>,
    /// When it was issued.
    pub created_at: OffsetDateTime,
    /// When it was used last, within some minutes.
    pub last_used_at: Option<OffsetDateTime>,
    /// From when on it opens nothing any more.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
}

/// `$1` token hash, `$2` workspace asked for, `$3` the tenant guard's org. With a guard every row belongs to its org;
/// without one a workspace that has no org is invisible to everybody. On a host platform `status` is an enum, or was.
macro_rules! authorize {
    (now: $now:literal) => {
        concat!(
            "
    WITH token AS (
        SELECT 'workspace' AS token_kind, id AS token_id, prefix, NULL AS token_name, workspace_id, NULL AS org_id
        FROM workspace_auth_tokens
        WHERE token_hash = $1 AND revoked_at IS NULL AND (adit_expires_at IS NULL OR adit_expires_at > ",
            $now,
            ")
        UNION ALL
        SELECT 'org', id, prefix, name, NULL, org_id FROM org_api_tokens
        WHERE token_hash = $1 AND revoked_at IS NULL AND (adit_expires_at IS NULL OR adit_expires_at > ",
            $now,
            ")
    )
    SELECT token.token_kind, token.token_id, token.prefix, token.token_name, token.org_id AS token_org_id,
           w.id, w.name, w.tier, CAST(w.status AS TEXT) AS status, w.instance_id, w.adit_org_id, w.adit_region,
           w.adit_os_user, w.adit_availability_zone, w.adit_address, w.adit_port, w.adit_endpoint_id,
           w.adit_endpoint_dns_name
    FROM token LEFT JOIN workspaces w
        ON w.id = $2 AND CAST(w.status AS TEXT) <> 'removed' AND ($3 IS NOT NULL OR w.adit_org_id IS NOT NULL)
       AND CASE token.token_kind
               WHEN 'workspace' THEN w.id = token.workspace_id
               ELSE $3 IS NOT NULL OR w.adit_org_id = token.org_id
           END"
        )
    };
}

/// Only the live one is touched: the time of a revocation is the first one's.
macro_rules! revoke {
    (now: $now:literal) => {
        [
            concat!(
                "UPDATE workspace_auth_tokens SET revoked_at = ",
                $now,
                " WHERE id = $1 AND revoked_at IS NULL RETURNING id"
            ),
            concat!(
                "UPDATE org_api_tokens SET revoked_at = ",
                $now,
                " WHERE id = $1 AND revoked_at IS NULL RETURNING id"
            ),
        ]
    };
}
pub(super) use {authorize, revoke};

pub(super) const LIST_WORKSPACES: &str = "
    SELECT id, name, tier, CAST(status AS TEXT) AS status, instance_id, adit_org_id, adit_region, adit_os_user,
           adit_availability_zone, adit_address, adit_port, adit_endpoint_id, adit_endpoint_dns_name
    FROM workspaces WHERE CAST(status AS TEXT) <> 'removed' ORDER BY name, id";

pub(super) const ADD_WORKSPACE: &str = "
    INSERT INTO workspaces (id, name, tier, status, instance_id, adit_org_id, adit_region, adit_os_user, adit_address,
                            adit_endpoint_id, adit_endpoint_dns_name)
    VALUES ($1, $2, $3, 'online', $4, $5, $6, $7, $8, $9, $10)";

pub(super) const ADD_WORKSPACE_TOKEN: &str = "
    INSERT INTO workspace_auth_tokens (id, token_hash, prefix, adit_expires_at, workspace_id)
    VALUES ($1, $2, $3, $4, $5)";

pub(super) const ADD_ORG_TOKEN: &str = "
    INSERT INTO org_api_tokens (id, token_hash, prefix, adit_expires_at, org_id, name)
    VALUES ($1, $2, $3, $4, $5, $6)";

pub(super) const LIST_TOKENS: &str = "
    SELECT 'workspace' AS kind, id, prefix, NULL AS name, workspace_id AS opens, created_at, last_used_at,
           adit_expires_at, revoked_at
    FROM workspace_auth_tokens
    UNION ALL
    SELECT 'org', id, prefix, name, org_id, created_at, last_used_at, adit_expires_at, revoked_at
    FROM org_api_tokens
    ORDER BY created_at DESC, id";

impl Authorization {
    /// What the row of `authorize!` says; `guard` is the tenant guard's org.
    pub(super) fn of(
        row: &impl Columns,
        defaults: &TargetDefaults,
        guard: Option<Uuid>,
    ) -> Result<Self, sqlx::Error> {
        let kind = match required("token_kind", row.text("token_kind"))?.as_str() {
            "workspace" => CallerKind::Workspace,
            _ => CallerKind::Org,
        };
        let caller = Caller {
            kind,
            id: required("token_id", row.uuid("token_id"))?,
            prefix: required("prefix", row.text("prefix"))?,
            name: row.text("token_name")?,
        };
        let workspace = match row.uuid("id")? {
            Some(_) => Some(Workspace::of(row, defaults)?),
            None => None,
        };
        let org_id = guard
            .or(workspace.as_ref().and_then(|workspace| workspace.org_id))
            .or(row.uuid("token_org_id")?);
        Ok(Self::Known {
            caller,
            org_id,
            workspace,
        })
    }
}

impl Workspace {
    pub(super) fn of(row: &impl Columns, defaults: &TargetDefaults) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: required("id", row.uuid("id"))?,
            name: required("name", row.text("name"))?,
            org_id: row.uuid("adit_org_id")?,
            tier: row.integer("tier")?.unwrap_or(1),
            status: required("status", row.text("status"))?,
            target: target(row, defaults)?,
        })
    }
}

fn target(row: &impl Columns, defaults: &TargetDefaults) -> Result<Option<InstanceTarget>, sqlx::Error> {
    let Some(instance_id) = row.text("instance_id")? else {
        return Ok(None);
    };
    let address = row.text("adit_address")?.map(|text| text.parse()).transpose();
    let port = row.integer("adit_port")?.map(u16::try_from).transpose();
    let endpoint = row
        .text("adit_endpoint_id")?
        .zip(row.text("adit_endpoint_dns_name")?);
    Ok(Some(InstanceTarget {
        instance: InstanceKey {
            region: row
                .text("adit_region")?
                .unwrap_or_else(|| defaults.region.clone()),
            instance_id,
        },
        os_user: row
            .text("adit_os_user")?
            .unwrap_or_else(|| defaults.os_user.clone()),
        availability_zone: row.text("adit_availability_zone")?,
        address: address.map_err(|error: AddrParseError| undecodable("adit_address", error))?,
        port: Some(
            port.map_err(|error| undecodable("adit_port", error))?
                .unwrap_or(defaults.port),
        ),
        endpoint: endpoint.map(|(endpoint_id, dns_name)| EndpointHint {
            endpoint_id,
            dns_name,
        }),
    }))
}

impl TokenRecord {
    /// A row of [`LIST_TOKENS`].
    pub(super) fn of(row: &impl Columns) -> Result<Self, sqlx::Error> {
        let kind = required("kind", row.text("kind"))?;
        let scope = match (kind.as_str(), row.uuid("opens")?) {
            ("workspace", Some(workspace_id)) => TokenScope::Workspace(workspace_id),
            (_, org_id) => TokenScope::Org(org_id),
        };
        Ok(Self {
            id: required("id", row.uuid("id"))?,
            scope,
            prefix: required("prefix", row.text("prefix"))?,
            name: row.text("name")?,
            created_at: required("created_at", row.time("created_at"))?,
            last_used_at: row.time("last_used_at")?,
            expires_at: row.time("adit_expires_at")?,
            revoked_at: row.time("revoked_at")?,
        })
    }
}

/// What to tell an operator whose workspace the database refused.
pub(super) fn workspace_refusal(new: &NewWorkspace, is_taken: bool) -> String {
    if is_taken {
        format!("workspace `{}` is there already", new.id)
    } else {
        "a tier is 1 to 4, and an endpoint needs both its id and its DNS name".to_owned()
    }
}

/// What to tell an operator whose token the database refused.
pub(super) fn token_refusal(new: &NewToken, is_taken: bool) -> String {
    match new.scope {
        _ if is_taken => "this token is there already".to_owned(),
        TokenScope::Workspace(id) => format!("there is no workspace `{id}`"),
        TokenScope::Org(id) => format!(
            "there is no workspace `{}`; an org is named by the id of its root workspace",
            id.unwrap_or_default()
        ),
    }
}

/// The ids of the tokens of one kind.
pub(super) fn ids_of(kind: CallerKind, tokens: &[(CallerKind, Uuid)]) -> Vec<Uuid> {
    tokens
        .iter()
        .filter(|(of, _)| *of == kind)
        .map(|(_, id)| *id)
        .collect()
}
