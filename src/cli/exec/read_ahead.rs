//! Reads an answer ahead of its printing: a pager takes its time, and the service gives up an answer of which nobody takes
//! anything for 30 s after the exec's end.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::{ClientError, ExecStream, Line};

/// Bytes of lines that may wait to be printed: more than the longest answer has. That is 1 MiB of each stream, every byte
/// of it written as a six-byte JSON escape, and the frames around it. What has more is read as it is printed.
const MOST_WAITING: u32 = 16_777_216;

/// What [`ExecStream::next`] gave, and the room it takes.
type Read = (Result<Option<Line>, ClientError>, Option<OwnedSemaphorePermit>);

/// The reading side. Its queue is bounded by the room that its lines need.
pub(super) struct ReadAhead {
    read: UnboundedSender<Read>,
    room: Arc<Semaphore>,
}

/// The printing side.
pub(super) struct Lines {
    read: UnboundedReceiver<Read>,
    /// That of the line which is being printed.
    room: Option<OwnedSemaphorePermit>,
}

/// Both sides, for one answer.
pub(super) fn read_ahead() -> (ReadAhead, Lines) {
    let (sender, receiver) = unbounded_channel();
    let ahead = ReadAhead {
        read: sender,
        room: Arc::new(Semaphore::new(MOST_WAITING as usize)),
    };
    let lines = Lines {
        read: receiver,
        room: None,
    };
    (ahead, lines)
}

impl ReadAhead {
    /// Reads to the end, and then waits to be dropped.
    pub(super) async fn read(self, stream: &mut ExecStream) -> Infallible {
        loop {
            let read = stream.next().await;
            let Ok(Some(line)) = &read else {
                self.read.send((read, None)).ok(); // nobody prints any more
                return std::future::pending().await;
            };
            let needed =
                u32::try_from(line.text.len()).map_or(MOST_WAITING, |length| length.min(MOST_WAITING));
            let room = Arc::clone(&self.room).acquire_many_owned(needed).await.ok(); // never closed
            self.read.send((read, room)).ok(); // nobody prints any more
        }
    }
}

impl Lines {
    /// What [`ExecStream::next`] gave, in its order; an error too comes behind the lines before it.
    ///
    /// # Errors
    /// Those of [`ExecStream::next`].
    pub(super) async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        self.room = None;
        let Some((read, room)) = self.read.recv().await else {
            return Ok(None);
        };
        self.room = room;
        read
    }
}
