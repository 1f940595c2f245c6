//! What the service keeps: workspaces, tokens, host key pins and audit rows.
//!
//! [`Store`] is the whole of what the rest of the service knows of SQL. Audit rows and host key pins go through the
//! traits of `adit-actors`, which a store implements as well. [`connect`] picks the implementation by the URL.

mod audit_rows;
mod host_keys;
pub mod sqlite;
#[cfg(test)]
mod suite;
mod timestamp;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_actors::audit::{AuditStore, RowStatus};
use adit_actors::exec::{Caller, CallerKind};
use adit_actors::instance::{InstanceKey, InstanceTarget};
use adit_actors::tunnel::{HostKey, HostKeys, Source};
use async_trait::async_trait;
use serde_json::Value;
use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

pub use host_keys::{HostKeyPin, HostKeyQuery, PinnedByOperator, Provenance};

/// SHA-256 of a token's text: the only form in which a store knows a token.
pub type TokenHash = [u8; 32];

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
    /// The database lacks migrations that this version of Adit needs.
    #[error("the store lacks {missing} of Adit's migrations; run `adit migrate` first")]
    NotMigrated {
        /// How many are missing.
        missing: usize,
    },
    /// The database has been migrated by another, newer version, or a migration was changed after it had run.
    #[error("the store's migration {version} is not the one that this version of Adit knows")]
    ForeignMigration {
        /// Version of the migration.
        version: i64,
    },
}

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

/// Opens the store that `url` names: `sqlite:///absolute/path` or `sqlite://relative/path`.
///
/// # Errors
/// [`ConnectError`]; in particular when the database is not there or its migrations are not those of this version:
/// [`migrate`] comes first.
pub async fn connect(url: &str, defaults: TargetDefaults) -> Result<Arc<dyn Store>, ConnectError> {
    Ok(Arc::new(
        sqlite::SqliteStore::open(&sqlite_path(url)?, defaults).await?,
    ))
}

/// Brings the database that `url` names up to this version, creating it when it is not there. Returns how many
/// migrations were applied.
///
/// # Errors
/// [`ConnectError`].
pub async fn migrate(url: &str) -> Result<usize, ConnectError> {
    sqlite::migrate(&sqlite_path(url)?).await
}

fn sqlite_path(url: &str) -> Result<PathBuf, ConnectError> {
    let Some(path) = url.strip_prefix("sqlite://") else {
        return Err(ConnectError::Url("it must begin with `sqlite://`"));
    };
    if path.is_empty() || path == ":memory:" {
        return Err(ConnectError::Url(
            "it must name a file: `sqlite:///var/lib/adit/adit.db`",
        ));
    }
    if path.contains(['?', '#']) {
        return Err(ConnectError::Url(
            "it takes no parameters; the file name must be free of `?` and `#`",
        ));
    }
    Ok(path.into())
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

/// An exec's row as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredExec {
    /// Id of the exec.
    pub id: Uuid,
    /// Workspace it ran for.
    pub workspace_id: Uuid,
    /// Where the row stands.
    pub status: RowStatus,
    /// One line for people.
    pub summary: Option<String>,
    /// Who asked for what.
    pub request_body: Option<Value>,
    /// The `Exec` and what only operators may see of it, once it has ended.
    pub response_body: Option<Value>,
    /// Error code and cause, if something went wrong; only for operators.
    pub error_detail: Option<String>,
    /// When the exec was admitted.
    pub created_at: OffsetDateTime,
    /// HMAC of the request under its Idempotency-Key, where it had one.
    pub body_hmac: Option<[u8; 32]>,
}

/// Which execs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct ExecQuery {
    /// Only this workspace's.
    pub workspace_id: Option<Uuid>,
    /// Only those whose row stands so.
    pub status: Option<RowStatus>,
    /// Only those admitted at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Only what comes after this one, which need not be there any more.
    pub after: Option<(OffsetDateTime, Uuid)>,
    /// At most so many.
    pub limit: u32,
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
    pub address: Option<std::net::IpAddr>,
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
