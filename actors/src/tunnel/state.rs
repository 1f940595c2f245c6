//! One tunnel: where it stands and how its channels are used.

use std::time::Duration;

use tokio::time::Instant;

use super::life::Life;
use super::warden::{WardenEvent, WardenState};

/// Largest channel cap that is learned: far above any sensible MaxSessions, small enough for one connection.
const LARGEST_CAP: usize = 64;
/// The cap grows by one after this many opens at the cap without a refusal.
const CLEAN_OPENS_TO_GROW: u32 = 32;
/// A refusal this soon after a channel closed is sshd freeing the slot late, not a lower MaxSessions.
const LATE_SLOT: Duration = Duration::from_millis(100);

/// Where a tunnel stands.
///
/// ```text
///                 +---------------- direct ----------------+
///                 |                                        v
/// Locating -> (Located) -> AwaitingSlot -- slot granted -> Dialing -> Handshaking -> AwaitingGrant
///                               ^                             |                           |
///                               +----- endpoint refused ------+                           v
///                                         closed <- Retiring <- Ready <------------ Authenticating
/// ```
///
/// From every state a failure, a loss or a shutdown leads to closed, which is no state: a closed tunnel is forgotten. The
/// key push runs beside all steps up to `Handshaking`; only `AwaitingGrant` waits for it. A tunnel that goes through an
/// endpoint needs one of its connections, which [`super::endpoint_budget`] shares out.
#[derive(Debug)]
pub(crate) enum TunnelState {
    /// The way is being looked up.
    Locating,
    /// Waits for one of the endpoint's connections.
    AwaitingSlot,
    /// The stream is being opened.
    Dialing,
    /// SSH version and key exchange.
    Handshaking { life: Option<Life> },
    /// The transport is up and the key is not accepted yet.
    AwaitingGrant { life: Option<Life> },
    /// The login is under way.
    Authenticating { life: Option<Life> },
    /// Channels can be opened.
    Ready(Channels),
    /// No new leases; closed when the last one is gone, and not before a warden that has ended is replaced.
    Retiring(Channels),
}

/// What can happen to a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TunnelEvent {
    /// The way is known and leads through an endpoint.
    LocatedEndpoint,
    /// The way is known and needs none.
    LocatedDirect,
    SlotGranted,
    /// The endpoint has no connection left after all.
    EndpointRefused,
    Dialed {
        life: Option<Life>,
    },
    Handshaken,
    LoginStarted,
    LoggedIn {
        now: Instant,
        cap: usize,
    },
    Retire,
}

