//! What is done to rows beside writing them: rows that a crash left behind are settled, old ones deleted where that is
//! asked for. Neither goes through the queues of the writes.
//!
//! Each is a chore, done in rounds. A round goes through the rows that are due, a batch at a time. A batch that fails while the
//! store answers is halved until a row at fault is alone, and that is passed over. After some of them so is their workspace, for the
//! rest of the round: the host may have a rule against it, and no workspace keeps the others waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use uuid::Uuid;

use super::actor::Health;
use super::store::{AuditStore, AuditStoreError, Chore, DueRow};
use crate::tunnel::chain;

/// Rows in one batch: its locks are held for a few milliseconds, and an hour's rows of a busy service take a minute.
const BATCH: u32 = 1_000;
/// Shortest pause between two batches. It is longer when a batch takes longer, so that the store is busy with them for half
/// of the time at most.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time for one statement; its indexes make it a matter of milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// Rows of one workspace that fail in a round before the rest of it is left to the next. Each costs some statements and a line
/// in the log.
const ROWS_PASSED_OVER: usize = 16;
/// Workspaces with rows that fail after which a round ends; the next goes on behind the last of these.
const WORKSPACES_AT_FAULT: usize = 16;

/// When rows are settled and deleted.
#[derive(Clone, Debug)]
pub(crate) struct UpkeepSettings {
    /// Rows still `running` after this are settled by the sweep.
    pub(crate) settle_after: Duration,
    /// How often the sweep runs, and how often old rows are looked for.
    pub(crate) interval: Duration,
    /// Rows of execs that began longer ago than this are deleted; `None` keeps them for ever.
    pub(crate) retain: Option<Duration>,
}

/// One chore, and what it is done with.
#[derive(Clone)]
pub(super) struct Upkeep {
    store: Arc<dyn AuditStore>,
    health: Arc<Health>,
    chore: Chore,
}

impl Upkeep {
    /// Starts a task for each chore: a round at once and then at every interval, never two of a kind at a time.
    pub(super) fn start(store: Arc<dyn AuditStore>, settings: &UpkeepSettings, health: Arc<Health>) {
        let chores = [
            Some(Chore::Settle(settings.settle_after)),
            settings.retain.map(Chore::Delete),
        ];
        for chore in chores.into_iter().flatten() {
            let upkeep = Self {
                store: Arc::clone(&store),
                health: Arc::clone(&health),
                chore,
            };
            drop(tokio::spawn(upkeep.go_on(settings.interval)));
        }
    }

    /// Runs one round after the other, for as long as the runtime lives.
    async fn go_on(self, period: Duration) {
        let mut due = interval(period);
        // A round that took long is no reason to hurry the next.
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut from = None;
        loop {
            due.tick().await;
            let round = Round::new(self.clone(), from);
            // A task of its own: a store that panics must not end the rounds.
            from = match tokio::spawn(round.run()).await {
                Ok(place) => place,
                Err(error) => {
                    tracing::error!(cause = chain(&error), "a round of the audit's upkeep went down");
                    None
                }
            };
        }
    }
}

/// One way through the rows that are due.
struct Round {
    upkeep: Upkeep,
    /// All rows up to this one have been dealt with, or passed over.
    place: Option<DueRow>,
    done: usize,
    /// How many rows of which workspaces.
    passed_over: HashMap<Uuid, usize>,
    /// Others held them, or were faster.
    left: usize,
}

/// A round ends before its last row: the store is in trouble, or too many workspaces' rows fail. What is left is done by the
/// next.
struct Stopped;

impl Round {
    fn new(upkeep: Upkeep, from: Option<DueRow>) -> Self {
        Self {
            upkeep,
            place: from,
            done: 0,
            passed_over: HashMap::new(),
            left: 0,
        }
    }

