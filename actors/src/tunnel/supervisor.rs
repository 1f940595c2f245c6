//! The actor shell around [`SupervisorCore`]: messages become events, effects become AWS calls, SSH steps and answers.
//!
//! It never waits while it holds its mailbox: each step runs as a future of its context and comes back as an event.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, WrapFuture};
use russh::Channel;
use russh::Disconnect;
use russh::client::{Handle, Msg};
use russh::keys::PrivateKey;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::boundary::{Dialer, HostKeys, KeyGrants, Locator};
use super::connection::{self, OpenError, Transport, TransportHandler};
use super::failure::{GrantError, TunnelError, chain};
use super::inbox::AskAnswer;
use super::lease::{Lease, LeaseCounter, LeasedChannel};
use super::snapshot::LastError;
use super::stream::{CutSwitch, Traffic};
use super::supervisor_core::{AskId, CoreSettings, Effect, Event, SupervisorCore, TunnelId};
use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::exec::{AwsRequestIds, LeaseFacts, TunnelTemperature, milliseconds};
use crate::instance::InstanceTarget;

/// SendSSHPublicKey with its client's own retries.
const KEY_PUSH_DEADLINE: Duration = Duration::from_secs(20);
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
    pub(crate) clock: Clock,
}

/// The supervisor of one login on one instance.
pub(crate) struct InstanceSupervisor {
    pub(super) core: SupervisorCore,
    pub(super) target: InstanceTarget,
    pub(super) generation: u64,
    pub(super) parts: BTreeMap<TunnelId, Parts>,
    pub(super) last_error: Option<LastError>,
    around: Surroundings,
    pub(super) asks: HashMap<AskId, oneshot::Sender<AskAnswer>>,
    key: Option<Arc<PrivateKey>>,
    grant_took: Option<Duration>,
    alarm: Alarm,
}

