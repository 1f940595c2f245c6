//! Bodies that are fed while they are sent: frames of a running exec, or a long object in slices.
//!
//! A body is fed by a task and not by itself, because a body is polled only while its reader takes something, and a
//! reader that takes nothing must not hold an exec's place for ever.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use adit_actors::engine::ExecEvent;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use super::events::ExecEvents;
use super::frame_queue::FrameQueue;
use super::json_form::ObjectSlices;
use crate::http::options::HttpOptions;

/// One chunk waits while the one before is being written: more would be memory that the exec's place does not cover.
const CHUNKS_WAITING: usize = 1;

/// A body fed by a task. Never yields an error: an answer that breaks off has no exit frame, or is shorter than its
/// Content-Length.
#[derive(Debug)]
pub(crate) struct FedBody {
    chunks: mpsc::Receiver<Bytes>,
    size: BodySize,
}

impl MessageBody for FedBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        self.chunks.poll_recv(context).map(|chunk| chunk.map(Ok))
    }
}

/// How long the pump waits for what.
#[derive(Clone, Copy, Debug)]
struct Patience {
    heartbeat: Duration,
    stalled_reader: Duration,
}

/// Streams an exec: `queue`, which holds what has happened so far, and then `events` to their end.
pub(crate) fn stream(events: impl ExecEvents, queue: FrameQueue, options: &HttpOptions) -> FedBody {
    let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
    let patience = Patience {
        heartbeat: options.heartbeat,
        stalled_reader: options.stalled_reader,
    };
    actix_web::rt::spawn(pump(events, queue, sender, patience));
    FedBody {
        chunks,
        size: BodySize::Stream,
    }
}

/// Sends an object of `length` bytes in slices, each made when the one before is taken, and keeps the exec's place until
/// they all are.
pub(crate) fn slices(
    object: ObjectSlices,
    length: u64,
    events: impl ExecEvents,
    options: &HttpOptions,
) -> FedBody {
    let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
    actix_web::rt::spawn(feed(object, events, sender, options.stalled_reader));
    FedBody {
        chunks,
        size: BodySize::Sized(length),
    }
}

/// Runs until all is handed over, the body is dropped, or the reader has stalled. `events` is dropped with it, which
/// ends an exec that is still running and frees its place.
async fn pump(
    mut events: impl ExecEvents,
    mut queue: FrameQueue,
    sender: mpsc::Sender<Bytes>,
    patience: Patience,
) {
    let mut ended = false;
    let mut progress = Instant::now();
    while !(ended && queue.is_empty()) {
        // With frames waiting and the exec running there is nothing to wait out: the exec has a timeout of its own.
        let idle = queue.is_empty();
        let deadline = progress
            + if idle {
                patience.heartbeat
            } else {
                patience.stalled_reader
            };
        tokio::select! {
            biased;
            slot = sender.reserve(), if !idle => {
                let Ok(slot) = slot else { return };
                let lines = queue.take();
                if !lines.is_empty() {
                    slot.send(lines);
                    progress = Instant::now();
                }
            }
            () = sender.closed(), if idle => return,
            event = events.next(), if !ended => {
                ended = matches!(event, None | Some(ExecEvent::Ended { .. }));
                if ended {
                    // The reader's patience counts from the end at the earliest.
                    progress = Instant::now();
                }
                if let Some(event) = event {
                    queue.push(event);
                }
            }
            () = sleep_until(deadline), if idle || ended => {
                if ended {
                    report_stall(events.exec_id());
                    return;
                }
                queue.beat();
            }
        }
    }
}

async fn feed(
    object: ObjectSlices,
    events: impl ExecEvents,
    sender: mpsc::Sender<Bytes>,
    stalled_reader: Duration,
) {
    for slice in object {
        match timeout(stalled_reader, sender.send(slice)).await {
            Ok(Ok(())) => {}
            // The client has gone.
            Ok(Err(_)) => return,
            Err(_) => {
                report_stall(events.exec_id());
                return;
            }
        }
    }
}

fn report_stall(exec_id: Uuid) {
    tracing::info!(exec.id = %exec_id, "a reader took nothing for too long after the end and was cut off");
}
