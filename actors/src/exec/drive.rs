//! One task per channel: sends the exec request, feeds standard input, and reads until the channel closes, always.
//!
//! An SSH channel that is not read stalls every other channel of its connection, so nothing here waits for anyone but
//! the tunnel itself. The lease lives in this task: the slot is counted until sshd has closed the channel, also when the
//! exec has long been answered.

use std::sync::{Arc, Mutex, PoisonError};

use actix::{Message, Recipient};
use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::OutputStream;
use super::event::Event;
use super::mark::{Finding, MarkFilter};
use super::output::SharedOutput;
use crate::tunnel::Lease;

/// SSH_EXTENDED_DATA_STDERR (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// What the actor may still say to the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send the `signal` request.
    Signal(&'static str),
    /// A process may be left: end the lease as poisoned and drain on.
    Poison,
}

/// Orders that wait at most: TERM, KILL and poison are all there are.
pub(crate) const ORDERS: usize = 4;

/// Tells the exec's actor what happened on its channel.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Happened(pub(crate) Event);

/// Everything one channel's task needs.
pub(crate) struct Drive {
    pub(crate) channel: Channel<Msg>,
    pub(crate) lease: Lease,
    pub(crate) exec_id: Uuid,
    pub(crate) line: String,
    pub(crate) expects_cwd: bool,
    pub(crate) stdin: Bytes,
    pub(crate) output: Arc<SharedOutput>,
    pub(crate) actor: Recipient<Happened>,
    pub(crate) orders: mpsc::Receiver<Order>,
}

impl Drive {
    /// Runs until the channel has closed or its connection is gone.
    pub(crate) async fn run(self) {
        let (read, write) = self.channel.split();
        let reader = Reader {
            read,
            filter: MarkFilter::new(self.exec_id, self.expects_cwd),
            output: self.output,
            actor: self.actor,
        };
        let lease = Mutex::new(Some(self.lease));
        let writing = write_side(write, self.line, self.stdin, self.orders, &lease);
        let reading = reader.run();
        tokio::pin!(writing, reading);
        let mut writing_is_over = false;
        // Both sides are polled together: waiting to send while nothing is read could hold up the very connection that
        // the send waits for.
        loop {
            tokio::select! {
                () = &mut reading => return,
                () = &mut writing, if !writing_is_over => writing_is_over = true,
            }
        }
    }
}

/// The exec request, then standard input, with signals in between whenever they are ordered.
async fn write_side(
    write: ChannelWriteHalf<Msg>,
    line: String,
    stdin: Bytes,
    mut orders: mpsc::Receiver<Order>,
    lease: &Mutex<Option<Lease>>,
) {
    // A failed send means that the connection is gone, which the reading side reports.
    if write.exec(true, line).await.is_err() {
        return;
    }
    let feed = async {
        if !stdin.is_empty() && write.data(stdin.as_ref()).await.is_err() {
            return;
        }
        drop(write.eof().await);
    };
    tokio::pin!(feed);
    let mut is_fed = false;
    loop {
        tokio::select! {
            () = &mut feed, if !is_fed => is_fed = true,
            order = orders.recv() => match order {
                Some(Order::Signal(name)) => drop(write.signal(signal(name)).await),
                Some(Order::Poison) => {
                    if let Some(lease) = lease.lock().unwrap_or_else(PoisonError::into_inner).take() {
                        lease.poison();
                    }
                }
                None if is_fed => return,
                None => {
                    // The exec is over; what its program still has to read may go on.
                    (&mut feed).await;
                    return;
                }
            },
        }
    }
}

fn signal(name: &str) -> Sig {
    match name {
        "TERM" => Sig::TERM,
        "KILL" => Sig::KILL,
        other => Sig::Custom(other.to_owned()),
    }
}

struct Reader {
    read: ChannelReadHalf,
    filter: MarkFilter,
    output: Arc<SharedOutput>,
    actor: Recipient<Happened>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let Some(message) = self.read.wait().await else {
                self.finish_stderr();
                return self.report(Event::TunnelLost);
            };
            match message {
                ChannelMsg::Data { data } => self.output.push(OutputStream::Stdout, &data, Instant::now()),
                ChannelMsg::ExtendedData { data, ext: STDERR } => self.on_stderr(data),
                ChannelMsg::Success => self.report(Event::Accepted),
                ChannelMsg::Failure => self.report(Event::Refused),
                ChannelMsg::ExitStatus { exit_status } => self.report(Event::Exited(exit_status)),
                ChannelMsg::ExitSignal { signal_name, .. } => {
                    self.report(Event::Signaled(signal_text(&signal_name)));
                }
                ChannelMsg::Eof => {
                    self.finish_stderr();
                    self.report(Event::OutputComplete);
                }
                ChannelMsg::Close => {
                    self.finish_stderr();
                    return self.report(Event::Closed);
                }
                // Nothing else concerns an exec channel: windows are russh's business, the rest is never sent to a client.
                _ => {}
            }
        }
    }

    fn on_stderr(&mut self, data: Bytes) {
        let (data, finding) = self.filter.push(data);
        match finding {
            Some(Finding::Started { .. }) => self.report(Event::Started),
            Some(Finding::CwdNotFound) => {
                self.report(Event::CwdNotFound);
            }
            None => {}
        }
        self.output.push(OutputStream::Stderr, &data, Instant::now());
    }

    fn finish_stderr(&mut self) {
        let held = self.filter.finish();
        self.output.push(OutputStream::Stderr, &held, Instant::now());
    }

    fn report(&self, event: Event) {
        // An exec reports fewer events than its mailbox holds, so this fails only when the exec is over and nobody
        // listens any more: then the channel is just drained.
        drop(self.actor.try_send(Happened(event)));
    }
}

/// The name without `SIG`; signals that SSH has no name for come from OpenSSH as `SIG@openssh.com` with the name in front.
fn signal_text(signal: &Sig) -> String {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name.split('@').next().unwrap_or(name),
    };
    name.to_owned()
}
