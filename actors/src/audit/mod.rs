//! The audit: one row per exec, committed before it runs and again when it has ended.

pub mod store;

pub use store::{AuditRow, AuditStore, AuditStoreError, RowStatus};
