//! A tunnel's warden as the execs on it see it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

use super::{NoReceipt, Receipt};

/// Orders that wait at most to be written: no tunnel has more channels than this.
pub(super) const ORDERS: usize = 64;

/// Length of every tunnel's mark: 128 random bits in hex.
pub(crate) const TUNNEL_MARK_LENGTH: usize = 32;

/// An order to end an exec, and where its receipt goes.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) exec_id: Uuid,
    pub(super) session: Option<u32>,
    pub(super) receipt: oneshot::Sender<Receipt>,
}

/// Where orders go.
#[derive(Clone, Debug)]
enum Seat {
    /// To nobody yet.
    Expected,
    Taken(mpsc::Sender<Order>),
    /// To nobody ever.
    Vacant,
}

/// The way to one tunnel's warden, whichever of its starts it is. Cheap to clone; each lease of the tunnel has one.
#[derive(Clone, Debug)]
pub(crate) struct WardenHandle {
    mark: Arc<str>,
    seat: Arc<watch::Sender<Seat>>,
}

impl WardenHandle {
    /// For a new tunnel.
    pub(crate) fn new() -> Self {
        Self {
            mark: format!("{:032x}", rand::rng().random::<u128>()).into(),
            seat: Arc::new(watch::Sender::new(Seat::Expected)),
        }
    }

    /// What every process that is started over the tunnel has as `ADIT_TUNNEL`. Letters and digits.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// Has everything ended that belongs to the exec. `session` is the process id of its shell, where that is known. The
    /// answer comes within `limit`. A warden that ends over it leaves it to the next one.
    ///
    /// # Errors
    /// Why there is no receipt.
    pub(crate) async fn end(
        self,
        exec_id: Uuid,
        session: Option<u32>,
        limit: Duration,
    ) -> Result<Receipt, NoReceipt> {
        let mut seat = self.seat.subscribe();
        let mut was_taken = false;
        let asking = async {
            loop {
                let Some(orders) = taken(&mut seat).await else {
                    return if was_taken {
                        Err(NoReceipt::Unanswered)
                    } else {
                        Err(NoReceipt::NoWarden)
                    };
                };
                was_taken = true;
                let (receipt, answer) = oneshot::channel();
                let order = Order {
                    exec_id,
                    session,
                    receipt,
                };
                let is_sent = orders.send(order).await.is_ok();
                // Held for longer it would keep a dismissed warden.
                drop(orders);
                if is_sent && let Ok(receipt) = answer.await {
                    return Ok(receipt);
                }
                if seat.changed().await.is_err() {
                    return Err(NoReceipt::Unanswered);
                }
            }
        };
        timeout(limit, asking).await.unwrap_or(Err(NoReceipt::Unanswered))
    }

    /// There is no warden any more, or none is to be waited for: whoever asks hears that at once. Ends one that runs.
    pub(crate) fn vacate(&self) {
        self.seat.send_replace(Seat::Vacant);
    }

    /// There may yet be one. One that takes orders goes on.
    pub(crate) fn expect(&self) {
        self.seat.send_if_modified(|seat| {
            let was_vacant = matches!(seat, Seat::Vacant);
            if was_vacant {
                *seat = Seat::Expected;
            }
            was_vacant
        });
    }

    /// A warden takes orders, unless it was dismissed meanwhile.
    pub(super) fn take(&self, orders: mpsc::Sender<Order>) {
        self.seat.send_if_modified(|seat| {
            let is_expected = matches!(seat, Seat::Expected);
            if is_expected {
                *seat = Seat::Taken(orders);
            }
            is_expected
        });
    }

    /// The one that took orders is gone.
    pub(super) fn leave(&self) {
        self.seat.send_if_modified(|seat| {
            let was_taken = matches!(seat, Seat::Taken(_));
            if was_taken {
                *seat = Seat::Expected;
            }
            was_taken
        });
    }
}

/// Where orders go, as soon as that is decided.
async fn taken(seat: &mut watch::Receiver<Seat>) -> Option<mpsc::Sender<Order>> {
    let decided = seat.wait_for(|seat| !matches!(seat, Seat::Expected)).await;
    match &*decided.ok()? {
        Seat::Taken(orders) => Some(orders.clone()),
        Seat::Expected | Seat::Vacant => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn sit_down(handle: &WardenHandle) -> mpsc::Receiver<Order> {
        let (orders, given) = mpsc::channel(1);
        handle.take(orders);
        given
    }

    fn end(handle: &WardenHandle) -> tokio::task::JoinHandle<Result<Receipt, NoReceipt>> {
        tokio::spawn(handle.clone().end(Uuid::nil(), Some(7), LIMIT))
    }

    const RECEIPT: Receipt = Receipt {
        sent: Vec::new(),
        left: 0,
    };

    #[tokio::test(start_paused = true)]
    async fn an_order_waits_for_a_warden_and_goes_to_the_next_when_one_ends_over_it() {
        let handle = WardenHandle::new();
        let ended = end(&handle);
        tokio::task::yield_now().await;
        let mut first = sit_down(&handle);
        let order = first.recv().await.unwrap();
        handle.leave();
        drop((order, first));
        let mut second = sit_down(&handle);
        let order = second.recv().await.unwrap();
        assert_eq!((order.exec_id, order.session), (Uuid::nil(), Some(7)));
        order.receipt.send(RECEIPT).unwrap();
        assert_eq!(ended.await.unwrap(), Ok(RECEIPT));
    }

    #[tokio::test(start_paused = true)]
    async fn only_where_there_never_is_one_nobody_is_missed() {
        let vacant = WardenHandle::new();
        vacant.vacate();
        assert_eq!(end(&vacant).await.unwrap(), Err(NoReceipt::NoWarden));

        let late = WardenHandle::new();
        assert_eq!(
            end(&late).await.unwrap(),
            Err(NoReceipt::Unanswered),
            "it may yet come"
        );

        let silent = WardenHandle::new();
        let mut given = sit_down(&silent);
        let ended = end(&silent);
        let order = given.recv().await.unwrap();
        assert_eq!(ended.await.unwrap(), Err(NoReceipt::Unanswered));
        drop(order);

        let gone = WardenHandle::new();
        let mut given = sit_down(&gone);
        let ended = end(&gone);
        let order = given.recv().await.unwrap();
        gone.leave();
        drop(order);
        tokio::task::yield_now().await;
        gone.vacate();
        assert_eq!(ended.await.unwrap(), Err(NoReceipt::Unanswered));
    }
}
