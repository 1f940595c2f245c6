//! Execs that this process does not run, as rows in the store: looked at, listed, cancelled, and met under a key.

use std::collections::HashSet;
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use adit_actors::audit::{AuditRow, Half, RowStatus};
use adit_actors::engine::EngineSettings;
use adit_actors::exec::{EndedBy, Exec, Outcome, Ran};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::time::timeout;
use uuid::Uuid;

use super::{ADMIN, Answer, Aws, BOUND, Service, TRUE};
use crate::http::admin_wire::{ExecListing, ExecRecord};
use crate::http::exec::{IdempotencyKey, request_body};
use crate::http::test_support::{ended, exited};
use crate::http::{HttpOptions, Surface};
use crate::store::TokenScope;

const ADMITTED: OffsetDateTime = datetime!(2026-01-02 03:04:05.123456 UTC);
const KEY: [(&str, &str); 2] = [("content-type", "application/json"), ("idempotency-key", "k")];

/// A service with a workspace, and a token that opens it.
struct House {
    service: Service,
    workspace: Uuid,
    token_id: Uuid,
    token: String,
}

impl House {
    async fn with(options: HttpOptions) -> Self {
        let service = Service::with(options, EngineSettings::default(), Aws::default(), Surface::Both).await;
        let workspace = service.workspace(3, Some(service.org().await), true).await;
        let (token_id, token) = service.token(TokenScope::Workspace(workspace)).await;
        Self {
            service,
            workspace,
            token_id,
            token,
        }
    }

    async fn new() -> Self {
        Self::with(HttpOptions::default()).await
    }

    /// A call below the workspace's execs.
    async fn ask(&self, method: &str, rest: &str) -> Answer {
        let path = format!("/workspaces/{}/exec{rest}", self.workspace);
        self.service.ask(method, &path, Some(&self.token), &[], "").await
    }

    async fn admin(&self, rest: &str) -> Answer {
        let path = format!("/admin/execs{rest}");
        self.service.ask("GET", &path, Some(ADMIN), &[], "").await
    }

    async fn exec_under_key(&self, body: &str) -> Answer {
        let path = format!("/workspaces/{}/exec", self.workspace);
        self.service
            .ask("POST", &path, Some(&self.token), &KEY, body)
            .await
    }

    fn begun(&self) -> AuditRow {
        AuditRow {
            id: Uuid::new_v4(),
            attempt_nonce: Uuid::new_v4(),
            body_hmac: None,
            workspace_id: self.workspace,
            status: RowStatus::Running,
            summary: "exec true: running".to_owned(),
            request_body: json!({ "cmd": ["true"], "timeout_s": 30, "actor": { "prefix": "12345678" } }),
            response_body: None,
            duration_ms: None,
            error_detail: None,
            created_at: ADMITTED,
        }
    }

    async fn write(&self, half: Half, row: &AuditRow) {
        let rows = std::slice::from_ref(row);
        let foreign = self.service.store.write(half, rows).await.unwrap();
        assert!(foreign.is_empty());
    }

    async fn write_ended(&self, row: AuditRow, status: RowStatus, exec: Exec) -> AuditRow {
        let mut body = json!(Exec {
            exec_id: row.id,
            ..exec
        });
        body["aws_request_ids"] = json!({ "key_push": "confidential" });
        let row = AuditRow {
            status,
            response_body: Some(body),
            error_detail: Some("grant_denied: the cause".to_owned()),
            ..row
        };
        self.write(Half::Finish, &row).await;
        row
    }
}

fn key() -> IdempotencyKey {
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_static("idempotency-key"),
        HeaderValue::from_static("k"),
    );
    IdempotencyKey::of(&headers).unwrap().unwrap()
}

fn hmac_of(body: &str) -> [u8; 32] {
    key().hmac_of(&request_body::parse(body.as_bytes()).unwrap().request)
}