impl TunnelState {
    /// The next state; gives the state back unchanged when the event does not belong to it.
    #[expect(
        clippy::result_large_err,
        reason = "the state itself is given back, and kept nowhere"
    )]
    pub(crate) fn after(self, event: TunnelEvent) -> Result<Self, Self> {
        match (self, event) {
            (Self::Locating, TunnelEvent::LocatedEndpoint)
            | (Self::Dialing, TunnelEvent::EndpointRefused) => Ok(Self::AwaitingSlot),
            (Self::Locating, TunnelEvent::LocatedDirect) | (Self::AwaitingSlot, TunnelEvent::SlotGranted) => {
                Ok(Self::Dialing)
            }
            (Self::Dialing, TunnelEvent::Dialed { life }) => Ok(Self::Handshaking { life }),
            (Self::Handshaking { life }, TunnelEvent::Handshaken) => Ok(Self::AwaitingGrant { life }),
            (Self::AwaitingGrant { life }, TunnelEvent::LoginStarted) => Ok(Self::Authenticating { life }),
            (Self::Authenticating { life }, TunnelEvent::LoggedIn { now, cap }) => Ok(Self::Ready(
                Channels::new(now, life.map(|life| life.ready(now)), cap),
            )),
            (Self::Ready(channels), TunnelEvent::Retire) => Ok(Self::Retiring(channels)),
            (state, _) => Err(state),
        }
    }

    /// The name in snapshots.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Locating => "locating",
            Self::AwaitingSlot => "awaiting_slot",
            Self::Dialing => "dialing",
            Self::Handshaking { .. } => "handshaking",
            Self::AwaitingGrant { .. } => "awaiting_grant",
            Self::Authenticating { .. } => "authenticating",
            Self::Ready(_) => "ready",
            Self::Retiring(_) => "retiring",
        }
    }

    /// What an exec waits for whose tunnel stands here, as snapshots name it.
    pub(crate) fn awaited(&self) -> &'static str {
        match self {
            Self::Locating => "location",
            Self::AwaitingSlot => "endpoint_connection",
            Self::Dialing => "dial",
            Self::Handshaking { .. } => "handshake",
            Self::AwaitingGrant { .. } => "key_grant",
            Self::Authenticating { .. } => "login",
            Self::Ready(_) | Self::Retiring(_) => "channel",
        }
    }

    /// Whether it is on its way to `Ready`.
    pub(crate) fn is_connecting(&self) -> bool {
        match self {
            Self::Locating
            | Self::AwaitingSlot
            | Self::Dialing
            | Self::Handshaking { .. }
            | Self::AwaitingGrant { .. }
            | Self::Authenticating { .. } => true,
            Self::Ready(_) | Self::Retiring(_) => false,
        }
    }

    /// How long the endpoint keeps it, once known.
    pub(crate) fn life(&self) -> Option<&Life> {
        match self {
            Self::Locating | Self::AwaitingSlot | Self::Dialing => None,
            Self::Handshaking { life } | Self::AwaitingGrant { life } | Self::Authenticating { life } => {
                life.as_ref()
            }
            Self::Ready(channels) | Self::Retiring(channels) => channels.life.as_ref(),
        }
    }

    /// Its channels, once it has any.
    pub(crate) fn channels(&self) -> Option<&Channels> {
        match self {
            Self::Ready(channels) | Self::Retiring(channels) => Some(channels),
            Self::Locating
            | Self::AwaitingSlot
            | Self::Dialing
            | Self::Handshaking { .. }
            | Self::AwaitingGrant { .. }
            | Self::Authenticating { .. } => None,
        }
    }

    pub(crate) fn channels_mut(&mut self) -> Option<&mut Channels> {
        match self {
            Self::Ready(channels) | Self::Retiring(channels) => Some(channels),
            Self::Locating
            | Self::AwaitingSlot
            | Self::Dialing
            | Self::Handshaking { .. }
            | Self::AwaitingGrant { .. }
            | Self::Authenticating { .. } => None,
        }
    }
}

/// The session channels of one tunnel. Every channel counts against the cap: leased, spare, the warden's or being opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Opens on their way.
    pub(crate) opening: usize,
    /// Open, with nothing running on them.
    pub(crate) spares: usize,
    /// Live lease guards, as counted by themselves.
    pub(crate) leased: usize,
    /// Of the leases, those of execs that are over: something holds the channel open.
    pub(crate) lingering: usize,
    /// How many are used at most; learned from refusals.
    pub(crate) cap: usize,
    /// No open before this, after a refusal.
    pub(crate) retry_at: Option<Instant>,
    /// Since when there has been no lease.
    pub(crate) idle_since: Option<Instant>,
    /// How long the endpoint keeps the tunnel.
    pub(crate) life: Option<Life>,
    /// Whether it has carried an exec.
    pub(crate) was_leased: bool,
    pub(crate) warden: WardenState,
    last_closed: Option<Instant>,
    clean_opens: u32,
}

impl Channels {
    fn new(now: Instant, life: Option<Life>, cap: usize) -> Self {
        Self {
            opening: 0,
            spares: 0,
            leased: 0,
            lingering: 0,
            cap,
            retry_at: None,
            idle_since: Some(now),
            life,
            was_leased: false,
            warden: WardenState::NEW,
            last_closed: None,
            clean_opens: 0,
        }
    }

    /// Channels that are open or being opened.
    pub(crate) fn in_use(&self) -> usize {
        self.opening + self.spares + self.leased + usize::from(self.warden.has_channel())
    }

    /// Whether no further exec has a place on it. The place of a warden that is still to come is kept.
    pub(crate) fn is_full(&self) -> bool {
        let kept = self.may_have_warden() && self.warden.is_wanted();
        self.in_use() + usize::from(kept) >= self.cap
    }

