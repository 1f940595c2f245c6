//! A row of whichever database, read by the names of its columns.

use serde_json::Value;
use sqlx::error::BoxDynError;
use time::OffsetDateTime;
use uuid::Uuid;

/// What the mappings of rows to plain values need of a driver's row. Every column may be NULL here; [`required`] says
/// where it must not be.
pub(super) trait Columns {
    fn uuid(&self, column: &str) -> Result<Option<Uuid>, sqlx::Error>;
    fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error>;
    fn integer(&self, column: &str) -> Result<Option<i32>, sqlx::Error>;
    fn time(&self, column: &str) -> Result<Option<OffsetDateTime>, sqlx::Error>;
    fn json(&self, column: &str) -> Result<Option<Value>, sqlx::Error>;
    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error>;
}

/// The value of a column that is NOT NULL.
pub(super) fn required<T>(column: &str, value: Result<Option<T>, sqlx::Error>) -> Result<T, sqlx::Error> {
    value?.ok_or_else(|| undecodable(column, "it is NULL"))
}

/// A column holds what its type or CHECK should have kept out.
pub(super) fn undecodable(column: &str, source: impl Into<BoxDynError>) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: source.into(),
    }
}
