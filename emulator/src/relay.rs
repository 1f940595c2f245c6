//! A tunnel after its 101: binary frames one way, bytes the other, until one side ends or its time is up.
//!
//! It owns the connection to the instance and the tunnel's slot. It must know nothing of signatures or SSH.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use crate::instance;
use crate::pump::{CHUNK, Ending, WebSocket, cut_by_age, pump, until_resumed};
use crate::settings::{InstanceBackend, InstanceState};
use crate::shared::{InstanceEntry, Shared};
use crate::tunnels::TunnelSlot;

/// Longest frame and message taken from the client. The AWS CLI sends at most 65,000 bytes in one.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Bytes that may wait for a slow client inside the websocket: one chunk, its header, and room for control frames.
/// Past it the instance is not read, so TCP's own window holds it back.
const MAX_WRITE_BUFFER: usize = 2 * CHUNK;

/// Bytes under way between a tunnel and an in-process instance, each way: one chunk.
const PIPE: usize = CHUNK;

/// Time to reach an external sshd. Loopback answers or refuses at once; a silent address must not hold a slot.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the client to take a CLOSE and answer it before its TCP connection is dropped (the CLI never answers).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What sshd sends in place of its version line to a penalised address (OpenSSH, `sshd.c`, `drop_connection`).
const PENALISED: &[u8] = b"Not allowed at this time\r\n";

/// An admitted tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) entry: Arc<InstanceEntry>,
    pub(crate) port: u16,
    pub(crate) duration: Duration,
    pub(crate) slot: TunnelSlot,
    pub(crate) shared: Arc<Shared>,
}

impl Ending {
    /// The CLOSE that the client gets. AWS publishes neither codes nor reasons, except `Unable to connect to target`,
    /// which is known from users' logs; the CLI takes 1000 for a clean end and shows the reason of any other.
    fn close_frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::ClientLeft | Self::Cut => return None,
            Self::ClientSentText => (CloseCode::Unsupported, "Only binary frames are supported"),
            Self::InstanceClosed => (CloseCode::Normal, ""),
            Self::Unreachable => (CloseCode::Error, "Unable to connect to target"),
            Self::Expired => (CloseCode::Policy, "Maximum tunnel duration reached"),
        };
        Some(CloseFrame {
            code,
            reason: reason.into(),
        })
    }
}

/// Runs a tunnel from its 101 to its end.
pub(crate) async fn run(upgrade: OnUpgrade, tunnel: Tunnel) {
    let stopping = tunnel.shared.stopping().clone();
    let cut = tunnel.slot.switches().cut.clone();
    let mut relay = Box::pin(relay(upgrade, &tunnel));
    tokio::select! {
        // In this order: an instance that has its tunnel cut closes its own side, too.
        biased;
        () = stopping.cancelled() => {}
        () = cut.cancelled() => tracing::info!(instance.id = tunnel.entry.instance.id, "a tunnel was cut"),
        () = &mut relay => {}
    }
    // Before the socket is closed: whoever sees that may open the next tunnel, and must not be one too many.
    tunnel.slot.release();
    drop(relay);
}

async fn relay(upgrade: OnUpgrade, tunnel: &Tunnel) {
    let since = Instant::now();
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a client left before its tunnel began"
            );
            return;
        }
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut to_client, mut from_client) = socket.split();
    let ending = tokio::select! {
        () = tokio::time::sleep_until(since + tunnel.duration) => Ending::Expired,
        ending = cut_by_age(&tunnel.entry, since) => ending,
        ending = connect_and_pump(&mut to_client, &mut from_client, tunnel) => ending,
    };
    tracing::info!(
        instance.id = tunnel.entry.instance.id,
        "a tunnel ended: {ending:?}"
    );
    tunnel.slot.release();
    if ending == Ending::Cut {
        return;
    }
    let frame = ending.close_frame();
    let goodbye = async {
        // Errors mean that the client is gone already, which is all that is wanted here.
        to_client.send(Message::Close(frame)).await.ok();
        while let Some(Ok(_)) = from_client.next().await {}
    };
    tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await.ok();
}

async fn connect_and_pump(
    to_client: &mut SplitSink<WebSocket, Message>,
    from_client: &mut SplitStream<WebSocket>,
    tunnel: &Tunnel,
) -> Ending {
    let entry = &tunnel.entry;
    let switches = tunnel.slot.switches();
    if entry.faults.take(|faults| &mut faults.stalled_tunnels) {
        switches.stalled.send_replace(true);
    }
    if tunnel.port != 22 || entry.state() == InstanceState::Stopped {
        until_resumed(switches).await;
        return Ending::Unreachable;
    }
    if entry.faults.take(|faults| &mut faults.penalised_connections) {
        let (near, mut far) = tokio::io::duplex(PIPE);
        let refuse = async {
            far.write_all(PENALISED).await.ok(); // the pipe has room for it, and a reader
            drop(far);
            std::future::pending().await
        };
        return tokio::select! {
            ending = pump(to_client, from_client, near, (entry, switches)) => ending,
            ending = refuse => ending,
        };
    }
    match entry.backend() {
        InstanceBackend::InProcess { host_key } => {
            let (near, far) = tokio::io::duplex(PIPE);
            let hang_up = CancellationToken::new();
            let connection = instance::Connection {
                shared: Arc::clone(&tunnel.shared),
                entry: Arc::clone(entry),
                host_key,
                hang_up: hang_up.clone(),
                cut: switches.cut.clone(),
            };
            tunnel.shared.spawn(instance::serve(far, connection));
            tokio::select! {
                ending = pump(to_client, from_client, near, (entry, switches)) => ending,
                () = hang_up.cancelled() => Ending::InstanceClosed,
            }
        }
        InstanceBackend::External { address, .. } => {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            match connected {
                Ok(Ok(stream)) if stream.set_nodelay(true).is_ok() => {
                    pump(to_client, from_client, stream, (entry, switches)).await
                }
                _ => {
                    until_resumed(switches).await;
                    Ending::Unreachable
                }
            }
        }
    }
}
