//! The whole of Adit's core behind one value: what the service starts, asks and shuts down.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use uuid::Uuid;

use crate::audit::AuditStore;
use crate::clock::Clock;
use crate::exec::{EndedBy, Exec, ExecSpec, OutputStream};
use crate::tunnel::{Dialer, HostKeys, InstanceSnapshot, KeyGrants, Locator};

/// What the engine needs from outside.
#[derive(Clone)]
pub struct Boundaries {
    /// SendSSHPublicKey.
    pub key_grants: Arc<dyn KeyGrants>,
    /// OpenTunnel.
    pub dialer: Arc<dyn Dialer>,
    /// Instance to address and endpoint.
    pub locator: Arc<dyn Locator>,
    /// Pinned host keys.
    pub host_keys: Arc<dyn HostKeys>,
    /// Audit rows.
    pub audit_store: Arc<dyn AuditStore>,
}

impl std::fmt::Debug for Boundaries {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Boundaries")
    }
}

/// Every number of the engine. The defaults are the service's defaults.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Arbiter threads that the actors share.
    pub arbiters: usize,
    /// Execs in flight at most for one token.
    pub execs_per_token: usize,
    /// Execs in flight at most for one org.
    pub execs_per_org: usize,
    /// Execs in flight at most in this process.
    pub execs_per_process: usize,
    /// Longest wait for a channel.
    pub start_timeout: Duration,
    /// A tunnel without a lease is closed after this.
    pub idle_timeout: Duration,
    /// Channel cap that a tunnel starts with; sshd's MaxSessions is 10 unless changed.
    pub channel_cap: usize,
    /// Tunnels per instance at most.
    pub max_tunnels_per_instance: usize,
    /// A grant is used for new logins only while it is younger than this. AWS honours a key for 60 s.
    pub grant_margin: Duration,
    /// Bytes kept per output stream.
    pub output_cap: usize,
    /// Rows still `running` after this are settled by the sweep.
    pub settle_after: Duration,
    /// How often the sweep runs.
    pub sweep_interval: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            arbiters: 2,
            execs_per_token: 32,
            execs_per_org: 256,
            execs_per_process: 4_096,
            start_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            channel_cap: 10,
            max_tunnels_per_instance: 2,
            grant_margin: Duration::from_secs(45),
            output_cap: 1_048_576,
            settle_after: Duration::from_secs(600),
            sweep_interval: Duration::from_secs(60),
        }
    }
}

/// Handle to the running engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {}

impl Engine {
    /// Starts the arbiters and actors, and the sweep. Must be called inside an actix `System`.
    #[must_use]
    pub fn start(settings: EngineSettings, boundaries: Boundaries, clock: Clock) -> Self {
        unimplemented!()
    }

    /// Reserves a place for one exec. The permit travels into [`Engine::run`] and is given back when the row is final
    /// and the [`RunningExec`] is dropped.
    ///
    /// # Errors
    /// [`TooManyExecs`] when the token, the org or the process has no place left.
    pub fn admit(&self, token_id: Uuid, org_id: Option<Uuid>) -> Result<Permit, TooManyExecs> {
        unimplemented!()
    }

    /// Starts an exec. Never fails: what goes wrong is told by its [`ExecEvent::Ended`].
    #[must_use]
    pub fn run(&self, spec: ExecSpec, permit: Permit) -> RunningExec {
        unimplemented!()
    }

    /// What every supervisor knows, by region and instance id.
    pub async fn tunnels(&self) -> Vec<InstanceSnapshot> {
        unimplemented!()
    }

    /// The same for the instances with this instance id (one, unless two regions were to use the same id).
    pub async fn tunnels_of(&self, instance_id: &str) -> Vec<InstanceSnapshot> {
        unimplemented!()
    }

    /// How the audit is doing, for readiness.
    #[must_use]
    pub fn audit_failing_for(&self) -> Option<Duration> {
        unimplemented!()
    }

    /// Whether shutdown has begun.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        unimplemented!()
    }

    /// Ends everything in order: refuses new execs, lets running ones end for `grace`, cancels the rest, closes the tunnels,
    /// and flushes the audit within `flush`. Returns the ids of execs whose final row could not be written.
    pub async fn shutdown(&self, grace: Duration, flush: Duration) -> Vec<Uuid> {
        unimplemented!()
    }
}

/// A reserved place for one exec.
#[derive(Debug)]
pub struct Permit {}

/// No place left for another exec.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("too many execs in flight for this {scope}")]
pub struct TooManyExecs {
    /// `token`, `org` or `process`. The first two answer 429, the last 503 `instance_busy`.
    pub scope: AdmissionScope,
}

/// Whose limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionScope {
    /// The token's.
    Token,
    /// The org's.
    Org,
    /// The process's.
    Process,
}

impl std::fmt::Display for AdmissionScope {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Token => "token",
            Self::Org => "org",
            Self::Process => "process",
        })
    }
}

/// An exec that has been started, as its caller holds it. Dropping it before the end cancels the exec as `client_gone`.
#[derive(Debug)]
pub struct RunningExec {}

impl RunningExec {
    /// Id of the exec.
    #[must_use]
    pub fn exec_id(&self) -> Uuid {
        unimplemented!()
    }

    /// Timeout as applied, in seconds.
    #[must_use]
    pub fn timeout_s(&self) -> u32 {
        unimplemented!()
    }

    /// The next thing that happened, in order within each stream. [`ExecEvent::Ended`] is the last; afterwards `None`.
    /// Cancel-safe: nothing is lost when the future is dropped. Adjacent output of one stream is joined, up to 64 KiB a time.
    pub async fn next(&mut self) -> Option<ExecEvent> {
        unimplemented!()
    }

    /// Ends the exec; `ended_by` is recorded unless it is over or something else ended it first.
    pub fn cancel(&self, ended_by: EndedBy) {
        unimplemented!()
    }
}

/// What happens to an exec, as its caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecEvent {
    /// The program runs on the instance. At most once, before any output.
    Started,
    /// The program printed something.
    Output {
        /// On which stream.
        stream: OutputStream,
        /// What; may begin or end within a UTF-8 character.
        data: Bytes,
    },
    /// The stream went past its cap here; what follows is counted but not sent. At most once a stream.
    Truncated {
        /// Which stream.
        stream: OutputStream,
        /// The cap in bytes.
        limit: u64,
    },
    /// It is over, and its row is committed (or `audit.committed` says that it is not).
    Ended {
        /// How it went.
        exec: Box<Exec>,
        /// When trying again may help, for the codes that answer 503.
        retry_after: Option<Duration>,
    },
}
