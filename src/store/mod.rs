//! What the service keeps: workspaces, tokens, host key pins and audit rows.
//!
//! [`Store`] is the whole of what the rest of the service knows of SQL. Audit rows and host key pins go through the
//! traits of `adit-actors`, which a store implements as well. [`connect`] picks the implementation by the URL.

mod accounts;
mod audit_rows;
mod execs;
mod failure;
mod history;
mod host_keys;
mod location;
pub mod postgres;
mod row;
pub mod sqlite;
#[cfg(test)]
mod suite;
mod timestamp;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_actors::audit::AuditStore;
use adit_actors::exec::CallerKind;
use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::{HostKey, HostKeys, Source};
use async_trait::async_trait;
use thiserror::Error;
use uuid::Uuid;

use self::location::Location;
use self::postgres::PostgresStore;
use self::sqlite::SqliteStore;

pub use accounts::{
    Authorization, NewToken, NewWorkspace, TargetDefaults, TokenHash, TokenRecord, TokenScope, Workspace,
};
pub use execs::{ExecQuery, StoredExec};
pub use host_keys::{HostKeyPin, HostKeyQuery, PinnedByOperator, Provenance};

/// A store operation failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store could not be reached or did not answer in time.
    #[error("the store is not available for `{operation}`")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// The driver's error; for the log only.
        #[source]
        source: Source,
    },
    /// What was asked can't be done with what the store holds; the text is fit for an operator.
    #[error("{0}")]
    Refused(String),
}

/// A store could not be opened or migrated.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The URL names no store that Adit has. The URL itself may hold a password and is not quoted.
    #[error("the store's url is not valid: {0}")]
    Url(&'static str),
    /// The database's file is not there.
    #[error("there is no store at `{path}`; run `adit migrate` first")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The directory of the database's file is not there.
    #[error("there is no directory `{directory}` for the store `{path}`; make it, then run `adit migrate`")]
    NoDirectory {
        /// What is missing.
        directory: PathBuf,
        /// The file that was to be in it.
        path: PathBuf,
    },
    /// The database's file could not be made.
    #[error("the store `{path}` could not be made")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database could not be opened.
    #[error("the store could not be opened")]
    Open(#[source] Source),
    /// A migration failed; those before it are in place.
    #[error("the store's migrations failed")]
    Migrate(#[source] Source),
    /// Somebody else's migrations don't come to an end.
    #[error("another `adit migrate` is at work on the store")]
    MigrationUnderWay,
    /// The database lacks migrations that this version of Adit needs.
    #[error("the store lacks {missing} of Adit's migrations; run `adit migrate` first")]
    NotMigrated {
        /// How many are missing.
        missing: usize,
    },
    /// A migration was changed after it had run, or stands among those of this version and is none of them.
    #[error("the store's migration {version} is not the one that this version of Adit knows")]
    ForeignMigration {
        /// Version of the migration.
        version: i64,
    },
}

/// Opens the store that `url` names: `sqlite:///absolute/path`, `sqlite://relative/path` or
/// `postgres://user:password@host/database`. At most `connections` serve requests at once; audit rows have their own.
///
/// # Errors
/// [`ConnectError`]; in particular when the database is not there or its migrations are not those of this version:
/// [`migrate`] comes first.
pub async fn connect(
    url: &str,
    connections: u32,
    defaults: TargetDefaults,
) -> Result<Arc<dyn Store>, ConnectError> {
    Ok(match Location::of(url)? {
        Location::Sqlite(path) => Arc::new(SqliteStore::open(&path, connections, defaults).await?),
        Location::Postgres(options) => Arc::new(PostgresStore::open(&options, connections, defaults).await?),
    })
}

/// Brings the database that `url` names up to this version; SQLite's file is made when it is not there. Returns how many
/// migrations were applied.
///
/// # Errors
/// [`ConnectError`].
pub async fn migrate(url: &str) -> Result<usize, ConnectError> {
    match Location::of(url)? {
        Location::Sqlite(path) => sqlite::migrate(&path).await,
        Location::Postgres(options) => postgres::migrate(&options).await,
    }
}

/// Everything the service asks of its database.
#[async_trait]
pub trait Store: AuditStore + HostKeys {
    /// Who a token is and which workspace it may see, in one query.
    ///
    /// `workspace_id` is `None` when the path held no UUID. `org` is the tenant guard's org: when it is set, every row
    /// of the store belongs to that org, and an org token opens every workspace.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn authorize(
        &self,
        token: TokenHash,
        workspace_id: Option<Uuid>,
        org: Option<Uuid>,
    ) -> Result<Authorization, StoreError>;

    /// A round trip to the database, for readiness.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn ping(&self) -> Result<(), StoreError>;

    /// Adds a workspace.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when its id is taken.
    async fn add_workspace(&self, workspace: &NewWorkspace) -> Result<(), StoreError>;

    /// All workspaces that are not removed, by name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list_workspaces(&self) -> Result<Vec<Workspace>, StoreError>;

    /// Stores a token's hash and prefix.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it names a workspace that is not there.
    async fn add_token(&self, token: &NewToken) -> Result<(), StoreError>;

    /// All tokens, revoked ones too, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list_tokens(&self) -> Result<Vec<TokenRecord>, StoreError>;

    /// Revokes a token from now on; `false` when there is none with this id that is still live.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn revoke_token(&self, id: Uuid) -> Result<bool, StoreError>;

    /// The pin of one instance, with where it comes from.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn host_key(&self, instance: &InstanceKey) -> Result<Option<HostKeyPin>, StoreError>;

    /// A page of pins, by region and instance id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list_host_keys(&self, query: &HostKeyQuery) -> Result<Vec<HostKeyPin>, StoreError>;

    /// Pins `key` for `instance` whatever is pinned there, and says what that was. `pinned_by` is for people.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; then it may be pinned or not.
    async fn pin_host_key(
        &self,
        instance: &InstanceKey,
        key: &HostKey,
        pinned_by: &str,
    ) -> Result<PinnedByOperator, StoreError>;

    /// Removes the pin of `instance` and returns it; `None` when there is none. The next login pins anew.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; then it may be gone or not.
    async fn forget_host_key(&self, instance: &InstanceKey) -> Result<Option<HostKeyPin>, StoreError>;

    /// The row of one exec; with `workspace_id` only if it is that workspace's. Other writers' rows are not seen.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn exec(&self, exec_id: Uuid, workspace_id: Option<Uuid>)
    -> Result<Option<StoredExec>, StoreError>;

    /// A page of execs, newest first: by `created_at` and, where that is the same, by id, both descending.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list_execs(&self, query: &ExecQuery) -> Result<Vec<StoredExec>, StoreError>;

    /// Notes that tokens are in use: sets `last_used_at` to the store's present time where it is absent or older than
    /// `coarseness`. Tokens that are not there any more are passed over.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn note_token_uses(
        &self,
        tokens: &[(CallerKind, Uuid)],
        coarseness: Duration,
    ) -> Result<(), StoreError>;

    /// Gives the connections back; every later call fails. The last step of a shutdown.
    async fn close(&self);
}
