//! Group commit as a plain struct: rows of one half in, batches out, each row acknowledged once.
//!
//! While one transaction is in flight the next batch gathers; an idle writer commits at once. A batch that the store
//! refuses for the sake of one row is split until the others are in.
//!
//! While the store fails, it is given only what it was given before, or an empty batch as a probe. So a begin that comes
//! meanwhile is refused with certainty and leaves nothing to settle, and the return of the store is noticed also when
//! nobody asks for anything.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::store::{AuditRow, Half};

/// Rows in one transaction at most: enough that the commit's cost is spread thin, small enough that a split is short.
const BATCH_LIMIT: usize = 256;
/// First pause after a failed write; doubles up to the second number.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A begin that is not committed within this is given up; nothing runs then. When the store has failed for as long, a new
/// one would only wait for the same answer, and is refused at once.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);

/// Names a row within the writer.
pub(crate) type Ticket = u64;

/// How a row fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Committed.
    Committed,
    /// The id's row belongs to another try or another writer, and is as it was.
    Taken,
    /// It was never handed to the store, or the store refused it: it is certainly not there.
    NotWritten,
    /// A write was tried and not acknowledged: it may be there.
    Uncertain,
}

/// How a batch fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteResult {
    /// All rows are there but those whose ids are `taken`.
    Committed { taken: Vec<Uuid> },
    /// The store can't be reached; whether it was written is unknown.
    Unavailable,
    /// The store refuses a row of it; nothing was written.
    Rejected,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Write these rows in one transaction and report its result. None at all is a probe.
    Write(Vec<AuditRow>),
    /// Tell the one who waits for this row.
    Acknowledge(Ticket, Verdict),
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    row: AuditRow,
    /// When it is given up; a final row never is.
    deadline: Option<Instant>,
    was_tried: bool,
    /// Acknowledged while its write was in flight, at its deadline.
    is_told: bool,
}

/// The writer's queue and the batch in flight.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    half: Half,
    queue: VecDeque<Pending>,
    /// Parts of a batch that was refused or not acknowledged; they go before the queue.
    splits: VecDeque<Vec<Pending>>,
    in_flight: Vec<Pending>,
    /// When the transaction in flight was handed over, if one is.
    writing_since: Option<Instant>,
    limit: usize,
    last_ticket: Ticket,
    pause: Duration,
    retry_at: Option<Instant>,
    failing_since: Option<Instant>,
    effects: Vec<Effect>,
}

impl GroupCommit {
    /// A writer of one half. At most `limit` begins wait in its queue. Final rows are never refused: there are no more of
    /// them than places for execs in flight, for an exec gives its place back when its row is final.
    pub(crate) fn new(half: Half, limit: usize) -> Self {
        Self {
            half,
            queue: VecDeque::new(),
            splits: VecDeque::new(),
            in_flight: Vec::new(),
            writing_since: None,
            limit,
            last_ticket: 0,
            pause: FIRST_PAUSE,
            retry_at: None,
            failing_since: None,
            effects: Vec::new(),
        }
    }

    /// Queues a row. `None` when it is a begin and there is no room, or no hope: nothing was or will be written.
    pub(crate) fn submit(&mut self, row: AuditRow, now: Instant) -> (Option<Ticket>, Vec<Effect>) {
        let deadline = match self.half {
            Half::Begin if self.queue.len() >= self.limit || self.has_failed_for_long(now) => {
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
            was_tried: false,
            is_told: false,
        });
        (Some(ticket), self.advance(now))
    }

    /// The transaction in flight ended.
    pub(crate) fn written(&mut self, result: WriteResult, now: Instant) -> Vec<Effect> {
        let handed_over = self.writing_since.take().unwrap_or(now);
        let mut batch = std::mem::take(&mut self.in_flight);
        // What was given up meanwhile is settled by its exec's final row.
        batch.retain(|pending| !pending.is_told);
        match result {
            WriteResult::Committed { taken } => {
                self.recovered();
                let told = batch.into_iter().map(|pending| {
                    let verdict = if taken.contains(&pending.row.id) {
                        Verdict::Taken
                    } else {
                        Verdict::Committed
                    };
                    Effect::Acknowledge(pending.ticket, verdict)
                });
                self.effects.extend(told);
            }
            WriteResult::Rejected => {
                self.recovered();
                self.split(batch);
            }
            WriteResult::Unavailable => {
                self.failing_since.get_or_insert(handed_over);
                self.retry_at = Some(now + self.pause);
                self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
                for pending in &mut batch {
                    pending.was_tried = true;
                }
                if !batch.is_empty() {
                    // To the front, so that rows keep their order; a split part stays apart from the rest.
                    self.splits.push_front(batch);
                }
            }
        }
        self.advance(now)
    }

