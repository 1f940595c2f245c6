//! What an exec has printed, kept up to a cap, counted and hashed to the end, and handed to one reader in order.
//!
//! Between the task that drains the SSH channel and the HTTP client stands only this: pushing never waits, so a slow
//! client can't stall the tunnel, and the caps bound the memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Exec, OutputStream, StreamSummary, Streams};

/// Most bytes in one [`ExecEvent::Output`]: large enough that framing costs nothing, small enough for a client's
/// line buffer.
const CHUNK_LIMIT: usize = 65_536;
/// Most switches between the two streams that are remembered for a reader that lags; past it bytes join the last run of
/// their own stream, which keeps the order within each stream. Bounds the bookkeeping to 24 KiB an exec.
const RUN_LIMIT: usize = 1_024;

/// What happens to an exec, as its caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecEvent {
    /// The program runs on the instance. At most once, before any output.
    Started,
    /// The program printed something.
    Output {
        /// On which stream.
        stream: OutputStream,
        /// What; may begin or end within a UTF-8 character.
        data: Bytes,
    },
    /// The stream went past its cap here; what follows is counted but not sent. At most once a stream.
    Truncated {
        /// Which stream.
        stream: OutputStream,
        /// The cap in bytes.
        limit: u64,
    },
    /// It is over, and its row is committed (or `audit.committed` says that it is not).
    Ended {
        /// How it went.
        exec: Box<Exec>,
        /// When trying again may help, for the codes that answer 503.
        retry_after: Option<Duration>,
    },
}

/// The events of one exec, without any waiting.
#[derive(Debug)]
pub(crate) struct OutputQueue {
    cap: usize,
    stdout: StreamBuffer,
    stderr: StreamBuffer,
    order: VecDeque<Entry>,
    end: Option<ExecEvent>,
    /// Whether the exec's id is its own, once that is decided.
    owns_id: Option<bool>,
    first_output: Option<Instant>,
    last_output: Option<Instant>,
    started: bool,
    sealed: bool,
}

#[derive(Debug, Default)]
struct StreamBuffer {
    pending: BytesMut,
    kept: usize,
    total: u64,
    digest: Sha256,
}

#[derive(Debug)]
enum Entry {
    Started,
    Bytes { stream: OutputStream, length: usize },
    Truncated { stream: OutputStream },
}

impl OutputQueue {
    pub(crate) fn new(cap: usize) -> Self {
        Self {
            cap,
            stdout: StreamBuffer::default(),
            stderr: StreamBuffer::default(),
            order: VecDeque::new(),
            end: None,
            owns_id: None,
            first_output: None,
            last_output: None,
            started: false,
            sealed: false,
        }
    }

    /// The program runs. Only the first call counts.
    pub(crate) fn start(&mut self) {
        if !self.started {
            self.started = true;
            self.order.push_front(Entry::Started);
        }
    }

    /// The program printed `data`. Ignored once the record is sealed: a background child may go on printing.
    pub(crate) fn push(&mut self, stream: OutputStream, data: &[u8], now: Instant) {
        if self.sealed || data.is_empty() {
            return;
        }
        self.first_output.get_or_insert(now);
        self.last_output = Some(now);
        let cap = self.cap;
        let buffer = self.buffer(stream);
        let was_full = buffer.total > cap as u64;
        buffer.total += data.len() as u64;
        buffer.digest.update(data);
        let room = cap.saturating_sub(buffer.kept);
        let kept = data.get(..room.min(data.len())).unwrap_or(data);
        buffer.kept += kept.len();
        buffer.pending.extend_from_slice(kept);
        let length = kept.len();
        let truncated_now = !was_full && buffer.total > cap as u64;
        if length > 0 {
            self.note_bytes(stream, length);
        }
        if truncated_now {
            self.order.push_back(Entry::Truncated { stream });
        }
    }

