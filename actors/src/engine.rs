//! The whole of Adit's core behind one value: what the service starts, asks and shuts down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::Addr;
use uuid::Uuid;

use crate::arbiters::Arbiters;
use crate::audit::{Audit, AuditSettings, AuditStore, UpkeepSettings};
use crate::clock::Clock;
use crate::exec::admission::{Admission, AdmissionLimits};
use crate::exec::live::LiveExecs;
use crate::exec::redact;
use crate::exec::{Cancel, EndedBy, ExecActor, ExecSpec, ExecSurroundings, Look, SharedOutput};
use crate::instance::InstanceKey;
use crate::tunnel::{
    BudgetSettings, CoreSettings, Dialer, Drain, EndpointBudgets, EndpointSnapshot, Evict, HostKeyReplaced,
    HostKeys, InstanceSnapshot, KeyGrants, Locator, Login, Surroundings, TunnelPool,
};

pub use crate::exec::admission::{AdmissionScope, Permit, TooManyExecs};
pub use crate::exec::{ExecEvent, LiveLook};

/// After the grace period running execs are cancelled and given this long: 5 s to stop and 2 s of draining, and a little
/// for their rows.
const CANCEL_BUDGET: Duration = Duration::from_secs(8);

/// At the end a tunnel whose warden has ended is kept this long for the next one: its first pause is 1 s, and a login's
/// start-up files may take a while.
const WARDEN_BUDGET: Duration = Duration::from_secs(4);
/// How often it is looked whether the tunnels have closed, which most often they have when it is looked first.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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
    /// Channels kept open ahead of use on a ready tunnel, 0 to 4: an exec then takes one round trip instead of two.
    pub spare_channels: usize,
    /// Tunnels per instance at most.
    pub max_tunnels_per_instance: usize,
    /// Connections of one EC2 Instance Connect Endpoint that this process holds at most. AWS: 20 for everybody.
    pub endpoint_connections: usize,
    /// Of these, how many only successors of ageing tunnels may take.
    pub endpoint_reserve: usize,
    /// A grant is used for new logins only while it is younger than this. AWS honours a key for 60 s.
    pub grant_margin: Duration,
    /// Bytes kept per output stream.
    pub output_cap: usize,
    /// Rows still `running` after this are settled by the sweep.
    pub settle_after: Duration,
    /// How often the sweep runs, and how often old rows are looked for.
    pub sweep_interval: Duration,
    /// Rows of execs that began longer ago than this are deleted; `None` keeps them for ever.
    pub retain: Option<Duration>,
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
            spare_channels: 1,
            max_tunnels_per_instance: 2,
            endpoint_connections: 16,
            endpoint_reserve: 2,
            grant_margin: Duration::from_secs(45),
            output_cap: 1_048_576,
            settle_after: Duration::from_secs(600),
            sweep_interval: Duration::from_secs(60),
            retain: None,
        }
    }
}

/// Handle to the running engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    settings: EngineSettings,
    arbiters: Arbiters,
    pool: TunnelPool,
    audit: Audit,
    clock: Clock,
    admission: Admission,
    live: LiveExecs,
    closing: Arc<AtomicBool>,
}

impl Engine {
    /// Starts the arbiters and actors, the sweep, and the deletion of old rows, once redaction is ready. Must be called inside
    /// an actix `System`.
    #[must_use]
    pub fn start(settings: EngineSettings, boundaries: Boundaries, clock: Clock) -> Self {
        redact::prepare();
        let arbiters = Arbiters::start(settings.arbiters);
        Self::start_on(arbiters, settings, boundaries, clock)
    }

    fn start_on(arbiters: Arbiters, settings: EngineSettings, boundaries: Boundaries, clock: Clock) -> Self {
        let audit_settings = AuditSettings {
            begin_limit: settings.execs_per_process,
            upkeep: UpkeepSettings {
                settle_after: settings.settle_after,
                interval: settings.sweep_interval,
                retain: settings.retain,
            },
        };
        let core_settings = CoreSettings {
            start_timeout: settings.start_timeout,
            idle_timeout: settings.idle_timeout,
            grant_margin: settings.grant_margin,
            channel_cap: settings.channel_cap,
            spare_channels: settings.spare_channels,
            max_tunnels: settings.max_tunnels_per_instance,
            max_waiters: settings.execs_per_process,
        };
        let budget_settings = BudgetSettings {
            connections: settings.endpoint_connections,
            reserve: settings.endpoint_reserve,
        };
        let around = Surroundings {
            key_grants: boundaries.key_grants,
            dialer: boundaries.dialer,
            locator: boundaries.locator,
            host_keys: boundaries.host_keys,
            endpoint_budgets: EndpointBudgets::new(arbiters.clone(), budget_settings),
            clock: clock.clone(),
        };
        let limits = AdmissionLimits {
            per_token: settings.execs_per_token,
            per_org: settings.execs_per_org,
            per_process: settings.execs_per_process,
        };
        Self {
            audit: Audit::start(&arbiters, boundaries.audit_store, audit_settings),
            pool: TunnelPool::new(arbiters.clone(), core_settings, around),
            admission: Admission::new(limits),
            live: LiveExecs::default(),
            closing: Arc::default(),
            settings,
            arbiters,
            clock,
        }
    }

