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
    fn new() -> Self {
        Self {
            core: GroupCommit::new(4),
            now: Instant::now(),
        }
    }

    fn begin(&mut self, id: u128) -> Vec<String> {
        let half = Half::Begin {
            deadline: self.now + Duration::from_secs(5),
        };
        names(self.core.submit(row(id), half, self.now).1)
    }

    fn finish(&mut self, id: u128) -> Vec<String> {
        names(self.core.submit(row(id), Half::Finish, self.now).1)
    }

    fn written(&mut self, result: WriteResult) -> Vec<String> {
        names(self.core.written(result, self.now))
    }

    fn pass(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        names(self.core.wake(self.now))
    }
}

#[tokio::test]
async fn an_idle_writer_commits_at_once_and_gathers_meanwhile() {
    let mut table = Table::new();
    assert_eq!(table.begin(1), ["write 1"]);
    assert_eq!(table.begin(2), [""; 0]);
    assert_eq!(table.finish(3), [""; 0]);
    assert_eq!(
        table.written(WriteResult::Committed),
        ["ticket 1 Committed", "write 2 3"]
    );
    assert_eq!(
        table.written(WriteResult::Committed),
        ["ticket 2 Committed", "ticket 3 Committed"]
    );
    assert!(table.core.is_idle());
}

#[tokio::test]
async fn begin_and_finish_of_one_row_never_share_a_statement() {
    let mut table = Table::new();
    table.begin(9);
    table.begin(1);
    table.finish(1);
    table.finish(2);
    assert_eq!(
        table.written(WriteResult::Committed),
        ["ticket 1 Committed", "write 1"]
    );
    assert_eq!(
        table.written(WriteResult::Committed),
        ["ticket 2 Committed", "write 1 2"]
    );
}

#[tokio::test]
async fn a_poisoned_batch_is_split_until_the_others_are_in() {
    let mut table = Table::new();
    table.begin(9);
    for id in 1..=4 {
        table.finish(id);
    }
    assert_eq!(
        table.written(WriteResult::Committed),
        ["ticket 1 Committed", "write 1 2 3 4"]
    );
    assert_eq!(table.written(WriteResult::Rejected), ["write 1 2"]);
    assert_eq!(
        table.written(WriteResult::Committed),
        ["ticket 2 Committed", "ticket 3 Committed", "write 3 4"]
    );
    assert_eq!(table.written(WriteResult::Rejected), ["write 3"]);
    assert_eq!(
        table.written(WriteResult::Rejected),
        ["ticket 4 NotWritten", "write 4"]
    );
    assert_eq!(table.written(WriteResult::Committed), ["ticket 5 Committed"]);
    assert!(table.core.is_idle());
}

#[tokio::test]
async fn an_outage_keeps_finishes_and_gives_up_begins_at_their_deadline() {
    let mut table = Table::new();
    table.begin(1);
    table.finish(2);
    assert_eq!(table.written(WriteResult::Unavailable), [""; 0]);
    assert_eq!(table.core.failing_since(), Some(table.now));
    table.begin(3);
    assert_eq!(table.pass(FIRST_PAUSE), ["write 1"]);
    table.now += Duration::from_secs(5);
    assert_eq!(
        table.written(WriteResult::Unavailable),
        ["ticket 3 NotWritten", "ticket 1 Uncertain"],
        "one may have been written, the other was never tried"
    );
    assert_eq!(table.core.unwritten(), [Uuid::from_u128(2)]);
    assert_eq!(table.pass(LONGEST_PAUSE), ["write 2"]);
    assert_eq!(table.written(WriteResult::Committed), ["ticket 2 Committed"]);
    assert_eq!(table.core.failing_since(), None);
    assert!(table.core.unwritten().is_empty());
}

#[tokio::test]
async fn begins_are_bounded_and_finishes_are_not() {
    let mut table = Table::new();
    for id in 1..=5 {
        table.begin(id);
    }
    let half = Half::Begin {
        deadline: table.now + Duration::from_secs(5),
    };
    assert_eq!(table.core.submit(row(6), half, table.now), (None, Vec::new()));
    assert!(table.core.submit(row(7), Half::Finish, table.now).0.is_some());
}

#[tokio::test]
async fn wakes_for_deadlines_and_retries() {
    let mut table = Table::new();
    assert_eq!(table.core.next_wake(), None);
    table.begin(1);
    table.begin(2);
    assert_eq!(table.core.next_wake(), Some(table.now + Duration::from_secs(5)));
    table.written(WriteResult::Unavailable);
    assert_eq!(table.core.next_wake(), Some(table.now + FIRST_PAUSE));
}

#[tokio::test]
async fn a_write_that_hangs_holds_no_begin_past_its_deadline() {
    let mut table = Table::new();
    table.begin(1);
    table.finish(2);
    assert_eq!(table.core.next_wake(), Some(table.now + Duration::from_secs(5)));
    assert_eq!(table.pass(Duration::from_secs(5)), ["ticket 1 Uncertain"]);
    assert_eq!(table.core.next_wake(), None);
    assert_eq!(table.written(WriteResult::Committed), ["write 2"], "told once");
}
