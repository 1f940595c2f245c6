//! One task per warden: starts it on its channel, writes orders, and reads until the channel closes, always.

use std::collections::HashMap;
use std::time::Duration;

use actix::{Message, Recipient};
use rand::RngExt as _;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::dialogue::{self, Dialogue, Said};
use super::handle::{ORDERS, Order, WardenHandle};
use super::{Receipt, WardenEvent};
use crate::tunnel::supervisor_core::TunnelId;

/// How long it may take to say `ready`: sshd forks, and a login shell reads its own files first.
const READY_DEADLINE: Duration = Duration::from_secs(15);

/// Tells a supervisor how the warden of one of its tunnels fares.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WardenNews {
    pub(crate) tunnel: TunnelId,
    pub(crate) news: WardenEvent,
}

/// Everything one warden's task needs.
pub(crate) struct WardenTask {
    pub(crate) tunnel: TunnelId,
    pub(crate) channel: Channel<Msg>,
    pub(crate) handle: WardenHandle,
    pub(crate) supervisor: Recipient<WardenNews>,
}

impl WardenTask {
    /// Runs until the channel has closed or its connection is gone.
    pub(crate) async fn run(self) {
        let (read, write) = self.channel.split();
        let nonce = format!("{:032x}", rand::rng().random::<u128>());
        let line = dialogue::command_line(&nonce, self.handle.mark());
        let (orders, orders_given) = mpsc::channel(ORDERS);
        let (pending, to_await) = mpsc::channel(ORDERS);
        let mut listener = Listener {
            tunnel: self.tunnel,
            read,
            dialogue: Dialogue::new(&nonce),
            handle: self.handle,
            supervisor: self.supervisor,
            orders: Some(orders),
            to_await,
            awaited: HashMap::new(),
        };
        {
            let writing = write_side(&write, line, orders_given, pending);
            let listening = listener.run();
            tokio::pin!(writing, listening);
            // Both are polled together: waiting to send while nothing is read could hold up the very connection that the
            // send waits for.
            let is_over = tokio::select! {
                is_refused = &mut listening => Some(is_refused),
                () = &mut writing => None,
            };
            let is_refused = match is_over {
                Some(is_refused) => is_refused,
                None => listening.await,
            };
            // Nothing runs on a refused channel, so closing first is safe, as after a refused exec.
            if is_refused {
                drop(write.close().await);
            }
        }
        listener.handle.leave();
        listener.tell(WardenEvent::Ended {
            now: tokio::time::Instant::now(),
        });
    }
}

/// Starts the warden, then writes orders until nobody can give any more: the end of its input is its dismissal.
async fn write_side(
    write: &ChannelWriteHalf<Msg>,
    line: String,
    mut orders: mpsc::Receiver<Order>,
    pending: mpsc::Sender<(Uuid, oneshot::Sender<Receipt>)>,
) {
    // A failed send means that the connection is gone, which the reading side sees.
    if write.exec(true, line).await.is_err() {
        return;
    }
    while let Some(order) = orders.recv().await {
        let text = dialogue::order(order.exec_id, order.session);
        // Before the order, or its answer could come first.
        if pending.send((order.exec_id, order.receipt)).await.is_err()
            || write.data(text.as_bytes()).await.is_err()
        {
            return;
        }
    }
    drop(write.eof().await);
}

struct Listener {
    tunnel: TunnelId,
    read: ChannelReadHalf,
    dialogue: Dialogue,
    handle: WardenHandle,
    supervisor: Recipient<WardenNews>,
    /// The way to the writing side, until it is given to the tunnel's execs or dropped.
    orders: Option<mpsc::Sender<Order>>,
    to_await: mpsc::Receiver<(Uuid, oneshot::Sender<Receipt>)>,
    /// Who waits for a receipt. An exec asks once, so they are no more than the tunnel's channels.
    awaited: HashMap<Uuid, oneshot::Sender<Receipt>>,
}

impl Listener {
    /// Whether sshd refused to start anything.
    async fn run(&mut self) -> bool {
        let deadline = tokio::time::sleep(READY_DEADLINE);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                Some((exec_id, receipt)) = self.to_await.recv() => {
                    self.awaited.retain(|_, asker| !asker.is_closed());
                    self.awaited.insert(exec_id, receipt);
                }
                message = self.read.wait() => match message {
                    Some(ChannelMsg::Data { data }) => {
                        for said in self.dialogue.hear(&data) {
                            self.on_said(said);
                        }
                    }
                    Some(ChannelMsg::Failure) => return true,
                    None | Some(ChannelMsg::Close) => return false,
                    Some(_) => {}
                },
                () = &mut deadline, if self.orders.is_some() => self.dismiss(),
            }
        }
    }

    fn on_said(&mut self, said: Said) {
        match said {
            Said::Ready => {
                if let Some(orders) = self.orders.take() {
                    self.handle.take(orders);
                    self.tell(WardenEvent::Ready);
                }
            }
            Said::Ended { exec_id, receipt } => {
                if let Some(asker) = self.awaited.remove(&exec_id) {
                    // An asker whose budget is spent has gone.
                    drop(asker.send(receipt));
                }
            }
            Said::Nonsense => self.dismiss(),
        }
    }

    /// It is no warden: its input ends, and the channel is drained until it closes.
    fn dismiss(&mut self) {
        if self.orders.take().is_some() {
            self.tell(WardenEvent::Dismissed);
        }
    }

    fn tell(&self, news: WardenEvent) {
        let tunnel = self.tunnel;
        // Fails only when the supervisor is gone, and its tunnels with it.
        drop(self.supervisor.try_send(WardenNews { tunnel, news }));
    }
}
