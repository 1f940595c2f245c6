//! The embedded store: one SQLite file in WAL mode.
//!
//! Owns the connections, their pragmas and the migrations. One connection writes, as SQLite allows no more; several
//! read, and WAL lets them read while a commit is on its way: neither authentication nor audit waits for the other.

mod accounts;
mod audit;
mod execs;
mod host_keys;
mod row;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use adit_actors::exec::CallerKind;
use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::HostKey;
use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, Migrate, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use uuid::Uuid;

use super::{
    Authorization, ConnectError, ExecQuery, HostKeyPin, HostKeyQuery, NewToken, NewWorkspace,
    PinnedByOperator, Store, StoreError, StoredExec, TargetDefaults, TokenHash, TokenRecord, Workspace,
    history,
};

/// How long a statement waits for another process that writes (`adit token issue` beside a running service).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for a connection. Reads take microseconds, so one that waits this long has a store that
/// hangs; less than the 5 s that a begin row may take.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A store in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    /// One connection: audit batches, host key pins and the rare changes by an operator.
    writer: SqlitePool,
    /// Connections that can't write: authentication, lists and readiness.
    readers: SqlitePool,
    defaults: TargetDefaults,
}

impl SqliteStore {
    /// Opens the file, which must be there and have this version's migrations. `connections` read, each by a thread.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn open(path: &Path, connections: u32, defaults: TargetDefaults) -> Result<Self, ConnectError> {
        if !path.exists() {
            check_directory(path)?;
            return Err(ConnectError::Missing {
                path: path.to_owned(),
            });
        }
        let options = connect_options(path);
        let writer = pool(1).connect_with(options.clone()).await.map_err(open_error)?;
        check_migrations(&writer).await?;
        let readers = pool(connections)
            .connect_with(options.pragma("query_only", "on"))
            .await
            .map_err(open_error)?;
        Ok(Self {
            writer,
            readers,
            defaults,
        })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn authorize(
        &self,
        token: TokenHash,
        workspace_id: Option<Uuid>,
        org: Option<Uuid>,
    ) -> Result<Authorization, StoreError> {
        accounts::authorize(&self.readers, &self.defaults, token, workspace_id, org).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Reads a page of the file: a bare `SELECT 1` would succeed on a disk that is gone.
        sqlx::query("SELECT EXISTS (SELECT 1 FROM workspaces)")
            .execute(&self.readers)
            .await
            .map_err(|error| super::failure::unavailable("ping", error))?;
        Ok(())
    }

    async fn add_workspace(&self, workspace: &NewWorkspace) -> Result<(), StoreError> {
        accounts::add_workspace(&self.writer, workspace).await
    }

    async fn list_workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        accounts::list_workspaces(&self.readers, &self.defaults).await
    }

    async fn add_token(&self, token: &NewToken) -> Result<(), StoreError> {
        accounts::add_token(&self.writer, token).await
    }

    async fn list_tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        accounts::list_tokens(&self.readers).await
    }

    async fn revoke_token(&self, id: Uuid) -> Result<bool, StoreError> {
        accounts::revoke_token(&self.writer, id).await
    }

    async fn host_key(&self, instance: &InstanceKey) -> Result<Option<HostKeyPin>, StoreError> {
        host_keys::show(&self.readers, instance).await
    }

    async fn list_host_keys(&self, query: &HostKeyQuery) -> Result<Vec<HostKeyPin>, StoreError> {
        host_keys::list(&self.readers, query).await
    }

    async fn pin_host_key(
        &self,
        instance: &InstanceKey,
        key: &HostKey,
        pinned_by: &str,
    ) -> Result<PinnedByOperator, StoreError> {
        host_keys::pin(&self.writer, instance, key, pinned_by).await
    }

    async fn forget_host_key(&self, instance: &InstanceKey) -> Result<Option<HostKeyPin>, StoreError> {
        host_keys::forget(&self.writer, instance).await
    }

    async fn exec(
        &self,
        exec_id: Uuid,
        workspace_id: Option<Uuid>,
    ) -> Result<Option<StoredExec>, StoreError> {
        execs::show(&self.readers, exec_id, workspace_id).await
    }

    async fn list_execs(&self, query: &ExecQuery) -> Result<Vec<StoredExec>, StoreError> {
        execs::list(&self.readers, query).await
    }

    async fn note_token_uses(
        &self,
        tokens: &[(CallerKind, Uuid)],
        coarseness: Duration,
    ) -> Result<(), StoreError> {
        accounts::note_token_uses(&self.writer, tokens, coarseness).await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Applies what is missing, creating the file when it is not there. Returns how many migrations were applied.
///
/// # Errors
/// [`ConnectError`].
pub async fn migrate(path: &Path) -> Result<usize, ConnectError> {
    check_directory(path)?;
    create_for_owner(path).map_err(|source| ConnectError::Create {
        path: path.to_owned(),
        source,
    })?;
    let mut connection = connect_options(path).connect().await.map_err(open_error)?;
    let migrator = migrator();
    let before = applied(&mut connection).await?;
    history::missing(&before, &migrator)?;
    migrator
        .run(&mut connection)
        .await
        .map_err(|error| ConnectError::Migrate(error.into()))?;
    let after = applied(&mut connection).await?.len();
    connection.close().await.map_err(open_error)?;
    Ok(after.saturating_sub(before.len()))
}

/// Whose directory it would be, and who may look into it, is for the operator to say.
fn check_directory(path: &Path) -> Result<(), ConnectError> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() && !directory.exists() => {
            Err(ConnectError::NoDirectory {
                directory: directory.to_owned(),
                path: path.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// The audit is for its owner's eyes. SQLite gives the files beside the database the same mode.
fn create_for_owner(path: &Path) -> io::Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // A committed audit row must outlive a power cut: WAL's usual NORMAL does not promise that.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // Connections to a file don't go stale, and the store must not open one in the middle of a burst.
    SqlitePoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// So long ago, as SQLite's date functions take it.
fn modifier(ago: Duration) -> String {
    format!("-{:.3} seconds", ago.as_secs_f64())
}

fn open_error(error: sqlx::Error) -> ConnectError {
    ConnectError::Open(error.into())
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("migrations/sqlite");
    migrator.dangerous_set_table_name(history::TABLE);
    // Those of a newer version: `history` says which may be there.
    migrator.set_ignore_missing(true);
    migrator
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<AppliedMigration>, ConnectError> {
    let history_exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)")
            .bind(history::TABLE)
            .fetch_one(&mut *connection)
            .await
            .map_err(open_error)?;
    if !history_exists {
        return Ok(Vec::new());
    }
    connection
        .list_applied_migrations(history::TABLE)
        .await
        .map_err(|error| ConnectError::Open(error.into()))
}

async fn check_migrations(writer: &SqlitePool) -> Result<(), ConnectError> {
    let mut connection = writer.acquire().await.map_err(open_error)?;
    let applied = applied(&mut connection).await?;
    history::check(&applied, &migrator())
}

#[cfg(test)]
mod tests;
