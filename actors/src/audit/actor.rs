//! The actor shell around two [`GroupCommit`]s, one a half, and the handle by which execs reach it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use uuid::Uuid;

use super::batch::{Effect, GroupCommit, Place, WriteResult};
use super::pending::{Ticket, Verdict};
use super::store::{AuditRow, AuditStore, AuditStoreError, Half};
use super::upkeep::{Upkeep, UpkeepSettings};
use crate::alarm::Alarm;
use crate::arbiters::Arbiters;
use crate::tunnel::chain;

/// One transaction; past this it is dropped, counts as not acknowledged, and is tried again, which does no harm: the same
/// rows written twice are the same rows, and a begin knows itself by its nonce.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Asks come through senders of their own, so this bounds nothing but what one sender can queue.
const MAILBOX: usize = 64;

/// Numbers of the audit.
#[derive(Clone, Debug)]
pub(crate) struct AuditSettings {
    /// Begin rows that wait at most: one for each exec that may be in flight.
    pub(crate) begin_limit: usize,
    /// What is done to rows beside writing them.
    pub(crate) upkeep: UpkeepSettings,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Submit {
    half: Half,
    row: AuditRow,
    verdict: oneshot::Sender<Verdict>,
}

#[derive(Message)]
#[rtype(result = "Vec<Uuid>")]
struct Unwritten;

#[derive(Message)]
#[rtype(result = "()")]
struct Flush(oneshot::Sender<()>);

/// Since when the store has taken no row, for readiness: read by handlers without a message.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Instant>>);

impl Health {
    fn set(&self, failing_since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = failing_since;
    }

    pub(super) fn failing_since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One half's rows and those who wait for them.
struct Lane {
    rows: GroupCommit,
    waiting: HashMap<Ticket, oneshot::Sender<Verdict>>,
}

impl Lane {
    fn new(half: Half, limit: usize) -> Self {
        Self {
            rows: GroupCommit::new(half, limit, Instant::now()),
            waiting: HashMap::new(),
        }
    }
}

/// Writes all audit rows of the process. Each half has a transaction of its own in flight, so that a burst of one does not
/// hold up the other.
pub(crate) struct AuditActor {
    store: Arc<dyn AuditStore>,
    settings: AuditSettings,
    begins: Lane,
    finishes: Lane,
    flushing: Vec<oneshot::Sender<()>>,
    health: Arc<Health>,
    alarm: Alarm,
}

impl AuditActor {
    fn new(store: Arc<dyn AuditStore>, settings: AuditSettings, health: Arc<Health>) -> Self {
        Self {
            store,
            begins: Lane::new(Half::Begin, settings.begin_limit),
            finishes: Lane::new(Half::Finish, settings.begin_limit),
            settings,
            flushing: Vec::new(),
            health,
            alarm: Alarm::default(),
        }
    }

    fn lane(&mut self, half: Half) -> &mut Lane {
        match half {
            Half::Begin => &mut self.begins,
            Half::Finish => &mut self.finishes,
        }
    }

    fn perform(&mut self, half: Half, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Write(place, rows) => self.write(half, place, rows, ctx),
                Effect::Acknowledge(ticket, verdict) => {
                    if let Some(sender) = self.lane(half).waiting.remove(&ticket) {
                        // An exec that stopped waiting has told its caller `committed: false` already.
                        sender.send(verdict).ok();
                    }
                }
            }
        }
        self.rest(ctx);
    }

    /// What is due whenever something has changed.
    fn rest(&mut self, ctx: &mut Context<Self>) {
        let lanes = [&self.begins.rows, &self.finishes.rows];
        if lanes.iter().all(|rows| rows.is_idle()) {
            for flushed in self.flushing.drain(..) {
                // One who stopped waiting for the flush has reported that already.
                flushed.send(()).ok();
            }
        }
        self.health
            .set(lanes.iter().filter_map(|rows| rows.failing_since()).min());
        let due = lanes
            .iter()
            .filter_map(|rows| rows.next_wake(Instant::now()))
            .min();
        self.alarm.set(due, ctx, Self::wake);
    }

    fn write(&mut self, half: Half, place: Place, rows: Vec<AuditRow>, ctx: &mut Context<Self>) {
        let store = Arc::clone(&self.store);
        let count = rows.len();
        // A task of its own: a store that panics must not take the queue down with it.
        let writing =
            tokio::spawn(async move { tokio::time::timeout(WRITE_DEADLINE, store.write(half, &rows)).await });
        ctx.spawn(writing.into_actor(self).map(move |written, act, ctx| {
            let outage = act.lane(half).rows.failing_since();
            let (result, cause) = judge(written);
            let effects = act.lane(half).rows.written(place, result, Instant::now());
            let rows = &act.lane(half).rows;
            match (cause, outage, rows.failing_since()) {
                (Some(cause), None, _) if place == Place::Batch => {
                    tracing::error!(?half, rows = count, cause, "audit rows were not committed");
                }
                (Some(cause), ..) => {
                    tracing::debug!(?half, rows = count, cause, "audit rows are still not committed");
                }
                (None, Some(since), None) => {
                    tracing::info!(?half, outage = ?since.elapsed(), "the audit's store is back");
                }
                (None, ..) => {}
            }
            act.perform(half, effects, ctx);
        }));
    }

