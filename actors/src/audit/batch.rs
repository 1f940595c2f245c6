//! Group commit as a plain struct: rows of one half in, batches out, each row acknowledged once.
//!
//! While one transaction is in flight the next batch gathers; an idle writer commits at once. A batch that the store could
//! not write is set aside, and its rows are tried beside the next batches. One that it refuses or does not answer is
//! written again in halves until the others are in; what is refused alone, though any other row would be taken, is given
//! up.
//!
//! Whatever fails is followed by an empty batch, a probe: it tells rows that can't be written from a store that can't
//! write. While the store fails it is given nothing but probes. So a begin that comes meanwhile is refused with certainty
//! and leaves nothing to settle, and the return of the store is noticed also when nobody asks for anything.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::aside::Aside;
use super::health::{Observation, StoreHealth};
use super::pending::{Pending, Ticket, Verdict};
use super::store::{AuditRow, Half};

/// Rows in one transaction at most: enough that the commit's cost is spread thin, small enough that a split is short.
const BATCH_LIMIT: usize = 256;
/// A begin that is not committed within this is given up; nothing runs then. When the store has failed for as long, a new
/// one would only wait for the same answer, and is refused at once.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);

/// How a batch fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteResult {
    /// All rows are there but those whose ids are `taken`.
    Committed { taken: Vec<Uuid> },
    /// The store can't be reached; whether it was written is unknown.
    Unavailable,
    /// The store could not write it; nothing was written.
    Failed,
    /// The store refuses a row of it for good; nothing was written.
    Rejected,
}

/// Which of the two writes that a half may have in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The batches.
    Batch,
    /// A row that was set aside.
    Aside,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Write these rows in one transaction and report its result. None at all is a probe.
    Write(Place, Vec<AuditRow>),
    /// Tell the one who waits for this row.
    Acknowledge(Ticket, Verdict),
}

/// The writer's queue and what is in flight.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    half: Half,
    queue: VecDeque<Pending>,
    /// Halves of a batch that failed, and rows that were set aside and need not be; they go before the queue.
    splits: VecDeque<Vec<Pending>>,
    in_flight: Vec<Pending>,
    /// When the batch in flight was handed over, if one is.
    batch_since: Option<Instant>,
    aside: Aside,
    limit: usize,
    last_ticket: Ticket,
    store: StoreHealth,
    effects: Vec<Effect>,
}

impl GroupCommit {
    /// A writer of one half. At most `limit` begins wait. Final rows are never refused: there are no more of them than
    /// places for execs in flight, for an exec gives its place back when its row is final. Whether the store takes rows is
    /// asked first.
    pub(crate) fn new(half: Half, limit: usize, now: Instant) -> Self {
        Self {
            half,
            queue: VecDeque::new(),
            splits: VecDeque::new(),
            in_flight: Vec::new(),
            batch_since: None,
            aside: Aside::default(),
            limit,
            last_ticket: 0,
            store: StoreHealth::Doubted { since: now },
            effects: Vec::new(),
        }
    }

    /// Queues a row. `None` when it is a begin and there is no room, or no hope: nothing was or will be written.
    pub(crate) fn submit(&mut self, row: AuditRow, now: Instant) -> (Option<Ticket>, Vec<Effect>) {
        let deadline = match self.half {
            Half::Begin if self.is_full() || self.has_failed_for_long(now) => {
                return (None, Vec::new());
            }
            Half::Begin => Some(now + BEGIN_DEADLINE),
            Half::Finish => None,
        };
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.queue.push_back(Pending {
            ticket,
            row,
            deadline,
            may_be_there: false,
            failed_alone: false,
            is_told: false,
        });
        (Some(ticket), self.advance(now))
    }

    fn is_full(&self) -> bool {
        self.queue.len() + self.aside.waiting().count() >= self.limit
    }

