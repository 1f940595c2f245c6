//! The three accounts of what happened held against each other: the instance's, the callers' and the store's.

use std::collections::{HashMap, HashSet};
use std::fmt;

use adit_actors::exec::Exec;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::load::Heard;
use crate::support::rows::Row;
use crate::support::store::TestStore;
use crate::support::wait;

/// How many of what there were, for a test to see that something happened at all.
#[derive(Clone, Copy)]
pub(crate) struct Totals {
    /// Rows.
    pub(crate) rows: usize,
    /// Commands that ran.
    pub(crate) begun: usize,
    /// Execs whose end a caller heard with `committed: true`.
    pub(crate) promised: usize,
    /// Rows that a sweep had to settle.
    pub(crate) swept: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rows,
            begun,
            promised,
            swept,
        } = self;
        write!(
            formatter,
            "{rows} rows, {begun} commands ran, {promised} ends were promised, {swept} rows had to be settled"
        )
    }
}

/// Waits until every row is final.
pub(crate) async fn all_final(store: &TestStore) -> Vec<Row> {
    wait::until("every row is final", async || {
        let rows = store.rows().await;
        rows.iter().all(|row| row.status != "running").then_some(rows)
    })
    .await
}

/// Every command that ran is one row, every row is one command or says that it may be none, and no row says anything else
/// than its caller was promised.
pub(crate) fn check(rows: &[Row], begun: &[Uuid], heard: &[Heard]) -> Totals {
    let by_id: HashMap<Uuid, &Row> = rows.iter().map(|row| (row.id, row)).collect();
    assert_eq!(by_id.len(), rows.len(), "an id has one row");
    let ran: HashSet<Uuid> = begun.iter().copied().collect();
    assert_eq!(ran.len(), begun.len(), "a command ran twice");
    for id in &ran {
        assert!(by_id.contains_key(id), "`{id}` ran and has no row");
    }
    for row in rows {
        check_row(row, ran.contains(&row.id));
    }
    let told: Vec<&Exec> = heard.iter().filter_map(|heard| heard.exec.as_ref()).collect();
    let promised: Vec<&Exec> = told.into_iter().filter(|exec| exec.audit.committed).collect();
    for exec in &promised {
        let row = by_id
            .get(&exec.exec_id)
            .unwrap_or_else(|| panic!("the row that was promised is lost: {exec:?}"));
        assert_eq!(
            ends(&row.response_body),
            ends(&Some(json!(exec))),
            "{row:?}\n{exec:?}"
        );
    }
    Totals {
        rows: rows.len(),
        begun: begun.len(),
        promised: promised.len(),
        swept: rows
            .iter()
            .filter(|row| member(row, "ended_by") == "crash")
            .count(),
    }
}

fn check_row(row: &Row, did_run: bool) {
    assert_ne!(row.status, "running", "{row:?}");
    let ran = member(row, "ran");
    if did_run {
        assert_ne!(ran, "no", "it ran: {row:?}");
    } else {
        // A program that Adit stops may not get as far as its first word.
        let was_stopped = !member(row, "kill").is_null();
        assert!(
            ran == "no" || ran == "unknown" || was_stopped,
            "it did not run: {row:?}"
        );
    }
    let is_ok = member(row, "outcome") == "exited";
    assert_eq!(row.status == "ok", is_ok, "{row:?}");
}

fn member<'a>(row: &'a Row, name: &str) -> &'a Value {
    &row.response_body.as_ref().unwrap_or_else(|| panic!("{row:?}"))[name]
}

/// What an `Exec` says of how it ended.
fn ends(exec: &Option<Value>) -> Vec<Value> {
    let exec = exec.as_ref().unwrap();
    [
        "exec_id",
        "ran",
        "outcome",
        "ended_by",
        "exit_code",
        "signal",
        "error",
    ]
    .map(|name| exec[name].clone())
    .to_vec()
}