    fn wake(&mut self, ctx: &mut Context<Self>) {
        self.alarm.rang();
        for half in [Half::Begin, Half::Finish] {
            let effects = self.lane(half).rows.wake(Instant::now());
            self.perform(half, effects, ctx);
        }
    }
}

type Written = Result<Result<Result<Vec<Uuid>, AuditStoreError>, Elapsed>, JoinError>;

/// How a write fared; if it was not committed, with the cause.
fn judge(written: Written) -> (WriteResult, Option<String>) {
    match written {
        Ok(Ok(Ok(taken))) => (WriteResult::Committed { taken }, None),
        Ok(Ok(Err(error))) => {
            let result = match &error {
                AuditStoreError::Rejected(_) => WriteResult::Rejected,
                AuditStoreError::Failed(_) => WriteResult::Failed,
                AuditStoreError::Unavailable(_) => WriteResult::Unavailable,
            };
            (result, Some(chain(&error)))
        }
        Ok(Err(_)) => {
            let cause = format!("the store took longer than {WRITE_DEADLINE:?}");
            (WriteResult::Unavailable, Some(cause))
        }
        Err(error) => (WriteResult::Unavailable, Some(chain(&error))),
    }
}

impl Actor for AuditActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        // They end with this actor's thread.
        Upkeep::start(
            Arc::clone(&self.store),
            &self.settings.upkeep,
            Arc::clone(&self.health),
        );
        // The first probes, so that a service that could record nothing is not ready from its start.
        self.wake(ctx);
    }
}

impl Handler<Submit> for AuditActor {
    type Result = ();

    fn handle(&mut self, Submit { half, row, verdict }: Submit, ctx: &mut Self::Context) {
        let lane = self.lane(half);
        let (ticket, effects) = lane.rows.submit(row, Instant::now());
        match ticket {
            Some(ticket) => drop(lane.waiting.insert(ticket, verdict)),
            // The exec may have been cancelled meanwhile.
            None => {
                verdict.send(Verdict::NotWritten).ok();
            }
        }
        self.perform(half, effects, ctx);
    }
}

impl Handler<Unwritten> for AuditActor {
    type Result = Vec<Uuid>;

    fn handle(&mut self, _: Unwritten, _: &mut Self::Context) -> Self::Result {
        self.finishes.rows.unwritten()
    }
}

impl Handler<Flush> for AuditActor {
    type Result = ();

    fn handle(&mut self, Flush(flushed): Flush, ctx: &mut Self::Context) {
        self.flushing.push(flushed);
        self.rest(ctx);
    }
}

/// How execs reach the audit. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    actor: Addr<AuditActor>,
    health: Arc<Health>,
}

impl Audit {
    /// Starts the actor.
    pub(crate) fn start(arbiters: &Arbiters, store: Arc<dyn AuditStore>, settings: AuditSettings) -> Self {
        let health = Arc::new(Health::default());
        let shared = Arc::clone(&health);
        let actor = arbiters.run(&"audit", move |_| AuditActor::new(store, settings, shared));
        Self { actor, health }
    }

    /// Commits a begin row, within 5 s or not at all.
    pub(crate) async fn begin(&self, row: AuditRow) -> Verdict {
        self.submit(Half::Begin, row).await
    }

    /// Commits a final row, however long it takes.
    pub(crate) async fn finish(&self, row: AuditRow) -> Verdict {
        self.submit(Half::Finish, row).await
    }

    async fn submit(&self, half: Half, row: AuditRow) -> Verdict {
        let (verdict, answer) = oneshot::channel();
        let handed_over = self.actor.send(Submit { half, row, verdict }).await;
        // The actor goes down with its queue when it fails; what it had handed to the store may be there.
        match handed_over {
            Ok(()) => answer.await.unwrap_or(Verdict::Uncertain),
            Err(_) => Verdict::Uncertain,
        }
    }

    /// For how long the store would have taken no row. A failed actor counts as failing for ever.
    pub(crate) fn failing_for(&self) -> Option<Duration> {
        if !self.actor.connected() {
            return Some(Duration::MAX);
        }
        self.health.failing_since().map(|since| since.elapsed())
    }

    /// Waits until every row is committed, at most `limit`; returns the ids of final rows that are not.
    pub(crate) async fn flush(&self, limit: Duration) -> Vec<Uuid> {
        let (flushed, done) = oneshot::channel();
        if self.actor.send(Flush(flushed)).await.is_ok() {
            // Whether it was in time is what the next question answers.
            drop(tokio::time::timeout(limit, done).await);
        }
        self.actor.send(Unwritten).await.unwrap_or_default()
    }
}