    /// The next event for the reader. Output may overtake the mark on its way, since the streams are read apart; it
    /// waits here for the start, or for the end where no start comes.
    pub(crate) fn pop(&mut self) -> Option<ExecEvent> {
        if !self.started && self.end.is_none() {
            return None;
        }
        let Some(entry) = self.order.pop_front() else {
            return self.end.take();
        };
        Some(match entry {
            Entry::Started => ExecEvent::Started,
            Entry::Truncated { stream } => ExecEvent::Truncated {
                stream,
                limit: self.cap as u64,
            },
            Entry::Bytes { stream, length } => {
                let taken = length.min(CHUNK_LIMIT);
                if taken < length {
                    self.order.push_front(Entry::Bytes {
                        stream,
                        length: length - taken,
                    });
                }
                ExecEvent::Output {
                    stream,
                    data: self.buffer(stream).pending.split_to(taken).freeze(),
                }
            }
        })
    }

    /// No more output counts.
    pub(crate) fn seal(&mut self) {
        self.sealed = true;
    }

    /// What was printed on both streams so far; with their digests once they are sealed.
    pub(crate) fn printed(&self) -> Printed {
        Printed {
            streams: Streams {
                stdout: self.summary(OutputStream::Stdout),
                stderr: self.summary(OutputStream::Stderr),
            },
            first_output: self.first_output,
        }
    }

