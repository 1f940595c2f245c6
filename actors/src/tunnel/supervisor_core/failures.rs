//! What failed, who is told, and when it is tried again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::event::{Effect, TunnelId};
use super::{BackOff, SupervisorCore, Waiter};
use crate::tunnel::failure::TunnelError;
use crate::tunnel::grant::{Grant, GrantEvent};

/// Longest pause between two tries to connect.
const BACKOFF_LIMIT: Duration = Duration::from_secs(30);
/// sshd's penalties last at least this long (sshd_config(5), PerSourcePenalties, `min`).
const SHORTEST_PENALTY: Duration = Duration::from_secs(15);

impl SupervisorCore {
    pub(super) fn on_key_push_failed(&mut self, error: &TunnelError, jitter: f64, now: Instant) {
        self.grant_on(GrantEvent::Failed);
        self.untold = None;
        if !self.is_connecting()
            && let Some(backoff) = &mut self.backoff
        {
            // The dial beside it has failed and was counted already: one try is one failure.
            backoff.failures = backoff.failures.saturating_sub(1);
        }
        self.close_connecting("key push failed");
        self.on_connect_failed(error, jitter, now);
    }

    /// The tunnel is forgotten already. Those who wait have another one to wait for, or learn the cause.
    pub(super) fn on_connect_failed(&mut self, error: &TunnelError, jitter: f64, now: Instant) {
        let failures = self.failures().saturating_add(1);
        let doubled =
            Duration::from_secs(1).saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        // Between half and all of it, so that many instances behind one failed endpoint don't try in step.
        let mut pause = doubled
            .min(BACKOFF_LIMIT)
            .mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        if matches!(error, TunnelError::LoginPenalised) {
            pause = pause.max(SHORTEST_PENALTY);
        }
        if error.is_a_refused_login() {
            self.refused_logins.add(now);
        }
        let until = (now + pause).max(self.refused_logins.blocked_until(now).unwrap_or(now));
        self.backoff = Some(BackOff {
            until,
            failures,
            after: self.last_tunnel,
            cause: Arc::new(error.clone()),
        });
        if failures == 1 && error.is_a_cut() {
            // A first cut is nobody's answer: whoever waits has time left, and waits for the next tunnel.
            return;
        }
        // What broke may have broken for a reason that the key push knows; what says its reason is the answer.
        let is_vague = error.is_a_cut() || matches!(error, TunnelError::Deadline { .. });
        if is_vague && self.grant == Grant::Pushing {
            self.untold = Some(error.clone());
        } else {
            self.refuse_stranded(error, now);
        }
    }

    /// A tunnel that was in use is replaced at once, as long as someone waits. One that broke before it carried anything
    /// counts as a failed connection, or an sshd that hangs up after each login would be dialled without end.
    pub(super) fn on_lost(&mut self, tunnel: TunnelId, jitter: f64, now: Instant) {
        let was_of_use = self.was_of_use(tunnel);
        self.tunnels.remove(&tunnel);
        if !was_of_use {
            self.on_connect_failed(&TunnelError::LostUnused, jitter, now);
        }
    }

    /// Whether the tunnel has carried an exec. One that is forgotten already counts as if it had.
    pub(crate) fn was_of_use(&self, tunnel: TunnelId) -> bool {
        self.channels(tunnel).is_none_or(|channels| channels.was_leased)
    }

    /// Tells those who wait and have no tunnel to wait for, and when they may come again.
    pub(super) fn refuse_stranded(&mut self, error: &TunnelError, now: Instant) {
        if self.is_connecting() {
            return;
        }
        let error = match self.held_back(now) {
            Some((until, _)) if error.retry_after().is_none() => TunnelError::JustFailed {
                cause: Arc::new(error.clone()),
                retry_after: until.saturating_duration_since(now),
            },
            _ => error.clone(),
        };
        let (served, stranded) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition::<VecDeque<Waiter>, _>(|waiter| self.is_served(waiter.timeout, now));
        self.waiters = served;
        self.effects
            .extend(stranded.into_iter().map(|waiter| Effect::Refuse {
                ask: waiter.ask,
                error: error.clone(),
            }));
    }

    /// A key that the instance refused is not tried again: the next login gets a fresh one.
    pub(super) fn distrust_grant_after(&mut self, error: &TunnelError) {
        if matches!(error, TunnelError::LoginRefused { .. }) && matches!(self.grant, Grant::Live { .. }) {
            self.grant_on(GrantEvent::Expired);
            self.effects.push(Effect::ForgetKey);
        }
    }

    pub(super) fn on_channel_refused(
        &mut self,
        tunnel: TunnelId,
        asked_at: Instant,
        retry_at: Instant,
        jitter: f64,
        now: Instant,
    ) {
        self.with_channels(tunnel, |channels| channels.refused(retry_at, asked_at));
        let is_bare = self
            .channels(tunnel)
            .is_some_and(|channels| channels.in_use() == 0 && !channels.slot_may_be_late(asked_at));
        if is_bare {
            // Nothing of ours is open, so no slot will come free: the login is good for nothing.
            self.close(tunnel, "every session refused");
            let error = TunnelError::LoginRefused {
                reason: "every session is refused",
            };
            self.effects.push(Effect::Note { error: error.clone() });
            self.on_connect_failed(&error, jitter, now);
        }
    }

    /// Why nothing is dialled now, and until when: after a failure here, or after too many refused logins on the instance
    /// whoever they were for.
    pub(super) fn held_back(&self, now: Instant) -> Option<(Instant, Arc<TunnelError>)> {
        let own = self.backoff.as_ref().filter(|backoff| now < backoff.until);
        own.map(|backoff| (backoff.until, Arc::clone(&backoff.cause)))
            .or_else(|| {
                let until = self.refused_logins.blocked_until(now)?;
                Some((until, self.too_many_refused_logins()))
            })
    }

    pub(super) fn too_many_refused_logins(&self) -> Arc<TunnelError> {
        let own = self.backoff.as_ref().map(|backoff| Arc::clone(&backoff.cause));
        own.filter(|cause| cause.is_a_refused_login()).unwrap_or_else(|| {
            Arc::new(TunnelError::LoginRefused {
                reason: "the instance has refused too many logins lately",
            })
        })
    }
}