fn failed() -> Exec {
    ended(Outcome::Failed, EndedBy::Exit, Ran::No)
}

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
    let row = house.write_ended(house.begun(), RowStatus::Error, failed()).await;
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
async fn a_key_whose_attempts_all_failed_gets_the_next_one() {
    let house = House::new().await;
    for number in 0..21 {
        let row = AuditRow {
            id: key().exec_id(house.workspace, number),
            body_hmac: Some(hmac_of(TRUE)),
            ..house.begun()
        };
        house.write_ended(row, RowStatus::Error, failed()).await;
    }
    // The engine's rows are kept apart in these tests, so this attempt is never found.
    let answer = house.exec_under_key(TRUE).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "grant_denied"));
    let exec_id = key().exec_id(house.workspace, 21);
    assert_eq!(answer.headers["adit-exec-id"], exec_id.to_string().as_str());
    assert_eq!(answer.json()["exec"]["exec_id"], json!(exec_id));
    let rows = house.service.rows.0.lock().unwrap().clone();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].id, rows[0].body_hmac), (exec_id, Some(hmac_of(TRUE))));
    house.service.stop().await;
}

#[actix_web::test]
async fn a_key_that_another_process_runs_or_lost_is_in_progress_until_its_row_is_settled() {
    let house = House::new().await;
    let row = AuditRow {
        id: key().exec_id(house.workspace, 0),
        body_hmac: Some(hmac_of(TRUE)),
        ..house.begun()
    };
    house.write(Half::Begin, &row).await;
    let answer = house.exec_under_key(TRUE).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "exec_in_progress"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["adit-exec-id"], row.id.to_string().as_str());
    assert_eq!(answer.json()["exec"]["exec_id"], json!(row.id));
    assert_eq!(answer.json()["exec"]["state"], "running");
    let other = house.exec_under_key(r#"{"cmd":["false"]}"#).await;
    assert_eq!(
        (other.status, other.code().as_str()),
        (422, "idempotency_mismatch")
    );
    assert_eq!(other.headers["adit-exec-id"], row.id.to_string().as_str());

    assert_eq!(house.service.store.sweep(Duration::ZERO).await.unwrap(), [row.id]);
    let replay = house.exec_under_key(TRUE).await;
    assert_eq!(replay.status, 200);
    assert_eq!(replay.headers["idempotent-replayed"], "true");
    assert_eq!(replay.headers["content-type"], "application/x-ndjson");
    let frame = replay.json();
    for (member, value) in [
        ("type", json!("exit")),
        ("exec_id", json!(row.id)),
        ("state", json!("ended")),
        ("ran", json!("unknown")),
        ("outcome", json!("unknown")),
        ("ended_by", json!("crash")),
        ("duration_ms", Value::Null),
    ] {
        assert_eq!(frame[member], value, "{member}: {frame}");
    }
    assert_eq!(house.service.dispatched(), (0, 0));
    house.service.stop().await;
}

#[actix_web::test]
async fn a_row_that_nobody_asked_for_under_a_key_is_no_ones_replay() {
    let house = House::new().await;
    let row = AuditRow {
        id: key().exec_id(house.workspace, 0),
        ..house.begun()
    };
    house.write_ended(row, RowStatus::Ok, exited(0)).await;
    let answer = house.exec_under_key(TRUE).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (422, "idempotency_mismatch")
    );
    assert_eq!(house.service.dispatched(), (0, 0));
    house.service.stop().await;
}

#[actix_web::test]
async fn keys_that_are_none_are_refused_by_name_after_the_body() {
    let house = House::new().await;
    let path = format!("/workspaces/{}/exec", house.workspace);
    let json = KEY[0];
    let long = "k".repeat(129);
    for (headers, body, name) in [
        (vec![json, ("idempotency-key", "")], TRUE, "`Idempotency-Key`"),
        (
            vec![json, ("idempotency-key", "two words")],
            TRUE,
            "`Idempotency-Key`",
        ),
        (vec![json, ("idempotency-key", &long)], TRUE, "`Idempotency-Key`"),
        (
            vec![json, KEY[1], ("Idempotency-Key", "k")],
            TRUE,
            "`Idempotency-Key`",
        ),
        (vec![json, ("idempotency-key", "")], "{}", "`cmd`"),
    ] {
        let answer = house
            .service
            .ask("POST", &path, Some(&house.token), &headers, body)
            .await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"));
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(name), "{headers:?}: {detail}");
    }
    assert_eq!(house.service.dispatched(), (0, 0));
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
