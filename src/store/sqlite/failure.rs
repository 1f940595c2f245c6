//! What a failed statement means to the caller: try again, or never.

use adit_actors::audit::AuditStoreError;

use crate::store::StoreError;

/// Primary result codes of SQLite that speak of the data, not of the database: <https://www.sqlite.org/rescode.html>,
/// TOOBIG, CONSTRAINT and MISMATCH. The low byte of an extended code is its primary code.
const REJECTIONS: [i32; 3] = [18, 19, 20];

/// Whether the database refused the data, so that the same statement can never succeed.
pub(super) fn is_rejection(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| REJECTIONS.contains(&(code & 0xff)))
}

/// A statement of the service failed for want of the database.
pub(super) fn unavailable(operation: &'static str, error: sqlx::Error) -> StoreError {
    StoreError::Unavailable {
        operation,
        source: error.into(),
    }
}

/// A statement that an operator asked for failed; `refusal` says what is wrong when the data was refused.
pub(super) fn refused_or_unavailable(
    operation: &'static str,
    error: sqlx::Error,
    refusal: impl FnOnce() -> String,
) -> StoreError {
    if is_rejection(&error) {
        StoreError::Refused(refusal())
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

/// A column holds what its CHECK should have kept out.
pub(super) fn undecodable(column: &str, source: sqlx::error::BoxDynError) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source,
    }
}
