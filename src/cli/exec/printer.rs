//! What is printed of an exec: its output as it comes, its frames as they come, or one object at its end.

use std::io;

use adit_actors::exec::Exec;
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::finished::Finished;
use super::read_ahead::{Lines, read_ahead};
use super::status_line;
use crate::client::ExecStream;
use crate::http::json_form::{self, Output};
use crate::http::wire::Frame;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The command's output, as if it ran here.
    Output,
    /// The frames.
    Frames,
    /// The finished exec, with its output, as the API's JSON form has it.
    Object,
}

/// Prints one exec.
pub(super) struct Printer {
    form: Form,
    /// What an object will have of the output. The service sends no more of a stream than its cap.
    gathered: Output,
}

impl Printer {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            gathered: Output::default(),
        }
    }

    /// Takes what comes, until the end. `lookup` is the request by which the exec is looked up, for a message.
    pub(super) async fn follow(
        &mut self,
        stream: &mut ExecStream,
        lookup: &str,
    ) -> Result<Box<Exec>, Finished> {
        match self.form {
            // Nothing else is seen of it before its end.
            Form::Object => {
                status_line::shown_while("waiting for the end", self.take_all(stream, lookup)).await
            }
            Form::Output | Form::Frames => self.take_all(stream, lookup).await,
        }
    }

    async fn take_all(&mut self, stream: &mut ExecStream, lookup: &str) -> Result<Box<Exec>, Finished> {
        let (ahead, lines) = read_ahead();
        tokio::select! {
            ended = self.take_lines(lines, lookup) => ended,
            never = ahead.read(stream) => match never {},
        }
    }

    async fn take_lines(&mut self, mut lines: Lines, lookup: &str) -> Result<Box<Exec>, Finished> {
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => {
                    return Err(Finished::lost(
                        lookup,
                        "the answer broke off before the exec's end",
                    ));
                }
                Err(error) => return Err(Finished::broken_off(lookup, &error)),
            };
            let written = match self.form {
                Form::Output => write_output(&line.frame).await,
                Form::Frames => write_all(&mut tokio::io::stdout(), &[&line.text[..], b"\n"].concat()).await,
                Form::Object => {
                    self.gather(&line.frame);
                    Ok(())
                }
            };
            if let Err(error) = written {
                return Err(Finished::unwritable(&error));
            }
            if let Frame::Exit(exec) = line.frame {
                return Ok(exec);
            }
        }
    }

    fn gather(&mut self, frame: &Frame<'_>) {
        match frame {
            Frame::Stdout(piece) => self.gathered.stdout.extend_from_slice(piece.as_bytes()),
            Frame::Stderr(piece) => self.gathered.stderr.extend_from_slice(piece.as_bytes()),
            // That a stream was cut is told by its summary.
            Frame::Started { .. } | Frame::Truncated { .. } | Frame::Heartbeat | Frame::Exit(_) => {}
        }
    }

    /// Prints what is printed once the end is known.
    pub(super) async fn finish(self, exec: &Exec) -> io::Result<()> {
        if self.form != Form::Object {
            return Ok(());
        }
        let text: Vec<u8> = json_form::with_output(exec, self.gathered).flatten().collect();
        let object: Value = serde_json::from_slice(&text)?;
        write_all(&mut tokio::io::stdout(), format!("{object:#}\n").as_bytes()).await
    }
}

async fn write_output(frame: &Frame<'_>) -> io::Result<()> {
    let mut stderr = tokio::io::stderr();
    match frame {
        Frame::Stdout(piece) => write_all(&mut tokio::io::stdout(), piece.as_bytes()).await,
        Frame::Stderr(piece) => write_all(&mut stderr, piece.as_bytes()).await,
        Frame::Truncated { stream, limit } => {
            let name = serde_json::to_value(stream).unwrap_or_default();
            let note = format!(
                "adit: {} was cut after {limit} bytes\n",
                name.as_str().unwrap_or("output")
            );
            write_all(&mut stderr, note.as_bytes()).await
        }
        Frame::Started { .. } | Frame::Heartbeat | Frame::Exit(_) => Ok(()),
    }
}

/// Writes all of it, through every buffer.
async fn write_all(target: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    target.write_all(bytes).await?;
    target.flush().await
}
