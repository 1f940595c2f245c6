//! Pinned host keys in SQLite.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::{HostKey, HostKeyError, HostKeys};
use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;

use super::SqliteStore;
use crate::store::failure::unavailable;
use crate::store::host_keys::{self, FORGET, LIST, PIN_FIRST_USE, SHOW};
use crate::store::{HostKeyPin, HostKeyQuery, PinnedByOperator, StoreError};

pub(super) async fn show(
    pool: &SqlitePool,
    instance: &InstanceKey,
) -> Result<Option<HostKeyPin>, StoreError> {
    let found = sqlx::query(SHOW)
        .bind(&instance.region)
        .bind(&instance.instance_id)
        .fetch_optional(pool)
        .await
        .and_then(|row| row.as_ref().map(HostKeyPin::of).transpose());
    found.map_err(|error| unavailable("show a host key", error))
}

pub(super) async fn list(pool: &SqlitePool, query: &HostKeyQuery) -> Result<Vec<HostKeyPin>, StoreError> {
    let after = query.after.as_ref();
    let found = sqlx::query(LIST)
        .bind(&query.region)
        .bind(&query.instance_id)
        .bind(after.map(|instance| &instance.region))
        .bind(after.map(|instance| &instance.instance_id))
        .bind(query.limit)
        .fetch_all(pool)
        .await
        .and_then(|rows| rows.iter().map(HostKeyPin::of).collect());
    found.map_err(|error| unavailable("list host keys", error))
}

pub(super) async fn pin(
    pool: &SqlitePool,
    instance: &InstanceKey,
    key: &HostKey,
    pinned_by: &str,
) -> Result<PinnedByOperator, StoreError> {
    replace(pool, instance, key, pinned_by)
        .await
        .map_err(|error| unavailable("pin a host key", error))
}

/// Both statements under one write lock, taken at once: nobody's pin can come between what is read and what replaces it.
async fn replace(
    pool: &SqlitePool,
    instance: &InstanceKey,
    key: &HostKey,
    pinned_by: &str,
) -> Result<PinnedByOperator, sqlx::Error> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let pinned = host_keys::replace(&mut transaction, instance, key, pinned_by).await?;
    transaction.commit().await?;
    Ok(pinned)
}

pub(super) async fn forget(
    pool: &SqlitePool,
    instance: &InstanceKey,
) -> Result<Option<HostKeyPin>, StoreError> {
    let found = sqlx::query(FORGET)
        .bind(&instance.region)
        .bind(&instance.instance_id)
        .fetch_optional(pool)
        .await
        .and_then(|row| row.as_ref().map(HostKeyPin::of).transpose());
    found.map_err(|error| unavailable("forget a host key", error))
}

#[async_trait]
impl HostKeys for SqliteStore {
    async fn pinned(&self, instance: &InstanceKey) -> Result<Option<HostKey>, HostKeyError> {
        read(&self.readers, instance).await
    }

    async fn pin_first_use(&self, instance: &InstanceKey, key: &HostKey) -> Result<HostKey, HostKeyError> {
        sqlx::query(PIN_FIRST_USE)
            .bind(&instance.region)
            .bind(&instance.instance_id)
            .bind(&key.key_type)
            .bind(&key.key_base64)
            .execute(&self.writer)
            .await
            .map_err(|error| HostKeyError(error.into()))?;
        // Whoever came first holds the pin, be it another process: only what is read back counts.
        read(&self.readers, instance)
            .await?
            .ok_or_else(|| HostKeyError("the pin was gone when it was read back".into()))
    }
}

async fn read(pool: &SqlitePool, instance: &InstanceKey) -> Result<Option<HostKey>, HostKeyError> {
    let pin = show(pool, instance)
        .await
        .map_err(|error| HostKeyError(error.into()))?;
    Ok(pin.map(|pin| pin.key))
}
