//! What an auditor relies on, shown on the real binary while everything around the rows breaks: the service itself,
//! PostgreSQL, the connections between them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test's helpers fail it by panicking; clippy.toml reaches only the test functions themselves"
)]

mod breaking;
mod encrypted;
mod endurance;
mod hanging;
mod killed;
mod left_behind;
mod load;
mod outage;
mod refused;
mod repeated;
mod retention;
mod stopped;
mod support;
mod truth;
mod unreliable;
