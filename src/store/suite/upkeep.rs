//! Old rows: settled when orphaned, deleted when they are old enough, and nobody else's.

use std::collections::HashSet;
use std::time::Duration;

use adit_actors::audit::{AuditRow, Chore, DueRow, Half, RowStatus};
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::{NONE, aged, finished, foreign, statuses, write};
use super::{Harness, added, perform, running, workspace};

async fn settle(harness: &Harness, older_than: Duration) -> Vec<Uuid> {
    perform(harness.store.as_ref(), Chore::Settle(older_than), 10).await
}

async fn delete(harness: &Harness, age: Duration, limit: u32) -> usize {
    perform(harness.store.as_ref(), Chore::Delete(age), limit)
        .await
        .len()
}

pub(in crate::store) async fn retention_deletes_the_oldest_that_have_ended(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let day = Duration::from_secs(86_400);
    let ended: Vec<_> = (1..=5)
        .map(|days| aged(finished(&running(id)), day * days + day / 2))
        .collect();
    let orphan = aged(running(id), day * 40);
    harness.store.write(Half::Finish, &ended).await.unwrap();
    write(&harness, Half::Begin, &orphan).await;
    let other = Uuid::new_v4();
    foreign(&harness, other, id, "ok").await;

    let left = async || -> Vec<Uuid> { statuses(&harness).await.into_iter().map(|(id, _)| id).collect() };
    let kept = |youngest: usize| {
        let mut kept = vec![other, orphan.id];
        kept.extend(ended[..youngest].iter().rev().map(|row| row.id));
        kept
    };
    assert_eq!(delete(&harness, day * 6, 10).await, 0);
    assert_eq!(left().await, kept(5), "young rows stay");
    assert_eq!(delete(&harness, day * 2, 0).await, 0);
    assert_eq!(delete(&harness, day * 2, 3).await, 3);
    assert_eq!(left().await, kept(2), "the oldest go first, as many as were said");
    assert_eq!(delete(&harness, day * 2, 3).await, 1);
    assert_eq!(left().await, kept(1));
    assert_eq!(delete(&harness, day * 2, 3).await, 0);
    assert_eq!(
        left().await,
        kept(1),
        "running rows and those of others stay, however old"
    );
}

pub(in crate::store) async fn rows_are_due_page_by_page(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let age = Duration::from_secs(60);
    // Two each were admitted in the same microsecond.
    let at = running(id).created_at - 10 * age;
    let at = at.replace_microsecond(at.microsecond()).unwrap();
    let row = |number: u32| AuditRow {
        created_at: at + Duration::from_micros((number / 2).into()),
        ..running(id)
    };
    let orphans: Vec<_> = (0..7).map(row).collect();
    let ended: Vec<_> = (0..7).map(|number| finished(&row(number))).collect();
    harness.store.write(Half::Begin, &orphans).await.unwrap();
    harness.store.write(Half::Finish, &ended).await.unwrap();
    foreign(&harness, Uuid::new_v4(), id, "running").await;
    // What is settled has ended.
    let all_ended = [orphans.clone(), ended].concat();
    for (chore, rows) in [(Chore::Settle(age), orphans), (Chore::Delete(age), all_ended)] {
        let due_row = |row: &AuditRow| DueRow {
            created_at: row.created_at,
            id: row.id,
            workspace_id: row.workspace_id,
        };
        let mut expected: Vec<_> = rows.iter().map(due_row).collect();
        expected.sort();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = harness.store.due(chore, after, 2).await.unwrap();
            assert!(page.len() <= 2);
            after = page.last().copied();
            if after.is_none() {
                break;
            }
            seen.extend(page);
        }
        assert_eq!(seen, expected, "{chore:?}");

        // What was due a moment ago is looked at again: the other chore's rows, the young, and another's row.
        let young = match chore {
            Chore::Settle(_) => Chore::Settle(11 * age),
            Chore::Delete(_) => Chore::Delete(11 * age),
        };
        let all: Vec<_> = harness
            .database
            .activities()
            .await
            .iter()
            .map(|row| row.id)
            .collect();
        assert_eq!(harness.store.perform(young, &all).await.unwrap(), NONE);
        let done = harness.store.perform(chore, &all).await.unwrap();
        let done: HashSet<_> = done.into_iter().collect();
        assert_eq!(done, rows.iter().map(|row| row.id).collect(), "{chore:?}");
        assert_eq!(harness.store.due(chore, None, 100).await.unwrap(), []);
    }
}

