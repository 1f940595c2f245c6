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

/// Classes of codes by which PostgreSQL says that it takes no statement like this from anybody: trouble with
/// the connection, want of resources, shutting down, trouble of the system, and a transaction or a server that only reads.
const POSTGRES_OUTAGES: [&str; 5] = ["08", "53", "57P", "58", "25"];

/// What a failure says of the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The database refused the data: the same statement can never succeed.
    Rejection,
    /// The database answered, and others may fare better: somebody's lock, a deadlock, a trigger, its time was up.
    OfTheStatement,
    /// It did not answer, or would answer nobody.
    Outage,
}

fn of(error: &sqlx::Error) -> Failure {
    let Some(error) = error.as_database_error() else {
        return Failure::Outage;
    };
    let code = error.code().unwrap_or_default();
    let is_of = |classes: &[&str]| classes.iter().any(|class| code.starts_with(class));
    if error.try_downcast_ref::<PgDatabaseError>().is_none() {
        // SQLite has one writer: who waits for it waits for all of the database.
        let is_rejection = code
            .parse::<i32>()
            .is_ok_and(|code| SQLITE_REJECTIONS.contains(&(code & 0xff)));
        return if is_rejection {
            Failure::Rejection
        } else {
            Failure::Outage
        };
    }
    if is_of(&POSTGRES_REJECTIONS) {
        Failure::Rejection
    } else if is_of(&POSTGRES_OUTAGES) {
        Failure::Outage
    } else {
        Failure::OfTheStatement
    }
}

/// Whether the database is there and answered this statement alone, so that the connection is as good as before.
pub(super) fn is_of_the_statement(error: &sqlx::Error) -> bool {
    of(error) != Failure::Outage
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
    if of(&error) == Failure::Rejection {
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
    match of(&error) {
        Failure::Rejection => AuditStoreError::Rejected(error.into()),
        Failure::OfTheStatement => AuditStoreError::Failed(error.into()),
        Failure::Outage => AuditStoreError::Unavailable(error.into()),
    }
}
