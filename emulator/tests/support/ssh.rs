//! Tunnels and SSH clients as Adit would use them: tokio-tungstenite below, russh on top.

use std::sync::Arc;

use adit_emulator::{Emulator, HostKey};
use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use russh::client::{self, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::requests::{Signer, TUNNEL, push, push_body};
use super::soon;

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Opens a tunnel with these parameters and hands out the websocket.
pub(crate) async fn dial(emulator: &Emulator, parameters: &str) -> Socket {
    let host = emulator.address().to_string();
    let path = Signer::default().tunnel_path(&host, parameters);
    let stream = TcpStream::connect(emulator.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (socket, answer) = tokio_tungstenite::client_async(format!("ws://{host}{path}"), stream)
        .await
        .unwrap();
    assert!(answer.headers().contains_key("x-amzn-requestid"));
    socket
}

/// A websocket as a stream of bytes.
pub(crate) fn byte_stream(socket: Socket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut sink, mut stream) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        let up = async {
            let mut buffer = BytesMut::new();
            while reader.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                    break;
                }
            }
        };
        let down = async {
            while let Some(Ok(message)) = stream.next().await {
                if message.is_binary() && writer.write_all(&message.into_data()).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! { () = up => {} () = down => {} }
    });
    near
}

pub(crate) struct Client {
    pub(crate) host_key: Arc<std::sync::Mutex<Option<String>>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let key = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.to_openssh().unwrap(),
            PublicKeyOrCertificate::Certificate(_) => panic!("a host certificate"),
        };
        *self.host_key.lock().unwrap() = Some(key);
        Ok(true)
    }
}

pub(crate) fn new_key() -> PrivateKey {
    PrivateKey::from_openssh(HostKey::generate().to_openssh().unwrap()).unwrap()
}

/// A public key as `SendSSHPublicKey` takes it.
pub(crate) fn public_text(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap().trim().to_owned()
}

/// Pushes a key that must be accepted.
pub(crate) async fn push_key(emulator: &Emulator, user: &str, key: &PrivateKey) {
    let answer = push(
        emulator,
        &Signer::default(),
        &push_body(user, &public_text(key)).to_string(),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// An SSH connection through a tunnel, before its login.
pub(crate) async fn handshake(emulator: &Emulator) -> Handle<Client> {
    handshake_with_key(emulator).await.0
}

/// The same, with the host key that the instance showed.
pub(crate) async fn handshake_with_key(emulator: &Emulator) -> (Handle<Client>, String) {
    let host_key = Arc::new(std::sync::Mutex::new(None));
    let client = Client {
        host_key: Arc::clone(&host_key),
    };
    let stream = byte_stream(dial(emulator, TUNNEL).await);
    let config = Arc::new(client::Config::default());
    let handle = soon(
        "the SSH handshake",
        client::connect_stream(config, stream, client),
    )
    .await
    .unwrap();
    let shown = host_key.lock().unwrap().clone().unwrap();
    (handle, shown)
}

/// Whether this key logs in now.
pub(crate) async fn try_login(connection: &mut Handle<Client>, user: &str, key: &PrivateKey) -> bool {
    let key = PrivateKeyWithHashAlg::new(Arc::new(key.clone()), None);
    soon("the login", connection.authenticate_publickey(user, key))
        .await
        .is_ok_and(|result| result.success())
}

/// Pushes a fresh key and logs in with it.
pub(crate) async fn log_in(emulator: &Emulator, user: &str) -> Handle<Client> {
    let key = new_key();
    push_key(emulator, user, &key).await;
    let mut connection = handshake(emulator).await;
    assert!(try_login(&mut connection, user, &key).await);
    connection
}

/// Opens a session channel and starts a command.
pub(crate) async fn exec(connection: &Handle<Client>, command: &str) -> Channel<client::Msg> {
    let mut channel = soon("a channel", connection.channel_open_session())
        .await
        .unwrap();
    channel.exec(true, command).await.unwrap();
    loop {
        match soon("the answer to exec", channel.wait()).await {
            Some(ChannelMsg::Success) => return channel,
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            other => panic!("exec was answered by {other:?}"),
        }
    }
}

/// How a command ended, and what it printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) status: Option<u32>,
    pub(crate) signal: Option<String>,
    pub(crate) eof: bool,
}

/// Reads a channel to its close.
pub(crate) async fn finish(mut channel: Channel<client::Msg>) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        match soon("the end of a command", channel.wait()).await {
            Some(ChannelMsg::Data { data }) => outcome.stdout.extend_from_slice(&data),
            Some(ChannelMsg::ExtendedData { data, ext: 1 }) => outcome.stderr.extend_from_slice(&data),
            Some(ChannelMsg::ExitStatus { exit_status }) => outcome.status = Some(exit_status),
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                outcome.signal = Some(format!("{signal_name:?}"));
            }
            Some(ChannelMsg::Eof) => outcome.eof = true,
            Some(ChannelMsg::Close) => return outcome,
            Some(_) => {}
            None => panic!("the connection ended before the channel: {outcome:?}"),
        }
    }
}

/// Runs a command to its end.
pub(crate) async fn run(connection: &Handle<Client>, command: &str) -> Outcome {
    finish(exec(connection, command).await).await
}

/// Reads stdout until it contains a whole line, and returns that line.
pub(crate) async fn first_line(channel: &mut Channel<client::Msg>) -> String {
    let mut text = String::new();
    while !text.contains('\n') {
        match soon("a line of output", channel.wait()).await {
            Some(ChannelMsg::Data { data }) => text.push_str(&String::from_utf8_lossy(&data)),
            Some(ChannelMsg::Close) | None => panic!("closed before a line: {text:?}"),
            Some(_) => {}
        }
    }
    text.lines().next().unwrap().to_owned()
}
