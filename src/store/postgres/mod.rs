//! The store for production: a PostgreSQL database, of Adit's own or the host platform's.
//!
//! Owns the connections, what holds in their sessions, and the migrations. Begin rows, final rows, and what is done for
//! requests have connections of their own: a burst of one, or a statement that hangs, holds up none of the others.

mod accounts;
mod audit;
mod connections;
mod execs;
mod host_keys;
mod migrations;
mod row;

use std::time::Duration;

use adit_actors::exec::CallerKind;
use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::HostKey;
use async_trait::async_trait;
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use self::connections::Connections;
pub(super) use self::migrations::migrate;
use super::{
    Authorization, ConnectError, ExecQuery, HostKeyPin, HostKeyQuery, NewToken, NewWorkspace,
    PinnedByOperator, Store, StoreError, StoredExec, TargetDefaults, TokenHash, TokenRecord, Workspace,
    failure,
};

/// How long a request waits for the database. Its statements take a millisecond, so one that waits this long has a
/// database that hangs; less than the 5 s that a begin row may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(3);

/// Just before the 5 s after which the audit gives a write up, so that its log says what was waited for.
const AUDIT_DEADLINE: Duration = Duration::from_millis(4_500);

/// The sweep and retention: nobody waits for them, and both go on where they stopped.
const UPKEEP_DEADLINE: Duration = Duration::from_secs(30);

/// Who waits longer for a lock meets a migration of the host platform, and had better try again than hold others up.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// A batch waits less for a lock, which somebody has on one workspace most often, and the others wait with it.
const AUDIT_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// The server gives a batch up before the deadline, the commit apart, so that it is certain that nothing was written. A host's
/// trigger may be slow.
const AUDIT_STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// One for the batches of a half, one for the row that is tried beside them.
const AUDIT_CONNECTIONS: u32 = 2;

/// A store in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    begins: Connections,
    finishes: Connections,
    upkeep: Connections,
    /// Authentication, lists, readiness, host key pins, and what operators change.
    requests: Connections,
    defaults: TargetDefaults,
}

impl PostgresStore {
    /// Opens the database, which must have this version's migrations. At most `connections` serve requests; five more
    /// write audit rows and look after them.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn open(
        options: &PgConnectOptions,
        connections: u32,
        defaults: TargetDefaults,
    ) -> Result<Self, ConnectError> {
        migrations::check(options).await?;
        let lane = |count, deadline| {
            let options = session(options.clone(), deadline, LOCK_TIMEOUT);
            Connections::new(options, count, deadline)
        };
        let audit = || {
            let options = session(options.clone(), AUDIT_STATEMENT_TIMEOUT, AUDIT_LOCK_TIMEOUT);
            Connections::new(options, AUDIT_CONNECTIONS, AUDIT_DEADLINE)
        };
        Ok(Self {
            begins: audit(),
            finishes: audit(),
            upkeep: lane(1, UPKEEP_DEADLINE),
            requests: lane(connections, REQUEST_DEADLINE),
            defaults,
        })
    }
}

/// What holds in a session, whatever the server's own defaults are. A commit must be on disk when it is acknowledged. The
/// server, too, gives up what nobody waits for any more. Adit's indexes give every order that is asked for; PostgreSQL
/// would sometimes rather sort what it finds by one of the host's, among the rows of all other writers.
fn session(
    options: PgConnectOptions,
    statement_timeout: Duration,
    lock_timeout: Duration,
) -> PgConnectOptions {
    let options = options.options([
        ("synchronous_commit", "on".to_owned()),
        ("statement_timeout", milliseconds(statement_timeout)),
        ("lock_timeout", milliseconds(lock_timeout)),
        (
            "idle_in_transaction_session_timeout",
            milliseconds(statement_timeout),
        ),
        ("enable_incremental_sort", "off".to_owned()),
    ]);
    named(options)
}

/// Whose sessions they are, for the people who look after the database.
fn named(options: PgConnectOptions) -> PgConnectOptions {
    if options.get_application_name().is_some() {
        return options;
    }
    options.application_name("adit")
}

/// As PostgreSQL's settings of time take it.
fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

#[async_trait]
impl Store for PostgresStore {
    async fn authorize(
        &self,
        token: TokenHash,
        workspace_id: Option<Uuid>,
        org: Option<Uuid>,
    ) -> Result<Authorization, StoreError> {
        accounts::authorize(self, token, workspace_id, org).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let ping = self.requests.rows(|| sqlx::query("SELECT 1")).await;
        ping.map_err(|error| failure::unavailable("ping", error))?;
        Ok(())
    }

    async fn add_workspace(&self, workspace: &NewWorkspace) -> Result<(), StoreError> {
        accounts::add_workspace(self, workspace).await
    }

    async fn list_workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        accounts::list_workspaces(self).await
    }

    async fn add_token(&self, token: &NewToken) -> Result<(), StoreError> {
        accounts::add_token(self, token).await
    }

    async fn list_tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        accounts::list_tokens(self).await
    }

    async fn revoke_token(&self, id: Uuid) -> Result<bool, StoreError> {
        accounts::revoke_token(self, id).await
    }

    async fn host_key(&self, instance: &InstanceKey) -> Result<Option<HostKeyPin>, StoreError> {
        host_keys::show(self, instance).await
    }

    async fn list_host_keys(&self, query: &HostKeyQuery) -> Result<Vec<HostKeyPin>, StoreError> {
        host_keys::list(self, query).await
    }

    async fn pin_host_key(
        &self,
        instance: &InstanceKey,
        key: &HostKey,
        pinned_by: &str,
    ) -> Result<PinnedByOperator, StoreError> {
        host_keys::pin(self, instance, key, pinned_by).await
    }

    async fn forget_host_key(&self, instance: &InstanceKey) -> Result<Option<HostKeyPin>, StoreError> {
        host_keys::forget(self, instance).await
    }

    async fn exec(
        &self,
        exec_id: Uuid,
        workspace_id: Option<Uuid>,
    ) -> Result<Option<StoredExec>, StoreError> {
        execs::show(self, exec_id, workspace_id).await
    }

    async fn list_execs(&self, query: &ExecQuery) -> Result<Vec<StoredExec>, StoreError> {
        execs::list(self, query).await
    }

    async fn note_token_uses(
        &self,
        tokens: &[(CallerKind, Uuid)],
        coarseness: Duration,
    ) -> Result<(), StoreError> {
        accounts::note_token_uses(self, tokens, coarseness).await
    }

    async fn close(&self) {
        for connections in [&self.requests, &self.upkeep, &self.begins, &self.finishes] {
            connections.close().await;
        }
    }
}

#[cfg(test)]
mod tests;
