//! Idempotency-Key over rows that are there: which attempt counts, and what its row says.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use adit_actors::audit::{AuditRow, Chore, Half, RowStatus};
use adit_actors::clock::Clock;
use adit_actors::exec::{EndedBy, Exec, Outcome, Ran};
use serde_json::{Value, json};

use super::TRUE;
use super::house::{House, KEY};
use crate::http::exec::{IdempotencyKey, request_body};
use crate::http::test_support::{ended, exited};

fn key() -> IdempotencyKey {
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_static("idempotency-key"),
        HeaderValue::from_static("k"),
    );
    IdempotencyKey::of(&headers).unwrap().unwrap()
}

fn failed() -> Exec {
    ended(Outcome::Failed, EndedBy::Exit, Ran::No)
}

fn hmac_of(body: &str) -> [u8; 32] {
    key().hmac_of(&request_body::parse(body.as_bytes()).unwrap().request)
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

    let (store, settle) = (&house.service.store, Chore::Settle(Duration::ZERO));
    assert_eq!(store.perform(settle, &[row.id]).await.unwrap(), [row.id]);
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
async fn a_key_outlives_the_age_of_its_failed_attempts() {
    let house = House::new().await;
    let day = Duration::from_secs(86_400);
    let now = Clock::system().now();
    let attempt = |number, days| AuditRow {
        id: key().exec_id(house.workspace, number),
        body_hmac: Some(hmac_of(TRUE)),
        created_at: now - day * days,
        ..house.begun()
    };
    house.write_ended(attempt(0, 9), RowStatus::Error, failed()).await;
    let ran = house.write_ended(attempt(1, 1), RowStatus::Ok, exited(0)).await;
    let due = house.service.store.due(Chore::Delete(7 * day), None, 100);
    assert_eq!(due.await.unwrap(), []);
    let replay = house.exec_under_key(TRUE).await;
    assert_eq!(replay.status, 200);
    assert_eq!(replay.headers["idempotent-replayed"], "true");
    assert_eq!(replay.headers["adit-exec-id"], ran.id.to_string().as_str());
    assert_eq!(house.service.dispatched(), (0, 0));
    house.service.stop().await;
}

#[actix_web::test]
async fn who_loses_every_race_for_a_key_hears_that_nothing_ran() {
    let house = House::new().await;
    house.service.rows.1.store(true, Ordering::Relaxed);
    let answer = house.exec_under_key(TRUE).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "exec_in_progress"));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("nothing of this one has run"), "{detail}");
    assert_eq!(answer.headers["retry-after"], "1");
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
