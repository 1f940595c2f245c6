//! What the tests have in common: signing by AWS's own crate, a bare HTTP client, tunnels, SSH clients and a real sshd.
//!
//! Each test binary uses a part of it.
#![allow(dead_code, reason = "every test binary uses a part of the support code")]

pub(crate) mod requests;
pub(crate) mod scenarios;
pub(crate) mod ssh;
pub(crate) mod sshd;

use std::future::Future;
use std::time::Duration;

use adit_emulator::{Emulator, Instance, InstanceBackend, Settings};
use tokio::net::TcpListener;

/// Longest wait for a condition, far above what any takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a condition holds, and fails the test when it does not come true.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// Awaits with a bound.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("took too long: {what}"))
}

/// An emulator whose instance is a listener of the test.
pub(crate) async fn start_with_listener() -> (Emulator, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = InstanceBackend::External {
        address: listener.local_addr().unwrap(),
        authorized_keys_dir: std::env::temp_dir(),
    };
    let mut settings = Settings::new(requests::credentials());
    settings.instances = vec![Instance {
        backend,
        ..Instance::default()
    }];
    (Emulator::start(settings).await.unwrap(), listener)
}
