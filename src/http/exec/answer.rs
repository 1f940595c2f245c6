//! When the status line leaves, and what it says.
//!
//! A streamed answer's head waits for the first output, for the end, for `hold_status` of silence, or, with `announce`,
//! for the start: whichever comes first. Until then the status can still tell the truth; afterwards the exit frame does.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use adit_actors::engine::ExecEvent;
use adit_actors::exec::{ErrorCode, OutputStream};
use serde_json::Value;
use tokio::time::sleep;
use uuid::Uuid;

use super::events::ExecEvents;
use super::form::Form;
use super::frame_queue::FrameQueue;
use super::json_form::{self, Output};
use super::stored::ExecObject;
use super::{outcome, stream};
use crate::http::options::HttpOptions;
use crate::http::problem::{NO_STORE, Problem};
use crate::http::wire::NDJSON;

const ADIT_EXEC_ID: HeaderName = HeaderName::from_static("adit-exec-id");
/// Says that this request has run nothing: the answer is that of an earlier one with the same Idempotency-Key.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Keeps nginx from gathering frames before it passes them on.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Most output in a body that is handed over whole, in raw bytes; escaped it is six times as long at worst.
const SHORT_OUTPUT: usize = 16_384;

/// Answers for a running exec.
pub(crate) async fn answer(events: impl ExecEvents, form: Form, options: &HttpOptions) -> HttpResponse {
    let exec_id = events.exec_id();
    let response = match form {
        Form::Json => in_one_object(events, options).await,
        Form::Stream { announce } => in_frames(events, announce, options).await,
    };
    with_headers(response, exec_id)
}

/// Adds the headers that every answer about one exec has.
pub(crate) fn with_headers(mut response: HttpResponse, exec_id: Uuid) -> HttpResponse {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&exec_id.to_string()) {
        headers.insert(ADIT_EXEC_ID, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// The answer to a request whose exec has run before: how it ended, and no output, which is kept nowhere.
pub(crate) fn replay(mut exec: ExecObject, form: Form) -> HttpResponse {
    let mut head = HttpResponse::Ok();
    head.insert_header((IDEMPOTENT_REPLAYED, "true"));
    match form {
        Form::Json => head.json(exec),
        Form::Stream { .. } => {
            exec.insert("type".to_owned(), "exit".into());
            head.content_type(NDJSON)
                .body(format!("{}\n", Value::Object(exec)))
        }
    }
}

async fn in_frames(mut events: impl ExecEvents, announce: bool, options: &HttpOptions) -> HttpResponse {
    let mut queue = FrameQueue::default();
    let hold = sleep(options.hold_status);
    tokio::pin!(hold);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = &mut hold => break,
        };
        match event {
            None => return without_an_end(),
            Some(ExecEvent::Started) if announce => {
                queue.announce(events.exec_id(), events.timeout_s());
                break;
            }
            Some(ExecEvent::Started) => {}
            Some(event @ (ExecEvent::Output { .. } | ExecEvent::Truncated { .. })) => {
                queue.push(event);
                break;
            }
            Some(ExecEvent::Ended { exec, retry_after }) => {
                if let Some(code) = outcome::failure(&exec) {
                    let exec = json_form::bare(&exec);
                    return outcome::problem(code, retry_after)
                        .with_member("exec", exec)
                        .into_response();
                }
                queue.push(ExecEvent::Ended { exec, retry_after });
                return HttpResponse::Ok().content_type(NDJSON).body(queue.take());
            }
        }
    }
    HttpResponse::Ok()
        .content_type(NDJSON)
        .body(stream::stream(events, queue, options))
}

async fn in_one_object(mut events: impl ExecEvents, options: &HttpOptions) -> HttpResponse {
    let mut output = Output::default();
    loop {
        match events.next().await {
            None => return without_an_end(),
            // That a stream was cut is told by its summary.
            Some(ExecEvent::Started | ExecEvent::Truncated { .. }) => {}
            Some(ExecEvent::Output { stream, data }) => match stream {
                OutputStream::Stdout => output.stdout.extend_from_slice(&data),
                OutputStream::Stderr => output.stderr.extend_from_slice(&data),
            },
            Some(ExecEvent::Ended { exec, retry_after }) => {
                let is_short = output.len() <= SHORT_OUTPUT;
                let (mut head, slices) = match outcome::failure(&exec) {
                    Some(code) => {
                        let (head, object) = outcome::problem(code, retry_after).into_parts();
                        (head, json_form::as_member(object, &exec, output))
                    }
                    None => {
                        let mut head = HttpResponse::Ok();
                        head.content_type("application/json");
                        (head, json_form::with_output(&exec, output))
                    }
                };
                return if is_short {
                    head.body(slices.flatten().collect::<Vec<u8>>())
                } else {
                    head.body(stream::slices(slices, events, options))
                };
            }
        }
    }
}

/// The engine promises an end; if it breaks that promise, 502 is the status that promises nothing of the command.
fn without_an_end() -> HttpResponse {
    tracing::error!("an exec's events stopped without an end");
    Problem::new(ErrorCode::TunnelLost).into_response()
}
