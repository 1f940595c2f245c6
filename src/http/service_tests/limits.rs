//! What is refused for want of room or time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_actors::engine::EngineSettings;
use futures_util::future::select_all;
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

#[actix_web::test]
async fn a_stalled_upload_has_a_place_and_one_too_many_is_not_waited_for() {
    let limit = 3;
    let options = HttpOptions {
        // Long enough that no upload ends by itself.
        body_timeout: 10 * BOUND,
        ..HttpOptions::default()
    };
    let settings = EngineSettings {
        execs_per_token: limit,
        ..EngineSettings::default()
    };
    let service = Service::with(options, settings, Aws::default(), Surface::Both).await;
    let workspace = service.workspace(3, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    let mut uploads = Vec::new();
    for _ in 0..=limit {
        uploads.push(raw_exec(&service, workspace, &token, 8_000_000, r#"{"cmd": ["#).await);
    }
    // Which of them comes too late is left to the service; the others are not answered, so each has its place.
    let heads = uploads.iter_mut().map(|upload| Box::pin(read_head(upload)));
    let (head, ..) = select_all(heads).await;
    let head = head.to_lowercase();
    for part in [
        "http/1.1 429 ",
        "\r\nconnection: close\r\n",
        "\r\nretry-after: 1\r\n",
    ] {
        assert!(head.contains(part), "{head}");
    }
    assert_eq!(service.exec(workspace, Some(&token), TRUE).await.status, 429);
    // An upload that is given up frees its place, and so does one that turns out to be no request.
    drop(uploads);
    timeout(BOUND, async {
        while service.exec(workspace, Some(&token), "{}").await.status == 429 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("a place is free again");
    for _ in 0..=limit {
        assert_eq!(service.exec(workspace, Some(&token), "{}").await.status, 400);
    }
    assert_eq!(service.dispatched(), (0, 0));
    service.stop().await;
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
