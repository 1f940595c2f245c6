//! The supervisor's part in the wardens of its tunnels: their channels, and what becomes of them.

use actix::{ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use tokio::time::Instant;

use super::InstanceSupervisor;
use crate::tunnel::connection::{self, OpenError};
use crate::tunnel::supervisor_core::{Event, TunnelId};
use crate::tunnel::warden::{WardenEvent, WardenNews, WardenTask};

impl InstanceSupervisor {
    pub(super) fn open_warden(&mut self, tunnel: TunnelId, ctx: &mut Context<Self>) {
        let Some(open) = self.session_channel(tunnel) else {
            return;
        };
        let asked_at = Instant::now();
        ctx.spawn(open.into_actor(self).map(move |opened, act, ctx| {
            let Some(parts) = act.parts.get(&tunnel) else {
                return;
            };
            match opened {
                Ok((channel, _)) => {
                    let task = WardenTask {
                        tunnel,
                        channel,
                        handle: parts.warden.clone(),
                        supervisor: ctx.address().recipient(),
                    };
                    // Apart from this actor: its channel is drained to its end, as every channel is.
                    drop(tokio::spawn(task.run()));
                    let news = WardenEvent::Opened;
                    act.feed(Event::Warden { tunnel, news }, ctx);
                }
                Err(OpenError::Busy) => {
                    let retry_after = connection::refusal_pause();
                    act.feed(
                        Event::WardenRefused {
                            tunnel,
                            asked_at,
                            retry_after,
                        },
                        ctx,
                    );
                }
                Err(OpenError::Unanswered) => act.feed(Event::Poisoned { tunnel }, ctx),
                Err(OpenError::Broken) => act.lost(tunnel, None, ctx),
            }
        }));
    }

    /// Whoever wants something ended must not wait for a warden that will not come.
    pub(super) fn tell_of_wardens(&self) {
        for (id, parts) in &self.parts {
            if self.core.warden_name(*id) == "none" {
                parts.warden.vacate();
            } else {
                parts.warden.expect();
            }
        }
    }
}

impl Handler<WardenNews> for InstanceSupervisor {
    type Result = ();

    fn handle(&mut self, WardenNews { tunnel, news }: WardenNews, ctx: &mut Self::Context) {
        let was = self.core.warden_name(tunnel);
        self.feed(Event::Warden { tunnel, news }, ctx);
        if was != "none" && self.parts.contains_key(&tunnel) && self.core.warden_name(tunnel) == "none" {
            tracing::warn!(
                instance = %self.target.instance,
                tunnel,
                "the login runs no POSIX shell, or ends it: what execs leave behind is not found on this tunnel"
            );
        }
    }
}
