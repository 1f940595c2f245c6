//! The routes as a whole, and those for operators.

use std::time::Duration;

use adit_actors::engine::EngineSettings;
use serde_json::json;
use uuid::Uuid;

use super::{ADMIN, Aws, BOUND, Service, TRUE};
use crate::http::{Access, HttpOptions, ROUTES, Surface};
use crate::store::TokenScope;

#[actix_web::test]
async fn every_route_refuses_who_has_no_business_there() {
    let service = Service::plain().await;
    let workspace = service.workspace(4, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    for route in &ROUTES {
        let path = route
            .path
            .replace("{workspace_id}", &workspace.to_string())
            .replace("{exec_id}", &workspace.to_string())
            .replace("{instance_id}", "i-0123456789abcdef0");
        assert!(
            !path.contains('{'),
            "{path}: give this test a value for the parameter"
        );
        let ask = async |token| service.ask(route.method, &path, token, &[], "").await;
        match route.access {
            Access::Tenant => {
                assert_eq!(ask(None).await.code(), "unauthenticated", "{path}");
                assert_eq!(ask(Some(ADMIN)).await.code(), "unauthenticated", "{path}");
            }
            Access::Admin => {
                assert_eq!(ask(None).await.code(), "unauthenticated", "{path}");
                assert_eq!(ask(Some("unknown")).await.code(), "unauthenticated", "{path}");
                let answer = ask(Some(token.as_str())).await;
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (403, "not_admin"),
                    "{path}"
                );
            }
            Access::Anyone => assert_eq!(ask(None).await.status, 200, "{path}"),
        }
    }
    assert_eq!(service.dispatched(), (0, 0));
    service.stop().await;
}

#[actix_web::test]
async fn admins_see_tunnels_and_the_tenant_guard_is_not_theirs() {
    let options = HttpOptions {
        tenant_org: Some(Uuid::new_v4()),
        ..HttpOptions::default()
    };
    let service = Service::with(options, EngineSettings::default(), Aws::default(), Surface::Both).await;
    let listed = service.ask("GET", "/admin/tunnels", Some(ADMIN), &[], "").await;
    assert_eq!(
        (listed.status, listed.json()),
        (200, json!({ "data": [], "endpoints": [] }))
    );
    let absent = service
        .ask("GET", "/admin/tunnels/i-0123456789abcdef0", Some(ADMIN), &[], "")
        .await;
    assert_eq!((absent.status, absent.code().as_str()), (404, "not_found"));
    let ready = service.ask("GET", "/readyz", None, &[], "").await;
    let checks = json!({ "store": "ok", "audit": "ok", "shutdown": "ok" });
    assert_eq!(
        (ready.status, ready.json()),
        (200, json!({ "status": "ready", "checks": checks }))
    );
    service.stop().await;

    let service = Service::plain().await;
    let workspace = service.workspace(3, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    service.exec(workspace, Some(&token), TRUE).await;
    let listed = service
        .ask("GET", "/admin/tunnels", Some(ADMIN), &[], "")
        .await
        .json();
    let instance_id = listed["data"][0]["instance_id"].as_str().unwrap().to_owned();
    assert_eq!(listed["data"][0]["last_error"]["code"], "grant_denied");
    let path = format!("/admin/tunnels/{instance_id}");
    for (method, path, status) in [
        ("GET", path.clone(), 200),
        ("POST", format!("{path}/drain"), 202),
        ("DELETE", path.clone(), 202),
        ("GET", format!("{path}?region=us-east-2"), 200),
        ("POST", format!("{path}/drain?region=us-east-2"), 202),
        ("DELETE", format!("{path}?region=us-east-2"), 202),
        ("GET", format!("{path}?region=us-west-2"), 404),
        ("POST", format!("{path}/drain?region=us-west-2"), 404),
        ("DELETE", format!("{path}?region=us-west-2"), 404),
        ("POST", "/admin/tunnels/i-00000000/drain".to_owned(), 404),
        ("DELETE", "/admin/tunnels/i-00000000".to_owned(), 404),
        ("POST", path.clone(), 404),
    ] {
        let answer = service.ask(method, &path, Some(ADMIN), &[], "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        let answer = answer.json();
        if status == 404 {
            assert_eq!(answer["code"], "not_found", "{method} {path}");
        } else {
            assert_eq!(answer["data"][0]["instance_id"], instance_id.as_str(), "{answer}");
            assert_eq!(
                (&answer["data"][0]["tunnels"], &answer["endpoints"]),
                (&json!([]), &json!([])),
                "no tunnel came to be, and that is no error: {answer}"
            );
        }
    }
    for (region, count) in [("us-east-2", 1), ("us-west-2", 0)] {
        let path = format!("/admin/tunnels?region={region}");
        let listed = service.ask("GET", &path, Some(ADMIN), &[], "").await.json();
        assert_eq!(listed["data"].as_array().unwrap().len(), count, "{listed}");
    }
    for (query, field) in [("regoin=us-east-2", "`regoin`"), ("region=", "`region`")] {
        for (method, path) in [
            ("GET", "/admin/tunnels".to_owned()),
            ("GET", path.clone()),
            ("POST", format!("{path}/drain")),
            ("DELETE", path.clone()),
        ] {
            let answer = service
                .ask(method, &format!("{path}?{query}"), Some(ADMIN), &[], "")
                .await;
            let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
            assert_eq!(answer.status, 400, "{method} {path} {query}: {detail}");
            assert!(detail.contains(field), "{method} {path} {query}: {detail}");
        }
    }
    service.stop().await;
}

#[actix_web::test]
async fn readiness_says_that_the_service_is_stopping() {
    let service = Service::plain().await;
    service.engine.shutdown(Duration::ZERO, BOUND).await;
    let ready = service.ask("GET", "/readyz", None, &[], "").await;
    assert_eq!((ready.status, ready.code().as_str()), (503, "shutting_down"));
    assert_eq!(ready.json()["checks"]["shutdown"], "under way");
    assert_eq!(service.ask("GET", "/healthz", None, &[], "").await.status, 200);
    service.server.stop(false).await;
}

#[actix_web::test]
async fn each_surface_serves_its_own_routes_only() {
    for (surface, tenant, admin) in [
        (Surface::Public, 401, 404),
        (Surface::Admin, 404, 401),
        (Surface::Both, 401, 401),
    ] {
        let service = Service::with(
            HttpOptions::default(),
            EngineSettings::default(),
            Aws::default(),
            surface,
        )
        .await;
        assert_eq!(
            service.exec(Uuid::new_v4(), None, TRUE).await.status,
            tenant,
            "{surface:?}"
        );
        assert_eq!(
            service.ask("GET", "/admin/tunnels", None, &[], "").await.status,
            admin,
            "{surface:?}"
        );
        assert_eq!(
            service.ask("GET", "/healthz", None, &[], "").await.status,
            200,
            "{surface:?}"
        );
        service.stop().await;
    }
}
