//! Pinned host keys in SQLite.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::{HostKey, HostKeyError, HostKeys};
use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::SqliteStore;
use super::failure::{unavailable, undecodable};
use crate::store::{HostKeyPin, HostKeyQuery, PinnedByOperator, Provenance, StoreError, timestamp};

const SHOW: &str = "SELECT * FROM adit_host_keys WHERE region = ?1 AND instance_id = ?2";

/// `?3` and `?4` are the last one of the page before.
const LIST: &str = "
    SELECT * FROM adit_host_keys
    WHERE (?1 IS NULL OR region = ?1) AND (?2 IS NULL OR instance_id = ?2)
      AND (?3 IS NULL OR (region, instance_id) > (?3, ?4))
    ORDER BY region, instance_id LIMIT ?5";

/// The time is the operator's pin's, whatever stood there.
const PIN: &str = "
    INSERT INTO adit_host_keys (region, instance_id, key_type, key_base64, provenance, pinned_by)
    VALUES (?1, ?2, ?3, ?4, 'operator', ?5)
    ON CONFLICT (region, instance_id) DO UPDATE SET
        key_type = excluded.key_type,
        key_base64 = excluded.key_base64,
        provenance = excluded.provenance,
        pinned_by = excluded.pinned_by,
        pinned_at = excluded.pinned_at
    RETURNING *";

const FORGET: &str = "DELETE FROM adit_host_keys WHERE region = ?1 AND instance_id = ?2 RETURNING *";

pub(super) async fn show(
    pool: &SqlitePool,
    instance: &InstanceKey,
) -> Result<Option<HostKeyPin>, StoreError> {
    let found = sqlx::query(SHOW)
        .bind(&instance.region)
        .bind(&instance.instance_id)
        .fetch_optional(pool)
        .await
        .and_then(|row| row.as_ref().map(pin_of).transpose());
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
        .and_then(|rows| rows.iter().map(pin_of).collect());
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
    let replaced = sqlx::query(SHOW)
        .bind(&instance.region)
        .bind(&instance.instance_id)
        .fetch_optional(&mut *transaction)
        .await?;
    let pinned = sqlx::query(PIN)
        .bind(&instance.region)
        .bind(&instance.instance_id)
        .bind(&key.key_type)
        .bind(&key.key_base64)
        .bind(pinned_by)
        .fetch_one(&mut *transaction)
        .await?;
    let pinned = PinnedByOperator {
        pin: pin_of(&pinned)?,
        replaced: replaced.as_ref().map(pin_of).transpose()?,
    };
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
        .and_then(|row| row.as_ref().map(pin_of).transpose());
    found.map_err(|error| unavailable("forget a host key", error))
}

fn pin_of(row: &SqliteRow) -> Result<HostKeyPin, sqlx::Error> {
    let provenance: &str = row.try_get("provenance")?;
    Ok(HostKeyPin {
        instance: InstanceKey {
            region: row.try_get("region")?,
            instance_id: row.try_get("instance_id")?,
        },
        key: HostKey {
            key_type: row.try_get("key_type")?,
            key_base64: row.try_get("key_base64")?,
        },
        provenance: Provenance::of(provenance)
            .ok_or_else(|| undecodable("provenance", format!("`{provenance}` is no provenance").into()))?,
        pinned_by: row.try_get("pinned_by")?,
        pinned_at: timestamp::from_text(row.try_get("pinned_at")?)
            .map_err(|error| undecodable("pinned_at", error.into()))?,
    })
}

#[async_trait]
impl HostKeys for SqliteStore {
    async fn pinned(&self, instance: &InstanceKey) -> Result<Option<HostKey>, HostKeyError> {
        read(&self.readers, instance).await
    }

    async fn pin_first_use(&self, instance: &InstanceKey, key: &HostKey) -> Result<HostKey, HostKeyError> {
        sqlx::query(
            "INSERT INTO adit_host_keys (region, instance_id, key_type, key_base64, provenance)
             VALUES (?1, ?2, ?3, ?4, 'first_use') ON CONFLICT DO NOTHING",
        )
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
