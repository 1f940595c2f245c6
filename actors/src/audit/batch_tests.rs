use serde_json::json;
use time::OffsetDateTime;

use super::*;
use crate::audit::RowStatus;
use crate::audit::health::{FIRST_PAUSE, LONGEST_PAUSE};

fn row(id: u128) -> AuditRow {
    AuditRow {
        id: Uuid::from_u128(id),
        attempt_nonce: Uuid::from_u128(id),
        body_hmac: None,
        workspace_id: Uuid::nil(),
        status: RowStatus::Running,
        summary: String::new(),
        request_body: json!({}),
        response_body: None,
        duration_ms: None,
        error_detail: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

/// A row of another workspace than [`row`]'s.
fn row_of(workspace: u128, id: u128) -> AuditRow {
    AuditRow {
        workspace_id: Uuid::from_u128(workspace),
        ..row(id)
    }
}

/// Effects as short words: `write 1 2`, `aside 3`, `ticket 1 Committed`.
fn names(effects: Vec<Effect>) -> Vec<String> {
    effects
        .into_iter()
        .map(|effect| match effect {
            Effect::Write(place, rows) => {
                let ids: Vec<String> = rows.iter().map(|row| row.id.as_u128().to_string()).collect();
                let verb = match place {
                    Place::Batch => "write",
                    Place::Aside => "aside",
                };
                format!("{verb} {}", ids.join(" "))
            }
            Effect::Acknowledge(ticket, verdict) => format!("ticket {ticket} {verdict:?}"),
        })
        .collect()
}

/// A writer and the time.
pub(super) struct Table {
    pub(super) core: GroupCommit,
    pub(super) now: Instant,
}

impl Table {
    /// With a store that has passed its first probe.
    pub(super) fn of(half: Half) -> Self {
        let mut table = Self::unknown(half);
        assert_eq!(table.pass(Duration::ZERO), ["write "]);
        assert_eq!(table.committed(), NOTHING);
        table
    }

    /// With a store that was given nothing yet.
    pub(super) fn unknown(half: Half) -> Self {
        let now = Instant::now();
        let core = GroupCommit::new(half, 4, now);
        Self { core, now }
    }

    pub(super) fn begins() -> Self {
        Self::of(Half::Begin)
    }

    pub(super) fn finishes() -> Self {
        Self::of(Half::Finish)
    }

    pub(super) fn submit(&mut self, id: u128) -> Vec<String> {
        names(self.core.submit(row(id), self.now).1)
    }

    pub(super) fn is_refused(&mut self, id: u128) -> bool {
        self.core.submit(row(id), self.now) == (None, Vec::new())
    }

    pub(super) fn submit_of(&mut self, workspace: u128, id: u128) -> Vec<String> {
        names(self.core.submit(row_of(workspace, id), self.now).1)
    }

    pub(super) fn written(&mut self, result: WriteResult) -> Vec<String> {
        names(self.core.written(Place::Batch, result, self.now))
    }

    pub(super) fn aside(&mut self, result: WriteResult) -> Vec<String> {
        names(self.core.written(Place::Aside, result, self.now))
    }

    pub(super) fn committed(&mut self) -> Vec<String> {
        self.written(COMMITTED)
    }

    pub(super) fn pass(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        names(self.core.wake(self.now))
    }

    /// Fails for this long whatever is set aside, while probes pass.
    pub(super) fn fail_aside_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let due = self.next_wake().map_or(end, |due| due.min(end));
            if self
                .pass(due - self.now)
                .iter()
                .any(|effect| effect.starts_with("aside"))
            {
                self.aside(WriteResult::Failed);
                self.committed();
            }
        }
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.core.next_wake(self.now)
    }

    /// Fails whatever is written for this long.
    pub(super) fn fail_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.written(WriteResult::Unavailable);
        while self.now < end {
            let due = self.next_wake().unwrap().min(end);
            if !self.pass(due - self.now).is_empty() && self.core.batch_since.is_some() {
                self.written(WriteResult::Unavailable);
            }
        }
    }
}

pub(super) const NOTHING: [&str; 0] = [];
pub(super) const COMMITTED: WriteResult = WriteResult::Committed { taken: Vec::new() };

#[tokio::test]
async fn an_idle_writer_commits_at_once_and_gathers_meanwhile() {
    let mut table = Table::begins();
    assert_eq!(table.submit(1), ["write 1"]);
    assert_eq!(table.submit(2), NOTHING);
    assert_eq!(table.submit(3), NOTHING);
    assert_eq!(table.committed(), ["ticket 1 Committed", "write 2 3"]);
    assert_eq!(table.committed(), ["ticket 2 Committed", "ticket 3 Committed"]);
    assert!(table.core.is_idle());
}

