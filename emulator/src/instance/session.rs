//! One session channel: a command's process, its three streams, its signals and its end, in OpenSSH's order.
//!
//! It owns the child process until it is reaped. It must know nothing of logins or other sessions.

use std::collections::VecDeque;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};

use super::slots::Slot;
use crate::shared::Shared;

/// Most bytes of output taken at once: the largest packet that OpenSSH's channels carry.
const CHUNK: usize = 32 * 1024;

/// Bytes of stdin that may wait for a program that does not read. russh opens a channel's window on receipt, so this
/// is all that keeps one such program from stalling its connection: 16 times the most that Adit sends (1 MiB). Past
/// it the connection does stall, until the program reads or ends.
const MAX_STDIN: usize = 16 * 1024 * 1024;

/// Extended data type of stderr (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// What a session needs beside its channel.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connection: Handle,
    pub(crate) ssh_connection: String,
    /// Kept until the process is reaped and CLOSE is on its way. sshd also waits for the client's CLOSE; russh hides
    /// that one, so a slot comes free up to a round trip earlier here. For the same reason russh keeps 3 KiB of each
    /// ended channel until its connection ends.
    pub(crate) slot: Slot,
}

/// Serves a session channel from its opening until its slot is free again.
pub(crate) async fn run(channel: Channel<Msg>, context: Context) {
    let (mut read, write) = channel.split();
    let stopping = context.shared.stopping().clone();
    let command = tokio::select! {
        () = stopping.cancelled() => None,
        command = wait_for_command(&mut read) => command,
    };
    if let Some(command) = command {
        context.shared.count_command();
        match context.shared.account.start(&command, &context.ssh_connection) {
            Ok(child) => {
                Running {
                    read,
                    write,
                    child,
                    context,
                }
                .run()
                .await
            }
            Err(error) => {
                let text = context.shared.account.start_failure(&error);
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = fail(&mut read, &write, text) => {}
                }
            }
        }
    }
}

async fn wait_for_command(read: &mut ChannelReadHalf) -> Option<Vec<u8>> {
    loop {
        match read.wait().await? {
            ChannelMsg::Exec { command, .. } => return Some(command),
            ChannelMsg::Close => return None,
            _ => {}
        }
    }
}

/// Ends a session whose shell could not be started, as sshd's child does.
async fn fail(read: &mut ChannelReadHalf, write: &ChannelWriteHalf<Msg>, text: String) {
    let report = async {
        write.extended_data_bytes(STDERR, text.into_bytes()).await?;
        write.eof().await?;
        write.exit_status(1).await?;
        write.close().await
    };
    tokio::select! {
        // An error means that the connection is gone, and nobody is left to tell.
        _ = report => {}
        () = until_closed(read) => {}
    }
}

async fn until_closed(read: &mut ChannelReadHalf) {
    while !matches!(read.wait().await, None | Some(ChannelMsg::Close)) {}
}

/// A session whose command was started.
struct Running {
    read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
    child: Child,
    context: Context,
}

impl Running {
    async fn run(mut self) {
        let stopping = self.context.shared.stopping().clone();
        let group = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let target = SignalTarget {
            group,
            alive: AtomicBool::new(true),
        };
        let stdin = self.child.stdin.take();
        tokio::select! {
            () = send_output(&mut self.child, &self.write, &self.context.connection, &target) => {}
            () = receive(&mut self.read, stdin, &target) => {}
            () = stopping.cancelled() => {}
        }
        // The pipes are closed now. Closing a channel or losing a connection ends no process; stopping the emulator is
        // the instance's power switch.
        let reaped = tokio::select! {
            reaped = self.child.wait() => reaped,
            () = stopping.cancelled() => {
                target.send(Signal::KILL);
                self.child.wait().await
            }
        };
        if let Err(error) = reaped {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "reaping a command failed"
            );
        }
        drop(self.context.slot);
    }
}

/// The process group of a command, as long as its leader was not reaped: after that the number may be another's.
struct SignalTarget {
    group: Option<Pid>,
    alive: AtomicBool,
}

impl SignalTarget {
    fn send(&self, signal: Signal) {
        let Some(group) = self.group.filter(|_| self.alive.load(Ordering::Relaxed)) else {
            return;
        };
        if let Err(error) = kill_process_group(group, signal) {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "signalling a command failed"
            );
        }
    }
}

/// Sends both output streams and the exit status. The status leaves when the child is reaped, EOF when nobody holds
/// the pipes any more, CLOSE after both: a background process keeps its session open, as under sshd.
async fn send_output(
    child: &mut Child,
    write: &ChannelWriteHalf<Msg>,
    connection: &Handle,
    target: &SignalTarget,
) {
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let streams = async {
        tokio::join!(pump(stdout, write, None), pump(stderr, write, Some(STDERR)));
        write.eof().await
    };
    let status = async {
        let reaped = child.wait().await;
        target.alive.store(false, Ordering::Relaxed);
        report(reaped, write, connection).await;
    };
    // Errors mean that the connection is gone, which the reading side notices by itself.
    tokio::join!(streams, status).0.ok();
    write.close().await.ok();
}