    /// Whether one more may be opened for an exec now.
    pub(crate) fn has_room(&self) -> bool {
        self.retry_at.is_none() && !self.is_full()
    }

    /// A warden never has the only channel there is.
    pub(crate) fn may_have_warden(&self) -> bool {
        self.cap >= 2
    }

    /// Leases of execs that are not over.
    pub(crate) fn working(&self) -> usize {
        self.leased.saturating_sub(self.lingering)
    }

    /// Whether what has a place on it are channels that linger, and nothing else.
    pub(crate) fn is_clogged(&self) -> bool {
        self.is_full() && self.working() == 0 && self.opening == 0 && self.spares == 0
    }

    /// Whether its warden is to be started now: the first exec has been served, and another channel is open, which shows that
    /// sshd has more than one.
    pub(crate) fn lacks_warden(&self, now: Instant) -> bool {
        self.may_have_warden()
            && self.warden.is_wanted()
            && self.warden.paused_until().is_none_or(|from| from <= now)
            && self.was_leased
            && (self.leased + self.spares > 0 || self.warden.is_coming_again())
            && self.retry_at.is_none()
            && self.in_use() < self.cap
    }

    /// Whether nobody would end what execs have left if the tunnel ended now, and soon somebody will.
    pub(crate) fn awaits_warden(&self) -> bool {
        self.may_have_warden() && self.warden.is_coming_again()
    }

