//! Pinned host keys in SQLite.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::{HostKey, HostKeyError, HostKeys};
use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;

use super::SqliteStore;

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
    let pin: Option<(String, String)> = sqlx::query_as(
        "SELECT key_type, key_base64 FROM adit_host_keys WHERE region = ?1 AND instance_id = ?2",
    )
    .bind(&instance.region)
    .bind(&instance.instance_id)
    .fetch_optional(pool)
    .await
    .map_err(|error| HostKeyError(error.into()))?;
    Ok(pin.map(|(key_type, key_base64)| HostKey { key_type, key_base64 }))
}
