//! What is set aside, through the writer that does it.

use super::tests::{COMMITTED, NOTHING, Table};
use super::*;
use crate::audit::health::FIRST_PAUSE;

#[tokio::test]
async fn a_workspace_whose_rows_fail_holds_up_no_other() {
    let mut table = Table::finishes();
    for (workspace, id) in [(9, 9), (1, 1), (2, 2), (1, 3), (2, 4)] {
        table.submit_of(workspace, id);
    }
    assert_eq!(table.committed(), ["ticket 1 Committed", "write 1 2 3 4"]);
    assert_eq!(table.written(WriteResult::Failed), ["write "]);
    assert_eq!(table.committed(), ["aside 1"]);
    assert_eq!(table.submit_of(3, 5), ["write 5"], "others go on beside it");
    assert_eq!(table.committed(), ["ticket 6 Committed"]);
    assert_eq!(
        table.submit_of(1, 6),
        NOTHING,
        "whose fault it was is not known yet"
    );
    assert_eq!(table.aside(WriteResult::Failed), ["write "]);
    assert_eq!(table.committed(), ["aside 2"]);
    assert_eq!(
        table.aside(COMMITTED),
        ["ticket 3 Committed", "write 4"],
        "what is free goes with a batch again"
    );
    assert_eq!(table.committed(), ["ticket 5 Committed"]);
    assert_eq!(
        table.pass(FIRST_PAUSE),
        ["aside 3"],
        "first those that never failed alone"
    );
    assert_eq!(table.aside(WriteResult::Failed), ["write "]);
    assert_eq!(table.committed(), NOTHING);
    assert_eq!(table.pass(FIRST_PAUSE), NOTHING, "the pause grows");
    assert_eq!(table.submit_of(2, 7), ["write 7"]);
    assert_eq!(table.committed(), ["ticket 8 Committed"]);
    assert_eq!(table.core.unwritten().len(), 3);
    assert_eq!(table.core.failing_since(), None);

    assert_eq!(table.pass(FIRST_PAUSE), ["aside 6"]);
    assert_eq!(
        table.aside(COMMITTED),
        ["ticket 7 Committed", "aside 1"],
        "it is free again"
    );
    assert_eq!(table.submit_of(1, 8), ["write 8"]);
    assert_eq!(table.aside(COMMITTED), ["ticket 2 Committed", "aside 3"]);
    assert_eq!(table.aside(COMMITTED), ["ticket 4 Committed"]);
    assert_eq!(table.committed(), ["ticket 9 Committed"]);
    assert!(table.core.is_idle());
}

/// Each of its tries may wait for a lock.
#[tokio::test]
async fn a_stuck_workspace_rests_longer_each_time() {
    let mut table = Table::finishes();
    table.submit(1);
    table.written(WriteResult::Failed);
    table.committed();
    for pause in [50, 100, 200, 400, 800, 1000, 1000] {
        let pause = Duration::from_millis(pause);
        assert_eq!(table.pass(pause - Duration::from_millis(1)), NOTHING, "{pause:?}");
        assert_eq!(table.pass(Duration::from_millis(1)), ["aside 1"], "{pause:?}");
        assert_eq!(
            table.aside(WriteResult::Failed),
            ["write "],
            "is it still the row?"
        );
        assert_eq!(table.committed(), NOTHING);
    }
    assert_eq!(table.core.failing_since(), None);
}

/// A row that is at fault by itself must not have its workspace's others wait for it.
#[tokio::test]
async fn a_row_at_fault_rests_alone_once_others_of_its_workspace_were_taken() {
    let mut table = Table::finishes();
    table.submit(1);
    table.written(WriteResult::Failed);
    table.committed();
    table.submit(2);
    assert_eq!(table.pass(FIRST_PAUSE), ["aside 2"]);
    assert_eq!(table.aside(COMMITTED), ["ticket 2 Committed", "aside 1"]);
    assert_eq!(table.aside(WriteResult::Failed), ["write "]);
    assert_eq!(table.committed(), NOTHING);
    for id in 3..10 {
        assert_eq!(table.submit(id), [format!("write {id}")]);
        assert_eq!(
            table.committed(),
            [format!("ticket {id} Committed")],
            "nothing is due"
        );
    }
    assert_eq!(table.core.unwritten(), [Uuid::from_u128(1)]);
}

/// Or each caller who comes back would make a batch of others fail.
#[tokio::test]
async fn a_workspace_that_failed_is_remembered() {
    let mut table = Table::begins();
    table.submit_of(1, 1);
    table.written(WriteResult::Failed);
    table.committed();
    table.fail_aside_for(BEGIN_DEADLINE);
    assert!(table.core.is_idle());
    table.pass(Duration::from_secs(50));
    assert_eq!(table.submit_of(2, 2), ["write 2"]);
    assert_eq!(table.submit_of(1, 3), NOTHING);
    assert_eq!(table.committed(), ["ticket 2 Committed", "aside 3"], "by itself");
    assert_eq!(table.aside(COMMITTED), ["ticket 3 Committed"]);
    assert_eq!(table.submit_of(1, 4), ["write 4"]);
}

#[tokio::test]
async fn a_begin_that_is_aside_is_given_up_at_its_deadline() {
    let mut table = Table::begins();
    for id in 1..=3 {
        table.submit(id);
    }
    assert_eq!(table.written(WriteResult::Failed), ["write "]);
    assert_eq!(table.committed(), NOTHING, "the others are of the same workspace");
    assert_eq!(table.pass(FIRST_PAUSE), ["aside 2"]);
    assert_eq!(
        table.pass(BEGIN_DEADLINE - FIRST_PAUSE),
        ["ticket 3 NotWritten", "ticket 1 NotWritten", "ticket 2 Uncertain"],
        "the store said that it did not write the first"
    );
    assert!(!table.core.is_idle(), "the write is still in flight");
    assert_eq!(table.aside(WriteResult::Failed), ["write "]);
    assert_eq!(table.committed(), NOTHING);
    assert!(table.core.is_idle());
    assert_eq!(table.next_wake(), None);
}

#[tokio::test]
async fn begins_that_are_aside_count() {
    let mut table = Table::begins();
    table.submit(1);
    table.written(WriteResult::Failed);
    table.committed();
    for id in 2..=4 {
        assert!(!table.is_refused(id));
    }
    assert!(table.is_refused(5));
}

#[tokio::test]
async fn a_row_that_gets_no_answer_twice_is_set_aside() {
    let mut table = Table::finishes();
    table.submit(1);
    for _ in 0..2 {
        assert_eq!(table.written(WriteResult::Unavailable), NOTHING);
        assert_eq!(table.pass(FIRST_PAUSE), ["write "]);
        table.committed();
    }
    assert_eq!(table.submit_of(2, 2), ["write 2"]);
    assert_eq!(table.core.unwritten().len(), 2);
    assert_eq!(table.aside(COMMITTED), ["ticket 1 Committed"]);
}
