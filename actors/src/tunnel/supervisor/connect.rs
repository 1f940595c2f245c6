//! From a key and an address to a tunnel that is logged in: each step runs as a future of the actor's context and comes
//! back as an event.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use tokio::time::Instant;

use super::{InstanceSupervisor, Link, Parts};
use crate::exec::milliseconds;
use crate::tunnel::connection::{self, Transport};
use crate::tunnel::endpoint_budget::{Claimant, EndpointKey, Purpose};
use crate::tunnel::failure::{DialError, GrantError, TunnelError};
use crate::tunnel::life::Life;
use crate::tunnel::stream::{CountedStream, StreamParts};
use crate::tunnel::supervisor_core::{Event, TunnelId};

/// SendSSHPublicKey with its client's own retries.
const KEY_PUSH_DEADLINE: Duration = Duration::from_secs(20);

impl InstanceSupervisor {
    // === Key grant ===

    pub(super) fn push_key(&mut self, ctx: &mut Context<Self>) {
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

    pub(super) fn locate(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        self.parts.insert(tunnel, Parts::new());
        let locate = connection::locate(Arc::clone(&self.around.locator), self.target.clone());
        ctx.spawn(locate.into_actor(self).map(move |located, act, ctx| {
            let Some(parts) = act.parts.get_mut(&tunnel) else {
                return;
            };
            match located {
                Ok(location) => {
                    let by_endpoint = location.endpoint.is_some();
                    parts.location = Some(location);
                    act.feed(Event::Located { tunnel, by_endpoint }, ctx);
                }
                Err(error) => act.connect_failed(tunnel, error, ctx),
            }
        }));
    }

    pub(super) fn request_slot(&mut self, tunnel: TunnelId, purpose: Purpose, ctx: &mut Context<Self>) {
        let Some(parts) = self.parts.get_mut(&tunnel) else {
            return;
        };
        let Some(endpoint) = parts
            .location
            .as_ref()
            .and_then(|location| location.endpoint.as_ref())
        else {
            return;
        };
        let key = EndpointKey {
            region: self.target.instance.region.clone(),
            endpoint_id: endpoint.endpoint_id.clone(),
        };
        let claimant = Claimant {
            instance_id: self.target.instance.instance_id.clone(),
            os_user: self.target.os_user.clone(),
            tunnel_id: tunnel,
            purpose,
        };
        let address = ctx.address();
        let since = *parts.wanted_since.get_or_insert_with(Instant::now);
        parts.slot = Some(self.around.endpoint_budgets.ask(
            key,
            claimant,
            since,
            address.clone().recipient(),
            address.recipient(),
        ));
    }

    pub(super) fn dial(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        let Some(parts) = self.parts.get_mut(&tunnel) else {
            return;
        };
        let Some(location) = parts.location.clone() else {
            return;
        };
        let stream = StreamParts {
            traffic: Arc::clone(&parts.traffic),
            switch: Arc::clone(&parts.switch),
            slot: parts.granted.take(),
        };
        // The endpoint's clock may start with its answer or before; the earlier one is safe.
        let opened_at = Instant::now();
        parts.dialed_at = Some(opened_at);
        let dial = connection::dial(
            Arc::clone(&self.around.dialer),
            self.target.clone(),
            location,
            stream,
        );
        ctx.spawn(dial.into_actor(self).map(move |opened, act, ctx| {
            let Some(parts) = act.parts.get_mut(&tunnel) else {
                return;
            };
            match opened {
                Ok(opened) => {
                    parts.open_tunnel_request_id = opened.request_id;
                    let life = opened.max_duration.map(|duration| Life::new(opened_at, duration));
                    act.feed(Event::Dialed { tunnel, life }, ctx);
                    act.handshake(tunnel, opened.stream, ctx);
                }
                Err(TunnelError::Dial(error))
                    if matches!(error.as_ref(), DialError::EndpointBusy(_)) && parts.slot.is_some() =>
                {
                    act.note_failure(&TunnelError::Dial(error));
                    act.feed(Event::EndpointRefused { tunnel }, ctx);
                }
                Err(error) => act.connect_failed(tunnel, error, ctx),
            }
        }));
    }

    fn handshake(&mut self, tunnel: TunnelId, stream: CountedStream, ctx: &mut Context<Self>) {
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

    pub(super) fn log_in(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        let key = self.key.clone();
        let request_id = self.core.grant().request_id();
        let grant_took = self.grant_took;
        let Some(parts) = self.parts.get_mut(&tunnel) else {
            return;
        };
        parts.key_push_request_id = request_id;
        // A grant of an earlier tunnel cost this one nothing.
        let was_waited_for = self
            .core
            .grant()
            .pushed_at()
            .is_some_and(|at| parts.asked_at <= at);
        parts.grant_took = grant_took.filter(|_| was_waited_for);
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
        parts.connect_took = parts.dialed_at.map(|at| at.elapsed());
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
                .map(move |reason, act, ctx| act.lost(tunnel, reason.ok(), ctx)),
        );
        self.feed(Event::LoggedIn { tunnel }, ctx);
    }

    fn connect_failed(&mut self, tunnel: TunnelId, error: TunnelError, ctx: &mut Context<Self>) {
        if let Some(parts) = self.parts.remove(&tunnel) {
            parts.switch.cut();
            self.note_failure(&error);
            if error.may_be_the_wrong_way() {
                self.around.locator.forget(&self.target);
            }
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

    /// `reason` is the connection's own, where it gave one.
    pub(super) fn lost(&mut self, tunnel: TunnelId, reason: Option<String>, ctx: &mut Context<Self>) {
        if let Some(parts) = self.parts.remove(&tunnel) {
            parts.switch.cut();
            parts.warden.vacate();
            let error = if self.core.was_of_use(tunnel) {
                TunnelError::Lost
            } else {
                TunnelError::LostUnused
            };
            self.note(
                error.code(),
                reason.map_or_else(|| error.to_string(), |reason| format!("{error}: {reason}")),
            );
            let jitter = connection::jitter();
            self.feed(Event::Lost { tunnel, jitter }, ctx);
        }
    }
}
