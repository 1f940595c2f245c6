//! The actor shell around [`EndpointBudget`], and the process's budgets, one an endpoint.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult, Recipient};
use dashmap::DashMap;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::slot::{SlotChange, SlotNews};
use super::{
    BudgetEffect, BudgetEvent, BudgetSettings, Claimant, EndpointBudget, SlotGuard, SlotId, SlotUsage,
};
use crate::alarm::Alarm;
use crate::arbiters::Arbiters;
use crate::tunnel::snapshot::EndpointSnapshot;

/// Asks come through senders of their own, so this bounds nothing but what one sender can queue.
const MAILBOX: usize = 64;

/// An EC2 Instance Connect Endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) region: String,
    pub(crate) endpoint_id: String,
}

/// A tunnel may be dialled. The guard goes back by itself if the tunnel is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SlotGranted {
    pub(crate) tunnel_id: u64,
    pub(crate) guard: SlotGuard,
}

/// Another instance needs the connection of this tunnel.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct GiveWay {
    pub(crate) tunnel_id: u64,
    /// If it is in use, and its instance has another tunnel, it is to take no new exec.
    pub(crate) if_second: bool,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Want {
    slot: SlotId,
    claimant: Claimant,
    usage: SlotUsage,
    since: Instant,
    granted: Recipient<SlotGranted>,
    give_way: Recipient<GiveWay>,
}

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "EndpointSnapshot")]
struct Observe;

/// The wish for a slot, and later the line to the budget about it. Its drop takes the wish back; a slot that was granted
/// meanwhile is its guard's to give back.
pub(crate) struct SlotRequest {
    slot: SlotId,
    pub(crate) usage: SlotUsage,
    budget: Addr<BudgetActor>,
}

impl SlotRequest {
    /// The tunnel has turned idle, and [`SlotUsage::set`] said that the budget must know.
    pub(crate) fn turned_idle(&self) {
        self.tell(SlotChange::TurnedIdle);
    }

    /// The tunnel was asked to give way, and will when its last exec ends.
    pub(crate) fn leaving(&self) {
        self.tell(SlotChange::Leaving);
    }

    /// The tunnel was asked to give way, and is in use.
    pub(crate) fn declined(&self) {
        self.tell(SlotChange::Declined);
    }

    fn tell(&self, what: SlotChange) {
        // Fails only when the budget is gone, and with it the queue.
        drop(self.budget.clone().try_send(SlotNews {
            slot: self.slot,
            what,
        }));
    }
}

impl Drop for SlotRequest {
    fn drop(&mut self) {
        self.tell(SlotChange::Withdrawn);
    }
}

/// The budgets of all endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EndpointBudgets {
    shared: Arc<Shared>,
}

struct Shared {
    settings: BudgetSettings,
    arbiters: Arbiters,
    budgets: DashMap<EndpointKey, (Addr<BudgetActor>, Arc<AtomicBool>)>,
    last_slot: AtomicU64,
}

impl EndpointBudgets {
    pub(crate) fn new(arbiters: Arbiters, settings: BudgetSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                arbiters,
                budgets: DashMap::new(),
                last_slot: AtomicU64::new(0),
            }),
        }
    }

    /// Asks for a connection that was first wanted at `since`. [`SlotGranted`] comes when there is one.
    pub(crate) fn ask(
        &self,
        key: EndpointKey,
        claimant: Claimant,
        since: Instant,
        granted: Recipient<SlotGranted>,
        give_way: Recipient<GiveWay>,
    ) -> SlotRequest {
        let slot = self.shared.last_slot.fetch_add(1, Ordering::Relaxed);
        let (budget, wanted) = self.budget(key);
        let usage = SlotUsage::new(wanted);
        let want = Want {
            slot,
            claimant,
            usage: usage.clone(),
            since,
            granted,
            give_way,
        };
        // A clone of the address has a place of its own in the mailbox.
        drop(budget.clone().try_send(want));
        SlotRequest { slot, usage, budget }
    }

    fn budget(&self, key: EndpointKey) -> (Addr<BudgetActor>, Arc<AtomicBool>) {
        let mut entry = self
            .shared
            .budgets
            .entry(key.clone())
            .or_insert_with(|| self.start(key.clone()));
        if !entry.0.connected() {
            tracing::error!(
                endpoint_id = key.endpoint_id,
                "the endpoint's budget failed; a new one counts its connections from none"
            );
            *entry = self.start(key);
        }
        entry.clone()
    }

    fn start(&self, key: EndpointKey) -> (Addr<BudgetActor>, Arc<AtomicBool>) {
        let wanted = Arc::new(AtomicBool::new(false));
        let actor = BudgetActor {
            budget: EndpointBudget::new(self.shared.settings),
            key: key.clone(),
            wanted: Arc::clone(&wanted),
            claims: HashMap::new(),
            alarm: Alarm::default(),
        };
        (self.shared.arbiters.run(&key, move |_| actor), wanted)
    }

    /// What every budget knows, by region and endpoint id.
    pub(crate) async fn snapshots(&self) -> Vec<EndpointSnapshot> {
        let budgets: Vec<Addr<BudgetActor>> = self
            .shared
            .budgets
            .iter()
            .map(|entry| entry.value().0.clone())
            .collect();
        let answers = join_all(budgets.iter().map(|budget| budget.send(Observe))).await;
        // One that fails just now has nothing to show.
        let mut snapshots: Vec<EndpointSnapshot> = answers.into_iter().flatten().collect();
        snapshots.sort_by(|a, b| (&a.region, &a.endpoint_id).cmp(&(&b.region, &b.endpoint_id)));
        snapshots
    }
}