    /// Reserves a place for one exec. The permit travels into [`Engine::run`] and is given back when the row is final
    /// and the [`RunningExec`] is dropped.
    ///
    /// # Errors
    /// [`TooManyExecs`] when the token, the org or the process has no place left.
    pub fn admit(&self, token_id: Uuid, org_id: Option<Uuid>) -> Result<Permit, TooManyExecs> {
        self.admission.admit(token_id, org_id)
    }

    /// Starts an exec. Never fails: what goes wrong is told by its [`ExecEvent::Ended`].
    #[must_use]
    pub fn run(&self, spec: ExecSpec, permit: Permit) -> RunningExec {
        let exec_id = spec.exec_id;
        let timeout_s = spec.request.timeout_s();
        let output = Arc::new(SharedOutput::new(self.settings.output_cap));
        let around = ExecSurroundings {
            pool: self.pool.clone(),
            audit: self.audit.clone(),
            clock: self.clock.clone(),
            start_timeout: self.settings.start_timeout,
        };
        let live = self
            .live
            .add(exec_id, spec.workspace_id, spec.target.instance.clone());
        let login = Login::of(&spec.target);
        // Made here and moved: if its arbiter has ended, dropping it tells the caller so.
        let exec = ExecActor::new(spec, around, Arc::clone(&output), permit.clone(), live);
        let actor = self.arbiters.run(&login, move |_| exec);
        RunningExec {
            exec_id,
            timeout_s,
            output,
            actor,
            has_ended: false,
            _permit: permit,
        }
    }

    /// An exec of this process as it stands now, whatever its workspace; the ended one too until its row is final. `None`
    /// where no actor of this process has it: then its row says how it stands.
    pub async fn look(&self, exec_id: Uuid) -> Option<LiveLook> {
        self.live.owner(exec_id, |_| true)?.send(Look).await.ok()
    }

    /// Ends an exec of this process, if it is this workspace's and not over; `ended_by` is recorded unless something else
    /// ended it first. `false` where no actor of this process has it.
    #[must_use]
    pub fn cancel(&self, exec_id: Uuid, workspace_id: Uuid, ended_by: EndedBy) -> bool {
        self.live
            .owner(exec_id, |of| of == workspace_id)
            .is_some_and(|actor| actor.try_send(Cancel(ended_by)).is_ok())
    }

    /// What every supervisor knows, by region, instance id and login.
    pub async fn tunnels(&self) -> Vec<InstanceSnapshot> {
        self.pool.snapshots(|_| true).await
    }

    /// The same for one instance id, in one region or in all: one snapshot a login, and a region, that use it.
    pub async fn tunnels_of(&self, instance_id: &str, region: Option<&str>) -> Vec<InstanceSnapshot> {
        self.pool
            .snapshots(|instance| is_named(instance, instance_id, region))
            .await
    }

    /// How the connections of the EC2 Instance Connect Endpoints are shared out, by region and endpoint id.
    pub async fn endpoints(&self) -> Vec<EndpointSnapshot> {
        self.pool.endpoints().await
    }

    /// Lets no new exec onto the tunnels that an instance id has now, in one region or in all; each closes when its last exec
    /// ends. Execs that come later get a new tunnel. Says how many supervisors (one a login and region) there are, with
    /// tunnels or without; 0 is an unknown instance.
    #[must_use]
    pub fn drain(&self, instance_id: &str, region: Option<&str>) -> usize {
        self.pool
            .tell(|instance| is_named(instance, instance_id, region), || Drain)
    }

    /// The same, and the execs that run or wait there end as cancelled, by [`EndedBy::Evict`]. The count is of supervisors.
    #[must_use]
    pub fn evict(&self, instance_id: &str, region: Option<&str>) -> usize {
        let is_meant = |instance: &InstanceKey| is_named(instance, instance_id, region);
        let execs = self.live.cancel_where(EndedBy::Evict, is_meant);
        let supervisors = self.pool.tell(is_meant, || Evict);
        tracing::info!(
            instance_id,
            region,
            execs,
            supervisors,
            "evicting an instance's tunnels"
        );
        supervisors
    }

