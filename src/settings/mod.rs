//! Every setting of the service, with its type and default. `config/adit.toml` says what each is for.
//!
//! Values come in layers, a later one over an earlier one: the defaults here, a TOML file, and variables named
//! `ADIT__SECTION__KEY`. Beside them only the proxies of the environment are read. A key that does not exist is refused by name in both. Nothing here reads the process
//! environment: the caller passes it in.

mod check;
mod layers;
mod proxies;
mod types;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use adit_actors::engine::EngineSettings;
use ipnet::IpNet;
use secrecy::SecretString;
use serde::Deserialize;
use uuid::Uuid;

pub use layers::{SettingsError, VARIABLE_PREFIX};
pub use proxies::ProxyVariables;

const DAY: Duration = Duration::from_secs(86_400);

/// All settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The public listener.
    pub http: Http,
    /// The admin API.
    pub admin: Admin,
    /// The tenant guard.
    pub tenant: Tenant,
    /// The database.
    pub store: Store,
    /// AWS, and what holds for workspaces that do not say otherwise.
    pub aws: Aws,
    /// Execs in flight.
    pub limits: Limits,
    /// Tunnels to instances.
    pub tunnel: Tunnel,
    /// Execs.
    pub exec: Exec,
    /// Audit rows.
    pub audit: Audit,
    /// The end of the service.
    pub shutdown: Shutdown,
    /// The service's own log.
    pub log: Log,
    /// What the environment says of proxies. No key of the file: it is what other programs go by, too.
    #[serde(skip)]
    pub proxies: ProxyVariables,
}

/// Section `http`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address of the listener; port 0 takes a free one.
    pub listen: SocketAddr,
    /// PEM file of the certificate that the listeners show, with its chain. With `tls_key_file`, or not at all.
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of its private key, unencrypted.
    pub tls_key_file: Option<PathBuf>,
    /// Threads that serve requests.
    pub workers: usize,
    /// How long the status line waits for output, so that a silent command that fails can still answer a status.
    #[serde(rename = "hold_status_s", with = "types::seconds")]
    pub hold_status: Duration,
    /// Silence in a stream after which a heartbeat frame is sent.
    #[serde(rename = "heartbeat_s", with = "types::seconds")]
    pub heartbeat: Duration,
    /// Longest time for a request's head to arrive.
    #[serde(rename = "head_timeout_s", with = "types::seconds")]
    pub head_timeout: Duration,
    /// Longest time for a request's body to arrive.
    #[serde(rename = "body_timeout_s", with = "types::seconds")]
    pub body_timeout: Duration,
    /// Largest body of a request.
    pub max_body_bytes: usize,
    /// Peers whose `X-Forwarded-For` is believed: networks, or single addresses.
    #[serde(deserialize_with = "types::networks")]
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls_cert_file: None,
            tls_key_file: None,
            workers: 2,
            hold_status: Duration::from_secs(45),
            heartbeat: Duration::from_secs(15),
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(10),
            max_body_bytes: 8_388_608,
            trusted_proxies: Vec::new(),
        }
    }
}

/// Section `admin`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Tokens that open `/admin`: none, one, or two while one replaces the other.
    #[serde(deserialize_with = "types::secrets")]
    pub tokens: Vec<SecretString>,
    /// A file with these tokens instead, one a line. Read once; [`Settings::load`] puts its content into `tokens`.
    pub tokens_file: Option<PathBuf>,
    /// A listener of its own for `/admin`, which then is not on the public one.
    pub listen: Option<SocketAddr>,
}

/// Section `tenant`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// Turns the tenant guard on: requests for another org get 404, and every row of the store belongs to this one.
    pub org_id: Option<Uuid>,
    /// The request header that names the org.
    pub header: String,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            org_id: None,
            header: "X-Molecule-Org-Id".to_owned(),
        }
    }
}

/// Section `store`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Which database. A secret, as URLs of databases hold passwords.
    #[serde(deserialize_with = "types::secret")]
    pub url: SecretString,
    /// A file with the URL instead. Read once; [`Settings::load`] puts its content into `url`.
    pub url_file: Option<PathBuf>,
    /// Connections for authentication, lists and host keys, at most. Audit rows have three more.
    pub connections: u32,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: SecretString::from("sqlite:///var/lib/adit/adit.db"),
            url_file: None,
            connections: 8,
        }
    }
}

/// Section `aws`. Credentials are not here: they come from AWS's own chain.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Aws {
    /// Region of workspaces that name none.
    pub region: String,
    /// Login name of workspaces that name none.
    pub os_user: String,
    /// EC2 Instance Connect Endpoint of workspaces that name none.
    pub endpoint_id: Option<String>,
    /// DNS name of that endpoint.
    pub endpoint_dns_name: Option<String>,
    /// How instances are reached.
    pub connect: Connect,
    /// SSH port of instances. EC2 Instance Connect Endpoint forwards to 22 and 3389 only; `direct` reaches any.
    pub ssh_port: u16,
    /// How long a tunnel may live; AWS allows at most 3,600 s.
    #[serde(rename = "max_tunnel_duration_s", with = "types::seconds")]
    pub max_tunnel_duration: Duration,
    /// How long an address and an endpoint that EC2 has named are believed.
    #[serde(rename = "discovery_cache_s", with = "types::seconds")]
    pub discovery_cache: Duration,
    /// Base URL of another EC2 API, for an emulator.
    pub ec2_endpoint_override: Option<String>,
    /// Base URL of another EC2 Instance Connect API, for an emulator.
    pub key_push_endpoint_override: Option<String>,
    /// Base URL (`ws://` or `wss://`) that tunnels are opened at instead of the endpoint's DNS name, for an emulator.
    pub tunnel_endpoint_override: Option<String>,
    /// PEM file of root certificates to trust beside the system's, for an emulator.
    pub tunnel_ca_file: Option<PathBuf>,
}

