//! Audit rows: written whole or not at all, never doubled, never another writer's.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use adit_actors::audit::{AuditRow, AuditStoreError, Half, RowStatus};
use serde_json::json;
use uuid::Uuid;

use super::{Activity, Harness, added, issued, running, workspace};
use crate::store::TokenScope;

/// No row belongs to others.
pub(super) const NONE: [Uuid; 0] = [];

pub(super) fn finished(begun: &AuditRow) -> AuditRow {
    AuditRow {
        status: RowStatus::Ok,
        response_body: Some(json!({"outcome": "exited", "exit_code": 0, "signal": null, "ratio": 0.25})),
        duration_ms: Some(12),
        ..begun.clone()
    }
}

pub(super) fn aged(mut row: AuditRow, age: Duration) -> AuditRow {
    row.created_at -= age;
    row
}

pub(super) async fn statuses(harness: &Harness) -> Vec<(Uuid, String)> {
    let rows = harness.database.activities().await;
    rows.into_iter()
        .map(|row| (row.id, row.status.unwrap_or_default()))
        .collect()
}

pub(in crate::store) async fn a_batch_is_written_whole(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let begun = running(id);
    let failed = AuditRow {
        status: RowStatus::Error,
        error_detail: Some("login_refused: it's 'quoted'".to_owned()),
        ..finished(&running(id))
    };
    let ended = AuditRow {
        status: RowStatus::Timeout,
        ..finished(&running(id))
    };
    for half in [Half::Begin, Half::Finish] {
        assert_eq!(harness.store.write(half, &[]).await.unwrap(), NONE, "a probe");
    }
    write(&harness, Half::Begin, &begun).await;
    harness
        .store
        .write(Half::Finish, &[failed.clone(), ended.clone()])
        .await
        .unwrap();

    let stored = harness.database.activities().await;
    assert_eq!(stored.len(), 3);
    for (row, status) in [(begun, "running"), (failed, "error"), (ended, "timeout")] {
        let expected = Activity {
            id: row.id,
            workspace_id: id,
            activity_type: "exec".to_owned(),
            method: Some("POST /workspaces/:id/exec".to_owned()),
            summary: Some(row.summary),
            request_body: Some(row.request_body),
            response_body: row.response_body,
            duration_ms: row.duration_ms,
            status: Some(status.to_owned()),
            error_detail: row.error_detail,
        };
        assert_eq!(stored.iter().find(|stored| stored.id == row.id), Some(&expected));
    }
}

pub(super) async fn write(harness: &Harness, half: Half, row: &AuditRow) -> Vec<Uuid> {
    let rows = std::slice::from_ref(row);
    harness.store.write(half, rows).await.unwrap()
}

pub(in crate::store) async fn a_begin_never_replaces_and_a_finish_always_does(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let begun = running(id);
    let finish = finished(&begun);
    let failed = AuditRow {
        status: RowStatus::Error,
        ..finish.clone()
    };
    for (what, half, row, status) in [
        ("a begin", Half::Begin, &begun, "running"),
        ("its acknowledgement was lost", Half::Begin, &begun, "running"),
        ("a finish", Half::Finish, &finish, "ok"),
        ("a begin that comes late", Half::Begin, &begun, "ok"),
        ("its acknowledgement was lost", Half::Finish, &finish, "ok"),
        ("a finish that knows better", Half::Finish, &failed, "error"),
    ] {
        assert_eq!(
            write(&harness, half, row).await,
            NONE,
            "{what}: the row is its own"
        );
        assert_eq!(
            statuses(&harness).await,
            [(begun.id, status.to_owned())],
            "{what}"
        );
    }
    let unannounced = finished(&running(id));
    assert_eq!(
        write(&harness, Half::Finish, &unannounced).await,
        NONE,
        "a finish needs no begin"
    );
    assert_eq!(write(&harness, Half::Begin, &unannounced).await, NONE);
    assert!(
        statuses(&harness)
            .await
            .contains(&(unannounced.id, "ok".to_owned()))
    );
}

/// Two replicas, or two processes one after the other, want one id; the row is the first one's in each of its states.
pub(in crate::store) async fn a_row_stays_with_the_try_that_began_it(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let first = AuditRow {
        body_hmac: Some([7; 32]),
        ..running(id)
    };
    let second = AuditRow {
        attempt_nonce: Uuid::new_v4(),
        body_hmac: None,
        ..first.clone()
    };
    let beside = running(id);
    assert_eq!(write(&harness, Half::Begin, &first).await, NONE);
    let lost = harness
        .store
        .write(Half::Begin, &[second.clone(), beside.clone()])
        .await
        .unwrap();
    assert_eq!(lost, [first.id], "and the rest of the batch is in");
    let lost = harness
        .store
        .write(Half::Finish, &[finished(&beside), finished(&second)])
        .await
        .unwrap();
    assert_eq!(lost, [first.id]);
    let stored = harness.store.exec(first.id, None).await.unwrap().unwrap();
    assert_eq!(
        (stored.status, stored.body_hmac),
        (RowStatus::Running, Some([7; 32]))
    );
    assert!(statuses(&harness).await.contains(&(beside.id, "ok".to_owned())));

    assert_eq!(write(&harness, Half::Finish, &finished(&first)).await, NONE);
    let stored = harness.store.exec(first.id, None).await.unwrap();
    for half in [Half::Begin, Half::Finish] {
        let late = AuditRow {
            status: RowStatus::Error,
            ..finished(&second)
        };
        assert_eq!(write(&harness, half, &late).await, [first.id]);
        assert_eq!(harness.store.exec(first.id, None).await.unwrap(), stored);
    }
}

