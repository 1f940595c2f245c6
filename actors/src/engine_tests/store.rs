//! A store in memory that knows whose row is whose, and can be away, hang, panic or forget to answer.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::audit::{AuditRow, AuditStore, AuditStoreError, Half};

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
    /// Old rows that are left to delete.
    pub(super) old_rows: AtomicU64,
    /// Sizes of the deletions, and the age that was asked for.
    pub(super) deletions: Mutex<Vec<(u64, Duration)>>,
    /// Deletions under way; two at once fail.
    pub(super) deleting: Deleting,
}

/// A place for one.
pub(super) struct Deleting(Semaphore);

impl Default for Deleting {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Store {
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

    async fn sweep(&self, _: Duration) -> Result<Vec<Uuid>, AuditStoreError> {
        self.sweeps.fetch_add(1, Ordering::Relaxed);
        assert!(
            !self.panics.swap(false, Ordering::Relaxed),
            "a sweep that panics, as it should"
        );
        if self.is_away.load(Ordering::Relaxed) {
            return Err(AuditStoreError::Unavailable("away".into()));
        }
        Ok(Vec::new())
    }

    async fn delete_ended(&self, age: Duration, limit: u32) -> Result<u64, AuditStoreError> {
        let _alone = self.deleting.0.try_acquire().expect("never two at once");
        tokio::time::sleep(Duration::from_millis(500)).await;
        if self.is_away.load(Ordering::Relaxed) {
            return Err(AuditStoreError::Unavailable("away".into()));
        }
        let deleted = u64::from(limit).min(self.old_rows.load(Ordering::Relaxed));
        self.old_rows.fetch_sub(deleted, Ordering::Relaxed);
        self.deletions.lock().unwrap().push((deleted, age));
        Ok(deleted)
    }
}
