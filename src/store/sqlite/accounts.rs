//! Workspaces and tokens in SQLite: who may see what, and what an operator adds and revokes.

use std::net::IpAddr;
use std::time::Duration;

use adit_actors::exec::{Caller, CallerKind};
use adit_actors::instance::{EndpointHint, InstanceKey, InstanceTarget};
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::types::Json;
use sqlx::types::uuid::fmt::Hyphenated;
use time::OffsetDateTime;
use uuid::Uuid;

use super::failure::{refused_or_unavailable, unavailable};
use super::modifier;
use crate::store::{
    Authorization, NewToken, NewWorkspace, StoreError, TargetDefaults, TokenHash, TokenRecord, TokenScope,
    Workspace, timestamp,
};

/// `?1` token hash, `?2` workspace asked for, `?3` the tenant guard's org. With a guard every row belongs to its org;
/// without one a workspace that has no org is invisible to everybody.
const AUTHORIZE: &str = "
    WITH token AS (
        SELECT 'workspace' AS token_kind, id AS token_id, prefix, NULL AS token_name, workspace_id, NULL AS org_id
        FROM workspace_auth_tokens WHERE token_hash = ?1 AND revoked_at IS NULL
          AND (adit_expires_at IS NULL OR adit_expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
        UNION ALL
        SELECT 'org', id, prefix, name, NULL, org_id
        FROM org_api_tokens WHERE token_hash = ?1 AND revoked_at IS NULL
          AND (adit_expires_at IS NULL OR adit_expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
    )
    SELECT token.token_kind, token.token_id, token.prefix, token.token_name, token.org_id AS token_org_id,
           w.id, w.name, w.tier, w.status, w.instance_id, w.adit_org_id, w.adit_region, w.adit_os_user,
           w.adit_availability_zone, w.adit_address, w.adit_port, w.adit_endpoint_id, w.adit_endpoint_dns_name
    FROM token LEFT JOIN workspaces w
        ON w.id = ?2 AND w.status <> 'removed' AND (?3 IS NOT NULL OR w.adit_org_id IS NOT NULL)
       AND CASE token.token_kind
               WHEN 'workspace' THEN w.id = token.workspace_id
               ELSE ?3 IS NOT NULL OR w.adit_org_id = token.org_id
           END";

const LIST_WORKSPACES: &str = "
    SELECT id, name, tier, status, instance_id, adit_org_id, adit_region, adit_os_user, adit_availability_zone,
           adit_address, adit_port, adit_endpoint_id, adit_endpoint_dns_name
    FROM workspaces WHERE status <> 'removed' ORDER BY name, id";

const ADD_WORKSPACE: &str = "
    INSERT INTO workspaces (id, name, tier, status, instance_id, adit_org_id, adit_region, adit_os_user, adit_address,
                            adit_endpoint_id, adit_endpoint_dns_name)
    VALUES (?1, ?2, ?3, 'online', ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

const LIST_TOKENS: &str = "
    SELECT 'workspace' AS kind, id, prefix, NULL AS name, workspace_id AS opens, created_at, last_used_at,
           adit_expires_at, revoked_at
    FROM workspace_auth_tokens
    UNION ALL
    SELECT 'org', id, prefix, name, org_id, created_at, last_used_at, adit_expires_at, revoked_at
    FROM org_api_tokens
    ORDER BY created_at DESC, id";

/// Only the live one is touched: the time of a revocation is the first one's.
const REVOKE: [&str; 2] = [
    "UPDATE workspace_auth_tokens SET revoked_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
     WHERE id = ?1 AND revoked_at IS NULL",
    "UPDATE org_api_tokens SET revoked_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
     WHERE id = ?1 AND revoked_at IS NULL",
];

/// `?1` ids in JSON, `?2` how long ago.
const NOTE_USES: [(CallerKind, &str); 2] = [
    (
        CallerKind::Workspace,
        "UPDATE workspace_auth_tokens SET last_used_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
         WHERE id IN (SELECT value FROM json_each(?1))
           AND (last_used_at IS NULL OR last_used_at < strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ?2))",
    ),
    (
        CallerKind::Org,
        "UPDATE org_api_tokens SET last_used_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
         WHERE id IN (SELECT value FROM json_each(?1))
           AND (last_used_at IS NULL OR last_used_at < strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ?2))",
    ),
];

pub(super) async fn authorize(
    pool: &SqlitePool,
    defaults: &TargetDefaults,
    token: TokenHash,
    workspace_id: Option<Uuid>,
    org: Option<Uuid>,
) -> Result<Authorization, StoreError> {
    let found = sqlx::query(AUTHORIZE)
        .bind(token.as_slice())
        .bind(workspace_id.map(Uuid::hyphenated))
        .bind(org.map(Uuid::hyphenated))
        .fetch_optional(pool)
        .await
        .map_err(|error| unavailable("authorize", error))?;
    match found {
        Some(row) => authorization(&row, defaults, org).map_err(|error| unavailable("authorize", error)),
        None => Ok(Authorization::UnknownToken),
    }
}

fn authorization(
    row: &SqliteRow,
    defaults: &TargetDefaults,
    guard: Option<Uuid>,
) -> Result<Authorization, sqlx::Error> {
    let kind = match row.try_get("token_kind")? {
        "workspace" => CallerKind::Workspace,
        _ => CallerKind::Org,
    };
    let caller = Caller {
        kind,
        id: row.try_get::<Hyphenated, _>("token_id")?.into(),
        prefix: row.try_get("prefix")?,
        name: row.try_get("token_name")?,
    };
    let workspace = match optional_uuid(row, "id")? {
        Some(_) => Some(workspace(row, defaults)?),
        None => None,
    };
    let org_id = guard
        .or(workspace.as_ref().and_then(|workspace| workspace.org_id))
        .or(optional_uuid(row, "token_org_id")?);
    Ok(Authorization::Known {
        caller,
        org_id,
        workspace,
    })
}

fn workspace(row: &SqliteRow, defaults: &TargetDefaults) -> Result<Workspace, sqlx::Error> {
    Ok(Workspace {
        id: row.try_get::<Hyphenated, _>("id")?.into(),
        name: row.try_get("name")?,
        org_id: optional_uuid(row, "adit_org_id")?,
        tier: row.try_get::<Option<i32>, _>("tier")?.unwrap_or(1),
        status: row.try_get("status")?,
        target: target(row, defaults)?,
    })
}

fn target(row: &SqliteRow, defaults: &TargetDefaults) -> Result<Option<InstanceTarget>, sqlx::Error> {
    let Some(instance_id) = row.try_get("instance_id")? else {
        return Ok(None);
    };
    let region: Option<String> = row.try_get("adit_region")?;
    let os_user: Option<String> = row.try_get("adit_os_user")?;
    let endpoint_id: Option<String> = row.try_get("adit_endpoint_id")?;
    let dns_name: Option<String> = row.try_get("adit_endpoint_dns_name")?;
    Ok(Some(InstanceTarget {
        instance: InstanceKey {
            region: region.unwrap_or_else(|| defaults.region.clone()),
            instance_id,
        },
        os_user: os_user.unwrap_or_else(|| defaults.os_user.clone()),
        availability_zone: row.try_get("adit_availability_zone")?,
        address: address(row)?,
        port: Some(
            row.try_get::<Option<u16>, _>("adit_port")?
                .unwrap_or(defaults.port),
        ),
        endpoint: endpoint_id
            .zip(dns_name)
            .map(|(endpoint_id, dns_name)| EndpointHint {
                endpoint_id,
                dns_name,
            }),
    }))
}

fn address(row: &SqliteRow) -> Result<Option<IpAddr>, sqlx::Error> {
    let text: Option<&str> = row.try_get("adit_address")?;
    text.map(str::parse)
        .transpose()
        .map_err(|error: std::net::AddrParseError| sqlx::Error::ColumnDecode {
            index: "adit_address".to_owned(),
            source: error.into(),
        })
}

fn optional_uuid(row: &SqliteRow, column: &str) -> Result<Option<Uuid>, sqlx::Error> {
    Ok(row.try_get::<Option<Hyphenated>, _>(column)?.map(Uuid::from))
}

pub(super) async fn list_workspaces(
    pool: &SqlitePool,
    defaults: &TargetDefaults,
) -> Result<Vec<Workspace>, StoreError> {
    let rows = sqlx::query(LIST_WORKSPACES)
        .fetch_all(pool)
        .await
        .map_err(|error| unavailable("list workspaces", error))?;
    rows.iter()
        .map(|row| workspace(row, defaults).map_err(|error| unavailable("list workspaces", error)))
        .collect()
}

pub(super) async fn add_workspace(pool: &SqlitePool, new: &NewWorkspace) -> Result<(), StoreError> {
    sqlx::query(ADD_WORKSPACE)
        .bind(new.id.hyphenated())
        .bind(&new.name)
        .bind(new.tier)
        .bind(&new.instance_id)
        .bind(new.org_id.map(Uuid::hyphenated))
        .bind(&new.region)
        .bind(&new.os_user)
        .bind(new.address.map(|address| address.to_string()))
        .bind(&new.endpoint_id)
        .bind(&new.endpoint_dns_name)
        .execute(pool)
        .await
        .map_err(|error| {
            let is_taken = error
                .as_database_error()
                .is_some_and(|error| error.is_unique_violation());
            refused_or_unavailable("add workspace", error, || {
                if is_taken {
                    format!("workspace `{}` is there already", new.id)
                } else {
                    "a tier is 1 to 4, and an endpoint needs both its id and its DNS name".to_owned()
                }
            })
        })?;
    Ok(())
}

pub(super) async fn add_token(pool: &SqlitePool, new: &NewToken) -> Result<(), StoreError> {
    let expires_at = new
        .expires_at
        .map(timestamp::to_text)
        .transpose()
        .map_err(|_| StoreError::Refused("a token expires before the year 10000".to_owned()))?;
    let statement = match new.scope {
        TokenScope::Workspace(workspace_id) => sqlx::query(
            "INSERT INTO workspace_auth_tokens (id, token_hash, prefix, adit_expires_at, workspace_id)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .bind(new.id.hyphenated())
        .bind(new.hash.as_slice())
        .bind(&new.prefix)
        .bind(expires_at)
        .bind(workspace_id.hyphenated()),
        TokenScope::Org(org_id) => sqlx::query(
            "INSERT INTO org_api_tokens (id, token_hash, prefix, adit_expires_at, org_id, name)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(new.id.hyphenated())
        .bind(new.hash.as_slice())
        .bind(&new.prefix)
        .bind(expires_at)
        .bind(org_id.map(Uuid::hyphenated))
        .bind(&new.name),
    };
    statement.execute(pool).await.map_err(|error| {
        let is_taken = error
            .as_database_error()
            .is_some_and(|error| error.is_unique_violation());
        refused_or_unavailable("add token", error, || match new.scope {
            _ if is_taken => "this token is there already".to_owned(),
            TokenScope::Workspace(id) => format!("there is no workspace `{id}`"),
            TokenScope::Org(id) => format!(
                "there is no workspace `{}`; an org is named by the id of its root workspace",
                id.unwrap_or_default()
            ),
        })
    })?;
    Ok(())
}

pub(super) async fn list_tokens(pool: &SqlitePool) -> Result<Vec<TokenRecord>, StoreError> {
    let rows = sqlx::query(LIST_TOKENS)
        .fetch_all(pool)
        .await
        .map_err(|error| unavailable("list tokens", error))?;
    rows.iter()
        .map(|row| token_record(row).map_err(|error| unavailable("list tokens", error)))
        .collect()
}

fn token_record(row: &SqliteRow) -> Result<TokenRecord, sqlx::Error> {
    let opens = optional_uuid(row, "opens")?;
    let scope = match (row.try_get("kind")?, opens) {
        ("workspace", Some(workspace_id)) => TokenScope::Workspace(workspace_id),
        (_, org_id) => TokenScope::Org(org_id),
    };
    Ok(TokenRecord {
        id: row.try_get::<Hyphenated, _>("id")?.into(),
        scope,
        prefix: row.try_get("prefix")?,
        name: row.try_get("name")?,
        created_at: time(row.try_get("created_at")?)?,
        last_used_at: optional_time(row, "last_used_at")?,
        expires_at: optional_time(row, "adit_expires_at")?,
        revoked_at: optional_time(row, "revoked_at")?,
    })
}

fn optional_time(row: &SqliteRow, column: &str) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    row.try_get::<Option<&str>, _>(column)?.map(time).transpose()
}

fn time(text: &str) -> Result<OffsetDateTime, sqlx::Error> {
    timestamp::from_text(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(super) async fn revoke_token(pool: &SqlitePool, id: Uuid) -> Result<bool, StoreError> {
    for statement in REVOKE {
        let done = sqlx::query(statement)
            .bind(id.hyphenated())
            .execute(pool)
            .await
            .map_err(|error| unavailable("revoke token", error))?;
        if done.rows_affected() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) async fn note_token_uses(
    pool: &SqlitePool,
    tokens: &[(CallerKind, Uuid)],
    coarseness: Duration,
) -> Result<(), StoreError> {
    for (kind, statement) in NOTE_USES {
        let ids: Vec<_> = tokens
            .iter()
            .filter(|(of, _)| *of == kind)
            .map(|(_, id)| id)
            .collect();
        if ids.is_empty() {
            continue;
        }
        sqlx::query(statement)
            .bind(Json(ids))
            .bind(modifier(coarseness))
            .execute(pool)
            .await
            .map_err(|error| unavailable("note token uses", error))?;
    }
    Ok(())
}