impl fmt::Debug for EndpointBudgets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EndpointBudgets")
            .field("endpoints", &self.shared.budgets.len())
            .finish_non_exhaustive()
    }
}

struct Claim {
    tunnel_id: u64,
    granted: Recipient<SlotGranted>,
    give_way: Recipient<GiveWay>,
}

/// The budget of one endpoint.
pub(crate) struct BudgetActor {
    budget: EndpointBudget,
    key: EndpointKey,
    wanted: Arc<AtomicBool>,
    claims: HashMap<SlotId, Claim>,
    alarm: Alarm,
}

impl BudgetActor {
    fn feed(&mut self, event: BudgetEvent, ctx: &mut Context<Self>) {
        if matches!(event, BudgetEvent::Wanted { .. }) {
            // Before the cells are read: see `SlotUsage::set`.
            self.wanted.store(true, Ordering::SeqCst);
        }
        for effect in self.budget.on(event, Instant::now()) {
            self.perform(effect, ctx);
        }
        self.wanted.store(self.budget.is_wanted(), Ordering::SeqCst);
        self.alarm.set(self.budget.next_wake(), ctx, Self::wake);
    }

    fn perform(&mut self, effect: BudgetEffect, ctx: &mut Context<Self>) {
        match effect {
            BudgetEffect::Grant { slot } => {
                let guard = SlotGuard::new(slot, ctx.address().recipient());
                if let Some(claim) = self.claims.get(&slot) {
                    // A supervisor that is gone drops the message, and with it the guard.
                    drop(claim.granted.clone().try_send(SlotGranted {
                        tunnel_id: claim.tunnel_id,
                        guard,
                    }));
                }
            }
            BudgetEffect::AskToGiveWay { slot, if_second } => {
                if let Some(claim) = self.claims.get(&slot) {
                    // A supervisor that is gone has dropped its connections.
                    drop(claim.give_way.clone().try_send(GiveWay {
                        tunnel_id: claim.tunnel_id,
                        if_second,
                    }));
                }
            }
        }
    }

    fn wake(&mut self, ctx: &mut Context<Self>) {
        self.alarm.rang();
        self.feed(BudgetEvent::Wake, ctx);
    }
}

impl Actor for BudgetActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Want> for BudgetActor {
    type Result = ();

    fn handle(&mut self, want: Want, ctx: &mut Self::Context) {
        let Want {
            slot,
            claimant,
            usage,
            since,
            granted,
            give_way,
        } = want;
        self.claims.insert(
            slot,
            Claim {
                tunnel_id: claimant.tunnel_id,
                granted,
                give_way,
            },
        );
        self.feed(
            BudgetEvent::Wanted {
                slot,
                claimant,
                usage,
                since,
            },
            ctx,
        );
    }
}

impl Handler<SlotNews> for BudgetActor {
    type Result = ();

    fn handle(&mut self, SlotNews { slot, what }: SlotNews, ctx: &mut Self::Context) {
        let event = match what {
            SlotChange::Withdrawn => BudgetEvent::Withdrawn { slot },
            SlotChange::Opened => BudgetEvent::Opened,
            SlotChange::Refused => {
                tracing::warn!(
                    endpoint_id = self.key.endpoint_id,
                    "the endpoint refused a connection within the budget: others use it too"
                );
                BudgetEvent::Refused { slot }
            }
            SlotChange::Released => BudgetEvent::Released { slot },
            SlotChange::TurnedIdle => BudgetEvent::TurnedIdle { slot },
            SlotChange::Declined => BudgetEvent::Declined { slot },
            SlotChange::Leaving => BudgetEvent::Leaving { slot },
        };
        self.feed(event, ctx);
        if !self.budget.knows(slot) {
            self.claims.remove(&slot);
        }
    }
}

impl Handler<Observe> for BudgetActor {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.budget.snapshot(&self.key, Instant::now()))
    }
}
