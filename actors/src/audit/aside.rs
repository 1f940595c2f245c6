//! Rows that can't go with a batch: those of a batch that failed, and later ones of their workspaces.
//!
//! Somebody holds a workspace's row, or the host's own rules refuse or delay it: no fault of the other tenants'. Which one it
//! is shows when a row of each is tried, one at a time and beside the batches. A workspace of which one is taken is free
//! again; the others are remembered for a while, so that no further batch fails for their sake.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::health::longer;
use super::pending::Pending;

/// How long after its last failure a workspace is tried beside the batches although nothing waits: callers come back.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What waits for one workspace.
#[derive(Debug)]
struct Stuck {
    /// In their order. They may be in nobody's way.
    fresh: VecDeque<Pending>,
    /// Those that failed alone.
    failed: VecDeque<Pending>,
    /// Nothing of it was taken since something failed.
    is_blocked: bool,
    failed_at: Instant,
    /// The last one before `retry_at`.
    pause: Duration,
    retry_at: Instant,
}

/// The rows, and the one of them that is in flight.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// By workspace. One whose only row is in flight stays, so that its next row waits its turn too.
    stuck: BTreeMap<Uuid, Stuck>,
    /// With the time at which it was handed over.
    in_flight: Option<(Pending, Instant)>,
}

impl Aside {
    /// Whether the next row of this workspace belongs here.
    pub(super) fn holds(&self, workspace_id: Uuid, now: Instant) -> bool {
        let stuck = self.stuck.get(&workspace_id);
        stuck.is_some_and(|stuck| stuck.is_blocked && (!stuck.is_empty() || stuck.is_remembered(now)))
    }

    /// Takes a row of a batch that failed, or of a workspace that is held here. It is tried as soon as its turn comes.
    pub(super) fn add(&mut self, pending: Pending, now: Instant) {
        let stuck = self.stuck.entry(pending.row.workspace_id);
        stuck.or_insert_with(|| Stuck::new(now)).fresh.push_back(pending);
    }

    /// Takes a row that failed alone, to be tried again unless it was given up meanwhile. Its workspace rests for a while. When
    /// others of it were taken since it failed first, it is the row alone that rests.
    pub(super) fn add_failed(&mut self, mut pending: Pending, now: Instant) {
        self.forget_quiet(now);
        let stuck = self.stuck.entry(pending.row.workspace_id);
        let stuck = stuck.or_insert_with(|| Stuck::new(now));
        stuck.pause = longer(stuck.pause);
        stuck.is_blocked |= !pending.failed_alone;
        stuck.failed_at = now;
        stuck.retry_at = now + stuck.pause;
        if !pending.is_told {
            pending.failed_alone = true;
            stuck.failed.push_back(pending);
        }
    }

    /// The row that is to be written now; it is in flight then.
    pub(super) fn next(&mut self, now: Instant) -> Option<&Pending> {
        if self.in_flight.is_some() {
            return None;
        }
        let due = |stuck: &&mut Stuck| stuck.retry_at <= now && !stuck.is_empty();
        let stuck = self.stuck.values_mut().filter(due);
        let longest = stuck.min_by_key(|stuck| stuck.retry_at)?;
        let next = longest.fresh.pop_front().or_else(|| longest.failed.pop_front());
        self.in_flight = next.map(|pending| (pending, now));
        self.in_flight()
    }

    /// The row whose write has ended, and when it was handed over. To be given back with [`Aside::add_failed`] if it is to be tried again.
    pub(super) fn take_in_flight(&mut self) -> Option<(Pending, Instant)> {
        self.in_flight.take()
    }

    /// This row was taken: gives back those of its workspace that may go with a batch. Where what failed alone is taken now,
    /// the next such row is due at once.
    pub(super) fn release(&mut self, taken: &Pending, now: Instant) -> VecDeque<Pending> {
        let workspace_id = taken.row.workspace_id;
        let Some(stuck) = self.stuck.get_mut(&workspace_id) else {
            return VecDeque::new();
        };
        stuck.is_blocked = false;
        if taken.failed_alone {
            stuck.pause = Duration::ZERO;
            stuck.retry_at = now;
        }
        let fresh = std::mem::take(&mut stuck.fresh);
        if stuck.failed.is_empty() {
            self.stuck.remove(&workspace_id);
        }
        fresh
    }

    /// Drops the waiting rows for which `keep` says no.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Pending) -> bool) {
        for stuck in self.stuck.values_mut() {
            stuck.fresh.retain(&mut keep);
            stuck.failed.retain(&mut keep);
        }
    }

    fn forget_quiet(&mut self, now: Instant) {
        self.stuck
            .retain(|_, stuck| !stuck.is_empty() || stuck.is_remembered(now));
    }

    /// The rows that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Pending> {
        self.stuck
            .values()
            .flat_map(|stuck| stuck.fresh.iter().chain(&stuck.failed))
    }

    /// The row in flight.
    pub(super) fn in_flight(&self) -> Option<&Pending> {
        self.in_flight.as_ref().map(|(pending, _)| pending)
    }

    /// The row in flight, to be marked as given up.
    pub(super) fn in_flight_mut(&mut self) -> Option<&mut Pending> {
        self.in_flight.as_mut().map(|(pending, _)| pending)
    }

    /// When [`Aside::next`] may have one.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.stuck.values().filter(|stuck| !stuck.is_empty());
        waiting
            .map(|stuck| stuck.retry_at)
            .min()
            .filter(|_| self.in_flight.is_none())
    }
}

impl Stuck {
    fn new(now: Instant) -> Self {
        Self {
            fresh: VecDeque::new(),
            failed: VecDeque::new(),
            is_blocked: true,
            failed_at: now,
            pause: Duration::ZERO,
            retry_at: now,
        }
    }

    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.failed.is_empty()
    }

    fn is_remembered(&self, now: Instant) -> bool {
        now < self.failed_at + REMEMBERED
    }
}
