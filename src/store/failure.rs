//! What a failed statement means to the caller: try again, or never.

use adit_actors::audit::AuditStoreError;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use super::StoreError;

/// Primary result codes of SQLite that speak of the data, not of the database: <https://www.sqlite.org/rescode.html>,
/// TOOBIG, CONSTRAINT and MISMATCH. The low byte of an extended code is its primary code.
const SQLITE_REJECTIONS: [i32; 3] = [18, 19, 20];

/// Classes of PostgreSQL's codes that do: <https://www.postgresql.org/docs/current/errcodes-appendix.html>, data
/// exceptions and violated constraints.
const POSTGRES_REJECTIONS: [&str; 2] = ["22", "23"];

/// Whether the database refused the data, so that the same statement can never succeed.
pub(super) fn is_rejection(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else {
        return false;
    };
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<PgDatabaseError>().is_some() {
        POSTGRES_REJECTIONS.iter().any(|class| code.starts_with(class))
    } else {
        code.parse::<i32>()
            .is_ok_and(|code| SQLITE_REJECTIONS.contains(&(code & 0xff)))
    }
}

/// A statement of the service failed for want of the database.
pub(super) fn unavailable(operation: &'static str, error: sqlx::Error) -> StoreError {
    StoreError::Unavailable {
        operation,
        source: error.into(),
    }
}

/// A statement that an operator asked for failed. `refusal` says what is wrong when the data was refused; it is told
/// whether the same was there already.
pub(super) fn refused_or_unavailable(
    operation: &'static str,
    error: sqlx::Error,
    refusal: impl FnOnce(bool) -> String,
) -> StoreError {
    if is_rejection(&error) {
        let is_taken = error
            .as_database_error()
            .is_some_and(DatabaseError::is_unique_violation);
        StoreError::Refused(refusal(is_taken))
    } else {
        unavailable(operation, error)
    }
}

/// Writing audit rows failed.
pub(super) fn audit(error: sqlx::Error) -> AuditStoreError {
    if is_rejection(&error) {
        AuditStoreError::Rejected(error.into())
    } else {
        AuditStoreError::Unavailable(error.into())
    }
}
