//! The whole service, from a request to its row, over the emulator's own instance and over a real OpenSSH server.
//!
//! A test is a function of a running [`TestApp`](support::TestApp); [`over_every_instance`] makes it one test for each
//! kind of instance, and ends the service afterwards, which checks that nothing has leaked. [`over_postgres`] does so with
//! the other kind of store, for what a store may have a say in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test's helpers fail it by panicking; clippy.toml reaches only the test functions themselves"
)]

#[path = "../support/mod.rs"]
mod support;

/// Makes a test of each function for each kind of instance. The functions take `&TestApp`.
macro_rules! over_every_instance {
    ($($name:ident),+ $(,)?) => {
        over_every_instance!(@in_process, InProcess: $($name),+);
        over_every_instance!(@openssh_bash, OpenSshBash: $($name),+);
        over_every_instance!(@openssh_dash, OpenSshDash: $($name),+);
    };
    (@$kind:ident, $backend:ident: $($name:ident),+) => {
        mod $kind {
            use crate::support::{Backend, TestApp};

            $(
                #[actix_rt::test]
                async fn $name() {
                    let app = TestApp::start(Backend::$backend).await;
                    super::$name(&app).await;
                    app.finish().await;
                }
            )+
        }
    };
}

/// The same, and with one more login: for what depends on the shell most.
macro_rules! over_every_shell {
    ($($name:ident),+ $(,)?) => {
        over_every_instance!($($name),+);
        over_every_instance!(@openssh_busybox, OpenSshBusybox: $($name),+);
    };
}

/// Makes a test of each function over the emulator's own instance: for what does not depend on the instance.
macro_rules! over_the_emulator {
    ($($name:ident),+ $(,)?) => {
        over_every_instance!(@emulated, InProcess: $($name),+);
    };
}

/// Makes a test of each function with a store in PostgreSQL. The functions take `&TestApp`.
macro_rules! over_postgres {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            use crate::support::{Backend, TestApp, TestStore};

            $(
                #[actix_rt::test]
                async fn $name() {
                    let app = TestApp::start_on(TestStore::postgres().await, Backend::InProcess).await;
                    super::$name(&app).await;
                    app.finish().await;
                }
            )+
        }
    };
}

mod access;
mod argv;
mod audit;
mod bodies;
mod connections;
mod cuts;
mod discovery;
mod endings;
mod execs;
mod failed_grants;
mod grants;
mod host_keys;
mod host_platform;
mod idempotency;
mod leaving;
mod ledger;
mod limits;
mod losing;
mod lost_wardens;
mod operating;
mod outcomes;
mod output;
mod recording;
mod refused_logins;
mod request_ids;
mod requests;
mod sharing;
mod silent;
mod stopping;
mod streaming;
mod terminal;
mod tls;
mod tokens;
mod waiting;
