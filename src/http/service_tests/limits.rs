//! What is refused for want of room or time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_actors::engine::EngineSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Aws, BOUND, Service, TRUE};
use crate::http::{HttpOptions, Surface};
use crate::store::TokenScope;

#[actix_web::test]
async fn a_full_house_is_told_apart_by_whose_limit_it_is() {
    let limits = |token, process| EngineSettings {
        execs_per_token: token,
        execs_per_process: process,
        ..EngineSettings::default()
    };
    for (settings, status, code) in [
        (limits(1, 10), 429, "too_many_execs"),
        (limits(10, 1), 503, "instance_busy"),
    ] {
        let silent = Aws {
            silent: true,
            ..Aws::default()
        };
        let service = Service::with(HttpOptions::default(), settings, silent, Surface::Both).await;
        let workspace = service.workspace(3, Some(service.org().await), true).await;
        let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
        let mut first = raw_exec(&service, workspace, &token, TRUE.len(), TRUE).await;
        timeout(BOUND, async {
            while service.aws.pushes.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the first exec is under way");
        let second = service.exec(workspace, Some(&token), TRUE).await;
        assert_eq!((second.status, second.code().as_str()), (status, code));
        assert!(second.headers.contains_key("retry-after"));
        // The first client leaves, its exec ends as cancelled, and there is room again.
        first.shutdown().await.unwrap();
        timeout(BOUND, async {
            while service.engine.admit(Uuid::nil(), None).is_err() || !cancelled(&service) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the place is free again");
        service.stop().await;
    }
}

fn cancelled(service: &Service) -> bool {
    service.rows.0.lock().unwrap().iter().any(|row| {
        row.response_body.as_ref().is_some_and(|exec| {
            (exec["outcome"].as_str(), exec["ended_by"].as_str()) == (Some("cancelled"), Some("client_gone"))
        })
    })
}

/// Sends a request whose body has `length` bytes by its head, of which `body` is sent.
async fn raw_exec(service: &Service, workspace: Uuid, token: &str, length: usize, body: &str) -> TcpStream {
    let mut connection = TcpStream::connect(service.address).await.unwrap();
    let request = format!(
        "POST /workspaces/{workspace}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

async fn read_head(connection: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        let read = timeout(BOUND, connection.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(
            read > 0,
            "the connection ended: {}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[actix_web::test]
async fn refusals_do_not_wait_for_a_body_and_a_body_is_not_waited_for_for_ever() {
    let options = HttpOptions {
        body_timeout: Duration::from_millis(50),
        ..HttpOptions::default()
    };
    let service = Service::with(options, EngineSettings::default(), Aws::default(), Surface::Both).await;
    let workspace = service.workspace(3, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    for (token, length, status) in [
        ("unknown", 1_000, "401"),
        (token.as_str(), 100_000_000, "413"),
        (token.as_str(), 1_000, "400"),
    ] {
        let mut connection = raw_exec(&service, workspace, token, length, "").await;
        let head = read_head(&mut connection).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    assert_eq!(service.dispatched(), (0, 0));
    service.stop().await;
}

#[actix_web::test]
async fn a_body_that_is_being_read_counts_as_in_flight() {
    let settings = EngineSettings {
        execs_per_token: 2,
        ..EngineSettings::default()
    };
    let service = Service::with(HttpOptions::default(), settings, Aws::default(), Surface::Both).await;
    let workspace = service.workspace(3, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    let first = raw_exec(&service, workspace, &token, 1_000, "{").await;
    let second = raw_exec(&service, workspace, &token, 1_000, "{").await;
    let refused = async || {
        let mut third = raw_exec(&service, workspace, &token, 2, "{}").await;
        read_head(&mut third).await.starts_with("HTTP/1.1 429 ")
    };
    // The two must have got as far as their bodies; until then the third finds a place, and its body wanting.
    timeout(BOUND, async { while !refused().await {} })
        .await
        .expect("the places are taken");
    drop((first, second));
    assert_eq!(service.dispatched(), (0, 0));
    service.stop().await;
}
