//! A tunnel's byte stream with its bytes counted, the first of them kept for the error message, and a switch that cuts it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use super::boundary::TunnelStream;
use super::endpoint_budget::SlotGuard;

/// An SSH version line has at most 255 bytes (RFC 4253, section 4.2); a refusal in its place is shorter.
const GREETING_LIMIT: usize = 255;

/// Saying goodbye below SSH: a peer that is there takes it at once.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// What went over a tunnel, below SSH.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    greeting: Mutex<Vec<u8>>,
}

impl Traffic {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The first line the peer sent, when it is not an SSH version: sshd says there why it hangs up.
    pub(crate) fn refusal(&self) -> Option<String> {
        let greeting = self.greeting.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&greeting);
        let line = text
            .lines()
            .next()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("SSH-"))?;
        Some(line.chars().filter(|character| !character.is_control()).collect())
    }

    fn note_received(&self, data: &[u8]) {
        let before = self.received.fetch_add(data.len() as u64, Ordering::Relaxed);
        if before < GREETING_LIMIT as u64 {
            let mut greeting = self.greeting.lock().unwrap_or_else(PoisonError::into_inner);
            let room = GREETING_LIMIT.saturating_sub(greeting.len()).min(data.len());
            greeting.extend_from_slice(data.get(..room).unwrap_or_default());
        }
    }
}

/// Ends a stream from outside. SSH sessions are held alive by whoever still uses a channel of theirs; cutting the bytes
/// below them ends them all at once.
#[derive(Debug, Default)]
pub(crate) struct CutSwitch {
    is_cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl CutSwitch {
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// Registers before it looks, so that no cut falls in between.
    fn check(&self, waker: &AtomicWaker, context: &Context<'_>) -> io::Result<()> {
        waker.register(context.waker());
        if self.is_cut.load(Ordering::Acquire) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the tunnel was cut",
            ));
        }
        Ok(())
    }
}

/// What goes with a stream.
#[derive(Debug, Default)]
pub(crate) struct StreamParts {
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) switch: Arc<CutSwitch>,
    /// The endpoint's connection that it takes.
    pub(crate) slot: Option<SlotGuard>,
}

/// The stream with its counters.
pub(crate) struct CountedStream {
    inner: Option<Box<dyn TunnelStream>>,
    traffic: Arc<Traffic>,
    switch: Arc<CutSwitch>,
    slot: Option<SlotGuard>,
    shutdown_limit: Option<Pin<Box<Sleep>>>,
}

impl CountedStream {
    pub(crate) fn new(inner: Box<dyn TunnelStream>, parts: StreamParts) -> Self {
        Self {
            inner: Some(inner),
            traffic: parts.traffic,
            switch: parts.switch,
            slot: parts.slot,
            shutdown_limit: None,
        }
    }

    fn inner(&mut self) -> io::Result<Pin<&mut Box<dyn TunnelStream>>> {
        // Taken only by the drop.
        self.inner
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// The endpoint counts a connection until it has seen its end, so the slot is given back only then: when the endpoint has
/// closed its side too, or has had time for it.
impl Drop for CountedStream {
    fn drop(&mut self) {
        let (Some(mut inner), Some(slot), Ok(runtime)) =
            (self.inner.take(), self.slot.take(), Handle::try_current())
        else {
            return;
        };
        drop(runtime.spawn(async move {
            let closing = async {
                inner.shutdown().await?;
                tokio::io::copy(&mut inner, &mut tokio::io::sink()).await
            };
            // However it closed, it is dropped here, and before the slot.
            drop(tokio::time::timeout(SHUTDOWN_LIMIT, closing).await);
            drop(inner);
            drop(slot);
        }));
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.switch.check(&self.switch.reader, context)?;
        let before = buffer.filled().len();
        let polled = self.inner()?.poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = &polled {
            self.traffic
                .note_received(buffer.filled().get(before..).unwrap_or_default());
        }
        polled
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.switch.check(&self.switch.writer, context)?;
        let polled = self.inner()?.poll_write(context, data);
        if let Poll::Ready(Ok(written)) = &polled {
            self.traffic.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.switch.check(&self.switch.writer, context)?;
        self.inner()?.poll_flush(context)
    }

    /// russh waits for this before it tells anyone that the connection is over, so it must end even when the peer takes
    /// nothing any more.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.switch.check(&self.switch.writer, context).is_err() {
            return Poll::Ready(Ok(()));
        }
        let polled = self.inner()?.poll_shutdown(context);
        if polled.is_ready() {
            return polled;
        }
        let limit = self
            .shutdown_limit
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(SHUTDOWN_LIMIT)));
        limit.as_mut().poll(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn counts_and_keeps_what_came_instead_of_a_banner() {
        for (sent, refusal) in [
            ("Not allowed at this time\r\n", Some("Not allowed at this time")),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("", None),
        ] {
            let (near, mut far) = tokio::io::duplex(64);
            let traffic = Arc::new(Traffic::default());
            let mut stream = CountedStream::new(
                Box::new(near),
                StreamParts {
                    traffic: Arc::clone(&traffic),
                    ..StreamParts::default()
                },
            );
            stream.write_all(b"hello").await.unwrap();
            far.write_all(sent.as_bytes()).await.unwrap();
            drop(far);
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            assert_eq!(traffic.refusal().as_deref(), refusal);
            assert_eq!((traffic.received(), traffic.sent()), (sent.len() as u64, 5));
        }
    }

    #[tokio::test]
    async fn a_cut_wakes_and_ends_everything() {
        let (near, _far) = tokio::io::duplex(4);
        let switch = Arc::new(CutSwitch::default());
        let stream = CountedStream::new(
            Box::new(near),
            StreamParts {
                switch: Arc::clone(&switch),
                ..StreamParts::default()
            },
        );
        let (mut read, mut write) = tokio::io::split(stream);
        let reading = tokio::spawn(async move { read.read_u8().await });
        let writing = tokio::spawn(async move {
            let written = write.write_all(&[0; 64]).await;
            write.shutdown().await.unwrap();
            written
        });
        tokio::task::yield_now().await;
        switch.cut();
        assert_eq!(
            reading.await.unwrap().unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
        assert_eq!(
            writing.await.unwrap().unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
    }
}
