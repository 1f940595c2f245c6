//! Bringing a database up to this version: Adit's own, or that of a host platform on which others work meanwhile.
//!
//! What is changed of a table needs a lock that everybody's statements wait behind, so it is asked for shortly and again.
//! Indexes are built beside the writers; that may take long, waits for every transaction that began before, and leaves an
//! index that nobody may use when it is interrupted.

use std::time::Duration;

use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migration, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::time::{Instant, sleep, timeout};

use super::{milliseconds, named};
use crate::store::{ConnectError, history};

/// To connect, in all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Any number, the same in every Adit: whoever holds the advisory lock of this name migrates.
pub(super) const LOCK: i64 = 0x6164_6974_0000_0001;

/// How often a replica that waits for another's migrations looks. It must not wait in `pg_advisory_lock`: that statement's
/// snapshot would hold up CREATE INDEX CONCURRENTLY, for which it waits.
const POLL: Duration = Duration::from_millis(250);

/// lock_not_available: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// How long to wait for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the lock on a table. Everybody's statements on that table wait behind this one.
    pub(super) lock: Duration,
    /// How often to ask for it, and how long to let others work in between.
    pub(super) attempts: u32,
    pub(super) pause: Duration,
    /// For the transactions that must end before an index is built. Nobody waits behind this.
    pub(super) index: Duration,
    /// For another process that migrates.
    pub(super) other: Duration,
}

impl Patience {
    /// A second is no outage for the host's writers, and ten attempts outlast most of its reports; a backup may take an
    /// hour, and so may an index on hundreds of millions of rows.
    pub(super) const USUAL: Self = Self {
        lock: Duration::from_secs(1),
        attempts: 10,
        pause: Duration::from_secs(3),
        index: Duration::from_secs(3_600),
        other: Duration::from_secs(3_600),
    };
}

/// Applies what is missing. Returns how many migrations were applied.
pub(in crate::store) async fn migrate(options: &PgConnectOptions) -> Result<usize, ConnectError> {
    migrate_with(options, Patience::USUAL).await
}

pub(super) async fn migrate_with(
    options: &PgConnectOptions,
    patience: Patience,
) -> Result<usize, ConnectError> {
    // An index takes as long as it takes, whatever the role's own limit is; and what is there already is no news.
    let options = options
        .clone()
        .options([("statement_timeout", "0"), ("client_min_messages", "warning")]);
    let mut connection = connect(options).await?;
    wait_for_turn(&mut connection, patience.other).await?;
    let migrator = migrator();
    let before = applied(&mut connection).await?;
    history::missing(&before, &migrator)?;
    for migration in migrator.iter() {
        if before.iter().any(|applied| applied.version == migration.version) {
            continue;
        }
        apply(&migrator, migration, &mut connection, patience).await?;
    }
    let after = applied(&mut connection).await?;
    connection.close().await.map_err(open_error)?;
    Ok(after.len().saturating_sub(before.len()))
}

/// The lock is the session's, and goes with it: also with that of an `adit migrate` that was killed, once the server has
/// ended what it was doing for it.
async fn wait_for_turn(connection: &mut PgConnection, limit: Duration) -> Result<(), ConnectError> {
    let deadline = Instant::now() + limit;
    loop {
        let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *connection)
            .await
            .map_err(open_error)?;
        if is_ours {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ConnectError::MigrationUnderWay);
        }
        sleep(POLL).await;
    }
}

/// Applies one migration, whose predecessors are in place.
async fn apply(
    migrator: &Migrator,
    migration: &Migration,
    connection: &mut PgConnection,
    patience: Patience,
) -> Result<(), ConnectError> {
    if migration.no_tx {
        set_lock_timeout(connection, patience.index).await?;
        drop_invalid_index(connection, migration).await?;
        return migrator
            .run_to(migration.version, &mut *connection)
            .await
            .map_err(migrate_error);
    }
    set_lock_timeout(connection, patience.lock).await?;
    let mut attempt = 1;
    loop {
        match migrator.run_to(migration.version, &mut *connection).await {
            Err(error) if attempt < patience.attempts && is_lock_timeout(&error) => {
                tracing::info!(
                    migration = migration.version,
                    "waiting for a table that others use at the moment"
                );
                attempt += 1;
                sleep(patience.pause).await;
            }
            result => return result.map_err(migrate_error),
        }
    }
}

/// An interrupted CREATE INDEX CONCURRENTLY leaves an index that costs every writer and serves no reader, and that IF NOT
/// EXISTS passes over.
async fn drop_invalid_index(
    connection: &mut PgConnection,
    migration: &Migration,
) -> Result<(), ConnectError> {
    let Some(index) = index_of(migration.sql.as_str()) else {
        return Ok(());
    };
    let is_invalid: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid)",
    )
    .bind(index)
    .fetch_one(&mut *connection)
    .await
    .map_err(open_error)?;
    if is_invalid {
        // The name stands in a migration of this program.
        sqlx::query(AssertSqlSafe(format!("DROP INDEX CONCURRENTLY {index}")))
            .execute(connection)
            .await
            .map_err(|error| ConnectError::Migrate(error.into()))?;
    }
    Ok(())
}

fn index_of(sql: &str) -> Option<&str> {
    let (_, name) = sql.split_once("CREATE INDEX CONCURRENTLY IF NOT EXISTS ")?;
    name.split_whitespace().next()
}

async fn set_lock_timeout(connection: &mut PgConnection, limit: Duration) -> Result<(), ConnectError> {
    sqlx::query("SELECT set_config('lock_timeout', $1, false)")
        .bind(milliseconds(limit))
        .execute(connection)
        .await
        .map_err(open_error)?;
    Ok(())
}

fn is_lock_timeout(error: &MigrateError) -> bool {
    let (MigrateError::ExecuteMigration(error, _) | MigrateError::Execute(error)) = error else {
        return false;
    };
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}

/// Fails unless the database has the migrations of this version.
pub(super) async fn check(options: &PgConnectOptions) -> Result<(), ConnectError> {
    let mut connection = connect(options.clone()).await?;
    let applied = applied(&mut connection).await?;
    connection.close().await.map_err(open_error)?;
    history::check(&applied, &migrator())
}

async fn connect(options: PgConnectOptions) -> Result<PgConnection, ConnectError> {
    match timeout(CONNECT_TIMEOUT, named(options).connect()).await {
        Ok(connected) => connected.map_err(open_error),
        Err(elapsed) => Err(ConnectError::Open(elapsed.into())),
    }
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<AppliedMigration>, ConnectError> {
    let history_exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
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

pub(super) fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("migrations/postgres");
    migrator.dangerous_set_table_name(history::TABLE);
    // It would wait in `pg_advisory_lock`.
    migrator.set_locking(false);
    migrator
}

fn open_error(error: sqlx::Error) -> ConnectError {
    ConnectError::Open(error.into())
}

fn migrate_error(error: MigrateError) -> ConnectError {
    ConnectError::Migrate(error.into())
}
