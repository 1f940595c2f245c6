//! When the status line leaves, and what it says.
//!
//! A streamed answer's head waits for the first output, for the end, for `hold_status` of silence, or, with `announce`,
//! for the start: whichever comes first. Until then the status can still tell the truth; afterwards the exit frame does.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use adit_actors::engine::ExecEvent;
use adit_actors::exec::{ErrorCode, OutputStream};
use tokio::time::sleep;

use super::events::ExecEvents;
use super::form::Form;
use super::frame_queue::FrameQueue;
use super::json_form::{self, ObjectSlices, Output};
use super::{outcome, stream};
use crate::http::options::HttpOptions;
use crate::http::problem::{NO_STORE, Problem};
use crate::http::wire::NDJSON;

const ADIT_EXEC_ID: HeaderName = HeaderName::from_static("adit-exec-id");
/// Keeps nginx from gathering frames before it passes them on.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Longest body, in bytes, that is handed over whole.
const WHOLE_BODY: u64 = 65_536;

/// The member of a problem that has the exec.
const EXEC: &str = "exec";

/// Answers for a running exec.
pub(crate) async fn answer(events: impl ExecEvents, form: Form, options: &HttpOptions) -> HttpResponse {
    let exec_id = events.exec_id();
    let mut response = match form {
        Form::Json => in_one_object(events, options).await,
        Form::Stream { announce } => in_frames(events, announce, options).await,
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&exec_id.to_string()) {
        headers.insert(ADIT_EXEC_ID, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
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
                    return Problem::new(code)
                        .with_retry_after(retry_after)
                        .with_member(EXEC, json_form::bare(&exec))
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
                let object = ObjectSlices::with_output(&exec, output);
                let (mut head, object) = match outcome::failure(&exec) {
                    Some(code) => {
                        let (head, problem) = Problem::new(code).with_retry_after(retry_after).into_parts();
                        (head, object.into_member_of(&problem, EXEC))
                    }
                    None => {
                        let mut head = HttpResponse::Ok();
                        head.content_type("application/json");
                        (head, object)
                    }
                };
                // Its length is worth writing it once more: without it, a reader that is cut off sees an orderly end.
                let length = object.length();
                return if length <= WHOLE_BODY {
                    head.body(object.collect::<Vec<_>>().concat())
                } else {
                    head.body(stream::slices(object, length, events, options))
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
