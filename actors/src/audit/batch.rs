//! Group commit as a plain struct: rows in, batches out, each row acknowledged once.
//!
//! While one transaction is in flight the next batch gathers; an idle writer commits at once. A batch that the store
//! refuses for the sake of one row is split until the others are in.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::store::AuditRow;

/// Rows in one transaction at most: enough that the commit's cost is spread thin, small enough that a split is short.
const BATCH_LIMIT: usize = 256;
/// First pause after a failed write; doubles up to the second number.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Names a row within the writer.
pub(crate) type Ticket = u64;

/// Which half of an exec's row a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// Before the command runs. Given up at its deadline.
    Begin { deadline: Instant },
    /// After it ended. Never given up.
    Finish,
}

/// How a row fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Committed.
    Committed,
    /// It was never handed to the store, or the store refused it: it is certainly not there.
    NotWritten,
    /// A write was tried and not acknowledged: it may be there.
    Uncertain,
}

/// How a batch fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteResult {
    Committed,
    /// The store can't be reached; whether it was written is unknown.
    Unavailable,
    /// The store refuses a row of it; nothing was written.
    Rejected,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Write these rows in one transaction and report its result.
    Write(Vec<AuditRow>),
    /// Tell the one who waits for this row.
    Acknowledge(Ticket, Verdict),
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    row: AuditRow,
    half: Half,
    was_tried: bool,
    /// Acknowledged while its write was in flight, at its deadline.
    is_told: bool,
}

/// The writer's queue and the batch in flight.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    queue: VecDeque<Pending>,
    /// Parts of a batch that was refused; they go before the queue.
    splits: VecDeque<Vec<Pending>>,
    in_flight: Vec<Pending>,
    begin_limit: usize,
    last_ticket: Ticket,
    pause: Duration,
    retry_at: Option<Instant>,
    failing_since: Option<Instant>,
    effects: Vec<Effect>,
}

impl GroupCommit {
    /// A writer that queues at most `begin_limit` begin rows. Finish rows are bounded by the execs that have begun.
    pub(crate) fn new(begin_limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            splits: VecDeque::new(),
            in_flight: Vec::new(),
            begin_limit,
            last_ticket: 0,
            pause: FIRST_PAUSE,
            retry_at: None,
            failing_since: None,
            effects: Vec::new(),
        }
    }

    /// Queues a row. `None` when it is a begin and there is no room: nothing was or will be written.
    pub(crate) fn submit(
        &mut self,
        row: AuditRow,
        half: Half,
        now: Instant,
    ) -> (Option<Ticket>, Vec<Effect>) {
        let is_begin = matches!(half, Half::Begin { .. });
        if is_begin && self.queue.len() >= self.begin_limit {
            return (None, Vec::new());
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.queue.push_back(Pending {
            ticket,
            row,
            half,
            was_tried: false,
            is_told: false,
        });
        (Some(ticket), self.advance(now))
    }

    /// The transaction in flight ended.
    pub(crate) fn written(&mut self, result: WriteResult, now: Instant) -> Vec<Effect> {
        let mut batch = std::mem::take(&mut self.in_flight);
        // What was given up meanwhile is settled by its exec's final row.
        batch.retain(|pending| !pending.is_told);
        match result {
            WriteResult::Committed => {
                self.recovered();
                let told = batch
                    .into_iter()
                    .map(|pending| Effect::Acknowledge(pending.ticket, Verdict::Committed));
                self.effects.extend(told);
            }
            WriteResult::Rejected => {
                self.recovered();
                self.split(batch);
            }
            WriteResult::Unavailable => {
                self.failing_since.get_or_insert(now);
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

    /// Begins are queued in the order of their deadlines, so the first of each part is its earliest.
    fn first_deadline(&self) -> Option<Instant> {
        let of = |pending: &Pending| match pending.half {
            Half::Begin { deadline } if !pending.is_told => Some(deadline),
            Half::Begin { .. } | Half::Finish => None,
        };
        let split = self.splits.iter().flatten().filter_map(of).min();
        let queued = self.queue.iter().find_map(of);
        let in_flight = self.in_flight.iter().find_map(of);
        [split, queued, in_flight].into_iter().flatten().min()
    }

    /// How long no batch has been committed although one was tried.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }

    /// Ids of final rows that are not committed.
    pub(crate) fn unwritten(&self) -> Vec<Uuid> {
        self.waiting()
            .chain(&self.in_flight)
            .filter(|pending| pending.half == Half::Finish)
            .map(|pending| pending.row.id)
            .collect()
    }

    /// Whether nothing is queued or in flight.
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
            tracing::error!(exec_id = %pending.row.id, half = ?pending.half, "the store refuses this audit row");
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
        if self.in_flight.is_empty() && self.retry_at.is_none() {
            self.in_flight = match self.splits.pop_front() {
                Some(part) => part,
                None => self.next_batch(),
            };
            if !self.in_flight.is_empty() {
                let rows = self.in_flight.iter().map(|pending| pending.row.clone()).collect();
                self.effects.push(Effect::Write(rows));
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// The oldest rows, no id twice: one statement can't write a row's begin and finish both (PostgreSQL's ON CONFLICT).
    fn next_batch(&mut self) -> Vec<Pending> {
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
        let mut give_up = |pending: &Pending, may_be_written: bool| match pending.half {
            Half::Begin { deadline } if deadline <= now && !pending.is_told => {
                let verdict = if may_be_written {
                    Verdict::Uncertain
                } else {
                    Verdict::NotWritten
                };
                effects.push(Effect::Acknowledge(pending.ticket, verdict));
                true
            }
            Half::Begin { .. } | Half::Finish => false,
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
