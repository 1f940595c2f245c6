//! Execs that this process does not run, as rows in the store: looked at, listed and cancelled.

use std::collections::HashSet;
use std::time::Duration;

use adit_actors::audit::{AuditRow, Half, RowStatus};
use adit_actors::exec::{EndedBy, Outcome, Ran};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;
use uuid::Uuid;

use super::house::{ADMITTED, House};
use super::{BOUND, TRUE};
use crate::http::HttpOptions;
use crate::http::admin_wire::{ExecListing, ExecRecord};
use crate::http::test_support::{ended, exited};
use crate::store::TokenScope;

#[actix_web::test]
async fn an_exec_that_runs_elsewhere_is_shown_as_far_as_it_is_known_and_not_cancelled() {
    let house = House::new().await;
    let row = house.begun();
    house.write(Half::Begin, &row).await;
    let path = format!("/{}", row.id);
    let shown = house.ask("GET", &path).await;
    assert_eq!(shown.status, 200);
    assert_eq!(shown.headers["adit-exec-id"], row.id.to_string().as_str());
    let expected = json!({
        "exec_id": row.id, "state": "running", "ran": "unknown", "outcome": null, "ended_by": null,
        "exit_code": null, "signal": null, "error": null, "started_at": "2026-01-02T03:04:05.123456Z",
        "duration_ms": null, "timeout_s": 30, "streams": null, "kill": null, "tunnel": null, "timing_ms": null,
        "audit": { "id": row.id, "committed": false },
    });
    assert_eq!(shown.json(), expected);
    let listed = house.ask("GET", "?status=running").await.json();
    assert_eq!(listed, json!({ "data": [expected], "next_cursor": null }));

    let refused = house.ask("DELETE", &path).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (409, "exec_in_progress")
    );
    assert_eq!(refused.json()["exec"], expected);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(
        house.ask("GET", &path).await.json(),
        expected,
        "nothing has changed"
    );

    house.write_ended(row, RowStatus::Ok, exited(3)).await;
    for method in ["GET", "DELETE"] {
        let answer = house.ask(method, &path).await;
        assert_eq!(
            (answer.status, &answer.json()["exit_code"]),
            (200, &json!(3)),
            "{method}"
        );
        assert_eq!(answer.json()["audit"]["committed"], true);
        assert_eq!(answer.json().get("aws_request_ids"), None);
    }
    house.service.stop().await;
}

#[actix_web::test]
async fn pages_hold_each_exec_once_also_those_of_one_moment_and_those_that_come_meanwhile() {
    let house = House::new().await;
    let mut rows = Vec::new();
    for number in 0..7_u64 {
        let created_at = ADMITTED + Duration::from_micros(number / 3);
        let row = AuditRow {
            created_at,
            ..house.begun()
        };
        house.write(Half::Begin, &row).await;
        rows.push(row);
    }
    rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));
    let expected: Vec<Value> = rows.iter().map(|row| json!(row.id)).collect();
    for limit in 1..=8 {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let since = "since=2026-01-02T03:04:05.123456Z";
            let page = house
                .ask("GET", &format!("?limit={limit}&{since}{cursor}"))
                .await
                .json();
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= limit, "{page}");
            seen.extend(data.iter().map(|exec| exec["exec_id"].clone()));
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
            let newer = AuditRow {
                created_at: ADMITTED + Duration::from_secs(1),
                ..house.begun()
            };
            house.write(Half::Begin, &newer).await;
        }
        let newer = seen.len() - expected.len();
        assert_eq!(seen[newer..], expected, "with pages of {limit}");
    }
    house.service.stop().await;
}

#[actix_web::test]
async fn queries_that_make_no_sense_are_refused_by_name() {
    let house = House::new().await;
    for (query, name) in [
        ("limit=0", "`limit`"),
        ("limit=201", "`limit`"),
        ("limit=", "`limit`"),
        ("limit=1&limit=2", "`limit`"),
        ("cursor=", "`cursor`"),
        ("cursor=AAAA", "`cursor`"),
        ("cursor=AAAA&cursor=AAAA", "`cursor`"),
        ("status=done", "`status`"),
        ("status=ok&status=error", "`status`"),
        ("since=yesterday", "`since`"),
        ("stauts=ok", "`stauts`"),
    ] {
        for answer in [
            house.ask("GET", &format!("?{query}")).await,
            house.admin(&format!("?{query}")).await,
        ] {
            let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "invalid_request"),
                "{query}"
            );
            assert!(detail.contains(name), "{query}: {detail}");
        }
    }
    // Tenants have one workspace, and operators need a whole id.
    let tenant = house
        .ask("GET", &format!("?workspace_id={}", house.workspace))
        .await;
    assert_eq!(tenant.status, 400);
    for query in ["workspace_id=x", "workspace_id="] {
        assert_eq!(house.admin(&format!("?{query}")).await.status, 400, "{query}");
    }
    house.service.stop().await;
}

