//! The actor shell around [`SupervisorCore`]: messages become events, effects become AWS calls, SSH steps and answers.
//!
//! It never waits while it holds its mailbox: each step runs as a future of its context and comes back as an event.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use russh::Channel;
use russh::Disconnect;
use russh::client::{Handle, Msg};
use russh::keys::PrivateKey;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::exec::{AwsRequestIds, ErrorCode, LeaseFacts, TunnelTemperature, milliseconds};
use crate::instance::InstanceTarget;
use crate::tunnel::boundary::{Dialer, HostKeys, KeyGrants, Location, Locator};
use crate::tunnel::connection::{self, OpenError, Transport, TransportHandler};
use crate::tunnel::endpoint_budget::{EndpointBudgets, GiveWay, SlotGranted, SlotGuard, SlotRequest};
use crate::tunnel::failure::{TunnelError, chain};
use crate::tunnel::inbox::AskAnswer;
use crate::tunnel::lease::{Lease, LeaseCounter, LeasedChannel};
use crate::tunnel::refused_logins::RefusedLogins;
use crate::tunnel::snapshot::LastError;
use crate::tunnel::stream::{CutSwitch, Traffic};
use crate::tunnel::supervisor_core::{AskId, CoreSettings, Effect, Event, SupervisorCore, TunnelId};
use crate::tunnel::warden::WardenHandle;

mod connect;
mod warden;

/// For saying goodbye to sshd, and again for its going; then the connection is cut whether it was heard or not.
const GOODBYE: Duration = Duration::from_secs(2);
/// Asks come through senders of their own, so this bounds nothing but what one sender can queue.
const MAILBOX: usize = 64;

/// The outer world of a supervisor.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) key_grants: Arc<dyn KeyGrants>,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) locator: Arc<dyn Locator>,
    pub(crate) host_keys: Arc<dyn HostKeys>,
    pub(crate) endpoint_budgets: EndpointBudgets,
    pub(crate) clock: Clock,
}

/// The supervisor of one login on one instance.
pub(crate) struct InstanceSupervisor {
    pub(in crate::tunnel) core: SupervisorCore,
    pub(in crate::tunnel) target: InstanceTarget,
    pub(in crate::tunnel) generation: u64,
    pub(in crate::tunnel) parts: BTreeMap<TunnelId, Parts>,
    pub(in crate::tunnel) last_error: Option<LastError>,
    around: Surroundings,
    pub(in crate::tunnel) asks: HashMap<AskId, oneshot::Sender<AskAnswer>>,
    key: Option<Arc<PrivateKey>>,
    grant_took: Option<Duration>,
    alarm: Alarm,
}

/// What belongs to one tunnel besides its state.
pub(in crate::tunnel) struct Parts {
    pub(in crate::tunnel) traffic: Arc<Traffic>,
    pub(in crate::tunnel) leases: LeaseCounter,
    pub(in crate::tunnel) warden: WardenHandle,
    pub(in crate::tunnel) open_tunnel_request_id: Option<String>,
    pub(in crate::tunnel) key_push_request_id: Option<String>,
    pub(in crate::tunnel) location: Option<Location>,
    /// The line to the endpoint's budget, from the wish for a connection on.
    slot: Option<SlotRequest>,
    /// The connection that the budget gave, until it is dialled.
    granted: Option<SlotGuard>,
    switch: Arc<CutSwitch>,
    asked_at: Instant,
    /// Since when it waits for one of the endpoint's connections.
    wanted_since: Option<Instant>,
    dialed_at: Option<Instant>,
    /// From the dial to the login.
    connect_took: Option<Duration>,
    /// The key push that its login waited for.
    grant_took: Option<Duration>,
    link: Link,
    pub(in crate::tunnel) spares: Vec<(Channel<Msg>, Duration)>,
}

impl Parts {
    fn new() -> Self {
        Self {
            traffic: Arc::default(),
            leases: LeaseCounter::default(),
            warden: WardenHandle::new(),
            open_tunnel_request_id: None,
            key_push_request_id: None,
            location: None,
            slot: None,
            granted: None,
            switch: Arc::default(),
            asked_at: Instant::now(),
            wanted_since: None,
            dialed_at: None,
            connect_took: None,
            grant_took: None,
            link: Link::Connecting,
            spares: Vec::new(),
        }
    }
}

