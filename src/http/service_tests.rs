//! The routes with a real store and the real engine, over real sockets. AWS is played: it denies every key push, or
//! never answers, so nothing here reaches an instance; what does reach AWS is counted.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use adit_actors::audit::{AuditRow, AuditStore, AuditStoreError, RowStatus};
use adit_actors::clock::Clock;
use adit_actors::engine::{Boundaries, Engine, EngineSettings};
use adit_actors::instance::InstanceTarget;
use adit_actors::tunnel::{
    DialError, Dialed, Dialer, GrantError, KeyGrantReceipt, KeyGrants, LocateError, Location, Locator,
};
use async_trait::async_trait;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Access, HttpOptions, HttpState, ROUTES, Surface, start};
use crate::store::{NewToken, NewWorkspace, Store, TargetDefaults, TokenScope, connect, migrate};

const BOUND: Duration = Duration::from_secs(20);
const ADMIN: &str = "the-admin-token";

/// AWS as these tests need it.
#[derive(Default)]
struct Aws {
    pushes: AtomicUsize,
    silent: bool,
}

#[async_trait]
impl KeyGrants for Aws {
    async fn push_key(&self, _: &InstanceTarget, _: &str) -> Result<KeyGrantReceipt, GrantError> {
        self.pushes.fetch_add(1, Ordering::SeqCst);
        if self.silent {
            std::future::pending::<()>().await;
        }
        Err(GrantError::Denied("not in this test".into()))
    }
}

#[async_trait]
impl Dialer for Aws {
    async fn dial(&self, _: &InstanceTarget, _: &Location) -> Result<Dialed, DialError> {
        std::future::pending().await
    }
}

#[async_trait]
impl Locator for Aws {
    async fn locate(&self, _: &InstanceTarget) -> Result<Location, LocateError> {
        Ok(Location {
            address: "10.0.0.1".parse().expect("an address"),
            port: 22,
            endpoint_id: "eice-1".to_owned(),
            endpoint_dns_name: "localhost".to_owned(),
        })
    }
}

/// Keeps each row as it was written last.
#[derive(Default)]
struct Rows(Mutex<Vec<AuditRow>>);

#[async_trait]
impl AuditStore for Rows {
    async fn write(&self, rows: &[AuditRow]) -> Result<(), AuditStoreError> {
        let mut kept = self.0.lock().expect("no test panics in here");
        for row in rows {
            kept.retain(|other| other.id != row.id);
            kept.push(row.clone());
        }
        Ok(())
    }

    async fn sweep(&self, _: Duration) -> Result<Vec<Uuid>, AuditStoreError> {
        Ok(Vec::new())
    }
}

