//! Which values are allowed beyond their type.

use std::ops::RangeInclusive;
use std::time::Duration;

use adit_actors::exec::request::MAX_TIMEOUT_S;
use secrecy::ExposeSecret;
use tracing_subscriber::EnvFilter;

use super::{Connect, Settings, SettingsError};

/// Least characters of an admin token: 32 of base64url are 192 bits.
const MIN_ADMIN_TOKEN: usize = 32;

/// What an exec may take besides waiting for a channel and running: 5 s for sshd's answer after a wait that took the whole
/// start timeout, 5 s to kill, 2 s to drain, 10 s of audit.
const EXEC_OVERHEAD: Duration = Duration::from_secs(22);

/// What EC2 Instance Connect Endpoint answers to another: "Specify either 22 or 3389 as the RemotePort".
const ENDPOINT_PORTS: [u16; 2] = [22, 3389];

impl Settings {
    /// Refuses values that have the right type and make no sense.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        for (key, value, allowed) in self.numbers() {
            if !allowed.contains(&value) {
                let (least, most) = (allowed.start(), allowed.end());
                return Err(wrong(key, format!("is {value}; allowed are {least} to {most}")));
            }
        }
        self.check_tls()?;
        self.check_admin_tokens()?;
        self.check_aws()?;
        if http::HeaderName::try_from(&self.tenant.header).is_err() {
            return Err(wrong(
                "tenant.header",
                "is not the name of an HTTP header".to_owned(),
            ));
        }
        if EnvFilter::try_new(&self.log.filter).is_err() {
            return Err(wrong(
                "log.filter",
                "is not a filter such as `info` or `info,adit_actors=debug`".to_owned(),
            ));
        }
        let longest_exec =
            self.tunnel.start_timeout + Duration::from_secs(MAX_TIMEOUT_S.into()) + EXEC_OVERHEAD;
        if self.audit.settle_after < longest_exec {
            let least = longest_exec.as_secs();
            let problem = format!("must be at least {least}, or execs would be settled while they run");
            return Err(wrong("audit.settle_after_s", problem));
        }
        Ok(())
    }

    fn numbers(&self) -> [(&'static str, u64, RangeInclusive<u64>); 28] {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        [
            ("http.workers", count(self.http.workers), 1..=256),
            ("http.hold_status_s", self.http.hold_status.as_secs(), 0..=3_600),
            ("http.heartbeat_s", self.http.heartbeat.as_secs(), 1..=3_600),
            ("http.head_timeout_s", self.http.head_timeout.as_secs(), 1..=300),
            ("http.body_timeout_s", self.http.body_timeout.as_secs(), 1..=300),
            (
                "http.max_body_bytes",
                count(self.http.max_body_bytes),
                1_024..=67_108_864,
            ),
            ("store.connections", self.store.connections.into(), 1..=128),
            ("aws.ssh_port", self.aws.ssh_port.into(), 1..=65_535),
            (
                "aws.max_tunnel_duration_s",
                self.aws.max_tunnel_duration.as_secs(),
                1..=3_600,
            ),
            (
                "aws.discovery_cache_s",
                self.aws.discovery_cache.as_secs(),
                10..=86_400,
            ),
            (
                "limits.execs_per_token",
                count(self.limits.execs_per_token),
                1..=65_536,
            ),
            (
                "limits.execs_per_org",
                count(self.limits.execs_per_org),
                1..=65_536,
            ),
            (
                "limits.execs_per_process",
                count(self.limits.execs_per_process),
                1..=65_536,
            ),
            ("tunnel.threads", count(self.tunnel.threads), 1..=256),
            (
                "tunnel.start_timeout_s",
                self.tunnel.start_timeout.as_secs(),
                1..=600,
            ),
            (
                "tunnel.idle_timeout_s",
                self.tunnel.idle_timeout.as_secs(),
                1..=3_600,
            ),
            ("tunnel.channel_cap", count(self.tunnel.channel_cap), 1..=64),
            ("tunnel.spare_channels", count(self.tunnel.spare_channels), 0..=4),
            (
                "tunnel.max_tunnels_per_instance",
                count(self.tunnel.max_tunnels_per_instance),
                1..=20,
            ),
            (
                "tunnel.endpoint_connections",
                count(self.tunnel.endpoint_connections),
                1..=1_000,
            ),
            (
                "tunnel.endpoint_reserve",
                count(self.tunnel.endpoint_reserve),
                0..=count(self.tunnel.endpoint_connections).saturating_sub(1),
            ),
            (
                "tunnel.grant_margin_s",
                self.tunnel.grant_margin.as_secs(),
                1..=55,
            ),
            (
                "exec.output_cap_bytes",
                count(self.exec.output_cap_bytes),
                1..=67_108_864,
            ),
            (
                "audit.settle_after_s",
                self.audit.settle_after.as_secs(),
                1..=86_400,
            ),
            (
                "audit.sweep_interval_s",
                self.audit.sweep_interval.as_secs(),
                1..=3_600,
            ),
            (
                "audit.flush_timeout_s",
                self.audit.flush_timeout.as_secs(),
                1..=600,
            ),
            ("audit.retain_days", self.audit.retain_days.into(), 0..=36_500),
            ("shutdown.grace_s", self.shutdown.grace.as_secs(), 0..=600),
        ]
    }

    fn check_tls(&self) -> Result<(), SettingsError> {
        let (missing, other) = match (&self.http.tls_cert_file, &self.http.tls_key_file) {
            (None, Some(_)) => ("http.tls_cert_file", "http.tls_key_file"),
            (Some(_), None) => ("http.tls_key_file", "http.tls_cert_file"),
            _ => return Ok(()),
        };
        Err(wrong(missing, format!("must be set too where `{other}` is")))
    }

    fn check_admin_tokens(&self) -> Result<(), SettingsError> {
        if self.admin.tokens.len() > 2 {
            return Err(wrong("admin.tokens", "has more than two tokens".to_owned()));
        }
        let is_usable =
            |token: &str| token.len() >= MIN_ADMIN_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !self
            .admin
            .tokens
            .iter()
            .all(|token| is_usable(token.expose_secret()))
        {
            let problem = format!("needs tokens of at least {MIN_ADMIN_TOKEN} visible ASCII characters");
            return Err(wrong("admin.tokens", problem));
        }
        if self.admin.tokens_file.is_some() && self.admin.tokens.is_empty() {
            return Err(wrong(
                "admin.tokens_file",
                "names a file without a token".to_owned(),
            ));
        }
        Ok(())
    }

    fn check_aws(&self) -> Result<(), SettingsError> {
        if self.aws.endpoint_id.is_some() != self.aws.endpoint_dns_name.is_some() {
            return Err(wrong(
                "aws.endpoint_id",
                "and `aws.endpoint_dns_name` go together".to_owned(),
            ));
        }
        if self.aws.connect == Connect::Direct && self.aws.endpoint_id.is_some() {
            return Err(wrong(
                "aws.endpoint_id",
                "is not used with `aws.connect = \"direct\"`: take out one of them".to_owned(),
            ));
        }
        // SendSSHPublicKey: InstanceOSUser has 1 to 32 characters.
        if self.aws.os_user.is_empty() || self.aws.os_user.len() > 32 {
            return Err(wrong("aws.os_user", "must have 1 to 32 characters".to_owned()));
        }
        if self.aws.connect == Connect::Endpoint && !ENDPOINT_PORTS.contains(&self.aws.ssh_port) {
            let problem = format!(
                "is {}; an EC2 Instance Connect Endpoint forwards to 22 and 3389 only",
                self.aws.ssh_port
            );
            return Err(wrong("aws.ssh_port", problem));
        }
        if self.aws.region.is_empty() {
            return Err(wrong("aws.region", "must not be empty".to_owned()));
        }
        for (key, url, schemes) in [
            (
                "aws.ec2_endpoint_override",
                &self.aws.ec2_endpoint_override,
                ["http://", "https://"],
            ),
            (
                "aws.key_push_endpoint_override",
                &self.aws.key_push_endpoint_override,
                ["http://", "https://"],
            ),
            (
                "aws.tunnel_endpoint_override",
                &self.aws.tunnel_endpoint_override,
                ["ws://", "wss://"],
            ),
        ] {
            if url
                .as_ref()
                .is_some_and(|url| !schemes.iter().any(|scheme| url.starts_with(scheme)))
            {
                return Err(wrong(
                    key,
                    format!("must begin with `{}` or `{}`", schemes[0], schemes[1]),
                ));
            }
        }
        Ok(())
    }
}

fn wrong(key: &'static str, problem: String) -> SettingsError {
    SettingsError::Value { key, problem }
}
