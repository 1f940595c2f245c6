//! A tunnel after its 101: binary frames one way, bytes the other, until one side ends or its time is up.
//!
//! It owns the connection to the instance and the tunnel's slot. It must know nothing of signatures or SSH.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use crate::instance;
use crate::settings::{InstanceBackend, InstanceState};
use crate::shared::{InstanceEntry, Shared, TunnelSlot};

/// Most bytes taken from the instance for one frame.
const CHUNK: usize = 64 * 1024;

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

type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// An admitted tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) entry: Arc<InstanceEntry>,
    pub(crate) port: u16,
    pub(crate) duration: Duration,
    pub(crate) slot: TunnelSlot,
    pub(crate) shared: Arc<Shared>,
}

/// How a relay came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    ClientLeft,
    ClientSentText,
    InstanceClosed,
    Unreachable,
    Expired,
}

impl Ending {
    /// The CLOSE that the client gets. AWS publishes neither codes nor reasons, except `Unable to connect to target`,
    /// which is known from users' logs; the CLI takes 1000 for a clean end and shows the reason of any other.
    fn close_frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::ClientLeft => return None,
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
    let cut = tunnel.slot.cut().clone();
    tokio::select! {
        () = stopping.cancelled() => {}
        () = cut.cancelled() => tracing::info!(instance.id = tunnel.entry.instance.id, "a tunnel was cut"),
        () = relay(upgrade, &tunnel) => {}
    }
}

async fn relay(upgrade: OnUpgrade, tunnel: &Tunnel) {
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
        () = tokio::time::sleep(tunnel.duration) => Ending::Expired,
        ending = connect_and_pump(&mut to_client, &mut from_client, tunnel) => ending,
    };
    tracing::info!(
        instance.id = tunnel.entry.instance.id,
        "a tunnel ended: {ending:?}"
    );
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
    if tunnel.port != 22 || tunnel.entry.state() == InstanceState::Stopped {
        return Ending::Unreachable;
    }
    match &tunnel.entry.instance.backend {
        InstanceBackend::InProcess { host_key } => {
            let (near, far) = tokio::io::duplex(PIPE);
            let hang_up = CancellationToken::new();
            let connection = instance::Connection {
                shared: Arc::clone(&tunnel.shared),
                instance_id: tunnel.entry.instance.id.clone(),
                address: tunnel.entry.instance.private_ip_address.clone(),
                host_key: host_key.clone(),
                hang_up: hang_up.clone(),
            };
            tunnel.shared.spawn(instance::serve(far, connection));
            tokio::select! {
                ending = pump(to_client, from_client, near) => ending,
                () = hang_up.cancelled() => Ending::InstanceClosed,
            }
        }
        InstanceBackend::External { address, .. } => {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            match connected {
                Ok(Ok(stream)) if stream.set_nodelay(true).is_ok() => {
                    pump(to_client, from_client, stream).await
                }
                _ => Ending::Unreachable,
            }
        }
    }
}

async fn pump(
    to_client: &mut SplitSink<WebSocket, Message>,
    from_client: &mut SplitStream<WebSocket>,
    instance: impl AsyncRead + AsyncWrite,
) -> Ending {
    let (from_instance, to_instance) = tokio::io::split(instance);
    tokio::select! {
        ending = client_to_instance(from_client, to_instance) => ending,
        ending = instance_to_client(from_instance, to_client) => ending,
    }
}

async fn client_to_instance(
    from_client: &mut SplitStream<WebSocket>,
    mut to_instance: impl AsyncWrite + Unpin,
) -> Ending {
    while let Some(Ok(message)) = from_client.next().await {
        match message {
            Message::Binary(data) => {
                if to_instance.write_all(&data).await.is_err() {
                    return Ending::InstanceClosed;
                }
            }
            Message::Text(_) => return Ending::ClientSentText,
            Message::Close(_) => return Ending::ClientLeft,
            // The websocket answers PING by itself.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    Ending::ClientLeft
}

async fn instance_to_client(
    mut from_instance: impl AsyncRead + Unpin,
    to_client: &mut SplitSink<WebSocket, Message>,
) -> Ending {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match from_instance.read_buf(&mut (&mut buffer).limit(CHUNK)).await {
            Ok(0) | Err(_) => return Ending::InstanceClosed,
            Ok(_) => {}
        }
        if to_client
            .send(Message::Binary(buffer.split().freeze()))
            .await
            .is_err()
        {
            return Ending::ClientLeft;
        }
    }
}
