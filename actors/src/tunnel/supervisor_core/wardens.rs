//! When a tunnel gets its warden, and when it has to do without.

use tokio::time::Instant;

use super::SupervisorCore;
use super::event::{Effect, TunnelId};
use crate::tunnel::state::TunnelState;
use crate::tunnel::warden::WardenEvent;

impl SupervisorCore {
    /// A ready tunnel gets one once its first exec is served, before spare channels: what is wrong with it shows while there
    /// is time. One that turns out to hold the only channel gives it up.
    pub(super) fn settle_wardens(&mut self, now: Instant) {
        for (id, tunnel) in &mut self.tunnels {
            let channels = match &mut tunnel.state {
                TunnelState::Ready(channels) => channels,
                // What an exec has left there is ended at the end of the tunnel, by whoever is its warden then.
                TunnelState::Retiring(channels) if channels.awaits_warden() => channels,
                _ => continue,
            };
            if channels.lacks_warden(now) {
                channels.warden_on(WardenEvent::Open);
                self.effects.push(Effect::OpenWarden { tunnel: *id });
            } else if channels.warden.is_running() && !channels.may_have_warden() {
                channels.warden_on(WardenEvent::Dismissed);
                self.effects.push(Effect::DismissWarden { tunnel: *id });
            }
        }
    }

    /// `starting`, `ready` or `none`. One that is not logged in yet has its warden before it.
    pub(crate) fn warden_name(&self, tunnel: TunnelId) -> &'static str {
        self.channels(tunnel)
            .map_or("starting", |channels| channels.warden_name())
    }
}
