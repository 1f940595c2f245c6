//! What is done to rows beside writing them: rows that a crash left behind are settled, old ones deleted where that is
//! asked for. Neither goes through the queues of the writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::actor::Health;
use super::store::AuditStore;
use crate::tunnel::chain;

/// Rows in one deletion: its locks are held for a few milliseconds, and an hour's rows of a busy service take a minute.
const DELETE_LIMIT: u32 = 1_000;
/// Shortest pause between two deletions. It is longer when a deletion takes longer, so that the store is busy with them
/// for half of the time at most.
const DELETE_PAUSE: Duration = Duration::from_millis(100);
/// Longest time for one deletion; its indexes make it a matter of milliseconds.
const DELETE_DEADLINE: Duration = Duration::from_secs(30);

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

/// The store, and whether it is well.
#[derive(Clone)]
pub(super) struct Upkeep {
    store: Arc<dyn AuditStore>,
    health: Arc<Health>,
}

impl Upkeep {
    /// Starts a task each for sweeping and deleting: at once and then at every interval, never two of a kind at a time.
    pub(super) fn start(store: Arc<dyn AuditStore>, settings: &UpkeepSettings, health: Arc<Health>) {
        let (settle_after, period) = (settings.settle_after, settings.interval);
        let upkeep = Self { store, health };
        if let Some(retain) = settings.retain {
            let upkeep = upkeep.clone();
            every(period, move || upkeep.clone().delete(retain));
        }
        every(period, move || upkeep.clone().sweep(settle_after, period));
    }

    /// What fails is tried again in the next round; readiness watches the writes.
    async fn sweep(self, settle_after: Duration, limit: Duration) {
        match timeout(limit, self.store.sweep(settle_after)).await {
            Ok(Ok(settled)) => {
                for exec_id in settled {
                    tracing::warn!(%exec_id, "settled an audit row that a crash had left running");
                }
            }
            Ok(Err(error)) => tracing::error!(cause = chain(&error), "the audit sweep failed"),
            Err(_) => tracing::error!("the audit sweep did not end before the next one was due"),
        }
    }

    /// Deletes until less than a batch was left, or the store is in trouble: then the next round goes on.
    async fn delete(self, retain: Duration) {
        let mut deleted = 0;
        while self.health.failing_since().is_none() {
            let begun = Instant::now();
            match timeout(DELETE_DEADLINE, self.store.delete_ended(retain, DELETE_LIMIT)).await {
                Ok(Ok(batch)) => {
                    deleted += batch;
                    if batch < u64::from(DELETE_LIMIT) {
                        break;
                    }
                }
                Ok(Err(error)) => {
                    tracing::error!(cause = chain(&error), "old audit rows could not be deleted");
                    break;
                }
                Err(_) => {
                    tracing::error!("deleting old audit rows took longer than {DELETE_DEADLINE:?}");
                    break;
                }
            }
            sleep(begun.elapsed().max(DELETE_PAUSE)).await;
        }
        if deleted > 0 {
            tracing::info!(rows = deleted, older_than = ?retain, "deleted old audit rows");
        }
    }
}

/// Runs one round after the other, for as long as the runtime lives.
fn every<Round>(period: Duration, round: impl Fn() -> Round + Send + 'static)
where
    Round: Future<Output = ()> + Send + 'static,
{
    let mut due = interval(period);
    // A round that took long is no reason to hurry the next.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    drop(tokio::spawn(async move {
        loop {
            due.tick().await;
            // A task of its own: a store that panics must not end the rounds.
            if let Err(error) = tokio::spawn(round()).await {
                tracing::error!(cause = chain(&error), "a round of the audit's upkeep went down");
            }
        }
    }));
}