    /// A transaction in flight ended.
    pub(crate) fn written(&mut self, place: Place, result: WriteResult, now: Instant) -> Vec<Effect> {
        match place {
            Place::Batch => {
                let handed_over = self.batch_since.take().unwrap_or(now);
                let batch = std::mem::take(&mut self.in_flight);
                self.observe(&result, batch.is_empty(), handed_over, now);
                self.batch_written(batch, &result, now);
            }
            Place::Aside => {
                if let Some((pending, handed_over)) = self.aside.take_in_flight() {
                    self.observe(&result, false, handed_over, now);
                    self.row_written(pending, Place::Aside, &result, now);
                }
            }
        }
        self.advance(now)
    }

    fn observe(&mut self, result: &WriteResult, is_probe: bool, handed_over: Instant, now: Instant) {
        let observation = match result {
            WriteResult::Committed { .. } => Observation::Committed,
            WriteResult::Failed | WriteResult::Rejected if !is_probe => Observation::RowsFailed,
            WriteResult::Failed | WriteResult::Rejected | WriteResult::Unavailable => Observation::Failed,
        };
        self.store = self.store.after(observation, handed_over, now);
    }

    fn batch_written(&mut self, mut batch: Vec<Pending>, result: &WriteResult, now: Instant) {
        if batch.len() <= 1 || matches!(result, WriteResult::Committed { .. }) {
            for pending in batch {
                self.row_written(pending, Place::Batch, result, now);
            }
            return;
        }
        // What was given up meanwhile is settled by its exec's final row.
        batch.retain(|pending| !pending.is_told);
        if *result == WriteResult::Failed {
            // To find the ones at fault by halves would have the others wait for a lock again and again.
            for pending in batch {
                self.aside.add(pending, now);
            }
            return;
        }
        for pending in &mut batch {
            pending.may_be_there |= *result == WriteResult::Unavailable;
        }
        // To the front, so that rows keep their order.
        let tail = batch.split_off(batch.len() / 2);
        let halves = [tail, batch].into_iter().filter(|half| !half.is_empty());
        halves.for_each(|half| self.splits.push_front(half));
    }

    /// The verdict of a row, or another try.
    fn row_written(&mut self, mut pending: Pending, place: Place, result: &WriteResult, now: Instant) {
        let verdict = match result {
            WriteResult::Committed { taken } => {
                let mut free = self.aside.release(&pending, now);
                while !free.is_empty() {
                    self.splits.push_back(next_part(&mut free));
                }
                if taken.contains(&pending.row.id) {
                    Verdict::Taken
                } else {
                    Verdict::Committed
                }
            }
            // Not before a probe has shown that it is the row, and not the store. What is aside is tried after that; and a
            // begin need not be: nothing has run.
            WriteResult::Rejected if place == Place::Batch && self.half == Half::Finish => {
                self.aside.add_failed(pending, now);
                return;
            }
            WriteResult::Rejected => {
                tracing::error!(exec_id = %pending.row.id, half = ?self.half, "the store refuses this audit row");
                pending.unwritten()
            }
            WriteResult::Unavailable if !pending.may_be_there => {
                pending.may_be_there = true;
                // Most often it was the store, and the rows behind it need not wait for this one.
                if !pending.is_told {
                    self.splits.push_front(vec![pending]);
                }
                return;
            }
            WriteResult::Failed | WriteResult::Unavailable => {
                self.aside.add_failed(pending, now);
                return;
            }
        };
        if !pending.is_told {
            self.effects.push(Effect::Acknowledge(pending.ticket, verdict));
        }
    }

    /// Time has passed: deadlines and retries.
    pub(crate) fn wake(&mut self, now: Instant) -> Vec<Effect> {
        self.advance(now)
    }

