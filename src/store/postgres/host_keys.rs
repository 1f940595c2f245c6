//! Pinned host keys in PostgreSQL.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::{HostKey, HostKeyError, HostKeys};
use async_trait::async_trait;
use sqlx::{Connection, PgConnection};

use super::PostgresStore;
use crate::store::failure::unavailable;
use crate::store::host_keys::{self, FORGET, LIST, PIN_FIRST_USE, SHOW};
use crate::store::{HostKeyPin, HostKeyQuery, PinnedByOperator, StoreError};

/// Against everyone who writes pins: nobody's can come between what is read and what replaces it.
const LOCK: &str = "LOCK TABLE adit_host_keys IN SHARE ROW EXCLUSIVE MODE";

pub(super) async fn show(
    store: &PostgresStore,
    instance: &InstanceKey,
) -> Result<Option<HostKeyPin>, StoreError> {
    let statement = || {
        sqlx::query(SHOW)
            .bind(&instance.region)
            .bind(&instance.instance_id)
    };
    let found = store.requests.rows(statement).await;
    found
        .and_then(|rows| rows.first().map(HostKeyPin::of).transpose())
        .map_err(|error| unavailable("show a host key", error))
}

pub(super) async fn list(store: &PostgresStore, query: &HostKeyQuery) -> Result<Vec<HostKeyPin>, StoreError> {
    let after = query.after.as_ref();
    let statement = || {
        sqlx::query(LIST)
            .bind(&query.region)
            .bind(&query.instance_id)
            .bind(after.map(|instance| &instance.region))
            .bind(after.map(|instance| &instance.instance_id))
            .bind(i64::from(query.limit))
    };
    let found = store.requests.rows(statement).await;
    found
        .and_then(|rows| rows.iter().map(HostKeyPin::of).collect())
        .map_err(|error| unavailable("list host keys", error))
}

pub(super) async fn pin(
    store: &PostgresStore,
    instance: &InstanceKey,
    key: &HostKey,
    pinned_by: &str,
) -> Result<PinnedByOperator, StoreError> {
    let requests = &store.requests;
    requests
        .once(async {
            let mut connection = requests.connect().await?;
            replace(&mut connection, instance, key, pinned_by).await
        })
        .await
        .map_err(|error| unavailable("pin a host key", error))
}

async fn replace(
    connection: &mut PgConnection,
    instance: &InstanceKey,
    key: &HostKey,
    pinned_by: &str,
) -> Result<PinnedByOperator, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *transaction).await?;
    let pinned = host_keys::replace(&mut transaction, instance, key, pinned_by).await?;
    transaction.commit().await?;
    Ok(pinned)
}

pub(super) async fn forget(
    store: &PostgresStore,
    instance: &InstanceKey,
) -> Result<Option<HostKeyPin>, StoreError> {
    let statement = sqlx::query(FORGET)
        .bind(&instance.region)
        .bind(&instance.instance_id);
    let found = store.requests.rows_once(statement).await;
    found
        .and_then(|rows| rows.first().map(HostKeyPin::of).transpose())
        .map_err(|error| unavailable("forget a host key", error))
}

#[async_trait]
impl HostKeys for PostgresStore {
    async fn pinned(&self, instance: &InstanceKey) -> Result<Option<HostKey>, HostKeyError> {
        read(self, instance).await
    }

    async fn pin_first_use(&self, instance: &InstanceKey, key: &HostKey) -> Result<HostKey, HostKeyError> {
        let statement = || {
            sqlx::query(PIN_FIRST_USE)
                .bind(&instance.region)
                .bind(&instance.instance_id)
                .bind(&key.key_type)
                .bind(&key.key_base64)
        };
        self.requests
            .rows(statement)
            .await
            .map_err(|error| HostKeyError(error.into()))?;
        // Whoever came first holds the pin, be it another process: only what is read back counts.
        read(self, instance)
            .await?
            .ok_or_else(|| HostKeyError("the pin was gone when it was read back".into()))
    }
}

async fn read(store: &PostgresStore, instance: &InstanceKey) -> Result<Option<HostKey>, HostKeyError> {
    let pin = show(store, instance)
        .await
        .map_err(|error| HostKeyError(error.into()))?;
    Ok(pin.map(|pin| pin.key))
}
