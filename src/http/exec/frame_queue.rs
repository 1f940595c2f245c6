//! Frames that are due. What the exec has said goes in, lines go out.
//!
//! Its size is bounded by the engine's caps: the engine hands out at most the cap of each stream, and never again what
//! it has handed out. While a reader is slow, output moves from the engine's buffers to this one; there is no third.

use adit_actors::engine::ExecEvent;
use adit_actors::exec::{Exec, OutputStream};
use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::utf8_framer::{Cut, Utf8Framer};
use crate::http::wire::Frame;

/// Most bytes of output in one frame, before JSON's escapes: as much as the engine joins, and large enough that the
/// frame around it costs nothing.
const MAX_FRAME_OUTPUT: usize = 65_536;

/// The queue of one answer.
#[derive(Debug, Default)]
pub(crate) struct FrameQueue {
    started: Option<(Uuid, u32)>,
    stdout: Backlog,
    stderr: Backlog,
    /// Which stream's output came first of what waits.
    stderr_first: bool,
    heartbeat: bool,
    exit: Option<Box<Exec>>,
}

#[derive(Debug, Default)]
struct Backlog {
    framer: Utf8Framer,
    data: BytesMut,
    truncated: Option<u64>,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.truncated.is_none()
    }
}

impl FrameQueue {
    /// Adds the `started` frame, ahead of all others.
    pub(crate) fn announce(&mut self, exec_id: Uuid, timeout_s: u32) {
        self.started = Some((exec_id, timeout_s));
    }

    /// Adds a heartbeat.
    pub(crate) fn beat(&mut self) {
        self.heartbeat = true;
    }

    /// Adds what happened. The start is announced by [`Self::announce`] or not at all.
    pub(crate) fn push(&mut self, event: ExecEvent) {
        match event {
            ExecEvent::Started => {}
            ExecEvent::Output { stream, data } => {
                if self.stdout.is_empty() && self.stderr.is_empty() {
                    self.stderr_first = stream == OutputStream::Stderr;
                }
                let backlog = self.backlog(stream);
                if backlog.data.is_empty() {
                    backlog.data = BytesMut::from(data);
                } else {
                    backlog.data.extend_from_slice(&data);
                }
            }
            ExecEvent::Truncated { stream, limit } => self.backlog(stream).truncated = Some(limit),
            ExecEvent::Ended { exec, .. } => self.exit = Some(exec),
        }
    }

