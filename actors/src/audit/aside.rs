//! Rows that failed alone, and later ones of their workspaces.
//!
//! Somebody holds the workspace's row, or the host's own rules refuse this one: no fault of the other tenants'. So these
//! rows are tried one at a time beside the batches, and hold up nobody else's.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::health::{FIRST_PAUSE, longer};
use super::pending::Pending;

/// What waits for one workspace.
#[derive(Debug)]
struct Stuck {
    /// Those that never failed alone come first: they may be in no one's way.
    rows: VecDeque<Pending>,
    pause: Duration,
    retry_at: Instant,
}

/// The rows, and the one of them that is in flight.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// By workspace. One whose only row is in flight stays, so that its next row waits its turn too.
    stuck: HashMap<Uuid, Stuck>,
    in_flight: Option<Pending>,
}

impl Aside {
    /// Whether rows of this workspace belong here.
    pub(super) fn holds(&self, workspace_id: Uuid) -> bool {
        self.stuck.contains_key(&workspace_id)
    }

    /// Takes a row that failed alone, to be tried again unless it was given up meanwhile. Its workspace rests for a while.
    pub(super) fn add_failed(&mut self, pending: Pending, now: Instant) {
        let stuck = self
            .stuck
            .entry(pending.row.workspace_id)
            .and_modify(|stuck| stuck.pause = longer(stuck.pause))
            .or_insert_with(|| Stuck::new(now));
        stuck.retry_at = now + stuck.pause;
        if !pending.is_told {
            stuck.rows.push_back(pending);
        }
        self.forget_idle();
    }

    /// Takes a row of a workspace that is held here.
    pub(super) fn add(&mut self, pending: Pending, now: Instant) {
        self.stuck
            .entry(pending.row.workspace_id)
            .or_insert_with(|| Stuck::new(now))
            .rows
            .push_front(pending);
    }

    /// The row that is to be written now; it is in flight then.
    pub(super) fn next(&mut self, now: Instant) -> Option<&Pending> {
        if self.in_flight.is_some() {
            return None;
        }
        let due = |(_, stuck): &(&Uuid, &mut Stuck)| stuck.retry_at <= now && !stuck.rows.is_empty();
        let stuck = self.stuck.iter_mut().filter(due);
        let (_, longest) = stuck.min_by_key(|(_, stuck)| stuck.retry_at)?;
        self.in_flight = longest.rows.pop_front();
        self.in_flight.as_ref()
    }

    /// The row whose write has ended. To be given back with [`Aside::add_failed`] if it is to be tried again.
    pub(super) fn take_in_flight(&mut self) -> Option<Pending> {
        self.in_flight.take()
    }

    /// A row of the workspace needs no more tries: the next of its rows is due at once.
    pub(super) fn settled(&mut self, workspace_id: Uuid, now: Instant) {
        if let Some(stuck) = self.stuck.get_mut(&workspace_id) {
            *stuck = Stuck {
                rows: std::mem::take(&mut stuck.rows),
                retry_at: now,
                pause: FIRST_PAUSE,
            };
        }
        self.forget_idle();
    }

    /// Drops the waiting rows for which `keep` says no.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Pending) -> bool) {
        for stuck in self.stuck.values_mut() {
            stuck.rows.retain(&mut keep);
        }
        self.forget_idle();
    }

    fn forget_idle(&mut self) {
        let busy = self.in_flight.as_ref().map(|pending| pending.row.workspace_id);
        self.stuck
            .retain(|workspace_id, stuck| !stuck.rows.is_empty() || busy == Some(*workspace_id));
    }

    /// The rows that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Pending> {
        self.stuck.values().flat_map(|stuck| &stuck.rows)
    }

    /// The row in flight.
    pub(super) fn in_flight(&self) -> Option<&Pending> {
        self.in_flight.as_ref()
    }

    /// The row in flight, to be marked as given up.
    pub(super) fn in_flight_mut(&mut self) -> Option<&mut Pending> {
        self.in_flight.as_mut()
    }

    /// When [`Aside::next`] may have one.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.stuck.values().filter(|stuck| !stuck.rows.is_empty());
        waiting
            .map(|stuck| stuck.retry_at)
            .min()
            .filter(|_| self.in_flight.is_none())
    }
}

impl Stuck {
    fn new(now: Instant) -> Self {
        Self {
            rows: VecDeque::new(),
            pause: FIRST_PAUSE,
            retry_at: now,
        }
    }
}
