//! What an auditor relies on, shown on a real PostgreSQL while everything around the rows breaks: the service, the server,
//! the connections between them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test's helpers fail it by panicking; clippy.toml reaches only the test functions themselves"
)]

mod breaking;
mod hanging;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/postgres_cluster.rs"]
mod postgres_cluster;
#[path = "../support/unreliable_proxy.rs"]
mod unreliable_proxy;
#[path = "../support/wait.rs"]
mod wait;