#[actix_web::test]
async fn operators_see_the_whole_row() {
    let house = House::new().await;
    let row = house
        .write_ended(
            house.begun(),
            RowStatus::Error,
            ended(Outcome::Failed, EndedBy::Exit, Ran::No),
        )
        .await;
    let shown = house.admin(&format!("/{}", row.id)).await;
    assert_eq!(shown.status, 200);
    let record: ExecRecord = serde_json::from_value(shown.json()).unwrap();
    assert_eq!(record.workspace_id, house.workspace);
    assert_eq!((record.status, record.created_at), (RowStatus::Error, ADMITTED));
    assert_eq!(record.summary.as_deref(), Some("exec true: running"));
    assert_eq!(record.request_body, Some(row.request_body));
    assert_eq!(record.error_detail.as_deref(), Some("grant_denied: the cause"));
    assert_eq!(
        record.aws_request_ids,
        Some(json!({ "key_push": "confidential" }))
    );
    let tenant = house.ask("GET", &format!("/{}", row.id)).await.json();
    assert_eq!(Value::Object(record.exec.clone()), tenant);

    let listing: ExecListing = serde_json::from_value(house.admin("").await.json()).unwrap();
    assert_eq!((listing.data, listing.next_cursor), (vec![record], None));
    let of_another = house.admin(&format!("?workspace_id={}", Uuid::new_v4())).await;
    assert_eq!(of_another.json(), json!({ "data": [], "next_cursor": null }));
    for id in [Uuid::new_v4().to_string(), "x".to_owned()] {
        let absent = house.admin(&format!("/{id}")).await;
        assert_eq!((absent.status, absent.code().as_str()), (404, "not_found"));
    }
    house.service.stop().await;
}

#[actix_web::test]
async fn the_tenant_guard_stands_before_execs_that_are_there() {
    let org = Uuid::new_v4();
    let house = House::with(HttpOptions {
        tenant_org: Some(org),
        ..HttpOptions::default()
    })
    .await;
    let row = house.begun();
    house.write(Half::Begin, &row).await;
    let (org, other) = (org.to_string(), Uuid::new_v4().to_string());
    let mut refusals = HashSet::new();
    for (method, rest) in [("GET", ""), ("GET", "/id"), ("DELETE", "/id")] {
        let path = format!(
            "/workspaces/{}/exec{}",
            house.workspace,
            rest.replace("id", &row.id.to_string())
        );
        let ask = async |org: Option<&str>| {
            let header: Vec<_> = org.map(|org| ("x-molecule-org-id", org)).into_iter().collect();
            house
                .service
                .ask(method, &path, Some(&house.token), &header, "")
                .await
        };
        assert_ne!(ask(Some(&org)).await.status, 404, "{method} {path}");
        for wrong in [None, Some(other.as_str())] {
            let refused = ask(wrong).await;
            assert_eq!(refused.status, 404, "{method} {path}");
            refusals.insert(refused.body);
        }
    }
    refusals.insert(house.service.ask("GET", "/nowhere", None, &[], "").await.body);
    assert_eq!(refusals.len(), 1);
    house.service.stop().await;
}

#[actix_web::test]
async fn whoever_may_not_run_anything_any_more_may_look_and_cancel() {
    let house = House::new().await;
    let low = house
        .service
        .workspace(1, Some(house.service.org().await), false)
        .await;
    let (_, token) = house.service.token(TokenScope::Workspace(low)).await;
    let row = AuditRow {
        workspace_id: low,
        ..house.begun()
    };
    house.write_ended(row.clone(), RowStatus::Ok, exited(0)).await;
    for (method, rest) in [
        ("GET", String::new()),
        ("GET", format!("/{}", row.id)),
        ("DELETE", format!("/{}", row.id)),
    ] {
        let path = format!("/workspaces/{low}/exec{rest}");
        let answer = house.service.ask(method, &path, Some(&token), &[], "").await;
        assert_eq!(answer.status, 200, "{method} {path}");
    }
    house.service.stop().await;
}

#[actix_web::test]
async fn where_the_store_does_not_answer_nothing_is_said_and_nothing_runs() {
    let house = House::new().await;
    // Tokens are still found, so that it is this look-up that fails.
    let options = SqliteConnectOptions::new().filename(house.service.directory.path().join("adit.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::query("ALTER TABLE activity_logs RENAME TO elsewhere")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let path = format!("/{}", Uuid::new_v4());
    for answer in [
        house.exec_under_key(TRUE).await,
        house.ask("GET", "").await,
        house.ask("GET", &path).await,
        house.ask("DELETE", &path).await,
        house.admin("").await,
        house.admin(&path).await,
    ] {
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "audit_unavailable")
        );
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(house.service.dispatched(), (0, 0));
    house.service.stop().await;
}

#[actix_web::test]
async fn a_token_that_is_used_says_so_soon_and_others_do_not() {
    let house = House::with(HttpOptions {
        token_use_interval: Duration::from_millis(5),
        ..HttpOptions::default()
    })
    .await;
    let (idle, _) = house.service.token(TokenScope::Workspace(house.workspace)).await;
    let last_use = async |id: Uuid| {
        let tokens = house.service.store.list_tokens().await.unwrap();
        tokens
            .into_iter()
            .find(|token| token.id == id)
            .unwrap()
            .last_used_at
    };
    assert_eq!(last_use(house.token_id).await, None);
    assert_eq!(house.ask("GET", "").await.status, 200);
    timeout(BOUND, async {
        while last_use(house.token_id).await.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the use is noted");
    assert_eq!(last_use(idle).await, None);
    house.service.stop().await;
}
