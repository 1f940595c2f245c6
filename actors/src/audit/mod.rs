//! The audit: one row per exec, committed before it runs and again when it has ended.

mod actor;
mod aside;
mod batch;
mod health;
mod pending;
pub mod store;
mod upkeep;

pub(crate) use actor::{Audit, AuditSettings};
pub(crate) use pending::Verdict;
pub use store::{AuditRow, AuditStore, AuditStoreError, Chore, DueRow, Half, RowStatus};
pub(crate) use upkeep::UpkeepSettings;
