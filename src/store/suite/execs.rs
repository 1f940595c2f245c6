//! Execs read back from their rows, one at a time and page by page.

use std::time::Duration;

use adit_actors::audit::{AuditRow, Half, RowStatus};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

use super::{Harness, added, running, workspace};
use crate::store::{ExecQuery, StoredExec};

const ADMITTED: OffsetDateTime = datetime!(2026-01-02 03:04:05.123456 UTC);

fn stored(row: AuditRow) -> StoredExec {
    StoredExec {
        id: row.id,
        workspace_id: row.workspace_id,
        status: row.status,
        summary: Some(row.summary),
        request_body: Some(row.request_body),
        response_body: row.response_body,
        error_detail: row.error_detail,
        created_at: row.created_at,
        body_hmac: row.body_hmac,
    }
}

pub(in crate::store) async fn an_exec_is_read_back_as_it_was_written(harness: Harness) {
    let id = added(&harness, workspace("mine", None)).await;
    let begun = AuditRow {
        created_at: ADMITTED,
        ..running(id)
    };
    let ended = AuditRow {
        status: RowStatus::Timeout,
        response_body: Some(json!({"outcome": "timeout", "timing_ms": {"run": 0.125}})),
        duration_ms: Some(30_000),
        error_detail: Some("é".to_owned()),
        body_hmac: Some(std::array::from_fn(|number| u8::try_from(number * 8).unwrap())),
        created_at: ADMITTED + Duration::from_micros(1),
        ..running(id)
    };
    harness
        .store
        .write(Half::Begin, std::slice::from_ref(&begun))
        .await
        .unwrap();
    harness
        .store
        .write(Half::Finish, std::slice::from_ref(&ended))
        .await
        .unwrap();
    for row in [begun, ended] {
        for of in [None, Some(id)] {
            let found = harness.store.exec(row.id, of).await.unwrap();
            assert_eq!(found, Some(stored(row.clone())), "asked as {of:?}");
        }
        let of_another = harness.store.exec(row.id, Some(Uuid::new_v4())).await.unwrap();
        assert_eq!(of_another, None);
    }
    assert_eq!(harness.store.exec(Uuid::new_v4(), None).await.unwrap(), None);
}

pub(in crate::store) async fn execs_are_listed_page_by_page(harness: Harness) {
    let store = &harness.store;
    let mine = added(&harness, workspace("mine", None)).await;
    let other = added(&harness, workspace("other", None)).await;
    // Of three execs each that were admitted in the same microsecond, one belongs to another workspace.
    let mut rows: Vec<AuditRow> = (0..12_u32)
        .map(|number| AuditRow {
            created_at: ADMITTED + Duration::from_secs(1) * (number / 3),
            status: if number % 2 == 0 {
                RowStatus::Ok
            } else {
                RowStatus::Error
            },
            ..running(if number % 3 == 0 { other } else { mine })
        })
        .collect();
    store.write(Half::Finish, &rows).await.unwrap();
    let foreign = format!(
        "INSERT INTO activity_logs (id, workspace_id, activity_type) VALUES ('{}', '{mine}', 'task')",
        Uuid::new_v4()
    );
    harness.database.execute(&foreign).await;
    rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));

    let since = ADMITTED + Duration::from_secs(1);
    for (workspace_id, status, since) in [
        (None, None, None),
        (Some(mine), None, None),
        (None, Some(RowStatus::Error), None),
        (Some(mine), Some(RowStatus::Ok), None),
        (None, None, Some(since)),
        (None, None, Some(since + Duration::from_micros(1))),
        (Some(other), Some(RowStatus::Error), Some(since)),
        (Some(mine), Some(RowStatus::Running), None),
        (Some(Uuid::new_v4()), None, None),
    ] {
        let expected: Vec<_> = rows
            .iter()
            .filter(|row| workspace_id.is_none_or(|id| row.workspace_id == id))
            .filter(|row| status.is_none_or(|status| row.status == status))
            .filter(|row| since.is_none_or(|since| row.created_at >= since))
            .map(|row| row.id)
            .collect();
        for limit in [1, 2, 5, 100] {
            let mut query = ExecQuery {
                workspace_id,
                status,
                since,
                after: None,
                limit,
            };
            let mut seen = Vec::new();
            loop {
                let page = store.list_execs(&query).await.unwrap();
                assert!(page.len() <= limit as usize);
                let Some(last) = page.last() else {
                    break;
                };
                query.after = Some((last.created_at, last.id));
                seen.extend(page.iter().map(|exec| exec.id));
            }
            assert_eq!(seen, expected, "{query:?}");
        }
    }
    let gone = ExecQuery {
        after: Some((since, Uuid::nil())),
        limit: 100,
        ..ExecQuery::default()
    };
    let page = store.list_execs(&gone).await.unwrap();
    assert_eq!(
        page.into_iter().map(|exec| exec.id).collect::<Vec<_>>(),
        rows[9..].iter().map(|row| row.id).collect::<Vec<_>>(),
        "what a page goes on from need not be there"
    );
}
