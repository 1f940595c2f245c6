//! The actor shell around [`GroupCommit`], and the handle by which execs reach it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use uuid::Uuid;

use super::batch::{Effect, GroupCommit, Half, Ticket, Verdict, WriteResult};
use super::store::{self, AuditRow, AuditStore, AuditStoreError};
use crate::alarm::Alarm;
use crate::arbiters::Arbiters;
use crate::tunnel::chain;

/// A begin that is not committed within this is given up; nothing runs then.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);
/// One transaction; past this it counts as not acknowledged and is tried again, which does no harm: the same rows
/// written twice are the same rows.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Asks come through senders of their own, so this bounds nothing but what one sender can queue.
const MAILBOX: usize = 64;

/// Numbers of the audit.
#[derive(Clone, Debug)]
pub(crate) struct AuditSettings {
    /// Begin rows that wait at most: one for each exec that may be in flight.
    pub(crate) begin_limit: usize,
    /// Rows still `running` after this are settled by the sweep.
    pub(crate) settle_after: Duration,
    /// How often the sweep runs.
    pub(crate) sweep_interval: Duration,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Submit {
    row: AuditRow,
    is_begin: bool,
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
struct Health(Mutex<Option<Instant>>);

impl Health {
    fn set(&self, failing_since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = failing_since;
    }

    fn failing_since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all audit rows of the process.
pub(crate) struct AuditActor {
    store: Arc<dyn AuditStore>,
    settings: AuditSettings,
    core: GroupCommit,
    waiting: HashMap<Ticket, oneshot::Sender<Verdict>>,
    flushing: Vec<oneshot::Sender<()>>,
    health: Arc<Health>,
    alarm: Alarm,
}

impl AuditActor {
    fn new(store: Arc<dyn AuditStore>, settings: AuditSettings, health: Arc<Health>) -> Self {
        let core = GroupCommit::new(settings.begin_limit);
        Self {
            store,
            settings,
            core,
            waiting: HashMap::new(),
            flushing: Vec::new(),
            health,
            alarm: Alarm::default(),
        }
    }

    fn perform(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Write(rows) => self.write(rows, ctx),
                Effect::Acknowledge(ticket, verdict) => {
                    if let Some(sender) = self.waiting.remove(&ticket) {
                        // An exec that stopped waiting has told its caller `committed: false` already.
                        sender.send(verdict).ok();
                    }
                }
            }
        }
        if self.core.is_idle() {
            for flushed in self.flushing.drain(..) {
                // One who stopped waiting for the flush has reported that already.
                flushed.send(()).ok();
            }
        }
        self.alarm.set(self.core.next_wake(), ctx, Self::wake);
    }

    fn write(&mut self, rows: Vec<AuditRow>, ctx: &mut Context<Self>) {
        let store = Arc::clone(&self.store);
        let count = rows.len();
        // A task of its own: a store that panics must not take the queue down with it.
        let writing = tokio::spawn(async move {
            tokio::time::timeout(WRITE_DEADLINE, store.write(store::Half::Finish, &rows)).await
        });
        ctx.spawn(writing.into_actor(self).map(move |written, act, ctx| {
            let result = judge(written, count);
            let effects = act.core.written(result, Instant::now());
            act.health.set(act.core.failing_since());
            act.perform(effects, ctx);
        }));
    }

    fn wake(&mut self, ctx: &mut Context<Self>) {
        self.alarm.rang();
        let effects = self.core.wake(Instant::now());
        self.perform(effects, ctx);
    }

    fn sweep(&mut self, _: &mut Context<Self>) {
        let store = Arc::clone(&self.store);
        let (settle_after, limit) = (self.settings.settle_after, self.settings.sweep_interval);
        drop(tokio::spawn(async move {
            match tokio::time::timeout(limit, store.sweep(settle_after)).await {
                Ok(Ok(settled)) => {
                    for exec_id in settled {
                        tracing::warn!(%exec_id, "settled an audit row that a crash had left running");
                    }
                }
                // The next round tries again; readiness watches the writes.
                Ok(Err(error)) => tracing::error!(cause = chain(&error), "the audit sweep failed"),
                Err(_) => tracing::error!("the audit sweep did not end before the next one was due"),
            }
        }));
    }
}

type Written = Result<Result<Result<Vec<Uuid>, AuditStoreError>, Elapsed>, JoinError>;

fn judge(written: Written, rows: usize) -> WriteResult {
    let (cause, result) = match written {
        Ok(Ok(Ok(_))) => return WriteResult::Committed,
        Ok(Ok(Err(error @ AuditStoreError::Rejected(_)))) => (chain(&error), WriteResult::Rejected),
        Ok(Ok(Err(error @ AuditStoreError::Unavailable(_)))) => (chain(&error), WriteResult::Unavailable),
        Ok(Err(_)) => (
            format!("the store took longer than {WRITE_DEADLINE:?}"),
            WriteResult::Unavailable,
        ),
        Err(error) => (chain(&error), WriteResult::Unavailable),
    };
    tracing::error!(rows, cause, "audit rows were not committed");
    result
}

impl Actor for AuditActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.sweep(ctx);
        ctx.run_interval(self.settings.sweep_interval, Self::sweep);
    }
}

impl Handler<Submit> for AuditActor {
    type Result = ();

    fn handle(&mut self, message: Submit, ctx: &mut Self::Context) {
        let now = Instant::now();
        let half = if message.is_begin {
            Half::Begin {
                deadline: now + BEGIN_DEADLINE,
            }
        } else {
            Half::Finish
        };
        let (ticket, effects) = self.core.submit(message.row, half, now);
        match ticket {
            Some(ticket) => drop(self.waiting.insert(ticket, message.verdict)),
            // The exec may have been cancelled meanwhile.
            None => {
                message.verdict.send(Verdict::NotWritten).ok();
            }
        }
        self.perform(effects, ctx);
    }
}

impl Handler<Unwritten> for AuditActor {
    type Result = Vec<Uuid>;

    fn handle(&mut self, _: Unwritten, _: &mut Self::Context) -> Self::Result {
        self.core.unwritten()
    }
}

impl Handler<Flush> for AuditActor {
    type Result = ();

    fn handle(&mut self, Flush(flushed): Flush, ctx: &mut Self::Context) {
        self.flushing.push(flushed);
        self.perform(Vec::new(), ctx);
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
        self.submit(row, true).await
    }

    /// Commits a final row, however long it takes.
    pub(crate) async fn finish(&self, row: AuditRow) -> Verdict {
        self.submit(row, false).await
    }

    async fn submit(&self, row: AuditRow, is_begin: bool) -> Verdict {
        let (verdict, answer) = oneshot::channel();
        if self
            .actor
            .send(Submit {
                row,
                is_begin,
                verdict,
            })
            .await
            .is_err()
        {
            return Verdict::NotWritten;
        }
        // The actor goes down with its queue when it fails; what it had handed to the store may be there.
        answer.await.unwrap_or(Verdict::Uncertain)
    }

    /// For how long the store has taken no row although it was given some. A failed actor counts as failing for ever.
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
