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
use super::json_form::Slices;
use super::pace::Pace;
use crate::http::options::HttpOptions;

/// One chunk waits while the one before is being written: more would be memory that the exec's place does not cover.
const CHUNKS_WAITING: usize = 1;

/// A body fed by a task. Never yields an error: an answer that breaks off has no exit frame, or its object has no end.
#[derive(Debug)]
pub(crate) struct FedBody {
    chunks: mpsc::Receiver<Bytes>,
}

impl MessageBody for FedBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
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
    FedBody { chunks }
}

/// Sends a long object slice by slice and keeps the exec's place until they are taken.
pub(crate) fn slices(slices: Slices, events: impl ExecEvents, options: &HttpOptions) -> FedBody {
    let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
    actix_web::rt::spawn(feed(slices, events, sender, options.stalled_reader));
    FedBody { chunks }
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
    let mut pace = Pace::new(progress);
    while !(ended && queue.is_empty()) {
        // With frames waiting and the exec running there is nothing to wait out: the exec has a timeout of its own.
        let idle = queue.is_empty();
        let deadline = progress
            + if idle {
                patience.heartbeat
            } else {
                patience.stalled_reader
            };
        let gathers = !idle && queue.may_gather() && Instant::now() < pace.free_at();
        tokio::select! {
            biased;
            slot = sender.reserve(), if !idle && !gathers => {
                let Ok(slot) = slot else { return };
                let lines = queue.take();
                if !lines.is_empty() {
                    slot.send(lines);
                    progress = Instant::now();
                    pace.sent(progress);
                }
            }
            () = sender.closed(), if idle || gathers => return,
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
            () = sleep_until(pace.free_at()), if gathers => {}
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
    slices: Slices,
    events: impl ExecEvents,
    sender: mpsc::Sender<Bytes>,
    stalled_reader: Duration,
) {
    for slice in slices {
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

#[cfg(test)]
mod tests {
    use adit_actors::exec::OutputStream;

    use super::{
        Bytes, CHUNKS_WAITING, Duration, ExecEvent, ExecEvents, FrameQueue, Instant, Patience, Uuid, mpsc,
        pump,
    };
    use crate::http::test_support::exited;
    use crate::http::wire::Frame;

    impl ExecEvents for mpsc::UnboundedReceiver<ExecEvent> {
        fn exec_id(&self) -> Uuid {
            Uuid::nil()
        }

        fn timeout_s(&self) -> u32 {
            30
        }

        fn next(&mut self) -> impl Future<Output = Option<ExecEvent>> {
            self.recv()
        }
    }

    fn output(data: &[u8]) -> ExecEvent {
        ExecEvent::Output {
            stream: OutputStream::Stdout,
            data: Bytes::copy_from_slice(data),
        }
    }

    fn end() -> ExecEvent {
        ExecEvent::Ended {
            exec: Box::new(exited(0)),
            retry_after: None,
        }
    }

    /// The frames of output that a fast reader gets, each with its bytes and the moment at which it comes, and when the end
    /// comes.
    async fn frames_of(
        script: impl AsyncFnOnce(mpsc::UnboundedSender<ExecEvent>),
    ) -> (Vec<(Instant, Vec<u8>)>, Instant) {
        let (events, receiver) = mpsc::unbounded_channel();
        let (sender, mut chunks) = mpsc::channel::<Bytes>(CHUNKS_WAITING);
        let hour = Duration::from_secs(3_600);
        let patience = Patience {
            heartbeat: hour,
            stalled_reader: hour,
        };
        let (mut frames, mut ended) = (Vec::new(), None);
        let reading = async {
            while let Some(lines) = chunks.recv().await {
                let lines = String::from_utf8(lines.to_vec()).unwrap();
                for line in lines.lines() {
                    match serde_json::from_str(line).unwrap() {
                        Frame::Stdout(piece) => frames.push((Instant::now(), piece.as_bytes().to_vec())),
                        Frame::Exit(_) => ended = Some(Instant::now()),
                        other => panic!("{other:?}"),
                    }
                }
            }
        };
        tokio::join!(
            script(events),
            pump(receiver, FrameQueue::default(), sender, patience),
            reading
        );
        (frames, ended.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_writes_are_gathered_and_none_waits_long() {
        const WRITES: usize = 2_000;
        let mut written = Vec::new();
        let (frames, _) = frames_of(async |events| {
            for number in 0..WRITES {
                written.push(Instant::now());
                events.send(output(&[b'a' + (number % 26) as u8])).unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            events.send(end()).unwrap();
        })
        .await;
        assert!(frames.len() < WRITES / 4, "{} frames", frames.len());
        let came: Vec<(Instant, u8)> = frames
            .iter()
            .flat_map(|(at, bytes)| bytes.iter().map(|byte| (*at, *byte)))
            .collect();
        assert_eq!(came.len(), WRITES);
        for (number, ((at, byte), written)) in came.into_iter().zip(written).enumerate() {
            assert_eq!(byte, b'a' + (number % 26) as u8);
            assert!(at - written <= Duration::from_millis(6), "byte {number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_lines_a_frames_worth_and_the_end_wait_for_nothing() {
        let begin = Instant::now();
        let (frames, ended) = frames_of(async |events| {
            for _ in 0..100 {
                events.send(output(b"a line\n")).unwrap();
                tokio::task::yield_now().await;
            }
            events.send(output(&[b'x'; 100_000])).unwrap();
            tokio::task::yield_now().await;
            events.send(output(b"the last line\n")).unwrap();
            events.send(end()).unwrap();
        })
        .await;
        assert!(frames.len() > 20, "the first lines are frames of their own");
        let printed = frames.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        assert_eq!(printed, 100 * 7 + 100_000 + 14);
        assert!(frames.iter().all(|(at, _)| *at == begin));
        assert_eq!(ended, begin);
    }
}