    /// When [`GroupCommit::wake`] is due.
    pub(crate) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let probe = self.store.probe_at(now).filter(|_| self.batch_since.is_none());
        let aside = self.aside.next_due().filter(|_| self.store == StoreHealth::Well);
        [self.first_deadline(), probe, aside].into_iter().flatten().min()
    }

    /// Batches are in the order of their deadlines, so the first of each is its earliest.
    fn first_deadline(&self) -> Option<Instant> {
        let split = self.splits.iter().flatten().filter_map(Pending::due).min();
        let queued = self.queue.front().and_then(Pending::due);
        let in_flight = self.in_flight.iter().find_map(Pending::due);
        let aside = self.aside.waiting().chain(self.aside.in_flight());
        let aside = aside.filter_map(Pending::due).min();
        [split, queued, in_flight, aside].into_iter().flatten().min()
    }

    /// Since when the store would commit nothing: since it was handed the first batch that failed.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        self.store.failing_since()
    }

    fn has_failed_for_long(&self, now: Instant) -> bool {
        self.failing_since()
            .is_some_and(|since| now.saturating_duration_since(since) >= BEGIN_DEADLINE)
    }

    /// Ids of the rows that are not committed.
    pub(crate) fn unwritten(&self) -> Vec<Uuid> {
        self.waiting()
            .chain(&self.in_flight)
            .chain(self.aside.in_flight())
            .map(|pending| pending.row.id)
            .collect()
    }

    /// Whether no row is queued or in flight. A probe may be.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.aside.in_flight().is_none() && self.waiting().next().is_none()
    }

    fn waiting(&self) -> impl Iterator<Item = &Pending> {
        self.splits
            .iter()
            .flatten()
            .chain(&self.queue)
            .chain(self.aside.waiting())
    }

    fn advance(&mut self, now: Instant) -> Vec<Effect> {
        self.give_up_late_begins(now);
        if self.batch_since.is_none() {
            let is_due = match self.store.probe_at(now) {
                Some(probe_at) => probe_at <= now,
                None => {
                    self.in_flight = self.next_batch(now);
                    !self.in_flight.is_empty()
                }
            };
            if is_due {
                self.batch_since = Some(now);
                let rows = self.in_flight.iter().map(|pending| pending.row.clone()).collect();
                self.effects.push(Effect::Write(Place::Batch, rows));
            }
        }
        if self.store == StoreHealth::Well
            && let Some(pending) = self.aside.next(now)
        {
            self.effects
                .push(Effect::Write(Place::Aside, vec![pending.row.clone()]));
        }
        std::mem::take(&mut self.effects)
    }

    /// The part that goes first, or the oldest rows of the queue, without the rows of workspaces that are set aside.
    fn next_batch(&mut self, now: Instant) -> Vec<Pending> {
        loop {
            let part = self
                .splits
                .pop_front()
                .unwrap_or_else(|| next_part(&mut self.queue));
            if part.is_empty() {
                return part;
            }
            let (stuck, batch): (Vec<_>, Vec<_>) = part
                .into_iter()
                .partition(|pending| self.aside.holds(pending.row.workspace_id, now));
            for pending in stuck {
                self.aside.add(pending, now);
            }
            if !batch.is_empty() {
                return batch;
            }
        }
    }

    fn give_up_late_begins(&mut self, now: Instant) {
        if self.first_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let effects = &mut self.effects;
        let mut keep = |pending: &Pending| {
            let is_late = pending.is_late(now);
            if is_late {
                effects.push(Effect::Acknowledge(pending.ticket, pending.unwritten()));
            }
            !is_late
        };
        self.queue.retain(&mut keep);
        for part in &mut self.splits {
            part.retain(&mut keep);
        }
        self.splits.retain(|part| !part.is_empty());
        self.aside.retain(&mut keep);
        let in_flight = self.in_flight.iter_mut().chain(self.aside.in_flight_mut());
        for pending in in_flight.filter(|pending| pending.is_late(now)) {
            pending.is_told = true;
            effects.push(Effect::Acknowledge(pending.ticket, Verdict::Uncertain));
        }
    }
}

/// The first rows, no id twice: two tries of one Idempotency-Key have the same, and one statement can't write a row
/// twice (PostgreSQL's ON CONFLICT).
fn next_part(rows: &mut VecDeque<Pending>) -> Vec<Pending> {
    let mut ids = HashSet::new();
    let length = rows
        .iter()
        .take(BATCH_LIMIT)
        .take_while(|pending| ids.insert(pending.row.id))
        .count();
    rows.drain(..length).collect()
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "aside_tests.rs"]
mod aside_tests;