/// How instances are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connect {
    /// Through an EC2 Instance Connect Endpoint.
    Endpoint,
    /// By plain TCP to the instance's address, for a service in the instance's own network.
    Direct,
}

impl Default for Aws {
    fn default() -> Self {
        Self {
            region: "us-east-2".to_owned(),
            os_user: "ubuntu".to_owned(),
            endpoint_id: None,
            endpoint_dns_name: None,
            connect: Connect::Endpoint,
            ssh_port: 22,
            max_tunnel_duration: Duration::from_secs(3_600),
            discovery_cache: Duration::from_secs(300),
            ec2_endpoint_override: None,
            key_push_endpoint_override: None,
            tunnel_endpoint_override: None,
            tunnel_ca_file: None,
        }
    }
}

/// Section `limits`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Execs in flight at most for one token.
    pub execs_per_token: usize,
    /// Execs in flight at most for one org.
    pub execs_per_org: usize,
    /// Execs in flight at most in this process.
    pub execs_per_process: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            execs_per_token: 32,
            execs_per_org: 256,
            execs_per_process: 4_096,
        }
    }
}

/// Section `tunnel`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tunnel {
    /// Threads that all tunnels and execs share.
    pub threads: usize,
    /// Longest wait of an exec for a channel.
    #[serde(rename = "start_timeout_s", with = "types::seconds")]
    pub start_timeout: Duration,
    /// A tunnel that nobody uses is closed after this.
    #[serde(rename = "idle_timeout_s", with = "types::seconds")]
    pub idle_timeout: Duration,
    /// Channels that a tunnel carries at first.
    pub channel_cap: usize,
    /// Channels kept open ahead of use on a ready tunnel.
    pub spare_channels: usize,
    /// Tunnels to one instance at most.
    pub max_tunnels_per_instance: usize,
    /// Connections of one EC2 Instance Connect Endpoint that this process holds at most.
    pub endpoint_connections: usize,
    /// Of these, how many only successors of tunnels that end soon may take. Less than `endpoint_connections`.
    pub endpoint_reserve: usize,
    /// Age of a pushed key past which no login is begun with it. AWS honours it for 60 s.
    #[serde(rename = "grant_margin_s", with = "types::seconds")]
    pub grant_margin: Duration,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            threads: 2,
            start_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            channel_cap: 10,
            spare_channels: 1,
            max_tunnels_per_instance: 2,
            endpoint_connections: 16,
            endpoint_reserve: 2,
            grant_margin: Duration::from_secs(45),
        }
    }
}

/// Section `exec`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exec {
    /// Bytes kept and sent of each output stream.
    pub output_cap_bytes: usize,
}

impl Default for Exec {
    fn default() -> Self {
        Self {
            output_cap_bytes: 1_048_576,
        }
    }
}

/// Section `audit`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Age past which a row that still says `running` is settled as crashed.
    #[serde(rename = "settle_after_s", with = "types::seconds")]
    pub settle_after: Duration,
    /// How often such rows are looked for.
    #[serde(rename = "sweep_interval_s", with = "types::seconds")]
    pub sweep_interval: Duration,
    /// Longest time for the last rows to be written at shutdown.
    #[serde(rename = "flush_timeout_s", with = "types::seconds")]
    pub flush_timeout: Duration,
    /// Rows of execs that began more than so many days ago are deleted; 0 keeps them for ever.
    pub retain_days: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            settle_after: Duration::from_secs(600),
            sweep_interval: Duration::from_secs(60),
            flush_timeout: Duration::from_secs(10),
            retain_days: 0,
        }
    }
}

/// Section `shutdown`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long running execs may go on before they are cancelled.
    #[serde(rename = "grace_s", with = "types::seconds")]
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(25),
        }
    }
}

/// Section `log`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Form of a line.
    pub format: LogFormat,
    /// What is logged, in the syntax of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info,actix_server=warn,actix_http::h2=error".to_owned(),
        }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// The core's share of the settings.
    #[must_use]
    pub fn engine(&self) -> EngineSettings {
        EngineSettings {
            arbiters: self.tunnel.threads,
            execs_per_token: self.limits.execs_per_token,
            execs_per_org: self.limits.execs_per_org,
            execs_per_process: self.limits.execs_per_process,
            start_timeout: self.tunnel.start_timeout,
            idle_timeout: self.tunnel.idle_timeout,
            channel_cap: self.tunnel.channel_cap,
            spare_channels: self.tunnel.spare_channels,
            max_tunnels_per_instance: self.tunnel.max_tunnels_per_instance,
            endpoint_connections: self.tunnel.endpoint_connections,
            endpoint_reserve: self.tunnel.endpoint_reserve,
            grant_margin: self.tunnel.grant_margin,
            output_cap: self.exec.output_cap_bytes,
            settle_after: self.audit.settle_after,
            sweep_interval: self.audit.sweep_interval,
            retain: (self.audit.retain_days > 0).then(|| DAY * self.audit.retain_days),
        }
    }
}

#[cfg(test)]
mod tests;