    /// The warden's name in snapshots.
    pub(crate) fn warden_name(&self) -> &'static str {
        if self.may_have_warden() {
            self.warden.name()
        } else {
            WardenState::None.name()
        }
    }

    /// An open succeeded; the channel is a spare until it is handed over.
    pub(crate) fn opened(&mut self) {
        if self.in_use() >= self.cap {
            self.clean_opens += 1;
        }
        if self.clean_opens >= CLEAN_OPENS_TO_GROW && self.cap < LARGEST_CAP {
            self.cap += 1;
            self.clean_opens = 0;
        }
        self.opening = self.opening.saturating_sub(1);
        self.spares += 1;
    }

    /// sshd answered "open failed": busy, never an error of the asker.
    ///
    /// `asked_at` is when the open was sent: over a slow link its refusal arrives long after the slot was late.
    pub(crate) fn refused(&mut self, retry_at: Instant, asked_at: Instant) {
        self.opening = self.opening.saturating_sub(1);
        self.learn_from_refusal(retry_at, asked_at);
    }

    /// The same for the warden's channel.
    pub(crate) fn warden_refused(&mut self, retry_at: Instant, asked_at: Instant) {
        self.warden_on(WardenEvent::Refused);
        self.learn_from_refusal(retry_at, asked_at);
    }

    /// News that do not belong to its state come late, and mean nothing.
    pub(crate) fn warden_on(&mut self, event: WardenEvent) {
        self.warden = self.warden.after(event).unwrap_or(self.warden);
    }

    fn learn_from_refusal(&mut self, retry_at: Instant, asked_at: Instant) {
        self.clean_opens = 0;
        self.retry_at = Some(retry_at);
        if !self.slot_may_be_late(asked_at) {
            self.cap = self.in_use().max(1);
        }
    }

    /// Whether a channel had closed so shortly before this open was sent that sshd may not have freed its slot.
    pub(crate) fn slot_may_be_late(&self, asked_at: Instant) -> bool {
        self.last_closed
            .is_some_and(|closed| asked_at < closed + LATE_SLOT)
    }

    /// Whether an exec with this timeout may be put on it: its tunnel lives long enough.
    pub(crate) fn serves(&self, timeout: Duration, now: Instant) -> bool {
        self.life.is_none_or(|life| life.serves(timeout, now))
    }

    /// Whether the tunnel is in use, or was until `time` ago. One that has never carried an exec is not.
    pub(crate) fn was_used_within(&self, time: Duration, now: Instant) -> bool {
        self.was_leased && self.idle_since.is_none_or(|since| now < since + time)
    }

    /// A spare becomes a lease.
    pub(crate) fn hand_over(&mut self) {
        self.spares = self.spares.saturating_sub(1);
        self.leased += 1;
        self.was_leased = true;
        self.idle_since = None;
    }

    /// The guards were counted anew.
    pub(crate) fn recount(&mut self, live: usize, lingering: usize, now: Instant) {
        if live < self.leased {
            self.last_closed = Some(now);
        }
        self.leased = live;
        self.lingering = lingering.min(live);
        self.idle_since = match (live, self.idle_since) {
            (0, None) => Some(now),
            (0, since) => since,
            (_, _) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(now: Instant) -> TunnelState {
        TunnelState::Ready(Channels::new(now, None, 10))
    }

    #[tokio::test]
    async fn every_transition() {
        let now = Instant::now();
        type Make = fn(Instant) -> TunnelState;
        let states: [(&str, Make); 8] = [
            ("locating", |_| TunnelState::Locating),
            ("awaiting_slot", |_| TunnelState::AwaitingSlot),
            ("dialing", |_| TunnelState::Dialing),
            ("handshaking", |_| TunnelState::Handshaking { life: None }),
            ("awaiting_grant", |_| TunnelState::AwaitingGrant { life: None }),
            ("authenticating", |_| TunnelState::Authenticating { life: None }),
            ("ready", ready),
            ("retiring", |now| {
                TunnelState::Retiring(Channels::new(now, None, 10))
            }),
        ];
        let events = [
            TunnelEvent::LocatedEndpoint,
            TunnelEvent::LocatedDirect,
            TunnelEvent::SlotGranted,
            TunnelEvent::EndpointRefused,
            TunnelEvent::Dialed { life: None },
            TunnelEvent::Handshaken,
            TunnelEvent::LoginStarted,
            TunnelEvent::LoggedIn { now, cap: 10 },
            TunnelEvent::Retire,
        ];
        let allowed = [
            ("locating", 0, "awaiting_slot"),
            ("locating", 1, "dialing"),
            ("awaiting_slot", 2, "dialing"),
            ("dialing", 3, "awaiting_slot"),
            ("dialing", 4, "handshaking"),
            ("handshaking", 5, "awaiting_grant"),
            ("awaiting_grant", 6, "authenticating"),
            ("authenticating", 7, "ready"),
            ("ready", 8, "retiring"),
        ];
        for (name, make) in states {
            for (index, event) in events.into_iter().enumerate() {
                let expected = allowed
                    .iter()
                    .find(|(from, by, _)| *from == name && *by == index)
                    .map(|(_, _, to)| *to);
                match make(now).after(event) {
                    Ok(next) => assert_eq!(Some(next.name()), expected, "{name} after {event:?}"),
                    Err(same) => assert_eq!((same.name(), None), (name, expected), "{name} after {event:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn cap_is_learned() {
        let now = Instant::now();
        let mut channels = Channels::new(now, None, 10);
        channels.leased = 3;
        channels.opening = 1;
        channels.refused(now, now);
        assert_eq!(
            channels.cap, 3,
            "a refusal with no recent close shows the real limit"
        );

        channels.recount(2, 0, now);
        channels.opening = 1;
        channels.cap = 10;
        channels.refused(now, now + Duration::from_millis(50));
        assert_eq!(channels.cap, 10, "sshd frees a slot late");

        channels.retry_at = None;
        channels.cap = 3;
        for _ in 0..CLEAN_OPENS_TO_GROW {
            channels.opening = 1;
            channels.opened();
            channels.spares = 0;
        }
        assert_eq!(channels.cap, 4, "grows after clean opens at the cap");
    }

    #[tokio::test]
    async fn idleness_begins_with_the_last_lease() {
        let now = Instant::now();
        let mut channels = Channels::new(now, None, 10);
        channels.spares = 1;
        channels.hand_over();
        assert_eq!(channels.idle_since, None);
        let later = now + Duration::from_secs(1);
        channels.recount(0, 0, later);
        channels.recount(0, 0, later + Duration::from_secs(1));
        assert_eq!(channels.idle_since, Some(later));
    }
}