    fn summary(&self, stream: OutputStream) -> StreamSummary {
        let buffer = match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        };
        let digest = || hex(&buffer.digest.clone().finalize());
        StreamSummary {
            bytes: buffer.total,
            sent: buffer.kept as u64,
            truncated: buffer.total > buffer.kept as u64,
            sha256: self.sealed.then(digest),
        }
    }

    fn buffer(&mut self, stream: OutputStream) -> &mut StreamBuffer {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    fn note_bytes(&mut self, stream: OutputStream, added: usize) {
        let reach = if self.order.len() < RUN_LIMIT {
            1
        } else {
            self.order.len()
        };
        for entry in self.order.iter_mut().rev().take(reach) {
            if let Entry::Bytes { stream: of, length } = entry
                && *of == stream
            {
                *length += added;
                return;
            }
        }
        self.order.push_back(Entry::Bytes {
            stream,
            length: added,
        });
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What was printed, summed up.
#[derive(Clone, Debug)]
pub(crate) struct Printed {
    pub(crate) streams: Streams,
    pub(crate) first_output: Option<Instant>,
}

/// The queue as it is shared between the channel's task, the exec actor and the one reader.
#[derive(Debug)]
pub(crate) struct SharedOutput {
    // A std mutex: it is held for a memcpy and never across an await.
    queue: Mutex<OutputQueue>,
    readable: Notify,
}

impl SharedOutput {
    pub(crate) fn new(cap: usize) -> Self {
        Self {
            queue: Mutex::new(OutputQueue::new(cap)),
            readable: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, OutputQueue> {
        // The queue's methods don't panic half-way; a poisoned lock holds a sound queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(&self) {
        self.lock().start();
        self.readable.notify_one();
    }

    pub(crate) fn push(&self, stream: OutputStream, data: &[u8], now: Instant) {
        if data.is_empty() {
            return;
        }
        self.lock().push(stream, data, now);
        self.readable.notify_one();
    }

    /// Seals the record and sums it up.
    pub(crate) fn seal(&self) -> Printed {
        let mut queue = self.lock();
        queue.seal();
        queue.printed()
    }

    /// What was printed so far.
    pub(crate) fn so_far(&self) -> Printed {
        self.lock().printed()
    }

    /// When the program printed something last.
    pub(crate) fn last_output(&self) -> Option<Instant> {
        self.lock().last_output
    }

    pub(crate) fn end(&self, exec: Box<Exec>, retry_after: Option<Duration>) {
        self.lock().end = Some(ExecEvent::Ended { exec, retry_after });
        self.decide(true);
    }

    /// Whether the exec's id is its own. The first decision stands; where it is another's, no event ever comes.
    pub(crate) fn decide(&self, owns_id: bool) {
        self.lock().owns_id.get_or_insert(owns_id);
        self.readable.notify_one();
    }

    /// Waits for that decision.
    pub(crate) async fn owns_id(&self) -> bool {
        self.read(|queue| queue.owns_id).await
    }

    /// The next event; `None` where the exec's id is another's.
    pub(crate) async fn next(&self) -> Option<ExecEvent> {
        let next = |queue: &mut OutputQueue| match queue.owns_id {
            Some(false) => Some(None),
            Some(true) | None => queue.pop().map(Some),
        };
        self.read(next).await
    }

    async fn read<T>(&self, mut take: impl FnMut(&mut OutputQueue) -> Option<T>) -> T {
        loop {
            let readable = self.readable.notified();
            if let Some(taken) = take(&mut self.lock()) {
                return taken;
            }
            readable.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::OutputStream::{Stderr, Stdout};
    use super::*;

    fn output(stream: OutputStream, data: &str) -> ExecEvent {
        ExecEvent::Output {
            stream,
            data: Bytes::copy_from_slice(data.as_bytes()),
        }
    }

    fn drain(queue: &mut OutputQueue) -> Vec<ExecEvent> {
        queue.started = true;
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[tokio::test]
    async fn joins_neighbours_and_keeps_order() {
        let now = Instant::now();
        let mut queue = OutputQueue::new(100);
        queue.push(Stdout, b"a", now);
        assert_eq!(queue.pop(), None);
        queue.start();
        queue.push(Stdout, b"b", now);
        queue.start();
        queue.push(Stderr, b"c", now);
        queue.push(Stdout, b"d", now);
        let expected = vec![
            ExecEvent::Started,
            output(Stdout, "ab"),
            output(Stderr, "c"),
            output(Stdout, "d"),
        ];
        assert_eq!(drain(&mut queue), expected);
    }

    #[tokio::test]
    async fn marks_the_place_of_truncation_once_and_counts_on() {
        let now = Instant::now();
        let mut queue = OutputQueue::new(4);
        queue.push(Stdout, b"abcd", now);
        assert!(!queue.summary(Stdout).truncated);
        queue.push(Stdout, b"ef", now);
        queue.push(Stderr, b"x", now);
        queue.push(Stdout, b"g", now);
        let expected = vec![
            output(Stdout, "abcd"),
            ExecEvent::Truncated {
                stream: Stdout,
                limit: 4,
            },
            output(Stderr, "x"),
        ];
        assert_eq!(drain(&mut queue), expected);
        assert_eq!(queue.summary(Stdout).sha256, None, "not before its end");
        queue.seal();
        let summary = queue.summary(Stdout);
        assert_eq!((summary.bytes, summary.sent, summary.truncated), (7, 4, true));
        assert_eq!(
            summary.sha256.unwrap(),
            "7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a"
        );
    }

    #[tokio::test]
    async fn sealed_record_does_not_change() {
        let now = Instant::now();
        let mut queue = OutputQueue::new(4);
        queue.seal();
        queue.push(Stdout, b"late", now);
        assert_eq!(queue.summary(Stdout).bytes, 0);
        assert_eq!(drain(&mut queue), vec![]);
    }

    #[tokio::test]
    async fn large_runs_come_in_chunks() {
        let mut queue = OutputQueue::new(1 << 20);
        queue.push(Stdout, &vec![b'x'; CHUNK_LIMIT + 1], Instant::now());
        let sizes: Vec<usize> = drain(&mut queue)
            .into_iter()
            .map(|event| match event {
                ExecEvent::Output { data, .. } => data.len(),
                other => panic!("unexpected {other:?}"),
            })
            .collect();
        assert_eq!(sizes, [CHUNK_LIMIT, 1]);
    }

    proptest! {
        #[test]
        fn each_stream_is_its_own_prefix(
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..3000),
            cap in 0usize..4000,
        ) {
            let now = Instant::now();
            let mut queue = OutputQueue::new(cap);
            let mut printed = [Vec::new(), Vec::new()];
            for (error, data) in &pieces {
                printed[usize::from(*error)].extend_from_slice(data);
                queue.push(if *error { Stderr } else { Stdout }, data, now);
            }
            prop_assert!(queue.order.len() <= RUN_LIMIT + 4);
            let mut got = [Vec::new(), Vec::new()];
            for event in drain(&mut queue) {
                if let ExecEvent::Output { stream, data } = event {
                    got[usize::from(stream == Stderr)].extend_from_slice(&data);
                }
            }
            for (printed, got) in printed.iter().zip(&got) {
                prop_assert_eq!(&printed[..printed.len().min(cap)], got.as_slice());
            }
        }
    }
}
