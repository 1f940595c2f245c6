//! Workspaces and tokens in PostgreSQL: who may see what, and what an operator adds and revokes.

use std::time::Duration;

use adit_actors::exec::CallerKind;
use uuid::Uuid;

use super::PostgresStore;
use crate::store::accounts::{
    self, ADD_ORG_TOKEN, ADD_WORKSPACE, ADD_WORKSPACE_TOKEN, LIST_TOKENS, LIST_WORKSPACES,
};
use crate::store::failure::{refused_or_unavailable, unavailable};
use crate::store::{
    Authorization, NewToken, NewWorkspace, StoreError, TokenHash, TokenRecord, TokenScope, Workspace,
};

pub(super) const AUTHORIZE: &str = accounts::authorize!(now: "now()");

const REVOKE: [&str; 2] = accounts::revoke!(now: "now()");

/// `$1` ids, `$2` seconds ago. A row that another replica is noting at this moment needs no second note, and waiting for
/// it could deadlock.
const NOTE_USES: [(CallerKind, &str); 2] = [
    (
        CallerKind::Workspace,
        "UPDATE workspace_auth_tokens SET last_used_at = now() WHERE id IN (
            SELECT id FROM workspace_auth_tokens
            WHERE id = ANY ($1) AND (last_used_at IS NULL OR last_used_at < now() - make_interval(secs => $2))
            FOR NO KEY UPDATE SKIP LOCKED)",
    ),
    (
        CallerKind::Org,
        "UPDATE org_api_tokens SET last_used_at = now() WHERE id IN (
            SELECT id FROM org_api_tokens
            WHERE id = ANY ($1) AND (last_used_at IS NULL OR last_used_at < now() - make_interval(secs => $2))
            FOR NO KEY UPDATE SKIP LOCKED)",
    ),
];

pub(super) async fn authorize(
    store: &PostgresStore,
    token: TokenHash,
    workspace_id: Option<Uuid>,
    org: Option<Uuid>,
) -> Result<Authorization, StoreError> {
    let statement = || {
        sqlx::query(AUTHORIZE)
            .bind(token.as_slice())
            .bind(workspace_id)
            .bind(org)
    };
    let found = store
        .requests
        .rows(statement)
        .await
        .and_then(|rows| match rows.first() {
            Some(row) => Authorization::of(row, &store.defaults, org),
            None => Ok(Authorization::UnknownToken),
        });
    found.map_err(|error| unavailable("authorize", error))
}

pub(super) async fn list_workspaces(store: &PostgresStore) -> Result<Vec<Workspace>, StoreError> {
    let found = store.requests.rows(|| sqlx::query(LIST_WORKSPACES)).await;
    found
        .and_then(|rows| {
            rows.iter()
                .map(|row| Workspace::of(row, &store.defaults))
                .collect()
        })
        .map_err(|error| unavailable("list workspaces", error))
}

pub(super) async fn add_workspace(store: &PostgresStore, new: &NewWorkspace) -> Result<(), StoreError> {
    let statement = sqlx::query(ADD_WORKSPACE)
        .bind(new.id)
        .bind(&new.name)
        .bind(new.tier)
        .bind(&new.instance_id)
        .bind(new.org_id)
        .bind(&new.region)
        .bind(&new.os_user)
        .bind(new.address.map(|address| address.to_string()))
        .bind(&new.endpoint_id)
        .bind(&new.endpoint_dns_name);
    store.requests.rows_once(statement).await.map_err(|error| {
        refused_or_unavailable("add workspace", error, |is_taken| {
            accounts::workspace_refusal(new, is_taken)
        })
    })?;
    Ok(())
}

pub(super) async fn add_token(store: &PostgresStore, new: &NewToken) -> Result<(), StoreError> {
    let (sql, opens) = match new.scope {
        TokenScope::Workspace(workspace_id) => (ADD_WORKSPACE_TOKEN, Some(workspace_id)),
        TokenScope::Org(org_id) => (ADD_ORG_TOKEN, org_id),
    };
    let mut statement = sqlx::query(sql)
        .bind(new.id)
        .bind(new.hash.as_slice())
        .bind(&new.prefix)
        .bind(new.expires_at)
        .bind(opens);
    if let TokenScope::Org(_) = new.scope {
        statement = statement.bind(&new.name);
    }
    store.requests.rows_once(statement).await.map_err(|error| {
        refused_or_unavailable("add token", error, |is_taken| {
            accounts::token_refusal(new, is_taken)
        })
    })?;
    Ok(())
}

pub(super) async fn list_tokens(store: &PostgresStore) -> Result<Vec<TokenRecord>, StoreError> {
    let found = store.requests.rows(|| sqlx::query(LIST_TOKENS)).await;
    found
        .and_then(|rows| rows.iter().map(TokenRecord::of).collect())
        .map_err(|error| unavailable("list tokens", error))
}

pub(super) async fn revoke_token(store: &PostgresStore, id: Uuid) -> Result<bool, StoreError> {
    for statement in REVOKE {
        let revoked = store
            .requests
            .rows_once(sqlx::query(statement).bind(id))
            .await
            .map_err(|error| unavailable("revoke token", error))?;
        if !revoked.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) async fn note_token_uses(
    store: &PostgresStore,
    tokens: &[(CallerKind, Uuid)],
    coarseness: Duration,
) -> Result<(), StoreError> {
    for (kind, statement) in NOTE_USES {
        let ids = accounts::ids_of(kind, tokens);
        if ids.is_empty() {
            continue;
        }
        let statement = || {
            sqlx::query(statement)
                .bind(ids.clone())
                .bind(coarseness.as_secs_f64())
        };
        store
            .requests
            .rows(statement)
            .await
            .map_err(|error| unavailable("note token uses", error))?;
    }
    Ok(())
}