/// What belongs to one tunnel besides its state.
pub(super) struct Parts {
    pub(super) traffic: Arc<Traffic>,
    pub(super) leases: LeaseCounter,
    pub(super) open_tunnel_request_id: Option<String>,
    pub(super) key_push_request_id: Option<String>,
    switch: Arc<CutSwitch>,
    asked_at: Instant,
    ready_after: Option<Duration>,
    link: Link,
    pub(super) spares: Vec<(Channel<Msg>, Duration)>,
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
        around: Surroundings,
    ) -> Self {
        Self {
            core: SupervisorCore::new(settings),
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

    pub(super) fn feed(&mut self, event: Event, ctx: &mut Context<Self>) {
        // One time for both: what falls due while the effects are performed must still ring.
        let now = Instant::now();
        for effect in self.core.on(event, now) {
            self.perform(effect, ctx);
        }
        self.alarm.set(self.core.next_wake(now), ctx, Self::wake);
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::PushKey => self.push_key(ctx),
            Effect::ForgetKey => self.key = None,
            Effect::Dial { tunnel } => self.dial(tunnel, ctx),
            Effect::Authenticate { tunnel } => self.log_in(tunnel, ctx),
            Effect::OpenChannel { tunnel } => self.open_channel(tunnel, ctx),
            Effect::HandOver {
                ask,
                tunnel,
                temperature,
            } => self.hand_over(ask, tunnel, temperature, ctx),
            Effect::Refuse { ask, error } => self.answer(ask, Err(error)),
            Effect::Close { tunnel, reason } => self.close(tunnel, reason),
        }
    }

    fn wake(&mut self, ctx: &mut Context<Self>) {
        self.alarm.rang();
        self.feed(Event::Wake, ctx);
    }

    // === Key grant ===

    fn push_key(&mut self, ctx: &mut Context<Self>) {
        let made =
            connection::new_key().and_then(|key| connection::public_line(&key).map(|line| (key, line)));
        let (key, line) = match made {
            Ok(made) => made,
            Err(error) => {
                // An event of its own, so that the one in hand is finished first.
                ctx.run_later(Duration::ZERO, |act, ctx| act.key_push_failed(error, ctx));
                return;
            }
        };
        self.key = Some(Arc::new(key));
        let key_grants = Arc::clone(&self.around.key_grants);
        let target = self.target.clone();
        let pushed_at = Instant::now();
        let push = async move {
            match tokio::time::timeout(KEY_PUSH_DEADLINE, key_grants.push_key(&target, &line)).await {
                Ok(Ok(receipt)) => Ok(receipt),
                Ok(Err(error)) => Err(TunnelError::Grant(Arc::new(error))),
                Err(elapsed) => Err(TunnelError::Grant(Arc::new(GrantError::Unreachable(
                    elapsed.into(),
                )))),
            }
        };
        ctx.spawn(push.into_actor(self).map(move |pushed, act, ctx| match pushed {
            Ok(receipt) => {
                act.grant_took = Some(pushed_at.elapsed());
                act.feed(
                    Event::KeyPushed {
                        pushed_at,
                        request_id: receipt.request_id,
                    },
                    ctx,
                );
            }
            Err(error) => act.key_push_failed(error, ctx),
        }));
    }

    fn key_push_failed(&mut self, error: TunnelError, ctx: &mut Context<Self>) {
        self.key = None;
        self.note_failure(&error);
        self.feed(
            Event::KeyPushFailed {
                error,
                jitter: connection::jitter(),
            },
            ctx,
        );
    }

    // === Connecting ===

    fn dial(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        let traffic = Arc::new(Traffic::default());
        let switch = Arc::new(CutSwitch::default());
        self.parts.insert(
            tunnel,
            Parts {
                traffic: Arc::clone(&traffic),
                leases: LeaseCounter::default(),
                open_tunnel_request_id: None,
                key_push_request_id: None,
                switch: Arc::clone(&switch),
                asked_at: Instant::now(),
                ready_after: None,
                link: Link::Connecting,
                spares: Vec::new(),
            },
        );
        let locator = Arc::clone(&self.around.locator);
        let dialer = Arc::clone(&self.around.dialer);
        let dial = connection::dial(locator, dialer, self.target.clone(), traffic, switch);
        ctx.spawn(dial.into_actor(self).map(move |opened, act, ctx| {
            let Some(parts) = act.parts.get_mut(&tunnel) else {
                return;
            };
            match opened {
                Ok(opened) => {
                    parts.open_tunnel_request_id = opened.request_id;
                    act.feed(
                        Event::Dialed {
                            tunnel,
                            max_duration: opened.max_duration,
                        },
                        ctx,
                    );
                    act.handshake(tunnel, opened.stream, ctx);
                }
                Err(error) => act.connect_failed(tunnel, error, ctx),
            }
        }));
    }

    fn handshake(&mut self, tunnel: TunnelId, stream: super::stream::CountedStream, ctx: &mut Context<Self>) {
        let Some(parts) = self.parts.get(&tunnel) else {
            return;
        };
        let host_keys = Arc::clone(&self.around.host_keys);
        let handshake =
            connection::handshake(stream, host_keys, self.target.clone(), Arc::clone(&parts.traffic));
        ctx.spawn(handshake.into_actor(self).map(move |transport, act, ctx| {
            let Some(parts) = act.parts.get_mut(&tunnel) else {
                return;
            };
            match transport {
                Ok(transport) => {
                    parts.link = Link::Waiting(Box::new(transport));
                    act.feed(Event::Handshaken { tunnel }, ctx);
                }
                Err(error) => act.connect_failed(tunnel, error, ctx),
            }
        }));
    }

    fn log_in(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        let key = self.key.clone();
        let request_id = self.core.grant().request_id();
        let Some(parts) = self.parts.get_mut(&tunnel) else {
            return;
        };
        parts.key_push_request_id = request_id;
        let link = std::mem::replace(&mut parts.link, Link::Connecting);
        let (Link::Waiting(transport), Some(key)) = (link, key) else {
            tracing::error!(tunnel, "a login was due without a transport or a key");
            ctx.run_later(Duration::ZERO, move |act, ctx| {
                act.connect_failed(
                    tunnel,
                    TunnelError::LoginRefused {
                        reason: "there was no key",
                    },
                    ctx,
                );
            });
            return;
        };
        let login = connection::log_in(
            *transport,
            key,
            Arc::clone(&self.around.host_keys),
            self.target.clone(),
        );
        ctx.spawn(
            login
                .into_actor(self)
                .map(move |transport, act, ctx| match transport {
                    Ok(transport) => act.logged_in(tunnel, transport, ctx),
                    Err(error) => act.connect_failed(tunnel, error, ctx),
                }),
        );
    }

    fn logged_in(&mut self, tunnel: TunnelId, transport: Transport, ctx: &mut Context<Self>) {
        let Some(parts) = self.parts.get_mut(&tunnel) else {
            return;
        };
        let ready_after = parts.asked_at.elapsed();
        parts.ready_after = Some(ready_after);
        parts.link = Link::Ready(Arc::new(transport.handle));
        tracing::info!(
            instance = %self.target.instance,
            tunnel,
            ready_after_ms = milliseconds(ready_after),
            "tunnel is ready"
        );
        ctx.spawn(
            transport
                .lost
                .into_actor(self)
                .map(move |_, act, ctx| act.lost(tunnel, ctx)),
        );
        self.feed(Event::LoggedIn { tunnel }, ctx);
    }

    fn connect_failed(&mut self, tunnel: TunnelId, error: TunnelError, ctx: &mut Context<Self>) {
        if let Some(parts) = self.parts.remove(&tunnel) {
            parts.switch.cut();
            self.note_failure(&error);
            self.feed(
                Event::ConnectFailed {
                    tunnel,
                    error,
                    jitter: connection::jitter(),
                },
                ctx,
            );
        }
    }

    fn lost(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        if let Some(parts) = self.parts.remove(&tunnel) {
            parts.switch.cut();
            self.note_failure(&TunnelError::Lost);
            self.feed(Event::Lost { tunnel }, ctx);
        }
    }

    fn note_failure(&mut self, error: &TunnelError) {
        let message = chain(error);
        tracing::warn!(
            instance = %self.target.instance,
            code = error.code().as_str(),
            cause = message,
            "tunnel failed"
        );
        self.last_error = Some(LastError {
            code: error.code(),
            message,
            at: self.around.clock.now(),
        });
    }

    fn close(&mut self, tunnel: TunnelId, reason: &'static str) {
        tracing::info!(instance = %self.target.instance, tunnel, reason, "closing tunnel");
        let Some(Parts { link, switch, .. }) = self.parts.remove(&tunnel) else {
            return;
        };
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

    fn open_channel(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        let Some(Parts {
            link: Link::Ready(handle),
            ..
        }) = self.parts.get(&tunnel)
        else {
            return;
        };
        let open = connection::open_channel(Arc::clone(handle));
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
                            retry_after,
                            jitter,
                        },
                        ctx,
                    );
                }
                // What became of the channel is not known: no new leases, and those on it may end.
                Err(OpenError::Unanswered) => act.feed(Event::Poisoned { tunnel }, ctx),
                Err(OpenError::Broken) => act.lost(tunnel, ctx),
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
        let grant_took = self.grant_took;
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
            grant_ms: grant_took.filter(|_| is_cold).map(milliseconds),
            connect_ms: parts.ready_after.filter(|_| is_cold).map(milliseconds),
            channel_ms: Some(milliseconds(took)),
            aws_request_ids: AwsRequestIds {
                key_push: parts.key_push_request_id.clone(),
                open_tunnel: parts.open_tunnel_request_id.clone(),
            },
        };
        let lease = Lease::new(tunnel, parts.leases.clone(), ctx.address().recipient());
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