#[tokio::test]
async fn two_tries_of_one_id_never_share_a_statement() {
    let mut table = Table::begins();
    for id in [9, 1, 1, 2] {
        table.submit(id);
    }
    assert_eq!(table.committed(), ["ticket 1 Committed", "write 1"]);
    assert_eq!(table.committed(), ["ticket 2 Committed", "write 1 2"]);
    let taken = vec![Uuid::from_u128(1)];
    assert_eq!(
        table.written(WriteResult::Committed { taken }),
        ["ticket 3 Taken", "ticket 4 Committed"],
        "the store knows whose row it is"
    );
}

#[tokio::test]
async fn whether_the_store_takes_rows_is_asked_first() {
    let mut table = Table::unknown(Half::Begin);
    assert_eq!(table.pass(Duration::ZERO), ["write "]);
    assert_eq!(table.submit(1), NOTHING);
    let asked = table.now;
    assert_eq!(table.core.failing_since(), None, "nothing is known yet");
    assert_eq!(table.written(WriteResult::Rejected), NOTHING);
    assert_eq!(table.core.failing_since(), Some(asked), "it would refuse any row");
    assert_eq!(table.pass(FIRST_PAUSE), ["write "]);
    assert_eq!(table.committed(), ["write 1"]);
    assert_eq!(table.core.failing_since(), None);
}

#[tokio::test]
async fn a_poisoned_batch_is_split_until_the_others_are_in() {
    let mut table = Table::begins();
    for id in [9, 1, 2, 3, 4] {
        table.submit(id);
    }
    assert_eq!(table.committed(), ["ticket 1 Committed", "write 1 2 3 4"]);
    assert_eq!(
        table.written(WriteResult::Rejected),
        ["write "],
        "is it the rows?"
    );
    assert_eq!(table.committed(), ["write 1 2"]);
    assert_eq!(
        table.committed(),
        ["ticket 2 Committed", "ticket 3 Committed", "write 3 4"]
    );
    assert_eq!(table.written(WriteResult::Rejected), ["write "]);
    assert_eq!(table.committed(), ["write 3"]);
    assert_eq!(
        table.written(WriteResult::Rejected),
        ["ticket 4 NotWritten", "write "]
    );
    assert_eq!(table.committed(), ["write 4"]);
    assert_eq!(table.committed(), ["ticket 5 Committed"]);
    assert!(table.core.is_idle());
}

/// What ran must not lose its end because the host made a mistake for a minute.
#[tokio::test]
async fn a_final_row_is_given_up_only_while_others_would_be_taken() {
    let mut table = Table::finishes();
    table.submit(1);
    assert_eq!(table.written(WriteResult::Rejected), ["write "]);
    table.fail_for(Duration::from_secs(60));
    assert_eq!(table.core.unwritten().len(), 1);
    assert_eq!(table.pass(LONGEST_PAUSE), ["write "]);
    assert_eq!(table.committed(), ["aside 1"]);
    assert_eq!(table.aside(COMMITTED), ["ticket 1 Committed"]);

    table.submit(2);
    assert_eq!(table.written(WriteResult::Rejected), ["write "]);
    assert_eq!(table.committed(), NOTHING);
    assert_eq!(table.pass(FIRST_PAUSE), ["aside 2"]);
    assert_eq!(
        table.aside(WriteResult::Rejected),
        ["ticket 2 NotWritten", "write "]
    );
    assert!(table.core.is_idle());
}

/// A host that adds a column which no row of ours can fill refuses each by itself, and the service is of no use.
#[tokio::test]
async fn a_store_that_refuses_every_row_is_failing() {
    let mut table = Table::begins();
    table.submit(1);
    let handed_over = table.now;
    assert_eq!(
        table.written(WriteResult::Rejected),
        ["ticket 1 NotWritten", "write "]
    );
    assert_eq!(table.core.failing_since(), None, "it may be that row's own fault");
    table.now += Duration::from_secs(1);
    assert_eq!(table.written(WriteResult::Rejected), NOTHING);
    assert_eq!(table.core.failing_since(), Some(handed_over));
    table.fail_for(BEGIN_DEADLINE);
    assert!(table.is_refused(2));
}

#[tokio::test]
async fn an_outage_keeps_finishes() {
    let mut table = Table::finishes();
    table.submit(1);
    table.submit(2);
    table.fail_for(Duration::from_secs(300));
    assert_eq!(table.core.unwritten(), [1, 2].map(Uuid::from_u128));
    assert_eq!(table.submit(3), NOTHING);
    assert_eq!(table.pass(LONGEST_PAUSE), ["write "]);
    assert_eq!(table.committed(), ["write 1"]);
    assert_eq!(table.core.failing_since(), None);
    assert_eq!(table.committed(), ["ticket 1 Committed", "write 2 3"]);
    table.committed();
    assert!(table.core.unwritten().is_empty());
}

