//! Adit's own history of migrations, beside the one of a host platform.

use sqlx::migrate::{AppliedMigration, Migrator};

use super::ConnectError;

/// The table of the history.
pub(super) const TABLE: &str = "adit_migrations";

/// How many of this version's migrations are not among those `applied`. Later ones are a newer version's, which migrated first, as it
/// must: migrations only add what the version before can live with, so its replicas go on, and may start again.
///
/// # Errors
/// [`ConnectError::ForeignMigration`] for one that this version knows otherwise, or that should not be there.
pub(super) fn missing(applied: &[AppliedMigration], migrator: &Migrator) -> Result<usize, ConnectError> {
    let newest = migrator.iter().map(|known| known.version).max().unwrap_or(0);
    let is_known = |applied: &AppliedMigration| {
        migrator
            .iter()
            .any(|known| known.version == applied.version && known.checksum == applied.checksum)
    };
    let (newer, older): (Vec<_>, Vec<_>) = applied.iter().partition(|applied| applied.version > newest);
    if let Some(foreign) = older.iter().find(|applied| !is_known(applied)) {
        return Err(ConnectError::ForeignMigration {
            version: foreign.version,
        });
    }
    if !newer.is_empty() {
        tracing::warn!(
            migrations = newer.len(),
            "the store has migrations of a newer version of Adit"
        );
    }
    Ok(migrator.iter().count().saturating_sub(older.len()))
}

/// Fails unless those `applied` are all of this version's, and at most a newer one's.
pub(super) fn check(applied: &[AppliedMigration], migrator: &Migrator) -> Result<(), ConnectError> {
    match missing(applied, migrator)? {
        0 => Ok(()),
        missing => Err(ConnectError::NotMigrated { missing }),
    }
}
