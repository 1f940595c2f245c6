//! Who gets how far.

use std::collections::HashSet;

use adit_actors::audit::RowStatus;
use adit_actors::engine::EngineSettings;
use uuid::Uuid;

use super::{ADMIN, Answer, Aws, Service, TRUE};
use crate::http::{HttpOptions, Surface};
use crate::store::TokenScope;

#[actix_web::test]
async fn checks_come_in_the_order_of_the_contract() {
    let org = Uuid::new_v4();
    let options = HttpOptions {
        tenant_org: Some(org),
        max_body: 100,
        ..HttpOptions::default()
    };
    let service = Service::with(options, EngineSettings::default(), Aws::default(), Surface::Both).await;
    let low = service.workspace(2, None, false).await;
    let bare = service.workspace(3, None, false).await;
    let good = service.workspace(3, None, true).await;
    let (_, token) = service.token(TokenScope::Org(None)).await;
    let (org, unknown) = (org.to_string(), Uuid::new_v4());
    let own = ("x-molecule-org-id", org.as_str());
    let (text, json) = (
        ("content-type", "text/plain"),
        ("content-type", "application/json"),
    );
    let too_long = "x".repeat(101);
    let token = Some(token.as_str());
    // Each line repairs what the one before was refused for, and leaves the rest broken.
    let table = [
        (vec![text], None, unknown, too_long.as_str(), 404, "not_found"),
        (vec![own, text], None, unknown, &too_long, 401, "unauthenticated"),
        (vec![own, text], token, unknown, &too_long, 404, "not_found"),
        (vec![own, text], token, low, &too_long, 403, "tier_forbidden"),
        (vec![own, text], token, bare, &too_long, 409, "no_instance"),
        (
            vec![own, text],
            token,
            good,
            &too_long,
            415,
            "unsupported_media_type",
        ),
        (vec![own, json], token, good, &too_long, 413, "body_too_large"),
        (vec![own, json], token, good, "{}", 400, "invalid_request"),
    ];
    for (headers, token, workspace, body, status, code) in table {
        let answer = service
            .ask(
                "POST",
                &format!("/workspaces/{workspace}/exec"),
                token,
                &headers,
                body,
            )
            .await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(!answer.headers.contains_key("adit-exec-id"));
    }
    assert_eq!(service.dispatched(), (0, 0));
    service.stop().await;
}

#[actix_web::test]
async fn whatever_is_not_there_for_a_caller_answers_with_the_same_bytes() {
    let service = Service::plain().await;
    let (own_org, other_org) = (service.org().await, service.org().await);
    let own = service.workspace(4, Some(own_org), true).await;
    let neighbour = service.workspace(4, Some(own_org), true).await;
    let foreign = service.workspace(4, Some(other_org), true).await;
    let (_, workspace_token) = service.token(TokenScope::Workspace(own)).await;
    let (_, org_token) = service.token(TokenScope::Org(Some(own_org))).await;
    let mut answers = Vec::new();
    for (workspace, token) in [
        (Uuid::new_v4().to_string(), &workspace_token),
        (neighbour.to_string(), &workspace_token),
        (foreign.to_string(), &org_token),
        ("not-a-uuid".to_owned(), &org_token),
        (own.simple().to_string(), &org_token),
        ("%00".to_owned(), &org_token),
    ] {
        answers.push(service.exec(workspace, Some(token), TRUE).await);
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("PUT", "/healthz"),
        ("GET", "/workspaces"),
        ("POST", "/admin/tunnels"),
        ("PUT", &format!("/workspaces/{own}/exec")),
        ("GET", &format!("/workspaces/{foreign}/exec")),
        // That the query makes no sense is not looked at first.
        ("GET", &format!("/workspaces/{foreign}/exec?limit=x")),
        ("GET", &format!("/workspaces/{foreign}/exec/{own}")),
        ("DELETE", &format!("/workspaces/{foreign}/exec/{own}")),
        ("GET", &format!("/workspaces/{own}/exec/{own}")),
        ("DELETE", &format!("/workspaces/{own}/exec/{own}")),
        ("GET", &format!("/workspaces/{own}/exec/x")),
    ] {
        answers.push(service.ask(method, path, Some(&org_token), &[], "").await);
    }
    for answer in &answers {
        assert_eq!(answer.status, 404);
        assert_eq!(answer.body, answers[0].body);
        // `connection` says whether the request had a body that nobody read.
        let names = |answer: &Answer| {
            let names = answer.headers.keys().map(ToString::to_string);
            names.filter(|name| name != "connection").collect::<HashSet<_>>()
        };
        assert_eq!(names(answer), names(&answers[0]));
    }
    assert_eq!(answers[0].code(), "not_found");
    assert_eq!(service.dispatched(), (0, 0));
    service.stop().await;
}

#[actix_web::test]
async fn missing_unknown_and_revoked_tokens_look_the_same() {
    let service = Service::plain().await;
    let workspace = service.workspace(4, Some(service.org().await), true).await;
    let (id, revoked) = service.token(TokenScope::Workspace(workspace)).await;
    assert!(service.store.revoke_token(id).await.unwrap());
    let mut bodies = HashSet::new();
    for token in [None, Some("unknown"), Some(revoked.as_str()), Some(ADMIN)] {
        let answer = service.exec(workspace, token, TRUE).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        bodies.insert(answer.body);
    }
    assert_eq!(bodies.len(), 1);
    assert_eq!(service.dispatched(), (0, 0));
    service.stop().await;
}

#[actix_web::test]
async fn only_tiers_three_and_four_are_dispatched() {
    let service = Service::plain().await;
    for (tier, status, dispatched) in [
        (1, 403, (0, 0)),
        (2, 403, (0, 0)),
        (3, 502, (1, 1)),
        (4, 502, (2, 2)),
    ] {
        let workspace = service.workspace(tier, Some(service.org().await), true).await;
        let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
        assert_eq!(
            service.exec(workspace, Some(&token), TRUE).await.status,
            status,
            "tier {tier}"
        );
        assert_eq!(service.dispatched(), dispatched, "tier {tier}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn a_failed_exec_is_a_problem_with_the_exec_and_has_one_row() {
    let service = Service::plain().await;
    let workspace = service.workspace(3, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    let path = format!("/workspaces/{workspace}/exec");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("content-type", "application/json"),
        ("x-request-id", "req-1"),
        ("traceparent", trace),
    ];
    let answer = service.ask("POST", &path, Some(&token), &headers, TRUE).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "grant_denied"));
    let problem = answer.json();
    assert_eq!(problem["exec"]["ran"], "no");
    assert_eq!(problem["exec"]["audit"]["committed"], true);
    assert_eq!(
        answer.headers["adit-exec-id"].to_str().unwrap(),
        problem["exec"]["exec_id"].as_str().unwrap()
    );
    assert_eq!(answer.headers["x-request-id"], "req-1");
    assert_eq!(answer.headers["traceparent"], trace);
    assert_eq!(answer.headers["cache-control"], "no-store, no-transform");
    assert_eq!(answer.headers["x-accel-buffering"], "no");
    let rows = service.rows.0.lock().unwrap().clone();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].workspace_id, rows[0].status),
        (workspace, RowStatus::Error)
    );
    assert_eq!(rows[0].request_body["remote_addr"], "127.0.0.1");
    assert_eq!(rows[0].request_body["request_id"], "req-1");
    service.stop().await;
}
