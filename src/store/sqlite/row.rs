//! Columns of SQLite: UUIDs are hyphenated text, times text of one width.

use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use sqlx::types::Json;
use sqlx::types::uuid::fmt::Hyphenated;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::row::{Columns, undecodable};
use crate::store::timestamp;

impl Columns for SqliteRow {
    fn uuid(&self, column: &str) -> Result<Option<Uuid>, sqlx::Error> {
        Ok(self.try_get::<Option<Hyphenated>, _>(column)?.map(Uuid::from))
    }

    fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        self.try_get(column)
    }

    fn integer(&self, column: &str) -> Result<Option<i32>, sqlx::Error> {
        self.try_get(column)
    }

    fn time(&self, column: &str) -> Result<Option<OffsetDateTime>, sqlx::Error> {
        self.try_get::<Option<&str>, _>(column)?
            .map(timestamp::from_text)
            .transpose()
            .map_err(|error| undecodable(column, error))
    }

    fn json(&self, column: &str) -> Result<Option<Value>, sqlx::Error> {
        Ok(self
            .try_get::<Option<Json<_>>, _>(column)?
            .map(|Json(value)| value))
    }

    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get(column)
    }
}
