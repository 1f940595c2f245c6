//! Reads a streamed answer line by line.

use bytes::{Buf as _, Bytes, BytesMut};
use reqwest::Response;
use uuid::Uuid;

use super::ClientError;
use crate::http::wire::Frame;

/// Longest line that is waited for: 64 KiB of output, every byte of it written as a six-byte JSON escape, and some.
const MAX_LINE: usize = 1_048_576;

/// A streamed answer.
#[derive(Debug)]
pub struct ExecStream {
    response: Response,
    lines: LineBuffer,
}

/// One line of it.
#[derive(Clone, Debug)]
pub struct Line {
    /// As it came, without its end.
    pub text: Bytes,
    /// What it says.
    pub frame: Frame<'static>,
}

impl ExecStream {
    /// Id of the exec.
    #[must_use]
    pub fn exec_id(&self) -> Option<Uuid> {
        let text = self.response.headers().get("adit-exec-id")?.to_str().ok()?;
        Uuid::try_parse(text).ok()
    }

    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            lines: LineBuffer::default(),
        }
    }

    /// The next line, or `None` after the last. An answer whose last line is not [`Frame::Exit`] broke off.
    ///
    /// # Errors
    /// [`ClientError::Transport`] when the connection breaks, [`ClientError::Unexpected`] for what is no frame.
    pub async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        loop {
            if let Some(text) = self.lines.take()? {
                let frame = serde_json::from_slice(&text).map_err(|error| ClientError::Unexpected {
                    problem: error.to_string(),
                })?;
                return Ok(Some(Line { text, frame }));
            }
            match self.response.chunk().await.map_err(ClientError::Transport)? {
                Some(chunk) => self.lines.bytes.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// Bytes up to the next end of line.
#[derive(Debug, Default)]
struct LineBuffer {
    bytes: BytesMut,
    /// How much of them has no end of line in it.
    searched: usize,
}

impl LineBuffer {
    fn take(&mut self) -> Result<Option<Bytes>, ClientError> {
        let end = self
            .bytes
            .iter()
            .skip(self.searched)
            .position(|byte| *byte == b'\n');
        let Some(end) = end else {
            self.searched = self.bytes.len();
            if self.searched > MAX_LINE {
                return Err(ClientError::Unexpected {
                    problem: "a line of more than 1 MiB".to_owned(),
                });
            }
            return Ok(None);
        };
        let line = self.bytes.split_to(self.searched + end).freeze();
        self.bytes.advance(1);
        self.searched = 0;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::LineBuffer;

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for chunk in ["a", "b\ncd", "\n\ne", "f\n", "g"] {
            buffer.bytes.extend_from_slice(chunk.as_bytes());
            while let Some(line) = buffer.take().unwrap() {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        assert_eq!(lines, ["ab", "cd", "", "ef"]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = LineBuffer::default();
        buffer.bytes.extend_from_slice(&vec![b'x'; 1_048_577]);
        assert!(buffer.take().is_err());
    }
}
