//! One direction of an open tunnel: a delay line that keeps order and throughput, and may stall or end at a byte.
//!
//! It owns the bytes under way. It must know nothing of how a tunnel opens or closes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::faults::CutAt;
use crate::shared::InstanceEntry;
use crate::tunnels::TunnelSwitches;

/// Most bytes taken from the instance for one frame.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Most bytes under way in one direction of a delayed or stalled tunnel: a window of 16 MiB carries 320 MB/s over a
/// round trip of 100 ms, more than two cores of SSH.
const MAX_UNDER_WAY: usize = 16 * 1024 * 1024;

/// Most frames under way in one direction, so that tiny ones are bounded too: at half of 100 ms, 320,000 a second.
const MAX_FRAMES_UNDER_WAY: usize = 16 * 1024;

pub(crate) type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// How a tunnel came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    ClientLeft,
    ClientSentText,
    InstanceClosed,
    Unreachable,
    Expired,
    Cut,
}

/// Where the bytes of one direction come from. `next` must be cancel-safe.
trait Source {
    async fn next(&mut self) -> Result<Bytes, Ending>;
}

/// Where they go. `pass` is never cancelled but by the tunnel's end.
trait Destination {
    async fn pass(&mut self, data: Bytes) -> Result<(), Ending>;
}

impl Source for &mut SplitStream<WebSocket> {
    async fn next(&mut self) -> Result<Bytes, Ending> {
        while let Some(Ok(message)) = StreamExt::next(*self).await {
            match message {
                Message::Binary(data) if !data.is_empty() => return Ok(data),
                Message::Text(_) => return Err(Ending::ClientSentText),
                Message::Close(_) => return Err(Ending::ClientLeft),
                // The websocket answers PING by itself; the CLI sends empty frames at the end of its stdin.
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        Err(Ending::ClientLeft)
    }
}

impl Destination for &mut SplitSink<WebSocket, Message> {
    async fn pass(&mut self, data: Bytes) -> Result<(), Ending> {
        self.send(Message::Binary(data))
            .await
            .map_err(|_| Ending::ClientLeft)
    }
}

/// The instance's bytes, as they come.
struct FromInstance<S> {
    stream: ReadHalf<S>,
    buffer: BytesMut,
}

impl<S: AsyncRead> Source for FromInstance<S> {
    async fn next(&mut self) -> Result<Bytes, Ending> {
        self.buffer.reserve(CHUNK);
        match self.stream.read_buf(&mut (&mut self.buffer).limit(CHUNK)).await {
            Ok(0) | Err(_) => Err(Ending::InstanceClosed),
            Ok(_) => Ok(self.buffer.split().freeze()),
        }
    }
}

impl<S: AsyncWrite> Destination for WriteHalf<S> {
    async fn pass(&mut self, data: Bytes) -> Result<(), Ending> {
        let written = async {
            self.write_all(&data).await?;
            self.flush().await
        };
        written.await.map_err(|_| Ending::InstanceClosed)
    }
}

/// Carries bytes both ways until one side ends or the tunnel is cut at a place in its bytes.
pub(crate) async fn pump<S: AsyncRead + AsyncWrite>(
    to_client: &mut SplitSink<WebSocket, Message>,
    from_client: &mut SplitStream<WebSocket>,
    instance: S,
    (entry, switches): (&InstanceEntry, &TunnelSwitches),
) -> Ending {
    let (from_instance, to_instance) = tokio::io::split(instance);
    let from_instance = FromInstance {
        stream: from_instance,
        buffer: BytesMut::with_capacity(CHUNK),
    };
    tokio::select! {
        ending = Line::new(Direction::ToInstance, entry).run(from_client, to_instance, switches) => ending,
        ending = Line::new(Direction::ToClient, entry).run(from_instance, to_client, switches) => ending,
    }
}

/// Waits until a tunnel may carry.
pub(crate) async fn until_resumed(switches: &TunnelSwitches) {
    // The sender is at hand, so the wait can't fail.
    switches
        .stalled
        .subscribe()
        .wait_for(|stalled| !stalled)
        .await
        .ok();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToInstance,
    ToClient,
}

/// One direction of a tunnel.
struct Line<'a> {
    direction: Direction,
    entry: &'a InstanceEntry,
    under_way: VecDeque<(Instant, Bytes)>,
    bytes_under_way: usize,
    bytes_passed: u64,
    frames_passed: u64,
    version_line_passed: bool,
}

impl<'a> Line<'a> {
    fn new(direction: Direction, entry: &'a InstanceEntry) -> Self {
        Self {
            direction,
            entry,
            under_way: VecDeque::new(),
            bytes_under_way: 0,
            bytes_passed: 0,
            frames_passed: 0,
            version_line_passed: false,
        }
    }

