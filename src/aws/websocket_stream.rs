//! A byte stream over the frames of an open tunnel.
//!
//! The service speaks in BINARY frames whose boundaries mean nothing. A CLOSE ends the stream: with code 1000 or none it
//! is an orderly end, with any other its reason is the error (`Unable to connect to target` when the instance does not
//! listen: the endpoint answers the upgrade before it connects). There is no half close: ending the writing side ends
//! the tunnel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

/// Largest payload in one outgoing frame: what the AWS CLI sends at most.
pub(super) const MAX_PAYLOAD: usize = 65_000;

/// Kept for reading, from the start and for the tunnel's life, and the most that is read at once. tungstenite clears all of
/// it before each read, so an idle tunnel holds it whole: 16 KiB were a sixth of what such a tunnel takes. What a small
/// command prints fits; a larger frame has a buffer of its length while it comes, filled in steps of this.
const READ_BUFFER: usize = 4 * 1024;

/// Written at once: russh writes its banner without a flush, and the socket below is without delay for the same reason.
const WRITE_THROUGH: usize = 0;

/// Bound on bytes that the socket does not take: one frame of ours that is under way, plus answers to PINGs (131 bytes
/// each). A peer that sends PINGs and reads nothing ends the tunnel when it is spent.
const MAX_UNSENT: usize = 2 * MAX_PAYLOAD;

/// Largest frame or message taken. The service's own limit is not documented; the CLI asks it for 65,000 bytes a time.
const MAX_INCOMING: usize = 1024 * 1024;

/// The payloads of a websocket's BINARY frames as bytes, both ways.
#[derive(Debug)]
pub struct WebSocketByteStream<S> {
    websocket: WebSocketStream<S>,
    unread: Bytes,
    end: Option<End>,
    close_sent: bool,
}

/// How the reading side ended; it stays so.
#[derive(Clone, Debug)]
enum End {
    Orderly,
    Failed { kind: io::ErrorKind, reason: String },
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketByteStream<S> {
    /// Speaks as the client over `stream`, whose upgrade is done. `already_read` is what came behind the upgrade's answer.
    pub(super) async fn client(stream: S, already_read: Bytes) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_THROUGH)
            .max_write_buffer_size(MAX_UNSENT)
            .max_message_size(Some(MAX_INCOMING))
            .max_frame_size(Some(MAX_INCOMING));
        let websocket =
            WebSocketStream::from_partially_read(stream, already_read.into(), Role::Client, Some(config))
                .await;
        Self {
            websocket,
            unread: Bytes::new(),
            end: None,
            close_sent: false,
        }
    }

    /// Waits for payload. `Ok` says that `unread` has some or that `end` is set.
    fn poll_payload(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.unread.is_empty() && self.end.is_none() {
            match ready!(Pin::new(&mut self.websocket).poll_next(context)) {
                Some(Ok(message)) => self.take(message),
                Some(Err(error)) => self.end = Some(End::from_error(error)),
                None => self.end = Some(End::Orderly),
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, message: Message) {
        match message {
            // Empty ones come too: the AWS CLI sends them, and an endpoint may.
            Message::Binary(payload) => self.unread = payload,
            Message::Close(frame) => self.end = Some(End::from_close(frame)),
            // tungstenite has queued the PONG, and sends it when it reads on, which the caller's loop does.
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) => {
                self.end = Some(End::protocol("endpoint sent a TEXT frame"));
            }
            Message::Frame(_) => self.end = Some(End::protocol("endpoint sent a bare frame")),
        }
    }
}

impl End {
    fn protocol(reason: &str) -> Self {
        Self::Failed {
            kind: io::ErrorKind::InvalidData,
            reason: reason.to_owned(),
        }
    }

    fn from_close(frame: Option<CloseFrame>) -> Self {
        match frame {
            None => Self::Orderly,
            Some(frame) if frame.code == CloseCode::Normal => Self::Orderly,
            Some(frame) => Self::Failed {
                kind: io::ErrorKind::ConnectionAborted,
                reason: format!(
                    "endpoint closed the tunnel with code {}: {:?}",
                    u16::from(frame.code),
                    frame.reason
                ),
            },
        }
    }

    fn from_error(error: WebSocketError) -> Self {
        let error = into_io(error);
        Self::Failed {
            kind: error.kind(),
            reason: error.to_string(),
        }
    }

    fn as_result(&self) -> io::Result<()> {
        match self {
            Self::Orderly => Ok(()),
            Self::Failed { kind, reason } => Err(io::Error::new(*kind, reason.clone())),
        }
    }
}

fn into_io(error: WebSocketError) -> io::Error {
    match error {
        WebSocketError::Io(error) => error,
        WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        // Protocol errors and exceeded bounds: the peer's doing.
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketByteStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_payload(context));
        let count = self.unread.len().min(buffer.remaining());
        if count == 0 {
            return Poll::Ready(self.end.as_ref().map_or(Ok(()), End::as_result));
        }
        buffer.put_slice(&self.unread.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketByteStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.close_sent || self.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Ready means that the frame before this one has left entirely: at most one waits for the socket.
        ready!(Pin::new(&mut self.websocket).poll_ready(context)).map_err(into_io)?;
        let mut rest = buffer;
        let payload = rest.copy_to_bytes(buffer.len().min(MAX_PAYLOAD));
        let count = payload.len();
        Pin::new(&mut self.websocket)
            .start_send(Message::Binary(payload))
            .map_err(into_io)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.websocket).poll_flush(context).map_err(into_io)
    }

    /// Sends an empty CLOSE and does not wait for the answer: the AWS CLI does the same.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close_sent = true;
        match ready!(Pin::new(&mut self.websocket).poll_close(context)) {
            Ok(()) | Err(WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed) => {
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(into_io(error))),
        }
    }
}

#[cfg(test)]
#[path = "websocket_stream_tests.rs"]
mod tests;