async fn pump(stream: Option<impl AsyncRead + Unpin>, write: &ChannelWriteHalf<Msg>, extended: Option<u32>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match stream.read_buf(&mut (&mut buffer).limit(CHUNK)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let data = buffer.split().freeze();
        // Waits for the channel's window: what a client does not read stays in the pipe and stops the program.
        let sent = match extended {
            None => write.data_bytes(data).await,
            Some(kind) => write.extended_data_bytes(kind, data).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn report(reaped: io::Result<ExitStatus>, write: &ChannelWriteHalf<Msg>, connection: &Handle) {
    use std::os::unix::process::ExitStatusExt;

    let Ok(status) = reaped else { return };
    // A failed send means that the connection is gone.
    if let Some(number) = status.signal() {
        let name = exit_signal_name(number);
        let core = status.core_dumped();
        connection
            .exit_signal_request(write.id(), name, core, String::new(), String::new())
            .await
            .ok();
    } else if let Some(code) = status.code() {
        write
            .exit_status(u32::try_from(code).unwrap_or(u32::MAX))
            .await
            .ok();
    }
}

/// Signals by the names of RFC 4254, 6.10, and `USR2`, as OpenSSH's sig2name has them; the others share one name.
fn exit_signal_name(number: i32) -> Sig {
    match Signal::from_named_raw(number) {
        Some(Signal::ABORT) => Sig::ABRT,
        Some(Signal::ALARM) => Sig::ALRM,
        Some(Signal::FPE) => Sig::FPE,
        Some(Signal::HUP) => Sig::HUP,
        Some(Signal::ILL) => Sig::ILL,
        Some(Signal::INT) => Sig::INT,
        Some(Signal::KILL) => Sig::KILL,
        Some(Signal::PIPE) => Sig::PIPE,
        Some(Signal::QUIT) => Sig::QUIT,
        Some(Signal::SEGV) => Sig::SEGV,
        Some(Signal::TERM) => Sig::TERM,
        Some(Signal::USR1) => Sig::USR1,
        Some(Signal::USR2) => Sig::Custom("USR2".to_owned()),
        _ => Sig::Custom("SIG@openssh.com".to_owned()),
    }
}

/// The signals that OpenSSH's `signal` request knows; it ignores the others.
fn requested_signal(name: &Sig) -> Option<Signal> {
    match name {
        Sig::HUP => Some(Signal::HUP),
        Sig::INT => Some(Signal::INT),
        Sig::KILL => Some(Signal::KILL),
        Sig::QUIT => Some(Signal::QUIT),
        Sig::TERM => Some(Signal::TERM),
        Sig::USR1 => Some(Signal::USR1),
        Sig::Custom(name) if name == "USR2" => Some(Signal::USR2),
        Sig::ABRT | Sig::ALRM | Sig::FPE | Sig::ILL | Sig::PIPE | Sig::SEGV | Sig::Custom(_) => None,
    }
}

/// Takes stdin and signals from the client until it closes the channel or its connection is gone.
async fn receive(read: &mut ChannelReadHalf, stdin: Option<ChildStdin>, target: &SignalTarget) {
    let mut input = Input {
        stdin,
        waiting: VecDeque::new(),
        bytes: 0,
        at_eof: false,
    };
    loop {
        let message = tokio::select! {
            () = input.write(), if !input.waiting.is_empty() => continue,
            message = read.wait(), if input.bytes < MAX_STDIN => message,
        };
        match message {
            None | Some(ChannelMsg::Close) => return,
            Some(ChannelMsg::Data { data }) => input.push(data),
            Some(ChannelMsg::Eof) => input.end(),
            Some(ChannelMsg::Signal { signal }) => {
                if let Some(signal) = requested_signal(&signal) {
                    target.send(signal);
                }
            }
            Some(_) => {}
        }
    }
}

/// Stdin on its way to a program that reads at its own pace.
struct Input {
    /// `None` once the program or the client has closed it.
    stdin: Option<ChildStdin>,
    waiting: VecDeque<Bytes>,
    bytes: usize,
    at_eof: bool,
}

impl Input {
    fn push(&mut self, data: Bytes) {
        if self.stdin.is_some() && !data.is_empty() {
            self.bytes += data.len();
            self.waiting.push_back(data);
        }
    }

    fn end(&mut self) {
        self.at_eof = true;
        if self.waiting.is_empty() {
            self.stdin = None;
        }
    }

    /// Writes some of what waits. Cancel-safe: what was not written still waits.
    async fn write(&mut self) {
        let (Some(stdin), Some(front)) = (&mut self.stdin, self.waiting.front_mut()) else {
            return;
        };
        match stdin.write(front).await {
            Ok(written) => {
                front.advance(written);
                self.bytes -= written;
                if front.is_empty() {
                    self.waiting.pop_front();
                }
                if self.at_eof && self.waiting.is_empty() {
                    self.stdin = None;
                }
            }
            Err(_) => {
                // The program has closed its stdin: the rest has no reader, as after EPIPE in sshd.
                self.stdin = None;
                self.waiting.clear();
                self.bytes = 0;
            }
        }
    }
}