pub(in crate::store) async fn of_many_tries_at_once_one_gets_the_row(harness: Harness) {
    const TRIES: usize = 12;
    const ROWS: usize = 300;
    let id = added(&harness, workspace("mine", None)).await;
    // Those of each half come in an order of their own: a store that locks rows as they come may deadlock.
    let ids: Vec<_> = (0..ROWS).map(|_| Uuid::new_v4()).collect();
    let backwards: Vec<_> = ids.iter().rev().copied().collect();
    let batches: Vec<_> = (0..TRIES)
        .map(|number| {
            let (half, ids) = if number % 2 == 0 {
                (Half::Begin, &ids)
            } else {
                (Half::Finish, &backwards)
            };
            let row = |exec: &Uuid| AuditRow {
                id: *exec,
                ..running(id)
            };
            (half, ids.iter().map(row).collect::<Vec<_>>())
        })
        .collect();
    let writes = batches
        .iter()
        .map(|(half, rows)| harness.store.write(*half, rows));
    let lost = futures_util::future::join_all(writes).await;
    let lost: Vec<HashSet<Uuid>> = lost
        .into_iter()
        .map(|lost| lost.unwrap().into_iter().collect())
        .collect();
    for exec in ids {
        let owners = lost.iter().filter(|lost| !lost.contains(&exec));
        assert_eq!(owners.count(), 1, "{exec}");
    }
    assert_eq!(statuses(&harness).await.len(), ROWS);
}

pub(in crate::store) async fn a_poisoned_batch_writes_nothing(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let good = running(id);
    let in_json = AuditRow {
        request_body: json!({"cmd": [{"a\0": 1}]}),
        ..running(id)
    };
    let poisons = [
        ("a workspace that is gone", running(Uuid::new_v4())),
        (
            "NUL in a text",
            AuditRow {
                summary: "a\0b".to_owned(),
                ..running(id)
            },
        ),
        (
            "NUL in an error",
            AuditRow {
                error_detail: Some("\0".to_owned()),
                ..running(id)
            },
        ),
        ("NUL in the request", in_json),
        (
            "NUL in the response",
            AuditRow {
                response_body: Some(json!("\0")),
                ..finished(&running(id))
            },
        ),
    ];
    for (what, poison) in poisons {
        for half in [Half::Begin, Half::Finish] {
            let result = harness.store.write(half, &[good.clone(), poison.clone()]).await;
            assert!(
                matches!(result, Err(AuditStoreError::Rejected(_))),
                "{what}: {result:?}"
            );
            assert_eq!(statuses(&harness).await, [], "{what}");
        }
    }
    write(&harness, Half::Begin, &good).await;
    assert_eq!(statuses(&harness).await.len(), 1);
}

pub(in crate::store) async fn another_writers_row_is_never_touched(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let row = running(id);
    foreign(&harness, row.id, id, "ok").await;
    let before = harness.database.activities().await;
    assert_eq!(write(&harness, Half::Begin, &row).await, [row.id]);
    assert_eq!(write(&harness, Half::Finish, &finished(&row)).await, [row.id]);
    assert_eq!(harness.database.activities().await, before);
    assert_eq!(harness.store.exec(row.id, None).await.unwrap(), None);

    let mine = finished(&running(id));
    let lost = harness
        .store
        .write(Half::Finish, &[mine, finished(&row)])
        .await
        .unwrap();
    assert_eq!(lost, [row.id]);
    let rows = harness.database.activities().await;
    assert_eq!((rows.len(), &rows[..1]), (2, &before[..]));
}

/// A row of another writer, from long ago.
pub(super) async fn foreign(harness: &Harness, id: Uuid, workspace_id: Uuid, status: &str) {
    let insert = format!(
        "INSERT INTO activity_logs (id, workspace_id, activity_type, status, created_at)
         VALUES ('{id}', '{workspace_id}', 'a2a_send', '{status}', '2020-01-01T00:00:00.000000Z')"
    );
    harness.database.execute(&insert).await;
}

pub(in crate::store) async fn concurrent_writers_lose_nothing(harness: Harness) {
    const WRITERS: usize = 16;
    const ROWS: usize = 20;
    let id = added(&harness, workspace("mine", None)).await;
    let token = issued(&harness, TokenScope::Org(None), 1).await;
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = Arc::clone(&harness.store);
            tokio::spawn(async move {
                for _ in 0..ROWS {
                    let begun = running(id);
                    store
                        .write(Half::Begin, std::slice::from_ref(&begun))
                        .await
                        .unwrap();
                    store.authorize(token.hash, Some(id), Some(id)).await.unwrap();
                    store.write(Half::Finish, &[finished(&begun)]).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rows = statuses(&harness).await;
    assert_eq!(rows.len(), WRITERS * ROWS);
    assert!(rows.iter().all(|(_, status)| status == "ok"));
}
