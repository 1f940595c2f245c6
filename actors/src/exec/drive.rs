//! One task per channel: sends the exec request, feeds standard input, and reads until the channel closes, always.
//!
//! An SSH channel that is not read stalls every other channel of its connection, so nothing here waits for anyone but
//! the tunnel itself. The lease lives in this task: the slot is counted until sshd has closed the channel, also when the
//! exec has long been answered.

use std::mem::Discriminant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{Message, Recipient};
use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::OutputStream;
use super::event::Event;
use super::mark::{Finding, MarkFilter};
use super::output::SharedOutput;
use crate::tunnel::Lease;

/// The longest that systems have is `RTMAX`, `STKFLT` or `VTALRM`; the rest is room.
const LONGEST_SIGNAL_NAME: usize = 16;

/// SSH_EXTENDED_DATA_STDERR (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// Signals that wait at most to be sent: TERM and KILL are all there are.
pub(crate) const SIGNALS: usize = 2;

/// Tells the exec's actor what happened on its channel.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Happened(pub(crate) Event);

/// Everything one channel's task needs.
pub(crate) struct Drive {
    pub(crate) channel: Channel<Msg>,
    pub(crate) lease: Lease,
    pub(crate) mark: String,
    pub(crate) line: String,
    pub(crate) stdin: Bytes,
    pub(crate) output: Arc<SharedOutput>,
    pub(crate) actor: Recipient<Happened>,
    /// Signals to send by name, as long as the exec is under way.
    pub(crate) signals: mpsc::Receiver<&'static str>,
    /// Says that a process may be left behind the channel: the lease ends as poisoned, and the draining goes on. When it ends
    /// without a word the exec is over: the lease ends with the channel, which lingers until it closes.
    pub(crate) poison: oneshot::Receiver<()>,
}

/// Why a channel needs no draining any more.
enum End {
    /// sshd closed it.
    Closed,
    /// Its connection is gone.
    Lost,
    /// sshd refused the exec request, and leaves the closing to us.
    Refused,
}

impl Drive {
    /// Runs until the channel has closed or its connection is gone.
    pub(crate) async fn run(self) {
        let (read, write) = self.channel.split();
        let filter = MarkFilter::new(&self.mark);
        let mut reader = Reader {
            read,
            filter,
            output: self.output,
            actor: self.actor,
            reported: Vec::new(),
        };
        let mut lease = Some(self.lease);
        let mut poison = self.poison;
        let mut may_be_poisoned = true;
        let is_sent = AtomicBool::new(false);
        let end = {
            let writing = write_side(&write, self.line, self.stdin, self.signals, &is_sent);
            let reading = reader.run();
            tokio::pin!(writing, reading);
            let mut is_writing = true;
            // All are polled together: waiting to send while nothing is read could hold up the very connection that
            // the send waits for.
            loop {
                tokio::select! {
                    end = &mut reading => break end,
                    left = &mut writing, if is_writing => {
                        is_writing = false;
                        if !left {
                            break End::Lost;
                        }
                    }
                    poisoned = &mut poison, if may_be_poisoned => {
                        may_be_poisoned = false;
                        if poisoned.is_ok() {
                            if let Some(lease) = lease.take() {
                                lease.poison();
                            }
                            // A request that has not left by now must not leave any more.
                            is_writing &= is_sent.load(Ordering::Relaxed);
                        } else if let Some(lease) = &mut lease {
                            lease.linger();
                        }
                    }
                }
            }
        };
        reader.finish_stderr();
        match end {
            End::Closed => reader.report(Event::Closed),
            End::Lost => reader.report(Event::TunnelLost),
            // Nothing runs on it, so closing first is safe here. russh keeps some 3 KB for it until the connection ends.
            End::Refused => {
                // Unread, it could hold up the connection that the close waits for.
                drop(reader);
                drop(write.close().await);
            }
        }
        // An exec that is stopped still hears from the tunnel's warden: until it is over, the tunnel is in use.
        if let Some(lease) = lease.filter(|_| may_be_poisoned)
            && poison.await.is_ok()
        {
            lease.poison();
        }
    }
}

/// The exec request, then standard input, with signals in between whenever they are ordered. `false` when the request
/// never left; later failures mean that the connection is gone, which the reading side sees.
async fn write_side(
    write: &ChannelWriteHalf<Msg>,
    line: String,
    stdin: Bytes,
    mut signals: mpsc::Receiver<&'static str>,
    is_sent: &AtomicBool,
) -> bool {
    if write.exec(true, line).await.is_err() {
        return false;
    }
    is_sent.store(true, Ordering::Relaxed);
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
            name = signals.recv() => match name {
                Some(name) => drop(write.signal(signal(name)).await),
                None if is_fed => return true,
                None => {
                    // The exec is over; what its program still has to read may go on.
                    (&mut feed).await;
                    return true;
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
    /// Each kind of event is reported once, whatever the peer sends: so they all fit into the actor's mailbox.
    reported: Vec<Discriminant<Event>>,
}

impl Reader {
    async fn run(&mut self) -> End {
        loop {
            let Some(message) = self.read.wait().await else {
                return End::Lost;
            };
            match message {
                ChannelMsg::Data { data } => self.output.push(OutputStream::Stdout, &data, Instant::now()),
                ChannelMsg::ExtendedData { data, ext: STDERR } => self.on_stderr(data),
                ChannelMsg::Success => self.report(Event::Accepted),
                ChannelMsg::Failure => {
                    self.report(Event::Refused);
                    return End::Refused;
                }
                ChannelMsg::ExitStatus { exit_status } => self.report(Event::Exited(exit_status)),
                ChannelMsg::ExitSignal { signal_name, .. } => {
                    self.report(Event::Signaled(signal_text(&signal_name)));
                }
                ChannelMsg::Eof => {
                    self.finish_stderr();
                    self.report(Event::OutputComplete);
                }
                ChannelMsg::Close => return End::Closed,
                // Nothing else concerns an exec channel: windows are russh's business, the rest is never sent to a client.
                _ => {}
            }
        }
    }

    fn on_stderr(&mut self, data: Bytes) {
        let (data, finding) = self.filter.push(data);
        match finding {
            Some(Finding::Started { pid }) => self.report(Event::Started { pid }),
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

    fn report(&mut self, event: Event) {
        let kind = std::mem::discriminant(&event);
        if self.reported.contains(&kind) {
            return;
        }
        self.reported.push(kind);
        // Fails only when the exec is over and nobody listens any more: then the channel is just drained.
        drop(self.actor.try_send(Happened(event)));
    }
}

/// The name without `SIG`. Signals that SSH has no name for come from OpenSSH with `@openssh.com` behind the name. What is
/// not a name of letters and digits is the peer's invention, and goes into no row.
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
    let is_name = (1..=LONGEST_SIGNAL_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if is_name {
        name.to_owned()
    } else {
        "UNKNOWN".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_names_are_names() {
        for (signal, text) in [
            (Sig::TERM, "TERM"),
            (Sig::Custom("STKFLT@openssh.com".to_owned()), "STKFLT"),
            (Sig::Custom("SIG@openssh.com".to_owned()), "SIG"),
            (Sig::Custom("a\0b".to_owned()), "UNKNOWN"),
            (Sig::Custom(String::new()), "UNKNOWN"),
            (Sig::Custom("X".repeat(17)), "UNKNOWN"),
        ] {
            assert_eq!(signal_text(&signal), text);
        }
    }
}