struct Service {
    address: SocketAddr,
    http: Client,
    server: ServerHandle,
    engine: Engine,
    store: Arc<dyn Store>,
    aws: Arc<Aws>,
    rows: Arc<Rows>,
    _directory: TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Service {
    async fn with(options: HttpOptions, settings: EngineSettings, aws: Aws, surface: Surface) -> Self {
        let directory = TempDir::new().unwrap();
        let url = format!("sqlite://{}", directory.path().join("adit.db").display());
        migrate(&url).await.unwrap();
        let defaults = TargetDefaults {
            region: "us-east-2".to_owned(),
            os_user: "ubuntu".to_owned(),
            port: 22,
        };
        let store = connect(&url, defaults).await.unwrap();
        let (aws, rows) = (Arc::new(aws), Arc::new(Rows::default()));
        let boundaries = Boundaries {
            key_grants: aws.clone(),
            dialer: aws.clone(),
            locator: aws.clone(),
            host_keys: store.clone(),
            audit_store: rows.clone(),
        };
        let engine = Engine::start(
            EngineSettings {
                arbiters: 1,
                ..settings
            },
            boundaries,
            Clock::system(),
        );
        let options = HttpOptions {
            workers: 1,
            admin_tokens: vec![SecretString::from(ADMIN)],
            ..options
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = start(
            listener,
            HttpState::new(engine.clone(), store.clone(), options),
            surface,
        )
        .unwrap();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        let http = Client::builder().no_proxy().timeout(BOUND).build().unwrap();
        Self {
            address,
            http,
            server: handle,
            engine,
            store,
            aws,
            rows,
            _directory: directory,
        }
    }

    async fn plain() -> Self {
        Self::with(
            HttpOptions::default(),
            EngineSettings::default(),
            Aws::default(),
            Surface::Both,
        )
        .await
    }

    async fn stop(self) {
        self.server.stop(false).await;
        self.engine.shutdown(Duration::ZERO, BOUND).await;
    }

    async fn workspace(&self, tier: i32, org_id: Option<Uuid>, instance: bool) -> Uuid {
        self.add(Uuid::new_v4(), tier, org_id, instance).await
    }

    /// An org: it is named by the id of its root workspace.
    async fn org(&self) -> Uuid {
        let id = Uuid::new_v4();
        self.add(id, 1, Some(id), false).await
    }

    async fn add(&self, id: Uuid, tier: i32, org_id: Option<Uuid>, instance: bool) -> Uuid {
        let workspace = NewWorkspace {
            id,
            name: id.to_string(),
            org_id,
            tier,
            instance_id: instance.then(|| format!("i-{:017x}", id.as_u128() & 0xfff_ffff)),
            region: None,
            os_user: None,
            address: None,
            endpoint_id: None,
            endpoint_dns_name: None,
        };
        self.store.add_workspace(&workspace).await.unwrap();
        id
    }

    /// Adds a token and returns its id and text.
    async fn token(&self, scope: TokenScope) -> (Uuid, String) {
        let id = Uuid::new_v4();
        let text = format!("token-{}", id.simple());
        let hash = Sha256::digest(text.as_bytes()).into();
        let prefix = text.chars().take(8).collect();
        self.store
            .add_token(&NewToken {
                id,
                scope,
                hash,
                prefix,
                name: None,
            })
            .await
            .unwrap();
        (id, text)
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let url = format!("http://{}{path}", self.address);
        let mut request = self
            .http
            .request(method.parse::<Method>().unwrap(), url)
            .body(body.to_owned());
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer {
            status,
            headers,
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    async fn exec(&self, workspace: impl std::fmt::Display, token: Option<&str>, body: &str) -> Answer {
        let path = format!("/workspaces/{workspace}/exec");
        self.ask(
            "POST",
            &path,
            token,
            &[("content-type", "application/json")],
            body,
        )
        .await
    }

    fn dispatched(&self) -> (usize, usize) {
        (
            self.aws.pushes.load(Ordering::SeqCst),
            self.rows.0.lock().unwrap().len(),
        )
    }
}

const TRUE: &str = r#"{"cmd":["true"]}"#;

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
    ] {
        answers.push(service.ask(method, path, Some(&org_token), &[], "").await);
    }
    answers.push(
        service
            .ask(
                "GET",
                &format!("/workspaces/{own}/exec"),
                Some(&org_token),
                &[],
                "",
            )
            .await,
    );
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

#[actix_web::test]
async fn every_route_refuses_who_has_no_business_there() {
    let service = Service::plain().await;
    let workspace = service.workspace(4, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    for route in &ROUTES {
        let path = route
            .path
            .replace("{workspace_id}", &workspace.to_string())
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
    assert_eq!((listed.status, listed.json()), (200, json!({ "data": [] })));
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
    let shown = service
        .ask(
            "GET",
            &format!("/admin/tunnels/{instance_id}"),
            Some(ADMIN),
            &[],
            "",
        )
        .await
        .json();
    assert_eq!(shown["data"][0]["instance_id"], instance_id.as_str());
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

#[actix_web::test]
async fn a_full_house_is_told_apart_by_whose_limit_it_is() {
    let limits = |token, process| EngineSettings {
        execs_per_token: token,
        execs_per_process: process,
        ..EngineSettings::default()
    };
    for (settings, status, code) in [
        (limits(1, 10), 429, "too_many_execs"),
        (limits(10, 1), 503, "instance_busy"),
    ] {
        let silent = Aws {
            silent: true,
            ..Aws::default()
        };
        let service = Service::with(HttpOptions::default(), settings, silent, Surface::Both).await;
        let workspace = service.workspace(3, Some(service.org().await), true).await;
        let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
        let mut first = raw_exec(&service, workspace, &token, TRUE.len(), TRUE).await;
        timeout(BOUND, async {
            while service.aws.pushes.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the first exec is under way");
        let second = service.exec(workspace, Some(&token), TRUE).await;
        assert_eq!((second.status, second.code().as_str()), (status, code));
        assert!(second.headers.contains_key("retry-after"));
        // The first client leaves, its exec ends as cancelled, and there is room again.
        first.shutdown().await.unwrap();
        timeout(BOUND, async {
            while service.engine.admit(Uuid::nil(), None).is_err() || !cancelled(&service) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the place is free again");
        service.stop().await;
    }
}

fn cancelled(service: &Service) -> bool {
    service.rows.0.lock().unwrap().iter().any(|row| {
        row.response_body.as_ref().is_some_and(|exec| {
            (exec["outcome"].as_str(), exec["ended_by"].as_str()) == (Some("cancelled"), Some("client_gone"))
        })
    })
}

/// Sends a request whose body has `length` bytes by its head, of which `body` is sent.
async fn raw_exec(service: &Service, workspace: Uuid, token: &str, length: usize, body: &str) -> TcpStream {
    let mut connection = TcpStream::connect(service.address).await.unwrap();
    let request = format!(
        "POST /workspaces/{workspace}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

async fn read_head(connection: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        let read = timeout(BOUND, connection.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(
            read > 0,
            "the connection ended: {}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[actix_web::test]
async fn refusals_do_not_wait_for_a_body_and_a_body_is_not_waited_for_for_ever() {
    let options = HttpOptions {
        body_timeout: Duration::from_millis(50),
        ..HttpOptions::default()
    };
    let service = Service::with(options, EngineSettings::default(), Aws::default(), Surface::Both).await;
    let workspace = service.workspace(3, Some(service.org().await), true).await;
    let (_, token) = service.token(TokenScope::Workspace(workspace)).await;
    for (token, length, status) in [
        ("unknown", 1_000, "401"),
        (token.as_str(), 100_000_000, "413"),
        (token.as_str(), 1_000, "400"),
    ] {
        let mut connection = raw_exec(&service, workspace, token, length, "").await;
        let head = read_head(&mut connection).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    assert_eq!(service.dispatched(), (0, 0));
    service.stop().await;
}
