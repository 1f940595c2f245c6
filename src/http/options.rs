//! What the HTTP layer is told at start, and what its handlers share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::http::header::HeaderName;
use adit_actors::engine::Engine;
use ipnet::IpNet;
use secrecy::SecretString;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::tls::TlsIdentity;
use super::token_uses::{TokenUseKeeper, TokenUses};
use crate::store::Store;

/// The header that a host platform puts its tenant's org id in, unless the settings name another.
pub const DEFAULT_ORG_HEADER: &str = "x-molecule-org-id";

/// Every number and name of the HTTP layer.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Longest time without output before the status line of a streamed answer leaves.
    pub hold_status: Duration,
    /// Longest time without a frame on a streamed answer; then a heartbeat is sent.
    pub heartbeat: Duration,
    /// A reader that takes nothing for this long after its exec has ended is cut off.
    pub stalled_reader: Duration,
    /// Longest time for a request's head to arrive.
    pub head_timeout: Duration,
    /// Longest time for a request's body to arrive.
    pub body_timeout: Duration,
    /// Largest request body in bytes. Stdin is at most 1 MiB decoded, the command line 128 KiB; the rest is room for
    /// JSON escapes, up to six bytes a character.
    pub max_body: usize,
    /// How long workers wait for answers under way when the server is stopped gracefully.
    pub shutdown_timeout: Duration,
    /// AWS region that an operator means who names none.
    pub default_region: String,
    /// The only org that this service serves; requests that name another, or none, get the 404.
    pub tenant_org: Option<Uuid>,
    /// The header in which a request names its org.
    pub org_header: HeaderName,
    /// Tokens that open `/admin`; two while one is being replaced by the other. None: nobody gets in.
    pub admin_tokens: Vec<SecretString>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Worker threads of a listener; at least 1.
    pub workers: usize,
    /// The certificate of every listener, which then speaks HTTPS only. None: plain HTTP.
    pub tls: Option<TlsIdentity>,
    /// How often the use of tokens is written to the store.
    pub token_use_interval: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            hold_status: Duration::from_secs(45),
            heartbeat: Duration::from_secs(15),
            stalled_reader: Duration::from_secs(30),
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(10),
            max_body: 8 * 1_048_576,
            shutdown_timeout: Duration::from_secs(45),
            default_region: "us-east-2".to_owned(),
            tenant_org: None,
            org_header: HeaderName::from_static(DEFAULT_ORG_HEADER),
            admin_tokens: Vec::new(),
            trusted_proxies: Vec::new(),
            workers: 2,
            tls: None,
            token_use_interval: Duration::from_secs(60),
        }
    }
}

/// What a listener serves. Health is served by each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The tenants' API.
    Public,
    /// `/admin`.
    Admin,
    /// Both on one listener.
    Both,
}

/// What all handlers share. Cheap to clone.
#[derive(Clone)]
pub struct HttpState {
    /// Runs execs and knows the tunnels.
    pub engine: Engine,
    /// Knows tokens and workspaces.
    pub store: Arc<dyn Store>,
    /// Settings of this layer.
    pub options: Arc<HttpOptions>,
    /// Requests whose answers are not out yet.
    pub answers: TaskTracker,
    /// Since when the store has not answered readiness checks.
    pub(crate) store_failing_since: Arc<Mutex<Option<Instant>>>,
    /// Tokens used since that was written to the store.
    pub(crate) token_uses: TokenUses,
}

impl HttpState {
    /// Puts the parts together; all clones share one memory of the store's health.
    #[must_use]
    pub fn new(engine: Engine, store: Arc<dyn Store>, options: HttpOptions) -> Self {
        Self {
            engine,
            store,
            options: Arc::new(options),
            answers: TaskTracker::new(),
            store_failing_since: Arc::default(),
            token_uses: TokenUses::default(),
        }
    }

    /// Starts to write to the store, in the background, which tokens are in use. Once for all clones, inside an actix
    /// `System`; [`TokenUseKeeper::finish`] ends it.
    #[must_use]
    pub fn keep_token_uses(&self) -> TokenUseKeeper {
        TokenUseKeeper::start(
            self.token_uses.clone(),
            Arc::clone(&self.store),
            self.options.token_use_interval,
        )
    }
}

impl std::fmt::Debug for HttpState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("HttpState")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
