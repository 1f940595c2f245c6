//! Adit's own history of migrations, beside the one of a host platform.

use sqlx::migrate::{AppliedMigration, Migrator};

use super::ConnectError;

/// The table of the history.
pub(super) const TABLE: &str = "adit_migrations";

/// Fails unless those `applied` are exactly those of this version.
pub(super) fn check(applied: &[AppliedMigration], migrator: &Migrator) -> Result<(), ConnectError> {
    let is_known = |applied: &AppliedMigration| {
        migrator
            .iter()
            .any(|known| known.version == applied.version && known.checksum == applied.checksum)
    };
    if let Some(foreign) = applied.iter().find(|applied| !is_known(applied)) {
        return Err(ConnectError::ForeignMigration {
            version: foreign.version,
        });
    }
    match migrator.iter().count().saturating_sub(applied.len()) {
        0 => Ok(()),
        missing => Err(ConnectError::NotMigrated { missing }),
    }
}
