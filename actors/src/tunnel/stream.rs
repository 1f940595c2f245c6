//! A tunnel's byte stream with its bytes counted and the first of them kept for the error message.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::boundary::TunnelStream;

/// An SSH version line has at most 255 bytes (RFC 4253, section 4.2); a refusal in its place is shorter.
const GREETING_LIMIT: usize = 255;

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

/// The stream with its counters.
pub(crate) struct CountedStream {
    inner: Box<dyn TunnelStream>,
    traffic: Arc<Traffic>,
}

impl CountedStream {
    pub(crate) fn new(inner: Box<dyn TunnelStream>, traffic: Arc<Traffic>) -> Self {
        Self { inner, traffic }
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
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
        let polled = Pin::new(&mut self.inner).poll_write(context, data);
        if let Poll::Ready(Ok(written)) = &polled {
            self.traffic.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
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
            let mut stream = CountedStream::new(Box::new(near), Arc::clone(&traffic));
            stream.write_all(b"hello").await.unwrap();
            far.write_all(sent.as_bytes()).await.unwrap();
            drop(far);
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            assert_eq!(traffic.refusal().as_deref(), refusal);
            assert_eq!((traffic.received(), traffic.sent()), (sent.len() as u64, 5));
        }
    }
}
