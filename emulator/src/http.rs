//! The HTTP side: accepts connections and hands each request to the API that it names.
//!
//! It owns the bounds on connections and bodies. It must know nothing of what the APIs do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::ec2;
use crate::open_tunnel;
use crate::send_key;
use crate::shared::Shared;

/// HTTP connections at once, tunnels not counted (they have their own, smaller bound). Callers keep one or a few
/// each; the next one waits in the listen backlog.
const MAX_CONNECTIONS: usize = 1024;

/// Time for a request head, and again for a body. Every honest client on loopback takes milliseconds.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest request head, in bytes: an `openTunnel` URL with the longest session token stays below 8 KiB.
const MAX_HEAD: usize = 64 * 1024;

/// Longest body, in bytes: the longest key is 4,096 characters.
const MAX_BODY: usize = 64 * 1024;

/// Pause after a failed accept (mostly: out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) type Answer = Response<Full<Bytes>>;

/// The connection is to be closed instead of an answer.
#[derive(Debug, Error)]
#[error("the emulator was told to hang up")]
pub(crate) struct HungUp;

/// Accepts until the emulator stops.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = shared.stopping().cancelled() => return,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "accepting a connection failed"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a connection ended before it began"
            );
            continue;
        }
        let connection = Arc::clone(&shared);
        shared.spawn(async move {
            secure_and_serve(stream, connection).await;
            drop(slot);
        });
    }
}

/// Serves one connection, after its TLS handshake if there is to be one.
async fn secure_and_serve(stream: TcpStream, shared: Arc<Shared>) {
    let Some(identity) = &shared.settings.tls else {
        return serve(stream, shared).await;
    };
    let handshake = tokio::time::timeout(READ_TIMEOUT, identity.acceptor().accept(stream));
    let accepted = tokio::select! {
        () = shared.stopping().cancelled() => return,
        accepted = handshake => accepted,
    };
    match accepted {
        Ok(Ok(stream)) => serve(stream, shared).await,
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a TLS handshake failed");
        }
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Serves one connection, of whatever transport, until it ends or is upgraded.
async fn serve<S>(stream: S, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stopping = shared.stopping().clone();
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { route(request, &shared).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        () = stopping.cancelled() => {}
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(error = &error as &dyn std::error::Error, "an HTTP connection failed");
            }
        }
    }
}

async fn route(request: Request<Incoming>, shared: &Arc<Shared>) -> Result<Answer, HungUp> {
    let request_id = Uuid::new_v4().to_string();
    let mut answer = match (request.method(), request.uri().path()) {
        (&Method::GET, "/openTunnel") => open_tunnel::answer(request, shared, &request_id).await?,
        (&Method::POST, "/") => {
            let (head, body) = request.into_parts();
            match read_body(body).await {
                Ok(body) if ec2::is_asked(&head) => ec2::answer(&head, &body, shared, &request_id).await,
                Ok(body) => send_key::answer(&head, &body, shared, &request_id).await,
                Err(status) => plain(status),
            }
        }
        _ => plain(StatusCode::NOT_FOUND),
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        answer.headers_mut().insert("x-amzn-requestid", value);
    }
    Ok(answer)
}

async fn read_body(body: Incoming) -> Result<Bytes, StatusCode> {
    match tokio::time::timeout(READ_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

/// A JSON answer of the given media type.
pub(crate) fn json(status: StatusCode, media_type: &'static str, body: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}
