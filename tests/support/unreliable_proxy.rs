//! A proxy before PostgreSQL that makes statements fail at random, as a database under load and its network do.
//!
//! It knows of the protocol where one statement ends and the next begins, and nothing more (PostgreSQL's manual,
//! "Frontend/Backend Protocol").

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What goes wrong with a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is not executed, and its transaction fails with this SQLSTATE.
    Refused(&'static str),
    /// The connection breaks before the server hears of it.
    LostBefore,
    /// The server executes it, and the connection breaks before anybody hears of that.
    LostAfter,
}

const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK: &str = "40P01";

const FAULTS: [Fault; 4] = [
    Fault::Refused(SERIALIZATION_FAILURE),
    Fault::Refused(DEADLOCK),
    Fault::LostBefore,
    Fault::LostAfter,
];

/// How often what has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Statements that came to the proxy.
    pub(crate) statements: u64,
    /// Answered with an error, and not executed.
    pub(crate) refused: u64,
    /// Connections broken before the statement was executed.
    pub(crate) lost_before: u64,
    /// Connections broken after it was executed.
    pub(crate) lost_after: u64,
}

struct Shared {
    server: SocketAddr,
    /// One statement in so many fails; none while it is 0.
    one_in: AtomicU64,
    random: Mutex<StdRng>,
    counts: Mutex<Counts>,
}

/// The proxy. Its connections end with it.
pub(crate) struct UnreliableProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl UnreliableProxy {
    /// One before the server at that port of loopback, which lets everything pass until it is told otherwise.
    pub(crate) async fn start(server_port: u16, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server: (Ipv4Addr::LOCALHOST, server_port).into(),
            one_in: AtomicU64::new(0),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            counts: Mutex::new(Counts {
                statements: 0,
                refused: 0,
                lost_before: 0,
                lost_after: 0,
            }),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            serving,
        }
    }

    /// From now on one statement in `one_in` fails, or none when it is 0.
    pub(crate) fn fail_one_in(&self, one_in: u64) {
        self.shared.one_in.store(one_in, Ordering::Relaxed);
    }

    /// Its port on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// What has happened so far.
    pub(crate) fn counts(&self) -> Counts {
        *self.shared.counts.lock().unwrap()
    }
}

impl Drop for UnreliableProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        // Either side may leave at any time, which ends the other and concerns nobody else.
        connections.spawn(async move { relay(client, &shared).await.ok() });
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let server = TcpStream::connect(shared.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut client = Peer::new(client);
    let mut server = Peer::new(server);
    log_in(&mut client, &mut server).await?;
    loop {
        tokio::select! {
            // While nothing is asked, the server may still say that it shuts down.
            message = server.message() => client.write.write_all(&message?.bytes).await?,
            statement = client.statement() => {
                let statement = statement?;
                answer(&statement, &mut client, &mut server, shared).await?;
            }
        }
    }
}

/// Up to the first time that the server is ready for a statement.
async fn log_in(client: &mut Peer, server: &mut Peer) -> io::Result<()> {
    loop {
        let startup = client.untyped_message().await?;
        // Requests for TLS or GSSAPI have these in the place of the protocol's version.
        if matches!(startup.get(4..8), Some([4, 210, 22, 47 | 48])) {
            client.write.write_all(b"N").await?;
            continue;
        }
        server.write.write_all(&startup).await?;
        return server.answer_to(client).await;
    }
}

