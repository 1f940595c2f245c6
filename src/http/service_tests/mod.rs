//! The routes with a real store and the real engine, over real sockets. AWS is played: it denies every key push, or
//! never answers, so nothing here reaches an instance; what does reach AWS is counted.

mod admission;
mod execs;
mod host_keys;
mod house;
mod keys;
mod limits;
mod operators;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use adit_actors::audit::{AuditRow, AuditStore, AuditStoreError, Chore, DueRow, Half};
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
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use uuid::Uuid;

use super::{HttpOptions, HttpState, Surface, TokenUseKeeper, start};
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
            endpoint: None,
        })
    }

    fn forget(&self, _: &InstanceTarget) {}
}

/// Keeps each row as it was written last.
#[derive(Default)]
struct Rows(Mutex<Vec<AuditRow>>, OthersAreFaster);

/// Whether each id that is begun has just become another try's.
type OthersAreFaster = AtomicBool;

#[async_trait]
impl AuditStore for Rows {
    async fn write(&self, _: Half, rows: &[AuditRow]) -> Result<Vec<Uuid>, AuditStoreError> {
        if self.1.load(Ordering::Relaxed) {
            return Ok(rows.iter().map(|row| row.id).collect());
        }
        let mut kept = self.0.lock().expect("no test panics in here");
        for row in rows {
            kept.retain(|other| other.id != row.id);
            kept.push(row.clone());
        }
        Ok(Vec::new())
    }

    async fn due(&self, _: Chore, _: Option<DueRow>, _: u32) -> Result<Vec<DueRow>, AuditStoreError> {
        Ok(Vec::new())
    }

    async fn perform(&self, _: Chore, _: &[Uuid]) -> Result<Vec<Uuid>, AuditStoreError> {
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
    token_uses: TokenUseKeeper,
    directory: TempDir,
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
        let store = connect(&url, 2, defaults).await.unwrap();
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
        let state = HttpState::new(engine.clone(), store.clone(), options);
        let token_uses = state.keep_token_uses();
        let server = start(listener, state, surface).unwrap();
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
            token_uses,
            directory,
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
        self.token_uses.finish().await;
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
                expires_at: None,
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