    /// Time has passed: deadlines and retries.
    pub(crate) fn wake(&mut self, now: Instant) -> Vec<Effect> {
        self.advance(now)
    }

    /// When [`GroupCommit::wake`] is due.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.first_deadline().into_iter().chain(self.retry_at).min()
    }

    /// Rows are queued in the order of their deadlines, so the first of each part is its earliest.
    fn first_deadline(&self) -> Option<Instant> {
        let of = |pending: &Pending| pending.deadline.filter(|_| !pending.is_told);
        let split = self.splits.iter().flatten().filter_map(of).min();
        let queued = self.queue.front().and_then(of);
        let in_flight = self.in_flight.iter().find_map(of);
        [split, queued, in_flight].into_iter().flatten().min()
    }

    /// Since when the store has committed nothing of what it was given: since it was handed the first batch that failed.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }

    fn has_failed_for_long(&self, now: Instant) -> bool {
        self.failing_since
            .is_some_and(|since| now.saturating_duration_since(since) >= BEGIN_DEADLINE)
    }

    /// Ids of the rows that are not committed.
    pub(crate) fn unwritten(&self) -> Vec<Uuid> {
        self.waiting()
            .chain(&self.in_flight)
            .map(|pending| pending.row.id)
            .collect()
    }

    /// Whether no row is queued or in flight. A probe may be.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.waiting().next().is_none()
    }

    fn waiting(&self) -> impl Iterator<Item = &Pending> {
        self.splits.iter().flatten().chain(&self.queue)
    }

    fn recovered(&mut self) {
        self.pause = FIRST_PAUSE;
        self.failing_since = None;
    }

    fn split(&mut self, mut batch: Vec<Pending>) {
        if batch.len() > 1 {
            let tail = batch.split_off(batch.len() / 2);
            self.splits.push_front(tail);
            self.splits.push_front(batch);
            return;
        }
        for pending in batch {
            tracing::error!(exec_id = %pending.row.id, half = ?self.half, "the store refuses this audit row");
            let verdict = if pending.was_tried {
                Verdict::Uncertain
            } else {
                Verdict::NotWritten
            };
            self.effects.push(Effect::Acknowledge(pending.ticket, verdict));
        }
    }

    fn advance(&mut self, now: Instant) -> Vec<Effect> {
        self.give_up_late_begins(now);
        self.retry_at = self.retry_at.filter(|at| now < *at);
        if self.writing_since.is_none() && self.retry_at.is_none() {
            self.in_flight = self.next_batch();
            if !self.in_flight.is_empty() || self.failing_since.is_some() {
                self.writing_since = Some(now);
                let rows = self.in_flight.iter().map(|pending| pending.row.clone()).collect();
                self.effects.push(Effect::Write(rows));
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// The part that goes first, or the oldest rows of the queue; while the store fails, only what it was given before.
    fn next_batch(&mut self) -> Vec<Pending> {
        let is_known = |part: &Vec<Pending>| part.iter().all(|pending| pending.was_tried);
        if self.failing_since.is_some() && !self.splits.front().is_some_and(is_known) {
            return Vec::new();
        }
        self.splits.pop_front().unwrap_or_else(|| self.gather())
    }

    /// The oldest rows, no id twice: two tries of one Idempotency-Key have the same, and one statement can't write a row
    /// twice (PostgreSQL's ON CONFLICT).
    fn gather(&mut self) -> Vec<Pending> {
        let mut ids = HashSet::new();
        let length = self
            .queue
            .iter()
            .take(BATCH_LIMIT)
            .take_while(|pending| ids.insert(pending.row.id))
            .count();
        self.queue.drain(..length).collect()
    }

    fn give_up_late_begins(&mut self, now: Instant) {
        if self.first_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let effects = &mut self.effects;
        let mut give_up = |pending: &Pending, may_be_written: bool| {
            let is_late = pending.deadline.is_some_and(|deadline| deadline <= now) && !pending.is_told;
            if is_late {
                let verdict = if may_be_written {
                    Verdict::Uncertain
                } else {
                    Verdict::NotWritten
                };
                effects.push(Effect::Acknowledge(pending.ticket, verdict));
            }
            is_late
        };
        self.queue.retain(|pending| !give_up(pending, pending.was_tried));
        for part in &mut self.splits {
            part.retain(|pending| !give_up(pending, pending.was_tried));
        }
        self.splits.retain(|part| !part.is_empty());
        for pending in &mut self.in_flight {
            pending.is_told |= give_up(pending, true);
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