    /// Whether something waits to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.started.is_none()
            && self.stdout.is_empty()
            && self.stderr.is_empty()
            && !self.heartbeat
            && self.exit.is_none()
    }

    /// Whether what waits is output alone, and so little that more may come before it must leave.
    pub(crate) fn may_gather(&self) -> bool {
        self.started.is_none()
            && !self.heartbeat
            && self.exit.is_none()
            && self.stdout.data.len().max(self.stderr.data.len()) < MAX_FRAME_OUTPUT
    }

    /// The next lines, in order within each stream; the exit frame comes last. Empty when all that waits is the
    /// beginning of a character.
    pub(crate) fn take(&mut self) -> Bytes {
        let mut lines = Lines::default();
        if let Some((exec_id, timeout_s)) = self.started.take() {
            lines.add(&Frame::Started { exec_id, timeout_s });
        }
        let order = if self.stderr_first {
            [OutputStream::Stderr, OutputStream::Stdout]
        } else {
            [OutputStream::Stdout, OutputStream::Stderr]
        };
        for stream in order {
            self.take_output(stream, &mut lines);
        }
        self.stderr_first = self.stdout.is_empty();
        if self.stdout.is_empty() && self.stderr.is_empty() && self.exit.is_some() {
            self.take_exit(&mut lines);
        }
        if std::mem::take(&mut self.heartbeat) && lines.0.is_empty() {
            lines.add(&Frame::Heartbeat);
        }
        Bytes::from(lines.0)
    }

    fn take_output(&mut self, stream: OutputStream, lines: &mut Lines) {
        let backlog = self.backlog(stream);
        let data = backlog.data.split_to(backlog.data.len().min(MAX_FRAME_OUTPUT));
        let Cut { text, bytes } = backlog.framer.push(&data);
        for piece in [text, bytes].into_iter().flatten() {
            lines.add(&Frame::output(stream, piece));
        }
        if backlog.data.is_empty()
            && let Some(limit) = backlog.truncated.take()
        {
            if let Some(piece) = backlog.framer.finish() {
                lines.add(&Frame::output(stream, piece));
            }
            lines.add(&Frame::Truncated { stream, limit });
        }
    }

    fn take_exit(&mut self, lines: &mut Lines) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            if let Some(piece) = self.backlog(stream).framer.finish() {
                lines.add(&Frame::output(stream, piece));
            }
        }
        if let Some(exec) = self.exit.take() {
            lines.add(&Frame::Exit(exec));
        }
    }

    fn backlog(&mut self, stream: OutputStream) -> &mut Backlog {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, frame: &Frame<'_>) {
        let begin = self.0.len();
        match serde_json::to_writer(&mut self.0, frame) {
            Ok(()) => self.0.push(b'\n'),
            Err(error) => {
                // No frame has a part that JSON can't hold, so this is a defect; half a line must not go out.
                self.0.truncate(begin);
                tracing::error!(error = %error, "a frame could not be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_actors::engine::ExecEvent;
    use adit_actors::exec::OutputStream;
    use bytes::Bytes;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::FrameQueue;
    use crate::http::test_support::exited;
    use crate::http::wire::Frame;

    fn output(stream: OutputStream, data: &[u8]) -> ExecEvent {
        ExecEvent::Output {
            stream,
            data: Bytes::copy_from_slice(data),
        }
    }

    fn drain(queue: &mut FrameQueue) -> Vec<String> {
        let mut lines = Vec::new();
        while !queue.is_empty() {
            let taken = queue.take();
            lines.extend(String::from_utf8(taken.to_vec()).unwrap().lines().map(kind));
        }
        lines
    }

    fn kind(line: &str) -> String {
        match serde_json::from_str::<Frame<'_>>(line).unwrap() {
            Frame::Started { .. } => "started".to_owned(),
            Frame::Stdout(piece) => format!("out {:?}", Bytes::copy_from_slice(piece.as_bytes())),
            Frame::Stderr(piece) => format!("err {:?}", Bytes::copy_from_slice(piece.as_bytes())),
            Frame::Truncated { stream, limit } => format!("truncated {stream:?} {limit}"),
            Frame::Heartbeat => "heartbeat".to_owned(),
            Frame::Exit(_) => "exit".to_owned(),
        }
    }

    #[test]
    fn exit_is_last_and_markers_stand_behind_what_was_kept() {
        let mut queue = FrameQueue::default();
        queue.announce(Uuid::nil(), 30);
        queue.push(output(OutputStream::Stderr, b"e1"));
        queue.push(output(OutputStream::Stdout, b"o1\xc3"));
        queue.push(ExecEvent::Truncated {
            stream: OutputStream::Stdout,
            limit: 3,
        });
        queue.push(output(OutputStream::Stderr, b"e2\xe2"));
        queue.beat();
        queue.push(ExecEvent::Ended {
            exec: Box::new(exited(0)),
            retry_after: None,
        });
        let expected = [
            "started",
            r#"err b"e1e2""#,
            r#"out b"o1""#,
            r#"out b"\xc3""#,
            "truncated Stdout 3",
            r#"err b"\xe2""#,
            "exit",
        ];
        assert_eq!(drain(&mut queue), expected);
    }

    #[test]
    fn the_beginning_of_a_character_makes_no_line() {
        let mut queue = FrameQueue::default();
        queue.push(output(OutputStream::Stdout, b"\xf0\x9f"));
        assert!(queue.take().is_empty());
        assert!(queue.is_empty());
        queue.beat();
        queue.push(output(OutputStream::Stdout, b"\x98\x80"));
        assert_eq!(drain(&mut queue), ["out b\"\\xf0\\x9f\\x98\\x80\""]);
    }

    #[test]
    fn long_output_is_cut_into_frames() {
        let mut queue = FrameQueue::default();
        queue.push(output(OutputStream::Stdout, &vec![b'x'; 150_000]));
        let first = queue.take();
        assert!(first.len() > 65_536 && first.len() < 66_000, "{}", first.len());
        assert_eq!(drain(&mut queue).len(), 2);
    }

    proptest! {
        #[test]
        fn each_streams_bytes_come_out_as_they_went_in(
            events in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 1..50), any::<bool>()), 0..40),
        ) {
            let mut queue = FrameQueue::default();
            let mut lines = Vec::new();
            let mut expected = [Vec::new(), Vec::new()];
            for (err, data, take) in &events {
                let stream = if *err { OutputStream::Stderr } else { OutputStream::Stdout };
                expected[usize::from(*err)].extend_from_slice(data);
                queue.push(output(stream, data));
                if *take {
                    lines.extend_from_slice(&queue.take());
                }
            }
            queue.push(ExecEvent::Ended { exec: Box::new(exited(0)), retry_after: None });
            while !queue.is_empty() {
                lines.extend_from_slice(&queue.take());
            }
            let mut seen = [Vec::new(), Vec::new()];
            for line in String::from_utf8(lines).unwrap().lines() {
                match serde_json::from_str::<Frame<'_>>(line).unwrap() {
                    Frame::Stdout(piece) => seen[0].extend_from_slice(piece.as_bytes()),
                    Frame::Stderr(piece) => seen[1].extend_from_slice(piece.as_bytes()),
                    _ => {}
                }
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