/// How far the SSH connection is.
enum Link {
    Connecting,
    /// Key exchange is done; the login waits for the grant.
    Waiting(Box<Transport>),
    Ready(Arc<Handle<TransportHandler>>),
}

impl InstanceSupervisor {
    pub(crate) fn new(
        target: InstanceTarget,
        generation: u64,
        settings: CoreSettings,
        refused_logins: RefusedLogins,
        around: Surroundings,
    ) -> Self {
        Self {
            core: SupervisorCore::new(settings, refused_logins),
            target,
            generation,
            parts: BTreeMap::new(),
            last_error: None,
            around,
            asks: HashMap::new(),
            key: None,
            grant_took: None,
            alarm: Alarm::default(),
        }
    }

    pub(in crate::tunnel) fn feed(&mut self, event: Event, ctx: &mut Context<Self>) {
        // One time for both: what falls due while the effects are performed must still ring.
        let now = Instant::now();
        for effect in self.core.on(event, now) {
            self.perform(effect, ctx);
        }
        self.tell_idleness();
        self.tell_of_wardens();
        self.alarm.set(self.core.next_wake(now), ctx, Self::wake);
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::PushKey => self.push_key(ctx),
            Effect::ForgetKey => self.key = None,
            Effect::Locate { tunnel } => self.locate(tunnel, ctx),
            Effect::RequestSlot { tunnel, purpose } => self.request_slot(tunnel, purpose, ctx),
            Effect::KeepSlot { tunnel } => {
                if let Some(slot) = self.slot(tunnel) {
                    slot.declined();
                }
            }
            Effect::LeaveSlot { tunnel } => {
                if let Some(slot) = self.slot(tunnel) {
                    slot.leaving();
                }
            }
            Effect::Note { error } => self.note_failure(&error),
            Effect::Dial { tunnel } => self.dial(tunnel, ctx),
            Effect::Authenticate { tunnel } => self.log_in(tunnel, ctx),
            Effect::OpenChannel { tunnel } => self.open_channel(tunnel, ctx),
            Effect::OpenWarden { tunnel } => self.open_warden(tunnel, ctx),
            Effect::DismissWarden { tunnel } => {
                if let Some(parts) = self.parts.get(&tunnel) {
                    parts.warden.vacate();
                }
            }
            Effect::HandOver {
                ask,
                tunnel,
                temperature,
            } => self.hand_over(ask, tunnel, temperature, ctx),
            Effect::Refuse { ask, error } => self.answer(ask, Err(error)),
            Effect::Close { tunnel, reason } => self.close(tunnel, reason),
        }
    }

    fn slot(&self, tunnel: TunnelId) -> Option<&SlotRequest> {
        self.parts.get(&tunnel).and_then(|parts| parts.slot.as_ref())
    }

    /// The endpoint's budget sees which tunnels are idle, without a message unless somebody waits there.
    fn tell_idleness(&self) {
        for (id, parts) in &self.parts {
            if let Some(slot) = &parts.slot
                && slot.usage.set(self.core.idle_since(*id))
            {
                slot.turned_idle();
            }
        }
    }

    fn wake(&mut self, ctx: &mut Context<Self>) {
        self.alarm.rang();
        self.feed(Event::Wake, ctx);
    }

    fn note_failure(&mut self, error: &TunnelError) {
        self.note(error.code(), chain(error));
    }

    fn note(&mut self, code: ErrorCode, message: String) {
        tracing::warn!(
            instance = %self.target.instance,
            code = code.as_str(),
            cause = message,
            "tunnel failed"
        );
        self.last_error = Some(LastError {
            code,
            message,
            at: self.around.clock.now(),
        });
    }

    fn close(&mut self, tunnel: TunnelId, reason: &'static str) {
        tracing::info!(instance = %self.target.instance, tunnel, reason, "closing tunnel");
        let Some(Parts {
            link, switch, warden, ..
        }) = self.parts.remove(&tunnel)
        else {
            return;
        };
        warden.vacate();
        let Link::Ready(handle) = link else {
            return switch.cut();
        };
        // Apart from the actor, which may be gone before the goodbye is said.
        drop(tokio::spawn(async move {
            let goodbye = handle.disconnect(Disconnect::ByApplication, "", "");
            drop(tokio::time::timeout(GOODBYE, goodbye).await);
            tokio::time::sleep(GOODBYE).await;
            switch.cut();
        }));
    }

    // === Channels ===

    /// A session channel of a tunnel that is up, once it has come.
    fn session_channel(
        &self,
        tunnel: TunnelId,
    ) -> Option<impl Future<Output = Result<(Channel<Msg>, Duration), OpenError>> + use<>> {
        match &self.parts.get(&tunnel)?.link {
            Link::Ready(handle) => Some(connection::open_channel(Arc::clone(handle))),
            Link::Connecting | Link::Waiting(_) => None,
        }
    }

    fn open_channel(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        let Some(open) = self.session_channel(tunnel) else {
            return;
        };
        let asked_at = Instant::now();
        ctx.spawn(open.into_actor(self).map(move |opened, act, ctx| {
            let Some(parts) = act.parts.get_mut(&tunnel) else {
                return;
            };
            match opened {
                Ok((channel, took)) => {
                    parts.spares.push((channel, took));
                    act.feed(Event::ChannelOpened { tunnel }, ctx);
                }
                Err(OpenError::Busy) => {
                    let retry_after = connection::refusal_pause();
                    let jitter = connection::jitter();
                    act.feed(
                        Event::ChannelRefused {
                            tunnel,
                            asked_at,
                            retry_after,
                            jitter,
                        },
                        ctx,
                    );
                }
                // What became of the channel is not known: no new leases, and those on it may end.
                Err(OpenError::Unanswered) => act.feed(Event::Poisoned { tunnel }, ctx),
                Err(OpenError::Broken) => act.lost(tunnel, None, ctx),
            }
        }));
    }

    fn hand_over(
        &mut self,
        ask: AskId,
        tunnel: TunnelId,
        temperature: TunnelTemperature,
        ctx: &mut Context<Self>,
    ) {
        let Some(parts) = self.parts.get_mut(&tunnel) else {
            return;
        };
        let Some((channel, took)) = parts.spares.pop() else {
            tracing::error!(tunnel, "a spare channel was due and there is none");
            self.answer(ask, Err(TunnelError::Lost));
            return;
        };
        let is_cold = temperature == TunnelTemperature::Cold;
        let facts = LeaseFacts {
            temperature,
            grant_ms: parts.grant_took.filter(|_| is_cold).map(milliseconds),
            connect_ms: parts.connect_took.filter(|_| is_cold).map(milliseconds),
            channel_ms: Some(milliseconds(took)),
            aws_request_ids: AwsRequestIds {
                key_push: parts.key_push_request_id.clone(),
                open_tunnel: parts.open_tunnel_request_id.clone(),
            },
        };
        let lease = Lease::new(
            tunnel,
            parts.leases.clone(),
            ctx.address().recipient(),
            parts.warden.clone(),
        );
        self.answer(
            ask,
            Ok(LeasedChannel::new(
                channel,
                lease,
                ctx.address().recipient(),
                facts,
            )),
        );
    }

    fn answer(&mut self, ask: AskId, answer: AskAnswer) {
        if let Some(asker) = self.asks.remove(&ask) {
            // An asker that is gone drops the answer, and a leased channel then comes home by itself.
            drop(asker.send(answer));
        }
    }
}

impl Actor for InstanceSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<SlotGranted> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, SlotGranted { tunnel_id, guard }: SlotGranted, ctx: &mut Self::Context) {
        if let Some(parts) = self.parts.get_mut(&tunnel_id) {
            parts.granted = Some(guard);
            self.feed(Event::SlotGranted { tunnel: tunnel_id }, ctx);
        }
    }
}

impl Handler<GiveWay> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, GiveWay { tunnel_id, if_second }: GiveWay, ctx: &mut Self::Context) {
        let tunnel = tunnel_id;
        self.feed(Event::GiveWay { tunnel, if_second }, ctx);
    }
}
