//! Audit rows: written whole or not at all, never doubled, never another writer's, and settled when orphaned.

use std::sync::Arc;
use std::time::Duration;

use adit_actors::audit::{AuditRow, AuditStoreError, Half, RowStatus};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Activity, Harness, added, issued, running, workspace};
use crate::store::TokenScope;

fn finished(begun: &AuditRow) -> AuditRow {
    AuditRow {
        status: RowStatus::Ok,
        response_body: Some(json!({"outcome": "exited", "exit_code": 0, "signal": null, "ratio": 0.25})),
        duration_ms: Some(12),
        ..begun.clone()
    }
}

fn aged(mut row: AuditRow, age: Duration) -> AuditRow {
    row.created_at -= age;
    row
}

async fn statuses(harness: &Harness) -> Vec<(Uuid, String)> {
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
    harness.store.write(Half::Finish, &[]).await.unwrap();
    harness
        .store
        .write(Half::Finish, &[begun.clone(), failed.clone(), ended.clone()])
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

pub(in crate::store) async fn a_begin_never_replaces_and_a_finish_always_does(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let begun = running(id);
    let finish = finished(&begun);
    let failed = AuditRow {
        status: RowStatus::Error,
        ..finish.clone()
    };
    for (rows, status) in [
        (vec![begun.clone()], "running"),
        (vec![begun.clone()], "running"),
        (vec![finish.clone()], "ok"),
        (vec![begun.clone()], "ok"),
        (vec![finish.clone()], "ok"),
        (vec![failed], "error"),
        (vec![begun.clone(), finish.clone()], "ok"),
        (vec![finish.clone(), begun.clone()], "ok"),
    ] {
        harness.store.write(Half::Finish, &rows).await.unwrap();
        assert_eq!(statuses(&harness).await, [(begun.id, status.to_owned())]);
    }
    let unannounced = finished(&running(id));
    harness
        .store
        .write(Half::Finish, std::slice::from_ref(&unannounced))
        .await
        .unwrap();
    assert!(
        statuses(&harness)
            .await
            .contains(&(unannounced.id, "ok".to_owned())),
        "a finish needs no begin"
    );
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
        let result = harness.store.write(Half::Finish, &[good.clone(), poison]).await;
        assert!(
            matches!(result, Err(AuditStoreError::Rejected(_))),
            "{what}: {result:?}"
        );
        assert_eq!(statuses(&harness).await, [], "{what}");
    }
    harness.store.write(Half::Finish, &[good]).await.unwrap();
    assert_eq!(statuses(&harness).await.len(), 1);
}

pub(in crate::store) async fn another_writers_row_is_never_touched(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let row = running(id);
    let insert = format!(
        "INSERT INTO activity_logs (id, workspace_id, activity_type, status, created_at)
         VALUES ('{}', '{id}', 'a2a_send', 'ok', '2020-01-01T00:00:00.000000Z')",
        row.id
    );
    harness.database.execute(&insert).await;
    let before = harness.database.activities().await;
    for rows in [
        vec![row.clone()],
        vec![finished(&row)],
        vec![running(id), finished(&row)],
    ] {
        let result = harness.store.write(Half::Finish, &rows).await;
        assert!(matches!(result, Err(AuditStoreError::Rejected(_))), "{result:?}");
        assert_eq!(harness.database.activities().await, before);
    }
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
        .write(Half::Finish, &[orphan.clone(), fresh.clone(), ended.clone()])
        .await
        .unwrap();
    let foreign = Uuid::new_v4();
    harness
        .database
        .execute(&format!(
            "INSERT INTO activity_logs (id, workspace_id, activity_type, status, created_at)
             VALUES ('{foreign}', '{id}', 'task', 'running', '2020-01-01T00:00:00.000000Z')"
        ))
        .await;

    assert_eq!(harness.store.sweep(limit).await.unwrap(), [orphan.id]);
    assert!(
        harness.store.sweep(limit).await.unwrap().is_empty(),
        "it is settled once"
    );

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
        [orphan.id, fresh.id, ended.id, foreign].map(status),
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
        ("audit", json!({"id": orphan.id, "committed": true})),
    ] {
        assert_eq!(body.get(member), Some(&value), "{member}");
    }
    assert_eq!(body.get("stdout"), None, "what nobody knows is not claimed");
}

pub(in crate::store) async fn a_late_finish_replaces_what_the_sweep_wrote(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let begun = aged(running(id), Duration::from_secs(10));
    harness
        .store
        .write(Half::Finish, std::slice::from_ref(&begun))
        .await
        .unwrap();
    assert_eq!(harness.store.sweep(Duration::ZERO).await.unwrap(), [begun.id]);
    let finish = finished(&begun);
    harness
        .store
        .write(Half::Finish, std::slice::from_ref(&finish))
        .await
        .unwrap();
    let rows = harness.database.activities().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].response_body, finish.response_body);
    assert_eq!(
        (rows[0].status.as_deref(), &rows[0].error_detail),
        (Some("ok"), &None)
    );
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
                        .write(Half::Finish, std::slice::from_ref(&begun))
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
