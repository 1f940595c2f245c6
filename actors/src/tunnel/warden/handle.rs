//! A tunnel's warden as the execs on it see it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
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
    /// answer comes within `limit`.
    ///
    /// # Errors
    /// Why there is no receipt.
    pub(crate) async fn end(
        self,
        exec_id: Uuid,
        session: Option<u32>,
        limit: Duration,
    ) -> Result<Receipt, NoReceipt> {
        let deadline = Instant::now() + limit;
        let orders = timeout_at(deadline, self.orders()).await.ok().flatten();
        let orders = orders.ok_or(NoReceipt::NoWarden)?;
        let (receipt, answer) = oneshot::channel();
        let order = Order {
            exec_id,
            session,
            receipt,
        };
        let asked = async {
            orders.send(order).await.ok()?;
            // Held for longer it would keep a dismissed warden.
            drop(orders);
            answer.await.ok()
        };
        let receipt = timeout_at(deadline, asked).await.ok().flatten();
        receipt.ok_or(NoReceipt::Unanswered)
    }

    /// Where orders go, as soon as that is decided.
    async fn orders(&self) -> Option<mpsc::Sender<Order>> {
        let mut seat = self.seat.subscribe();
        let decided = seat.wait_for(|seat| !matches!(seat, Seat::Expected)).await;
        match &*decided.ok()? {
            Seat::Taken(orders) => Some(orders.clone()),
            Seat::Expected | Seat::Vacant => None,
        }
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
