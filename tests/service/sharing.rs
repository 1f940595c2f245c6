//! Many execs on one instance: one grant, few tunnels, and none in another's way.

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, TestApp, wait};

/// Starts a service that lets one token have many execs in flight.
async fn start(backend: Backend) -> TestApp {
    TestApp::start_with(backend, |setup| {
        setup.settings.limits.execs_per_token = 200;
        setup.settings.limits.execs_per_org = 200;
    })
    .await
}

#[actix_rt::test]
async fn a_hundred_cold_requests_share_a_grant_in_process() {
    a_hundred_cold_requests_share_a_grant(Backend::InProcess).await;
}

#[actix_rt::test]
async fn a_hundred_cold_requests_share_a_grant_with_openssh() {
    a_hundred_cold_requests_share_a_grant(Backend::OpenSshBash).await;
}

async fn a_hundred_cold_requests_share_a_grant(backend: Backend) {
    let app = start(backend).await;
    let execs = (0..100).map(|number| {
        let app = &app;
        async move {
            let script = format!("echo {number}; exit {}", number % 50);
            let answer = app.run(json!({"cmd": ["sh", "-c", script]})).await;
            assert_eq!(answer.exec().exit_code, Some(number % 50), "{answer:?}");
            assert_eq!(answer.json()["stdout"], format!("{number}\n"));
        }
    });
    join_all(execs).await;
    let counters = app.emulator.counters();
    assert_eq!(counters.pushes, 1, "{counters:?}");
    assert!((1..=2).contains(&counters.tunnels_opened), "{counters:?}");
    let rows = app.rows().await;
    assert_eq!(rows.len(), 100);
    assert!(rows.iter().all(|row| row.status == "ok"), "{rows:?}");
    app.finish().await;
}

#[actix_rt::test]
async fn a_client_that_does_not_read_is_in_nobodys_way_in_process() {
    a_client_that_does_not_read_is_in_nobodys_way(Backend::InProcess).await;
}

#[actix_rt::test]
async fn a_client_that_does_not_read_is_in_nobodys_way_with_openssh() {
    a_client_that_does_not_read_is_in_nobodys_way(Backend::OpenSshBash).await;
}

async fn a_client_that_does_not_read_is_in_nobodys_way(backend: Backend) {
    let app = TestApp::start_with(backend, |setup| {
        setup.settings.limits.execs_per_token = 200;
        // All on one tunnel, so that they share it with the one that prints.
        setup.settings.tunnel.max_tunnels_per_instance = 1;
    })
    .await;
    let workspace = app.seed.workspace();
    let body = json!({"cmd": ["yes"], "timeout_s": 120}).to_string();
    let request = format!(
        "POST /workspaces/{}/exec HTTP/1.1\r\nHost: adit\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        workspace.id,
        workspace.token,
        body.len()
    );
    let mut stalled = TcpStream::connect(app.api.base().strip_prefix("http://").unwrap())
        .await
        .unwrap();
    stalled.write_all(request.as_bytes()).await.unwrap();
    // It has been answered and prints on; from here on nobody reads.
    assert_eq!(stalled.read_u8().await.unwrap(), b'H');

    let execs = (0..50).map(|number| {
        let app = &app;
        async move {
            let answer = app.run(json!({"cmd": ["echo", number.to_string()]})).await;
            assert_eq!(answer.json()["stdout"], format!("{number}\n"), "{answer:?}");
        }
    });
    join_all(execs).await;
    // The others' places are given back, and what is printed is counted, a little after their answers.
    wait::until_true("only the one that prints is there, past its cap", async || {
        let tunnels = app.tunnels().await;
        let tunnel = &tunnels["data"][0]["tunnels"][0];
        tunnel["refcount"] == 1 && tunnel["bytes_in"].as_u64().unwrap() > 2 * 1_048_576
    })
    .await;
    assert_eq!(app.emulator.counters().tunnels_opened, 1);

    drop(stalled);
    wait::until_true("the one that prints has ended with its client", async || {
        app.rows().await.iter().all(|row| row.status != "running")
    })
    .await;
    app.finish().await;
}
