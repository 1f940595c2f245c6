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
use tokio_util::sync::CancellationToken;

use super::cut::SessionCut;
use super::slots::Slot;
use crate::shared::{InstanceEntry, Shared};

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
    pub(crate) entry: Arc<InstanceEntry>,
    /// Cancelled by the session when it wants the tunnel cut.
    pub(crate) cut: CancellationToken,
    pub(crate) connection: Handle,
    pub(crate) ssh_connection: String,
    /// Kept until the process is reaped and CLOSE is on its way. sshd also waits for the client's CLOSE; russh hides
    /// that one, so a slot comes free up to a round trip earlier here. For the same reason russh keeps 3 KiB of each
    /// ended channel until its connection ends.
    pub(crate) slot: Slot,
}

/// Serves a session channel from its opening until its slot is free again.
pub(crate) async fn run(channel: Channel<Msg>, mut context: Context) {
    let (mut read, write) = channel.split();
    let stopping = context.shared.stopping().clone();
    let command = tokio::select! {
        () = stopping.cancelled() => None,
        command = wait_for_command(&mut read, &mut context.slot) => command,
    };
    if let Some(command) = command {
        context.shared.tally.commands_started.add();
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

/// The first command that may begin; `None` when the channel is closed before.
async fn wait_for_command(read: &mut ChannelReadHalf, slot: &mut Slot) -> Option<Vec<u8>> {
    let command = loop {
        match read.wait().await? {
            ChannelMsg::Exec { command, .. } => break command,
            ChannelMsg::Close => return None,
            _ => {}
        }
    };
    // russh hands the request to the channel and then at once to the handler, which decides on it.
    if slot.begins().await {
        return Some(command);
    }
    until_closed(read).await;
    None
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
            entry: Arc::clone(&self.context.entry),
        };
        let cut = SessionCut::new(
            Arc::clone(&self.context.entry),
            self.context.connection.clone(),
            self.context.cut.clone(),
        );
        let stdin = self.child.stdin.take();
        tokio::select! {
            () = send_output(&mut self.child, &self.write, &cut, &target) => {}
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
    entry: Arc<InstanceEntry>,
}

impl SignalTarget {
    /// Does what a `signal` request asks for, unless the instance is told to ignore it.
    fn request(&self, name: &Sig) {
        let ignored = self.entry.faults.read(|faults| faults.ignores_signals);
        if let Some(signal) = requested_signal(name).filter(|_| !ignored) {
            self.send(signal);
        }
    }

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
    cut: &SessionCut,
    target: &SignalTarget,
) {
    if cut.in_output(0).is_some() {
        cut.now().await;
    }
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let streams = async {
        tokio::join!(
            pump(stdout, write, None, cut),
            pump(stderr, write, Some(STDERR), cut)
        );
        write.eof().await
    };
    let status = async {
        let reaped = child.wait().await;
        target.alive.store(false, Ordering::Relaxed);
        report(reaped, write, &cut.connection).await;
        if cut.after_exit_status() {
            cut.now().await;
        }
    };
    // Errors mean that the connection is gone, which the reading side notices by itself.
    tokio::join!(streams, status).0.ok();
    write.close().await.ok();
}

async fn pump(
    stream: Option<impl AsyncRead + Unpin>,
    write: &ChannelWriteHalf<Msg>,
    extended: Option<u32>,
    cut: &SessionCut,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match stream.read_buf(&mut (&mut buffer).limit(CHUNK)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut data = buffer.split().freeze();
        let last = cut.in_output(data.len());
        data.truncate(last.unwrap_or(data.len()));
        // Waits for the channel's window: what a client does not read stays in the pipe and stops the program.
        let sent = match extended {
            None => write.data_bytes(data).await,
            Some(kind) => write.extended_data_bytes(kind, data).await,
        };
        if sent.is_err() {
            return;
        }
        if last.is_some() {
            cut.now().await;
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
                target.request(&signal);
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