    /// An operator has pinned or forgotten the instance's host key: its tunnels were checked against another one, so they
    /// take no new exec, and a connection that waits after a failure is tried at once.
    pub fn host_key_was_changed(&self, instance: &InstanceKey) {
        self.pool.tell(|other| other == instance, || HostKeyReplaced);
    }

    /// For how long the audit has been unable to commit, if it is; for readiness.
    #[must_use]
    pub fn audit_failing_for(&self) -> Option<Duration> {
        self.audit.failing_for()
    }

    /// Whether shutdown has begun.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Ends everything in order: refuses new execs and those that wait for a channel, lets running ones end for `grace`,
    /// cancels the rest, lets the tunnels close, and flushes the audit within `flush`. Returns the ids of execs whose final
    /// row could not be written. The engine is of no use afterwards.
    pub async fn shutdown(&self, grace: Duration, flush: Duration) -> Vec<Uuid> {
        self.closing.store(true, Ordering::Release);
        self.pool.close();
        if tokio::time::timeout(grace, self.live.none_left()).await.is_err() {
            tracing::warn!(
                execs = self.live.ids().len(),
                "grace period is over; ending the execs that still run"
            );
            self.live.cancel_all(EndedBy::Shutdown);
            if tokio::time::timeout(CANCEL_BUDGET, self.live.none_left())
                .await
                .is_err()
            {
                tracing::error!(execs = self.live.ids().len(), "execs did not end in time");
            }
        }
        self.tunnels_close().await;
        let mut unwritten = self.audit.flush(flush).await;
        unwritten.extend(self.live.ids());
        unwritten.sort_unstable();
        unwritten.dedup();
        self.arbiters.stop();
        unwritten
    }

    /// A tunnel that nobody uses closes at once, unless its warden has ended: then it waits for the next one, which ends what
    /// execs have left.
    async fn tunnels_close(&self) {
        let all_closed = async {
            while self.tunnels().await.iter().any(|login| !login.tunnels.is_empty()) {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        if tokio::time::timeout(WARDEN_BUDGET, all_closed).await.is_err() {
            let logins = self.tunnels().await;
            for login in logins.iter().filter(|login| !login.tunnels.is_empty()) {
                tracing::warn!(
                    instance_id = login.instance_id,
                    region = login.region,
                    "a tunnel ends without a warden; what execs have left on the instance lives on"
                );
            }
        }
    }
}

fn is_named(instance: &InstanceKey, instance_id: &str, region: Option<&str>) -> bool {
    instance.instance_id == instance_id && region.is_none_or(|region| instance.region == region)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// An exec that has been started, as its caller holds it. Dropping it before the end cancels the exec as `client_gone`.
#[derive(Debug)]
pub struct RunningExec {
    exec_id: Uuid,
    timeout_s: u32,
    output: Arc<SharedOutput>,
    actor: Addr<ExecActor>,
    has_ended: bool,
    _permit: Permit,
}

impl RunningExec {
    /// Id of the exec.
    #[must_use]
    pub fn exec_id(&self) -> Uuid {
        self.exec_id
    }

    /// Timeout as applied, in seconds.
    #[must_use]
    pub fn timeout_s(&self) -> u32 {
        self.timeout_s
    }

    /// Waits until it is decided whose exec id this is, at most 5 s: `false` when another try owns it. Then nothing ran and
    /// nothing was recorded, and [`RunningExec::next`] gives `None`. Matters where [`ExecSpec::body_hmac`] is set: other ids are
    /// random. Where the store could not tell it is `true`, and [`ExecEvent::Ended`] says that nothing ran. Cancel-safe.
    pub async fn owns_id(&mut self) -> bool {
        self.output.owns_id().await
    }

    /// The next thing that happened, in order within each stream. [`ExecEvent::Ended`] is the last; afterwards `None`,
    /// and at once where [`RunningExec::owns_id`] is `false`.
    /// Cancel-safe: nothing is lost when the future is dropped. Adjacent output of one stream is joined, up to 64 KiB a time.
    pub async fn next(&mut self) -> Option<ExecEvent> {
        if self.has_ended {
            return None;
        }
        let event = self.output.next().await;
        self.has_ended = matches!(event, Some(ExecEvent::Ended { .. }) | None);
        event
    }

    /// Ends the exec; `ended_by` is recorded unless it is over or something else ended it first.
    pub fn cancel(&self, ended_by: EndedBy) {
        // Each sender has a place of its own in the mailbox; one that is gone has ended.
        drop(self.actor.clone().try_send(Cancel(ended_by)));
    }
}

impl Drop for RunningExec {
    fn drop(&mut self) {
        if !self.has_ended {
            self.cancel(EndedBy::ClientGone);
        }
    }
}

#[cfg(test)]
#[path = "engine_tests/mod.rs"]
mod tests;