    /// Returns where the next round begins: at the beginning, unless this one stopped.
    async fn run(mut self) -> Option<DueRow> {
        let chore = self.upkeep.chore;
        let stopped = self.go_through().await;
        if self.left > 0 {
            let rows = self.left;
            tracing::info!(
                ?chore,
                rows,
                "left audit rows that others hold, or were faster with"
            );
        }
        if let (1.., Chore::Delete(older_than)) = (self.done, chore) {
            tracing::info!(rows = self.done, ?older_than, "deleted old audit rows");
        }
        stopped.err().and(self.place)
    }

    async fn go_through(&mut self) -> Result<(), Stopped> {
        while self.upkeep.health.failing_since().is_none() {
            let begun = Instant::now();
            let rows = match self.due(self.place, BATCH).await {
                Ok(rows) => rows,
                Err(error) => return Err(self.in_trouble(&error)),
            };
            let is_last = rows.len() < usize::try_from(BATCH).unwrap_or(usize::MAX);
            self.perform_all(rows).await?;
            if is_last {
                return Ok(());
            }
            sleep(begun.elapsed().max(PAUSE)).await;
        }
        Err(Stopped)
    }

    /// Does the chore to as many at once as the store takes, in their order.
    async fn perform_all(&mut self, rows: Vec<DueRow>) -> Result<(), Stopped> {
        let last_of_all = rows.last().copied();
        let mut parts = vec![rows];
        while let Some(mut part) = parts.pop() {
            part.retain(|row| {
                let failed = self.passed_over.get(&row.workspace_id);
                failed.is_none_or(|failed| *failed < ROWS_PASSED_OVER)
            });
            let Some(last) = part.last().copied() else {
                continue;
            };
            let ids: Vec<Uuid> = part.iter().map(|row| row.id).collect();
            match self.perform(&ids).await {
                Ok(done) => {
                    self.left += ids.len().saturating_sub(done.len());
                    self.note(&done);
                }
                Err(error) if self.is_of_the_store(&error).await => return Err(self.in_trouble(&error)),
                Err(_) if ids.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                    continue;
                }
                Err(error) => self.pass_over(last, &error),
            }
            self.place = Some(last);
            if self.passed_over.len() == WORKSPACES_AT_FAULT {
                return Err(Stopped);
            }
        }
        self.place = last_of_all.or(self.place);
        Ok(())
    }

    /// Whether the store itself is away, rather than some row at fault: one row may take too long, or a trigger give any code.
    async fn is_of_the_store(&self, error: &AuditStoreError) -> bool {
        matches!(error, AuditStoreError::Unavailable(_))
            && (self.upkeep.health.failing_since().is_some() || self.due(None, 1).await.is_err())
    }

    fn note(&mut self, done: &[Uuid]) {
        self.done += done.len();
        if let Chore::Settle(_) = self.upkeep.chore {
            for exec_id in done {
                tracing::warn!(%exec_id, "settled an audit row that a crash had left running");
            }
        }
    }

    fn pass_over(&mut self, row: DueRow, error: &AuditStoreError) {
        *self.passed_over.entry(row.workspace_id).or_default() += 1;
        let (chore, cause) = (self.upkeep.chore, chain(error));
        tracing::error!(
            ?chore,
            exec_id = %row.id,
            workspace_id = %row.workspace_id,
            cause,
            "the audit's upkeep passes over a row that fails"
        );
    }

    /// The next round tries again; readiness watches the writes.
    fn in_trouble(&self, error: &AuditStoreError) -> Stopped {
        let (chore, cause) = (self.upkeep.chore, chain(error));
        tracing::error!(?chore, cause, "the audit's upkeep can't go on for now");
        Stopped
    }

    async fn due(&self, after: Option<DueRow>, limit: u32) -> Result<Vec<DueRow>, AuditStoreError> {
        in_time(self.upkeep.store.due(self.upkeep.chore, after, limit)).await
    }

    async fn perform(&self, ids: &[Uuid]) -> Result<Vec<Uuid>, AuditStoreError> {
        in_time(self.upkeep.store.perform(self.upkeep.chore, ids)).await
    }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, AuditStoreError>>) -> Result<T, AuditStoreError> {
    timeout(DEADLINE, asking)
        .await
        .unwrap_or_else(|elapsed| Err(AuditStoreError::Unavailable(elapsed.into())))
}