/// A batch may be too much for its deadline and would be for ever.
#[tokio::test]
async fn a_batch_that_got_no_answer_is_tried_again_in_halves() {
    let mut table = Table::finishes();
    for id in [9, 1, 2, 3] {
        table.submit(id);
    }
    table.committed();
    assert_eq!(table.written(WriteResult::Unavailable), NOTHING);
    assert_eq!(table.pass(FIRST_PAUSE), ["write "]);
    assert_eq!(table.committed(), ["write 1"]);
    assert_eq!(table.committed(), ["ticket 2 Committed", "write 2 3"]);
    assert_eq!(table.written(WriteResult::Unavailable), NOTHING);
    assert_eq!(table.pass(FIRST_PAUSE), ["write "]);
    assert_eq!(table.committed(), ["write 2"]);
    assert_eq!(table.written(WriteResult::Rejected), ["write "]);
    assert_eq!(table.committed(), NOTHING, "the other is of the same workspace");
    assert_eq!(table.pass(FIRST_PAUSE), ["aside 3"]);
    assert_eq!(table.aside(COMMITTED), ["ticket 4 Committed", "aside 2"]);
    assert_eq!(
        table.aside(WriteResult::Rejected),
        ["ticket 3 Uncertain", "write "]
    );
}

#[tokio::test]
async fn begins_are_given_up_at_their_deadline() {
    let mut table = Table::begins();
    table.submit(1);
    table.submit(2);
    let handed_over = table.now;
    table.now += Duration::from_secs(1);
    assert_eq!(table.written(WriteResult::Unavailable), NOTHING);
    assert_eq!(
        table.core.failing_since(),
        Some(handed_over),
        "a store that hangs has failed since then"
    );
    assert_eq!(table.pass(FIRST_PAUSE), ["write "]);
    assert_eq!(
        table.pass(BEGIN_DEADLINE),
        ["ticket 2 NotWritten", "ticket 1 Uncertain"],
        "one may have been written, the other was never tried"
    );
    assert!(table.core.is_idle(), "nothing but the probe is in flight");
    assert_eq!(table.written(WriteResult::Unavailable), NOTHING);
    assert!(table.core.is_idle());
}

#[tokio::test]
async fn a_store_that_fails_is_probed_until_it_is_back() {
    let mut table = Table::begins();
    table.submit(1);
    table.fail_for(BEGIN_DEADLINE);
    assert!(table.core.is_idle(), "the only begin was given up");
    for _ in 0..100 {
        assert_eq!(table.pass(LONGEST_PAUSE), ["write "], "an empty batch");
        assert_eq!(table.written(WriteResult::Unavailable), NOTHING);
    }
    assert_eq!(table.pass(LONGEST_PAUSE), ["write "]);
    assert_eq!(table.committed(), NOTHING);
    assert_eq!((table.core.failing_since(), table.next_wake()), (None, None));
    assert_eq!(table.submit(2), ["write 2"]);
}

#[tokio::test]
async fn a_begin_is_refused_at_once_where_waiting_is_vain() {
    let mut table = Table::begins();
    table.submit(1);
    table.fail_for(BEGIN_DEADLINE - FIRST_PAUSE);
    assert!(!table.is_refused(2), "the store may come back in time");
    table.fail_for(FIRST_PAUSE);
    assert!(table.is_refused(3));
    table.pass(LONGEST_PAUSE);
    assert_eq!(table.committed(), ["write 2"], "who came before waits on");
    assert!(!table.is_refused(4));
}

#[tokio::test]
async fn begins_are_bounded_and_finishes_are_not() {
    let mut begins = Table::begins();
    let mut finishes = Table::finishes();
    for id in 1..=5 {
        assert!(!begins.is_refused(id));
        assert!(!finishes.is_refused(id));
    }
    assert!(begins.is_refused(6));
    assert!(!finishes.is_refused(6));
}

#[tokio::test]
async fn wakes_for_deadlines_and_retries() {
    let mut table = Table::begins();
    assert_eq!(table.next_wake(), None);
    table.submit(1);
    table.submit(2);
    assert_eq!(table.next_wake(), Some(table.now + BEGIN_DEADLINE));
    table.written(WriteResult::Unavailable);
    assert_eq!(table.next_wake(), Some(table.now + FIRST_PAUSE));
    let mut table = Table::finishes();
    table.submit(1);
    assert_eq!(table.next_wake(), None);
}

#[tokio::test]
async fn a_write_that_hangs_holds_no_begin_past_its_deadline() {
    let mut table = Table::begins();
    table.submit(1);
    assert_eq!(table.pass(Duration::from_secs(1)), NOTHING);
    table.submit(2);
    assert_eq!(table.pass(Duration::from_secs(4)), ["ticket 1 Uncertain"]);
    assert_eq!(table.committed(), ["write 2"], "told once");
}