async fn answer(
    statement: &Statement,
    client: &mut Peer,
    server: &mut Peer,
    shared: &Shared,
) -> io::Result<()> {
    match shared.fault_of(statement) {
        None => {
            server.write.write_all(&statement.bytes).await?;
            server.answer_to(client).await
        }
        Some(Fault::Refused(sqlstate)) => {
            // The server itself raises it, so that the transaction, if there is one, has failed there too.
            server.write.write_all(&raise(sqlstate)).await?;
            server.answer_to(client).await
        }
        Some(Fault::LostBefore) => Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::LostAfter) => {
            server.write.write_all(&statement.bytes).await?;
            while server.message().await?.kind != READY_FOR_QUERY {}
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
}

impl Shared {
    fn fault_of(&self, statement: &Statement) -> Option<Fault> {
        if !statement.executes {
            return None;
        }
        let one_in = self.one_in.load(Ordering::Relaxed);
        let mut random = self.random.lock().unwrap();
        let fault = (one_in > 0 && random.random_range(0..one_in) == 0)
            .then(|| FAULTS[random.random_range(0..FAULTS.len())]);
        let mut counts = self.counts.lock().unwrap();
        counts.statements += 1;
        match fault {
            None => {}
            Some(Fault::Refused(_)) => counts.refused += 1,
            Some(Fault::LostBefore) => counts.lost_before += 1,
            Some(Fault::LostAfter) => counts.lost_after += 1,
        }
        fault
    }
}

const EXECUTE: u8 = b'E';
const QUERY: u8 = b'Q';
const SYNC: u8 = b'S';
const TERMINATE: u8 = b'X';
const READY_FOR_QUERY: u8 = b'Z';

/// A query that does nothing but fail.
fn raise(sqlstate: &str) -> Bytes {
    let text = format!("DO $$ BEGIN RAISE EXCEPTION 'made to fail' USING ERRCODE = '{sqlstate}'; END $$\0");
    let mut message = BytesMut::new();
    message.put_u8(QUERY);
    message.put_u32(u32::try_from(text.len() + 4).unwrap());
    message.put(text.as_bytes());
    message.freeze()
}

/// A message with its type and length.
struct Message {
    kind: u8,
    bytes: Bytes,
}

/// All that a client sends before it waits for an answer.
struct Statement {
    bytes: Bytes,
    /// Whether it has an effect; a statement that is only prepared has none.
    executes: bool,
}

/// One side, with what it has sent and nobody has looked at.
struct Peer {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    unread: BytesMut,
    /// The messages of a statement of which the last is not there yet.
    begun: Vec<Message>,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self {
            read,
            write,
            unread: BytesMut::new(),
            begun: Vec::new(),
        }
    }

    /// The first message of a client, which has no type.
    async fn untyped_message(&mut self) -> io::Result<Bytes> {
        take_message(&mut self.read, &mut self.unread, 0).await
    }

    /// The next message. May be given up and asked for again.
    async fn message(&mut self) -> io::Result<Message> {
        let bytes = take_message(&mut self.read, &mut self.unread, 1).await?;
        Ok(Message {
            kind: bytes[0],
            bytes,
        })
    }

    /// The next statement. May be given up and asked for again.
    async fn statement(&mut self) -> io::Result<Statement> {
        loop {
            let message = self.message().await?;
            let kind = message.kind;
            if kind == TERMINATE {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.begun.push(message);
            if matches!(kind, SYNC | QUERY) {
                let messages = std::mem::take(&mut self.begun);
                let executes = |message: &Message| matches!(message.kind, EXECUTE | QUERY);
                return Ok(Statement {
                    executes: messages.iter().any(executes),
                    bytes: messages.into_iter().flat_map(|message| message.bytes).collect(),
                });
            }
        }
    }

    /// Passes on what this server says, until it is ready for the next statement.
    async fn answer_to(&mut self, client: &mut Self) -> io::Result<()> {
        loop {
            let message = self.message().await?;
            client.write.write_all(&message.bytes).await?;
            if message.kind == READY_FOR_QUERY {
                return Ok(());
            }
        }
    }
}

/// A message whose length stands after `type_length` bytes.
async fn take_message(
    read: &mut (impl AsyncRead + Unpin),
    unread: &mut BytesMut,
    type_length: usize,
) -> io::Result<Bytes> {
    loop {
        if let Some(mut length) = unread.get(type_length..type_length + 4) {
            let whole = type_length + length.get_u32() as usize;
            if unread.len() >= whole {
                return Ok(unread.split_to(whole).freeze());
            }
        }
        if read.read_buf(unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
