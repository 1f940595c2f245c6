//! A supervisor's answer to an operator who looks.

use actix::{Context, Handler, Message, MessageResult};
use tokio::time::Instant;

use super::grant::Grant;
use super::snapshot::{GrantSnapshot, InstanceSnapshot, TunnelSnapshot, seconds_between};
use super::supervisor::InstanceSupervisor;

/// Asks a supervisor for all it knows.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "InstanceSnapshot")]
pub(crate) struct Observe;

impl Handler<Observe> for InstanceSupervisor {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Context<Self>) -> Self::Result {
        let now = Instant::now();
        let awaited = self.core.awaited(now);
        MessageResult(InstanceSnapshot {
            region: self.target.instance.region.clone(),
            instance_id: self.target.instance.instance_id.clone(),
            os_user: self.target.os_user.clone(),
            generation: self.generation,
            waiters: self.core.waiters(),
            longest_wait_s: awaited.map(|(since, _)| seconds_between(since, now)),
            waiting_for: awaited.map(|(_, what)| what.to_owned()),
            tunnels: self.tunnel_snapshots(now),
            grant: grant_snapshot(self.core.grant(), self.core.grant_margin(), now),
            failures: self.core.failures(),
            retry_in_s: self.core.retry_at(now).map(|at| seconds_between(now, at)),
            last_error: self.last_error.clone(),
        })
    }
}

impl InstanceSupervisor {
    fn tunnel_snapshots(&self, now: Instant) -> Vec<TunnelSnapshot> {
        let known = self
            .core
            .tunnels()
            .iter()
            .filter_map(|(id, tunnel)| Some((id, tunnel, self.parts.get(id)?)));
        known
            .map(|(id, tunnel, parts)| {
                let channels = tunnel.state.channels();
                TunnelSnapshot {
                    tunnel_id: *id,
                    state: tunnel.state.name().to_owned(),
                    purpose: tunnel.purpose.name().to_owned(),
                    endpoint_id: parts
                        .location
                        .as_ref()
                        .and_then(|location| location.endpoint.as_ref())
                        .map(|endpoint| endpoint.endpoint_id.clone()),
                    replaced_in_s: channels
                        .and_then(|channels| self.core.successor_due(channels))
                        .map(|due| seconds_between(now, due)),
                    refcount: parts.leases.live(),
                    channels_in_use: channels.map_or(0, |channels| channels.in_use()),
                    channel_cap: channels.map_or(self.core.initial_cap(), |channels| channels.cap),
                    warden: self.core.warden_name(*id).to_owned(),
                    age_s: seconds_between(tunnel.asked_at, now),
                    remaining_life_s: tunnel
                        .state
                        .life()
                        .map(|life| seconds_between(now, life.ends_at())),
                    idle_s: channels
                        .and_then(|channels| channels.idle_since)
                        .map(|since| seconds_between(since, now)),
                    bytes_in: parts.traffic.received(),
                    bytes_out: parts.traffic.sent(),
                    open_tunnel_request_id: parts.open_tunnel_request_id.clone(),
                    key_push_request_id: parts.key_push_request_id.clone(),
                }
            })
            .collect()
    }
}

fn grant_snapshot(grant: &Grant, margin: std::time::Duration, now: Instant) -> Option<GrantSnapshot> {
    match grant {
        Grant::None => None,
        Grant::Pushing => Some(GrantSnapshot {
            state: "pushing".to_owned(),
            age_s: None,
            remaining_s: None,
            request_id: None,
        }),
        Grant::Live {
            pushed_at,
            request_id,
        } => Some(GrantSnapshot {
            state: "live".to_owned(),
            age_s: Some(seconds_between(*pushed_at, now)),
            remaining_s: grant.expires_at(margin).map(|end| seconds_between(now, end)),
            request_id: request_id.clone(),
        }),
    }
}
