//! A client's connection, which is read on while a request that came on it is being answered.
//!
//! On HTTP/1.1 the client's end of the connection is the only sign that it has gone, and it comes behind all that the
//! client has sent before. actix-web stops reading when its buffers (128 KiB and some) are full of what was sent behind the
//! request in hand, which it does not look at before its turn. Then the kernel's buffer fills as well, and the end does
//! not even arrive at this host. So what is too much is read here, and thrown away.
//!
//! Once it has read the end, actix-web only writes what it still holds, and waits for as long as the client takes none of
//! it, with the handler and its body alive. So here such a write fails instead.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is thrown away at a time, in bytes: as much as actix-web reads at a time.
const DISCARD_CHUNK: usize = 8_192;

/// What a connection of HTTP/1 and the handlers of its requests, one after the other, know of each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The request in hand was received to its end, and its answer is not out.
    answering: Cell<bool>,
    /// Something was thrown away, so nothing that follows can be understood.
    cut: Cell<bool>,
    /// actix-web, where it waits to read. It is woken after the answer, since the client may have sent all by then: to hear
    /// of the end, where something was cut, and to look at the rest of its buffer, where more than a few requests wait.
    reader: RefCell<Option<Waker>>,
}

impl Shared {
    /// For a read that has nothing yet.
    fn wait_to_read(&self, context: &Context<'_>) {
        self.reader.replace(Some(context.waker().clone()));
    }
}

impl Connection {
    /// That of a request. None where there is no connection, as in tests.
    pub(crate) fn of(request: &HttpRequest) -> Option<Self> {
        request.conn_data::<Self>().cloned()
    }

    /// To be called once the request's body has been read to its end, and only over HTTP/1. While the guard lives, what the
    /// client sends beyond actix-web's buffers is thrown away; then the connection ends after the answer, and what was sent
    /// behind the request may get none.
    pub(crate) fn answering(&self) -> Answering {
        self.0.answering.set(true);
        Answering(self.clone())
    }
}

/// That a request is being answered. Given up by its drop.
#[derive(Debug)]
pub(crate) struct Answering(Connection);

impl Drop for Answering {
    fn drop(&mut self) {
        let Connection(shared) = &self.0;
        shared.answering.set(false);
        if let Some(reader) = shared.reader.take() {
            reader.wake();
        }
    }
}

/// The bytes of a connection, above TLS where there is some.
#[derive(Debug)]
pub(super) struct ClientStream<S> {
    stream: S,
    connection: Connection,
    /// actix-web's last read gave it something. It reads until it has to wait or has no room, so after its reading this
    /// means that it has none.
    has_more: bool,
    /// actix-web was told that nothing follows, or that reading failed, and reads no more.
    ended: bool,
}

impl<S: AsyncRead + Unpin> ClientStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            connection: Connection::default(),
            has_more: false,
            ended: false,
        }
    }

    /// Throws away what nobody reads, and asks to be woken for more.
    ///
    /// # Errors
    /// When the client has closed its side, or its connection is gone. Whoever writes must hear of it, as nobody reads.
    fn discard_unread(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Connection(shared) = &self.connection;
        if !self.has_more || !shared.answering.get() {
            return Ok(());
        }
        let mut chunk = [0; DISCARD_CHUNK];
        loop {
            let mut buffer = ReadBuf::new(&mut chunk);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => {
                    shared.wait_to_read(context);
                    return Ok(());
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Poll::Ready(Ok(())) => shared.cut.set(true),
            }
        }
    }

    /// What comes of a write: an error when it waits for a client that has gone while its request is being answered.
    fn unless_gone<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Connection(shared) = &self.connection;
        if polled.is_pending() && self.ended && shared.answering.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        polled
    }
}

/// Puts what is known of a connection where its handlers find it. For actix-web's `on_connect`.
pub(super) fn introduce<S>(stream: &ClientStream<S>, data: &mut Extensions) {
    data.insert(stream.connection.clone());
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Connection(shared) = &this.connection;
        if shared.cut.get() {
            if shared.answering.get() {
                this.discard_unread(context)?;
                return Poll::Pending;
            }
            // The end, as far as actix-web is to know.
            this.ended = true;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        if polled.is_pending() {
            shared.wait_to_read(context);
        }
        this.has_more = buffer.filled().len() > before;
        this.ended = polled.is_ready() && !this.has_more;
        polled
    }
}

/// actix-web flushes at the end of each of its polls, or is held up in a write: that is when it has read what it wants.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        if polled.is_pending() {
            this.discard_unread(context)?;
        }
        this.unless_gone(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.discard_unread(context)?;
        let polled = Pin::new(&mut this.stream).poll_flush(context);
        this.unless_gone(polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(context);
        this.unless_gone(polled)
    }
}
