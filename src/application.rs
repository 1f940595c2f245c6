//! The service as one value: built from settings, run until it is told to stop, and stopped in order.
//!
//! Owns the listeners, the store, the engine and the servers, and the order in which they begin and end. It must not
//! read the environment or signals: its caller passes in what they say.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use adit_actors::clock::Clock;
use adit_actors::engine::{Boundaries, Engine};
use adit_actors::instance::EndpointHint;
use aws_credential_types::Credentials;
use secrecy::ExposeSecret;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::aws::{AwsConnection, AwsOptions, AwsSetupError, TunnelEndpointError, Way};
use crate::http::{self, HttpOptions, HttpState, Surface, TlsIdentity, TlsIdentityError, TokenUseKeeper};
use crate::pem_files::{PemFileError, read_certificates};
use crate::settings::{Connect, Settings};
use crate::store::{self, ConnectError, Store, TargetDefaults};

/// For the answers to get out once the execs have ended; beside the grace and the flush, for the kill (5 s) too.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(10);

/// For what is in the buffers of connections, once all answers are out, to get to its readers. HTTP/1.1 connections end by
/// themselves then; one of HTTP/2 stays for as long as its client likes.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// The service could not be built.
#[derive(Debug, Error)]
pub enum ApplicationError {
    /// An address could not be listened on.
    #[error("`{key}`: can't listen on {address}")]
    Bind {
        /// The setting that names the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store can't be used.
    #[error("the store can't be used")]
    Store(#[from] ConnectError),
    /// `aws.tunnel_endpoint_override` is no such URL.
    #[error("`aws.tunnel_endpoint_override` is not usable")]
    TunnelEndpoint(#[source] TunnelEndpointError),
    /// `aws.tunnel_ca_file` holds no certificates.
    #[error("`aws.tunnel_ca_file`: `{path}` is not usable")]
    TunnelCa {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PemFileError,
    },
    /// The listeners' certificate can't be used.
    #[error("TLS could not be set up")]
    Tls(#[from] TlsIdentityError),
    /// AWS could not be set up.
    #[error("AWS could not be set up")]
    Aws(#[from] AwsSetupError),
    /// A setting passed its check and is not usable all the same.
    #[error("`{key}` is not usable")]
    Setting {
        /// The setting.
        key: &'static str,
    },
    /// A listener could not be served.
    #[error("the HTTP server could not be started")]
    Server(#[source] io::Error),
}

/// The service ended other than it should.
#[derive(Debug, Error)]
pub enum RunError {
    /// Execs ended whose final rows could not be written. They stay `running` in the store until they are settled.
    #[error("the audit rows of these execs could not be finished: {}", list(.0))]
    Unwritten(Vec<Uuid>),
    /// A server ended by itself.
    #[error("the HTTP server ended unasked")]
    Server(#[source] Option<io::Error>),
}

fn list(ids: &[Uuid]) -> String {
    ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(", ")
}

/// The bound addresses, before anything else is begun: a port that is taken is the commonest failure, and it must come
/// before the store is touched.
#[derive(Debug)]
pub struct Listeners {
    public: TcpListener,
    address: SocketAddr,
    admin: Option<TcpListener>,
    admin_address: Option<SocketAddr>,
}

impl Listeners {
    /// Binds `http.listen`, and `admin.listen` where it is set. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`ApplicationError::Bind`] names the setting and the address.
    pub fn bind(settings: &Settings) -> Result<Self, ApplicationError> {
        let (public, address) = bind("http.listen", settings.http.listen)?;
        let admin = settings
            .admin
            .listen
            .map(|listen| bind("admin.listen", listen))
            .transpose()?;
        let (admin, admin_address) = admin.unzip();
        Ok(Self {
            public,
            address,
            admin,
            admin_address,
        })
    }

    /// Where the public listener is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ApplicationError> {
    let bound = || {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|source| ApplicationError::Bind { key, address, source })
}

/// The built service. It serves already; [`Application::run`] waits for its end.
pub struct Application {
    address: SocketAddr,
    speaks_tls: bool,
    admin_address: Option<SocketAddr>,
    store: Arc<dyn Store>,
    engine: Engine,
    servers: Vec<Server>,
    answers: TaskTracker,
    token_uses: TokenUseKeeper,
    grace: Duration,
    flush_timeout: Duration,
}

impl std::fmt::Debug for Application {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Application")
            .field("address", &self.address)
            .field("admin_address", &self.admin_address)
            .finish_non_exhaustive()
    }
}

impl Application {
    /// Binds, opens the store, sets AWS up, starts the actors and serves. Must be called inside an actix `System`.
    ///
    /// `credentials` are used instead of those that AWS's own chain finds, for an emulator.
    ///
    /// # Errors
    /// [`ApplicationError`]; nothing is left running.
    pub async fn build(
        settings: Settings,
        credentials: Option<Credentials>,
    ) -> Result<Self, ApplicationError> {
        let listeners = Listeners::bind(&settings)?;
        Self::build_on(listeners, settings, credentials).await
    }

    /// The same on listeners that were bound before.
    ///
    /// # Errors
    /// [`ApplicationError`]; nothing is left running.
    pub async fn build_on(
        listeners: Listeners,
        settings: Settings,
        credentials: Option<Credentials>,
    ) -> Result<Self, ApplicationError> {
        let options = http_options(&settings)?;
        let clock = Clock::system();
        let aws = connect_to_aws(&settings, credentials, clock.clone()).await?;
        let store = open_store(&settings).await?;
        let boundaries = Boundaries {
            key_grants: aws.key_grants(),
            dialer: aws.dialer(),
            locator: aws.locator(),
            host_keys: store.clone(),
            audit_store: store.clone(),
        };
        let engine = Engine::start(settings.engine(), boundaries, clock);
        let state = HttpState::new(engine.clone(), store.clone(), options);
        let (address, admin_address) = (listeners.address, listeners.admin_address);
        let servers = match start_servers(listeners, &state) {
            Ok(servers) => servers,
            Err(error) => {
                // Nothing has been admitted yet, so nothing can be left unwritten.
                engine.shutdown(Duration::ZERO, Duration::ZERO).await;
                store.close().await;
                return Err(ApplicationError::Server(error));
            }
        };
        let application = Self {
            address,
            speaks_tls: state.options.tls.is_some(),
            admin_address,
            store,
            engine,
            servers,
            token_uses: state.keep_token_uses(),
            answers: state.answers,
            grace: settings.shutdown.grace,
            flush_timeout: settings.audit.flush_timeout,
        };
        tracing::info!(http.address = %address, "listening on {}", application.url());
        Ok(application)
    }

    /// Where the public listener is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that it answers at.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.speaks_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Where the admin listener is, when it has one of its own.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Serves until `stop` completes, then ends in order: no new connections, running execs within the grace, tunnels,
    /// audit rows, store.
    ///
    /// # Errors
    /// [`RunError`] when rows could not be written, or a server ended by itself.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        self.run_until(stop, std::future::pending()).await
    }

    /// The same; when `hurry` completes after `stop`, the grace is over at once: running execs are cancelled, and their
    /// rows are still written.
    ///
    /// # Errors
    /// [`RunError`] when rows could not be written, or a server ended by itself.
    pub async fn run_until(
        self,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let handles: Vec<_> = self.servers.iter().map(Server::handle).collect();
        let mut servers = JoinSet::new();
        for server in self.servers {
            servers.spawn_local(server);
        }
        let ended_unasked = tokio::select! {
            () = stop => None,
            ended = servers.join_next() => ended,
        };
        tracing::info!(
            "stopping: no new connections, running execs may end within {:?}",
            self.grace
        );
        // Told now, and done when the connections have ended.
        let stopped = futures_util::future::join_all(handles.iter().map(|handle| handle.stop(true)));
        let unwritten = end_execs(&self.engine, self.grace, self.flush_timeout, hurry).await;
        end_connections(stopped, &self.answers).await;
        self.token_uses.finish().await;
        self.store.close().await;
        if !unwritten.is_empty() {
            return Err(RunError::Unwritten(unwritten));
        }
        match ended_unasked {
            None => Ok(()),
            Some(Ok(result)) => Err(RunError::Server(result.err())),
            Some(Err(panicked)) => Err(RunError::Server(Some(io::Error::other(panicked)))),
        }
    }
}

fn start_servers(listeners: Listeners, state: &HttpState) -> io::Result<Vec<Server>> {
    let surface = if listeners.admin.is_some() {
        Surface::Public
    } else {
        Surface::Both
    };
    let mut servers = vec![http::start(listeners.public, state.clone(), surface)?];
    if let Some(listener) = listeners.admin {
        servers.push(http::start(listener, state.clone(), Surface::Admin)?);
    }
    Ok(servers)
}

async fn end_execs(
    engine: &Engine,
    grace: Duration,
    flush: Duration,
    hurry: impl Future<Output = ()>,
) -> Vec<Uuid> {
    tokio::select! {
        unwritten = engine.shutdown(grace, flush) => unwritten,
        // Shutting down again without a grace takes up where the first stood.
        () = hurry => {
            tracing::info!("told again to stop: running execs are cancelled");
            engine.shutdown(Duration::ZERO, flush).await
        }
    }
}

/// Waits for the servers, which take no new connections, for as long as there are answers and a little longer.
async fn end_connections(stopped: impl Future, answers: &TaskTracker) {
    answers.close();
    let answered = async {
        if tokio::time::timeout(SHUTDOWN_MARGIN, answers.wait())
            .await
            .is_err()
        {
            tracing::warn!("some answers did not end in time and are cut");
        }
        tokio::time::sleep(LAST_BYTES).await;
    };
    tokio::select! {
        _ = stopped => {}
        () = answered => tracing::info!("connections that their clients keep open are cut"),
    }
}

/// Opens the store that the settings name.
///
/// # Errors
/// [`ConnectError`]; in particular when its migrations are not those of this version.
pub async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, ConnectError> {
    let store = &settings.store;
    store::connect(
        store.url.expose_secret(),
        store.connections,
        target_defaults(settings),
    )
    .await
}

/// What holds for workspaces that do not say otherwise.
fn target_defaults(settings: &Settings) -> TargetDefaults {
    TargetDefaults {
        region: settings.aws.region.clone(),
        os_user: settings.aws.os_user.clone(),
        port: settings.aws.ssh_port,
    }
}

/// How instances are reached, and through which endpoint where their workspaces name none.
fn way(settings: &Settings) -> Way {
    let aws = &settings.aws;
    let default = || {
        let (endpoint_id, dns_name) = aws.endpoint_id.clone().zip(aws.endpoint_dns_name.clone())?;
        Some(EndpointHint {
            endpoint_id,
            dns_name,
        })
    };
    match aws.connect {
        Connect::Endpoint => Way::Endpoint { default: default() },
        Connect::Direct => Way::Direct,
    }
}

async fn connect_to_aws(
    settings: &Settings,
    credentials: Option<Credentials>,
    clock: Clock,
) -> Result<AwsConnection, ApplicationError> {
    let aws = &settings.aws;
    let tunnel_endpoint = aws
        .tunnel_endpoint_override
        .as_ref()
        .map(|url| url.parse())
        .transpose()
        .map_err(ApplicationError::TunnelEndpoint)?;
    let extra_roots = match &aws.tunnel_ca_file {
        None => Vec::new(),
        Some(path) => read_certificates(path).map_err(|source| ApplicationError::TunnelCa {
            path: path.clone(),
            source,
        })?,
    };
    let options = AwsOptions {
        credentials,
        key_push_endpoint: aws.key_push_endpoint_override.clone(),
        tunnel_endpoint,
        max_tunnel_duration: Some(aws.max_tunnel_duration),
        ec2_endpoint: aws.ec2_endpoint_override.clone(),
        extra_roots,
        proxies: settings.proxies.clone(),
        way: way(settings),
        discovery_life: aws.discovery_cache,
        ..AwsOptions::new(&aws.region)
    };
    Ok(AwsConnection::open(options, clock).await?)
}

fn http_options(settings: &Settings) -> Result<HttpOptions, ApplicationError> {
    let org_header = ::http::HeaderName::try_from(&settings.tenant.header)
        .ok()
        .and_then(|name| actix_web::http::header::HeaderName::try_from(name.as_str()).ok())
        .ok_or(ApplicationError::Setting { key: "tenant.header" })?;
    let (certificates, private_key) = (&settings.http.tls_cert_file, &settings.http.tls_key_file);
    let tls = certificates
        .as_ref()
        .zip(private_key.as_ref())
        .map(|(certificates, private_key)| TlsIdentity::read(certificates, private_key))
        .transpose()?;
    Ok(HttpOptions {
        hold_status: settings.http.hold_status,
        heartbeat: settings.http.heartbeat,
        head_timeout: settings.http.head_timeout,
        body_timeout: settings.http.body_timeout,
        max_body: settings.http.max_body_bytes,
        shutdown_timeout: settings.shutdown.grace + settings.audit.flush_timeout + SHUTDOWN_MARGIN,
        default_region: settings.aws.region.clone(),
        tenant_org: settings.tenant.org_id,
        org_header,
        admin_tokens: settings.admin.tokens.clone(),
        trusted_proxies: settings.http.trusted_proxies.clone(),
        workers: settings.http.workers,
        tls,
        ..HttpOptions::default()
    })
}
