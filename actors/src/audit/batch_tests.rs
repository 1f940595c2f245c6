use serde_json::json;
use time::OffsetDateTime;

use super::*;
use crate::audit::RowStatus;

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

/// Effects as short words: `write 1 2`, `ticket 1 Committed`.
fn names(effects: Vec<Effect>) -> Vec<String> {
    effects
        .into_iter()
        .map(|effect| match effect {
            Effect::Write(rows) => {
                let ids: Vec<String> = rows.iter().map(|row| row.id.as_u128().to_string()).collect();
                format!("write {}", ids.join(" "))
            }
            Effect::Acknowledge(ticket, verdict) => format!("ticket {ticket} {verdict:?}"),
        })
        .collect()
}

struct Table {
    core: GroupCommit,
    now: Instant,
}

impl Table {
    fn of(half: Half) -> Self {
        Self {
            core: GroupCommit::new(half, 4),
            now: Instant::now(),
        }
    }

    fn begins() -> Self {
        Self::of(Half::Begin)
    }

    fn finishes() -> Self {
        Self::of(Half::Finish)
    }

    fn submit(&mut self, id: u128) -> Vec<String> {
        names(self.core.submit(row(id), self.now).1)
    }

    fn is_refused(&mut self, id: u128) -> bool {
        self.core.submit(row(id), self.now) == (None, Vec::new())
    }

    fn written(&mut self, result: WriteResult) -> Vec<String> {
        names(self.core.written(result, self.now))
    }

    fn committed(&mut self) -> Vec<String> {
        self.written(WriteResult::Committed { taken: Vec::new() })
    }

    fn pass(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        names(self.core.wake(self.now))
    }

    /// Fails whatever is written for this long.
    fn fail_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.written(WriteResult::Unavailable);
        while self.now < end {
            let due = self.core.next_wake().unwrap().min(end);
            if !self.pass(due - self.now).is_empty() && self.core.writing_since.is_some() {
                self.written(WriteResult::Unavailable);
            }
        }
    }
}

const NOTHING: [&str; 0] = [];

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
async fn a_poisoned_batch_is_split_until_the_others_are_in() {
    let mut table = Table::finishes();
    for id in [9, 1, 2, 3, 4] {
        table.submit(id);
    }
    assert_eq!(table.committed(), ["ticket 1 Committed", "write 1 2 3 4"]);
    assert_eq!(table.written(WriteResult::Rejected), ["write 1 2"]);
    assert_eq!(
        table.committed(),
        ["ticket 2 Committed", "ticket 3 Committed", "write 3 4"]
    );
    assert_eq!(table.written(WriteResult::Rejected), ["write 3"]);
    assert_eq!(
        table.written(WriteResult::Rejected),
        ["ticket 4 NotWritten", "write 4"]
    );
    assert_eq!(table.committed(), ["ticket 5 Committed"]);
    assert!(table.core.is_idle());
}

#[tokio::test]
async fn an_outage_keeps_finishes() {
    let mut table = Table::finishes();
    table.submit(1);
    table.submit(2);
    table.fail_for(Duration::from_secs(300));
    assert_eq!(table.core.unwritten(), [1, 2].map(Uuid::from_u128));
    assert_eq!(table.submit(3), NOTHING);
    assert_eq!(table.pass(LONGEST_PAUSE), ["write 1"]);
    assert_eq!(table.committed(), ["ticket 1 Committed", "write 2 3"]);
    assert_eq!(table.core.failing_since(), None);
    table.committed();
    assert!(table.core.unwritten().is_empty());
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
    assert_eq!(
        table.pass(FIRST_PAUSE),
        ["write 1"],
        "what the store never saw is kept from it"
    );
    assert_eq!(
        table.pass(BEGIN_DEADLINE),
        ["ticket 2 NotWritten", "ticket 1 Uncertain"],
        "one may have been written, the other was never tried"
    );
    assert!(table.core.unwritten().len() == 1, "the write is still in flight");
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
    assert_eq!((table.core.failing_since(), table.core.next_wake()), (None, None));
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
    assert_eq!(table.core.next_wake(), None);
    table.submit(1);
    table.submit(2);
    assert_eq!(table.core.next_wake(), Some(table.now + BEGIN_DEADLINE));
    table.written(WriteResult::Unavailable);
    assert_eq!(table.core.next_wake(), Some(table.now + FIRST_PAUSE));
    let mut table = Table::finishes();
    table.submit(1);
    assert_eq!(table.core.next_wake(), None);
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
