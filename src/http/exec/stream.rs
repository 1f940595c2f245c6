//! Bodies that are fed while they are sent: frames of a running exec, or a long object in slices.
//!
//! A body is fed by a task and not by itself, because a body is polled only while its reader takes something, and a
//! reader that takes nothing must not hold an exec's place for ever.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use adit_actors::engine::ExecEvent;
use bytes::Bytes;
use thiserror::Error;
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

/// Bytes in one chunk at most: a reader shows that it takes something by taking one, so it has to be able to take one
/// within the patience for stalled readers (30 s), together with what lies in the kernel's buffer for it.
const CHUNK_LIMIT: usize = 65_536;

/// The answer is not whole. The connection ends in its middle, so that nobody takes it for one that is.
#[derive(Debug, Error)]
#[error("the answer was given up before its end")]
pub(crate) struct BrokenOff;

/// A body fed by a task.
#[derive(Debug)]
pub(crate) struct FedBody {
    chunks: mpsc::Receiver<Bytes>,
    is_whole: Rc<Cell<bool>>,
}

/// The feeding side of a body.
struct Feed {
    chunks: mpsc::Sender<Bytes>,
    is_whole: Rc<Cell<bool>>,
}

impl FedBody {
    fn new() -> (Feed, Self) {
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        let is_whole = Rc::new(Cell::new(false));
        let feed = Feed {
            chunks: sender,
            is_whole: Rc::clone(&is_whole),
        };
        (feed, Self { chunks, is_whole })
    }
}

impl MessageBody for FedBody {
    type Error = BrokenOff;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        self.chunks.poll_recv(context).map(|chunk| match chunk {
            Some(chunk) => Some(Ok(chunk)),
            None if self.is_whole.get() => None,
            None => Some(Err(BrokenOff)),
        })
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
    let (feed, body) = FedBody::new();
    let patience = Patience {
        heartbeat: options.heartbeat,
        stalled_reader: options.stalled_reader,
    };
    actix_web::rt::spawn(pump(events, queue, feed, patience));
    body
}

/// Sends a long object slice by slice and keeps the exec's place until they are taken.
pub(crate) fn slices(slices: Slices, events: impl ExecEvents, options: &HttpOptions) -> FedBody {
    let (feed, body) = FedBody::new();
    actix_web::rt::spawn(feed_slices(slices, events, feed, options.stalled_reader));
    body
}

/// Runs until all is handed over, the body is dropped, or the reader has stalled. `events` is dropped with it, which
/// ends an exec that is still running and frees its place.
async fn pump(mut events: impl ExecEvents, mut queue: FrameQueue, feed: Feed, patience: Patience) {
    // Taken from the queue and not handed over.
    let mut lines = Bytes::new();
    let mut ended = false;
    let mut progress = Instant::now();
    let mut pace = Pace::new(progress);
    while !(ended && queue.is_empty() && lines.is_empty()) {
        // With frames waiting and the exec running there is nothing to wait out: the exec has a timeout of its own.
        let idle = queue.is_empty() && lines.is_empty();
        let deadline = progress
            + if idle {
                patience.heartbeat
            } else {
                patience.stalled_reader
            };
        let gathers = !idle && lines.is_empty() && queue.may_gather() && Instant::now() < pace.free_at();
        tokio::select! {
            biased;
            slot = feed.chunks.reserve(), if !idle && !gathers => {
                let Ok(slot) = slot else { return };
                if lines.is_empty() {
                    lines = queue.take();
                }
                if !lines.is_empty() {
                    slot.send(next_chunk(&mut lines));
                    progress = Instant::now();
                    if lines.is_empty() {
                        pace.sent(progress);
                    }
                }
            }
            () = feed.chunks.closed(), if idle || gathers => return,
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
    feed.is_whole.set(true);
}

fn next_chunk(bytes: &mut Bytes) -> Bytes {
    bytes.split_to(bytes.len().min(CHUNK_LIMIT))
}

async fn feed_slices(slices: Slices, events: impl ExecEvents, feed: Feed, stalled_reader: Duration) {
    for mut slice in slices {
        while !slice.is_empty() {
            match timeout(stalled_reader, feed.chunks.send(next_chunk(&mut slice))).await {
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
    feed.is_whole.set(true);
}

fn report_stall(exec_id: Uuid) {
    tracing::info!(exec.id = %exec_id, "a reader took nothing for too long after the end and was cut off");
}

#[cfg(test)]
mod tests {
    use adit_actors::exec::OutputStream;

    use super::*;
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
        let (feed, mut body) = FedBody::new();
        let hour = Duration::from_secs(3_600);
        let patience = Patience {
            heartbeat: hour,
            stalled_reader: hour,
        };
        let (mut frames, mut ended) = (Vec::new(), None);
        let reading = async {
            let mut text = Vec::new();
            while let Some(chunk) = body.chunks.recv().await {
                assert!(chunk.len() <= CHUNK_LIMIT);
                text.extend_from_slice(&chunk);
                if !text.ends_with(b"\n") {
                    continue;
                }
                for line in String::from_utf8(std::mem::take(&mut text)).unwrap().lines() {
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
            pump(receiver, FrameQueue::default(), feed, patience),
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

    /// A reader that takes a chunk each `pause` until it has `wanted`: whether the answer that it got is whole.
    async fn slow_reader(pause: Duration, wanted: usize) -> bool {
        let (events, receiver) = mpsc::unbounded_channel();
        for _ in 0..4 {
            events.send(output(&[0; 250_000])).unwrap();
        }
        events.send(end()).unwrap();
        let (feed, mut body) = FedBody::new();
        let patience = Patience {
            heartbeat: Duration::from_secs(3_600),
            stalled_reader: Duration::from_secs(30),
        };
        let reading = async {
            let mut taken = 0;
            loop {
                tokio::time::sleep(pause).await;
                match std::future::poll_fn(|context| Pin::new(&mut body).poll_next(context)).await {
                    Some(Ok(chunk)) => taken += chunk.len(),
                    Some(Err(BrokenOff)) => return false,
                    None => {
                        assert!(taken > wanted, "{taken}");
                        return true;
                    }
                }
            }
        };
        tokio::join!(pump(receiver, FrameQueue::default(), feed, patience), reading).1
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_all_and_one_that_stalls_is_told_that_it_did_not() {
        assert!(slow_reader(Duration::from_secs(29), 1_000_000).await);
        assert!(!slow_reader(Duration::from_secs(31), 0).await);
    }
}
