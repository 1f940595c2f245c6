//! A store in memory that knows whose row is whose, and can be away, hang, panic or forget to answer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::audit::{AuditRow, AuditStore, AuditStoreError, Chore, DueRow, Half};
use crate::tunnel::Source;

#[derive(Default)]
pub(super) struct Store {
    pub(super) rows: Mutex<HashMap<Uuid, AuditRow>>,
    /// Transactions that were committed, probes included.
    pub(super) writes: AtomicUsize,
    /// It answers that it can't be reached.
    pub(super) is_away: AtomicBool,
    pub(super) hangs: AtomicBool,
    /// Only this half hangs.
    pub(super) hangs_for: Mutex<Option<Half>>,
    pub(super) panics: AtomicBool,
    /// So many writes are committed and not acknowledged.
    pub(super) lost_answers: AtomicUsize,
    pub(super) sweeps: AtomicUsize,
    /// Rows that are left to settle.
    pub(super) orphans: Mutex<BTreeSet<DueRow>>,
    /// Old rows that are left to delete.
    pub(super) old_rows: Mutex<BTreeSet<DueRow>>,
    /// What was tried with how many rows.
    pub(super) chores: Mutex<Vec<(Chore, usize)>>,
    /// Rows that neither can be done to, and how that is told.
    pub(super) refused: Mutex<HashMap<Uuid, Refusal>>,
    /// Deletions under way; two at once fail.
    pub(super) deleting: Deleting,
}

/// How a refusal is told.
pub(super) type Refusal = fn(Source) -> AuditStoreError;

/// A place for one.
pub(super) struct Deleting(Semaphore);

impl Default for Deleting {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Store {
    fn due_for(&self, chore: Chore) -> &Mutex<BTreeSet<DueRow>> {
        match chore {
            Chore::Settle(_) => &self.orphans,
            Chore::Delete(_) => &self.old_rows,
        }
    }

    fn commit(&self, half: Half, rows: &[AuditRow]) -> Vec<Uuid> {
        let mut kept = self.rows.lock().unwrap();
        let mut taken = Vec::new();
        for row in rows {
            assert_eq!(row.response_body.is_some(), half == Half::Finish, "of one half");
            let owner = kept.entry(row.id).or_insert_with(|| row.clone());
            if owner.attempt_nonce != row.attempt_nonce {
                taken.push(row.id);
            } else if half == Half::Finish {
                *owner = row.clone();
            }
        }
        taken
    }
}

#[async_trait]
impl AuditStore for Store {
    async fn write(&self, half: Half, rows: &[AuditRow]) -> Result<Vec<Uuid>, AuditStoreError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(
            !self.panics.swap(false, Ordering::Relaxed),
            "a store that panics, as it should"
        );
        let hangs_for = *self.hangs_for.lock().unwrap();
        if self.hangs.load(Ordering::Relaxed) || hangs_for == Some(half) {
            std::future::pending::<()>().await;
        }
        if self.is_away.load(Ordering::Relaxed) {
            return Err(AuditStoreError::Unavailable("away".into()));
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let taken = self.commit(half, rows);
        let lost = |left: usize| left.checked_sub(1);
        if self
            .lost_answers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, lost)
            .is_ok()
        {
            return Err(AuditStoreError::Unavailable("the answer was lost".into()));
        }
        Ok(taken)
    }

    async fn due(
        &self,
        chore: Chore,
        after: Option<DueRow>,
        limit: u32,
    ) -> Result<Vec<DueRow>, AuditStoreError> {
        if let Chore::Settle(_) = chore {
            self.sweeps.fetch_add(1, Ordering::Relaxed);
            assert!(
                !self.panics.swap(false, Ordering::Relaxed),
                "a sweep that panics, as it should"
            );
        }
        if self.is_away.load(Ordering::Relaxed) {
            return Err(AuditStoreError::Unavailable("away".into()));
        }
        let due = self.due_for(chore).lock().unwrap();
        let rows = due.iter().filter(|row| Some(**row) > after);
        Ok(rows.take(limit as usize).copied().collect())
    }

    async fn perform(&self, chore: Chore, ids: &[Uuid]) -> Result<Vec<Uuid>, AuditStoreError> {
        let alone = match chore {
            Chore::Settle(_) => None,
            Chore::Delete(_) => Some(self.deleting.0.try_acquire().expect("never two at once")),
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(alone);
        self.chores.lock().unwrap().push((chore, ids.len()));
        if self.is_away.load(Ordering::Relaxed) {
            return Err(AuditStoreError::Unavailable("away".into()));
        }
        let refusals = self.refused.lock().unwrap().clone();
        if let Some(refusal) = ids.iter().find_map(|id| refusals.get(id)) {
            return Err(refusal("a row that is refused".into()));
        }
        let mut due = self.due_for(chore).lock().unwrap();
        let before = due.clone();
        due.retain(|row| !ids.contains(&row.id));
        Ok(before.difference(&due).map(|row| row.id).collect())
    }
}
