//! Workspaces and tokens in SQLite: who may see what, and what an operator adds and revokes.

use std::time::Duration;

use adit_actors::exec::CallerKind;
use sqlx::sqlite::SqlitePool;
use sqlx::types::Json;
use uuid::Uuid;

use super::modifier;
use crate::store::accounts::{
    self, ADD_ORG_TOKEN, ADD_WORKSPACE, ADD_WORKSPACE_TOKEN, LIST_TOKENS, LIST_WORKSPACES,
};
use crate::store::failure::{refused_or_unavailable, unavailable};
use crate::store::{
    Authorization, NewToken, NewWorkspace, StoreError, TargetDefaults, TokenHash, TokenRecord, TokenScope,
    Workspace, timestamp,
};

pub(super) const AUTHORIZE: &str = accounts::authorize!(now: "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')");

const REVOKE: [&str; 2] = accounts::revoke!(now: "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')");

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
        Some(row) => Authorization::of(&row, defaults, org).map_err(|error| unavailable("authorize", error)),
        None => Ok(Authorization::UnknownToken),
    }
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
        .map(|row| Workspace::of(row, defaults).map_err(|error| unavailable("list workspaces", error)))
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
            refused_or_unavailable("add workspace", error, |is_taken| {
                accounts::workspace_refusal(new, is_taken)
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
        TokenScope::Workspace(workspace_id) => sqlx::query(ADD_WORKSPACE_TOKEN)
            .bind(new.id.hyphenated())
            .bind(new.hash.as_slice())
            .bind(&new.prefix)
            .bind(expires_at)
            .bind(workspace_id.hyphenated()),
        TokenScope::Org(org_id) => sqlx::query(ADD_ORG_TOKEN)
            .bind(new.id.hyphenated())
            .bind(new.hash.as_slice())
            .bind(&new.prefix)
            .bind(expires_at)
            .bind(org_id.map(Uuid::hyphenated))
            .bind(&new.name),
    };
    statement.execute(pool).await.map_err(|error| {
        refused_or_unavailable("add token", error, |is_taken| {
            accounts::token_refusal(new, is_taken)
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
        .map(|row| TokenRecord::of(row).map_err(|error| unavailable("list tokens", error)))
        .collect()
}

pub(super) async fn revoke_token(pool: &SqlitePool, id: Uuid) -> Result<bool, StoreError> {
    for statement in REVOKE {
        let revoked = sqlx::query(statement)
            .bind(id.hyphenated())
            .fetch_optional(pool)
            .await
            .map_err(|error| unavailable("revoke token", error))?;
        if revoked.is_some() {
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
        let ids = accounts::ids_of(kind, tokens);
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