/// Without the first attempt's row the next request would begin at the first attempt again.
pub(in crate::store) async fn retention_keeps_the_attempts_of_a_key_together(harness: Harness) {
    let day = Duration::from_secs(86_400);
    let [mine, other] = [
        added(&harness, workspace("mine", None)).await,
        added(&harness, workspace("other", None)).await,
    ];
    let attempt = |workspace_id, hmac, days: u32| AuditRow {
        body_hmac: Some([hmac; 32]),
        ..aged(running(workspace_id), day * days)
    };
    let failed = |row: AuditRow| AuditRow {
        status: RowStatus::Error,
        response_body: Some(json!({"outcome": "failed", "ran": "no"})),
        ..row
    };
    let first = failed(attempt(mine, 1, 30));
    let second = failed(attempt(mine, 1, 20));
    let third = finished(&attempt(mine, 1, 3));
    let of_another_key = failed(attempt(mine, 2, 30));
    let of_another_workspace = failed(attempt(other, 1, 30));
    let without_a_key = finished(&aged(running(mine), day * 30));
    let before_one_that_runs = failed(attempt(mine, 3, 30));
    let that_runs = attempt(mine, 3, 10);
    let ended = [
        &first,
        &second,
        &third,
        &of_another_key,
        &of_another_workspace,
        &without_a_key,
        &before_one_that_runs,
    ];
    let ended: Vec<_> = ended.into_iter().cloned().collect();
    harness.store.write(Half::Finish, &ended).await.unwrap();
    write(&harness, Half::Begin, &that_runs).await;

    let left = async || -> HashSet<Uuid> { statuses(&harness).await.into_iter().map(|(id, _)| id).collect() };
    assert_eq!(delete(&harness, day * 5, 10).await, 3);
    let kept = [&first, &second, &third, &before_one_that_runs, &that_runs].map(|row| row.id);
    assert_eq!(left().await, HashSet::from(kept));

    write(&harness, Half::Finish, &finished(&that_runs)).await;
    assert_eq!(delete(&harness, day * 2, 10).await, 5);
    assert_eq!(left().await, HashSet::new(), "the last is old too");
}

pub(in crate::store) async fn sweep_settles_only_old_running_execs(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let limit = Duration::from_secs(600);
    let (older, younger) = (Duration::from_secs(660), Duration::from_secs(540));
    let orphan = AuditRow {
        // Only the end of it is the state.
        summary: "exec déjà: running: running".to_owned(),
        ..aged(running(id), older)
    };
    let fresh = aged(running(id), younger);
    let ended = aged(finished(&running(id)), older);
    harness
        .store
        .write(Half::Begin, &[orphan.clone(), fresh.clone()])
        .await
        .unwrap();
    write(&harness, Half::Finish, &ended).await;
    let other = Uuid::new_v4();
    foreign(&harness, other, id, "running").await;

    assert_eq!(settle(&harness, limit).await, [orphan.id]);
    assert!(settle(&harness, limit).await.is_empty(), "it is settled once");

    let rows = harness.database.activities().await;
    let status = |id| {
        rows.iter()
            .find(|row| row.id == id)
            .unwrap()
            .status
            .clone()
            .unwrap()
    };
    assert_eq!(
        [orphan.id, fresh.id, ended.id, other].map(status),
        ["error", "running", "ok", "running"].map(str::to_owned)
    );
    let settled = rows.iter().find(|row| row.id == orphan.id).unwrap();
    assert_eq!(settled.request_body, Some(orphan.request_body));
    assert_eq!(
        settled.summary.as_deref(),
        Some("exec déjà: running: ended, how is not known")
    );
    assert!(
        settled
            .error_detail
            .as_deref()
            .is_some_and(|detail| detail.contains("stopped"))
    );
    let body = settled.response_body.as_ref().unwrap();
    for (member, value) in [
        ("exec_id", json!(orphan.id)),
        ("state", json!("ended")),
        ("ran", json!("unknown")),
        ("outcome", json!("unknown")),
        ("ended_by", json!("crash")),
        ("timeout_s", json!(30)),
        ("exit_code", Value::Null),
        ("streams", Value::Null),
        ("duration_ms", Value::Null),
        ("timing_ms", Value::Null),
        ("audit", json!({"id": orphan.id, "committed": true})),
    ] {
        assert_eq!(body.get(member), Some(&value), "{member}");
    }
}

pub(in crate::store) async fn a_late_finish_replaces_what_the_sweep_wrote(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let begun = aged(running(id), Duration::from_secs(10));
    write(&harness, Half::Begin, &begun).await;
    assert_eq!(settle(&harness, Duration::ZERO).await, [begun.id]);
    let another_try = AuditRow {
        attempt_nonce: Uuid::new_v4(),
        ..finished(&begun)
    };
    assert_eq!(
        write(&harness, Half::Finish, &another_try).await,
        [begun.id],
        "a settled row still belongs to its try"
    );
    let finish = finished(&begun);
    assert_eq!(write(&harness, Half::Finish, &finish).await, NONE);
    let rows = harness.database.activities().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].response_body, finish.response_body);
    assert_eq!(
        (rows[0].status.as_deref(), &rows[0].error_detail),
        (Some("ok"), &None)
    );
}