    async fn run(
        mut self,
        mut source: impl Source,
        mut destination: impl Destination,
        switches: &TunnelSwitches,
    ) -> Ending {
        let mut stalled = switches.stalled.subscribe();
        let mut end = None;
        loop {
            // Not read while stalled: what a client sends is then not even acknowledged by a PONG.
            if *stalled.borrow_and_update() {
                stalled.changed().await.ok(); // its sender is at hand
                continue;
            }
            if let Err(ending) = self.pass_what_is_due(&mut destination).await {
                return ending;
            }
            let due = self.under_way.front().map(|(due, _)| *due);
            if let (None, Some(ending)) = (due, end) {
                return ending;
            }
            tokio::select! {
                changed = stalled.changed() => drop(changed),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                data = source.next(), if end.is_none() && self.has_room() => match data {
                    Ok(data) => self.take(data),
                    Err(ending) => end = Some(ending),
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        self.bytes_under_way < MAX_UNDER_WAY && self.under_way.len() < MAX_FRAMES_UNDER_WAY
    }

    fn take(&mut self, data: Bytes) {
        let half = self.entry.faults.read(|faults| faults.round_trip) / 2;
        self.bytes_under_way += data.len();
        // When the delay was made shorter, what is under way still goes first.
        let earliest = self.under_way.back().map(|(due, _)| *due);
        let due = Instant::now() + half;
        self.under_way
            .push_back((earliest.map_or(due, |earliest| due.max(earliest)), data));
    }

    async fn pass_what_is_due(&mut self, destination: &mut impl Destination) -> Result<(), Ending> {
        let now = Instant::now();
        while let Some((_, data)) = self.under_way.pop_front_if(|(due, _)| *due <= now) {
            self.bytes_under_way -= data.len();
            match self.cut_in(&data) {
                None => {
                    self.bytes_passed += u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.frames_passed += 1;
                    self.version_line_passed |= data.contains(&b'\n');
                    destination.pass(data).await?;
                }
                Some(length) => {
                    if length > 0 {
                        destination.pass(data.slice(..length)).await?;
                    }
                    return Err(Ending::Cut);
                }
            }
        }
        Ok(())
    }

    /// How much of these next bytes is passed on before the tunnel is cut, if it is cut in them.
    fn cut_in(&self, data: &Bytes) -> Option<usize> {
        let within = |limit: u64| {
            let left = limit.saturating_sub(self.bytes_passed);
            usize::try_from(left).ok().filter(|left| *left <= data.len())
        };
        let frame = |limit: u64| match limit.saturating_sub(self.frames_passed) {
            0 => Some(0),
            1 => Some(data.len()),
            _ => None,
        };
        self.entry.faults.take_cut(|at| match (at, self.direction) {
            (CutAt::BytesFromInstance(limit), Direction::ToClient)
            | (CutAt::BytesToInstance(limit), Direction::ToInstance) => within(limit),
            (CutAt::FramesFromInstance(limit), Direction::ToClient)
            | (CutAt::FramesToInstance(limit), Direction::ToInstance) => frame(limit),
            (CutAt::KeyExchange, Direction::ToClient) if !self.version_line_passed => {
                data.iter().position(|byte| *byte == b'\n').map(|end| end + 1)
            }
            _ => None,
        })
    }
}

/// Ends when a tunnel that opened at `since` is to be cut for its age.
pub(crate) async fn cut_by_age(entry: &InstanceEntry, since: Instant) -> Ending {
    let mut faults = entry.faults.subscribe();
    loop {
        let age = match faults.borrow_and_update().cut.map(|cut| cut.at) {
            Some(CutAt::After(age)) => Some(age),
            _ => None,
        };
        let due = since + age.unwrap_or(Duration::ZERO);
        tokio::select! {
            changed = faults.changed() => drop(changed),
            () = tokio::time::sleep_until(due), if age.is_some() => {
                let reached = |at| matches!(at, CutAt::After(age) if since.elapsed() >= age).then_some(());
                if entry.faults.take_cut(reached).is_some() {
                    return Ending::Cut;
                }
            }
        }
    }
}
