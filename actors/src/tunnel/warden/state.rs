//! Where a tunnel's warden stands, for the supervisor that decides about its channel.

use std::time::Duration;

use tokio::time::Instant;

/// The pauses before one that has ended is started again, as often as there are: whoever ends it more often means it. After
/// the first there is time left to do what was asked of the one before; an
/// instance that has ended it twice may be short of memory.
const RESTART_PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];

/// The warden of one tunnel.
///
/// ```text
///           +------------------- ended: pause, a few times --------------------+
///           v                                                                  |
/// Wanted -> Opening -> Starting --------------------------------------------> Ready
///   ^          |           |  no `ready`, or no channel to spare for it          |
///   +- refused +           |  +--------------------------------------------------+
///                          v  v                        ended too often
///                        Leaving -------- closed ------> None
/// ```
///
/// The first channel that ends before `ready` came leads from `Starting` to `None` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WardenState {
    /// There is none so far, and its place among the channels is kept.
    Wanted {
        /// Not before this.
        from: Option<Instant>,
        restarts: usize,
    },
    /// Its channel is being opened.
    Opening { restarts: usize },
    /// It has a channel and has not said `ready`.
    Starting { restarts: usize },
    /// It takes orders.
    Ready { restarts: usize },
    /// It takes none, and its channel is still open.
    Leaving,
    /// There is none, and there will be none.
    None,
}

/// What can happen to a warden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WardenEvent {
    Open,
    Opened,
    /// sshd had no session for it.
    Refused,
    Ready,
    /// It did not say `ready`, or its channel is needed.
    Dismissed,
    /// Its channel has closed.
    Ended {
        now: Instant,
    },
}

impl WardenState {
    pub(crate) const NEW: Self = Self::Wanted {
        from: None,
        restarts: 0,
    };

    /// The next state; `None` when the event does not belong to this state.
    pub(crate) fn after(self, event: WardenEvent) -> Option<Self> {
        match (self, event) {
            (Self::Wanted { restarts, .. }, WardenEvent::Open) => Some(Self::Opening { restarts }),
            (Self::Opening { restarts }, WardenEvent::Opened) => Some(Self::Starting { restarts }),
            (Self::Opening { restarts }, WardenEvent::Refused) => Some(Self::Wanted { from: None, restarts }),
            (Self::Starting { restarts }, WardenEvent::Ready) => Some(Self::Ready { restarts }),
            (Self::Starting { .. } | Self::Ready { .. }, WardenEvent::Dismissed) => Some(Self::Leaving),
            // One whose predecessor was ready is no foreign shell: it was ended too.
            (
                Self::Ready { restarts }
                | Self::Starting {
                    restarts: restarts @ 1..,
                },
                WardenEvent::Ended { now },
            ) => {
                let pause = RESTART_PAUSES.get(restarts);
                Some(pause.map_or(Self::None, |pause| Self::Wanted {
                    from: Some(now + *pause),
                    restarts: restarts + 1,
                }))
            }
            (Self::Starting { .. } | Self::Leaving, WardenEvent::Ended { .. }) => Some(Self::None),
            _ => None,
        }
    }

    /// Whether it has a channel, or one is on its way.
    pub(crate) fn has_channel(self) -> bool {
        match self {
            Self::Opening { .. } | Self::Starting { .. } | Self::Ready { .. } | Self::Leaving => true,
            Self::Wanted { .. } | Self::None => false,
        }
    }

    /// Whether it runs, or is about to.
    pub(crate) fn is_running(self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Ready { .. })
    }

    /// Whether it is still to be opened.
    pub(crate) fn is_wanted(self) -> bool {
        matches!(self, Self::Wanted { .. })
    }

    /// Whether it has ended by itself and another is to take its place.
    pub(crate) fn is_coming_again(self) -> bool {
        match self {
            Self::Wanted { restarts, .. } | Self::Opening { restarts } | Self::Starting { restarts } => {
                restarts > 0
            }
            Self::Ready { .. } | Self::Leaving | Self::None => false,
        }
    }

    /// Until when it is not to be opened.
    pub(crate) fn paused_until(self) -> Option<Instant> {
        match self {
            Self::Wanted { from, .. } => from,
            Self::Opening { .. }
            | Self::Starting { .. }
            | Self::Ready { .. }
            | Self::Leaving
            | Self::None => None,
        }
    }

    /// The name in snapshots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wanted { .. } | Self::Opening { .. } | Self::Starting { .. } => "starting",
            Self::Ready { .. } => "ready",
            Self::Leaving | Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_transition() {
        let now = Instant::now();
        let states = [
            WardenState::NEW,
            WardenState::Opening { restarts: 0 },
            WardenState::Starting { restarts: 0 },
            WardenState::Ready { restarts: 0 },
            WardenState::Leaving,
            WardenState::None,
        ];
        let events = [
            WardenEvent::Open,
            WardenEvent::Opened,
            WardenEvent::Refused,
            WardenEvent::Ready,
            WardenEvent::Dismissed,
            WardenEvent::Ended { now },
        ];
        let again = WardenState::Wanted {
            from: Some(now + RESTART_PAUSES[0]),
            restarts: 1,
        };
        let allowed = [
            (0, 0, states[1]),
            (1, 1, states[2]),
            (1, 2, states[0]),
            (2, 3, states[3]),
            (2, 4, states[4]),
            (3, 4, states[4]),
            (2, 5, states[5]),
            (3, 5, again),
            (4, 5, states[5]),
        ];
        assert_eq!(
            WardenState::Starting { restarts: 1 }.after(WardenEvent::Ended { now }),
            Some(WardenState::Wanted {
                from: Some(now + RESTART_PAUSES[1]),
                restarts: 2
            })
        );
        for (from, state) in states.iter().enumerate() {
            for (by, event) in events.iter().enumerate() {
                let expected = allowed.iter().find(|(f, b, _)| (*f, *b) == (from, by));
                assert_eq!(
                    state.after(*event),
                    expected.map(|(_, _, to)| *to),
                    "{state:?} after {event:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn it_is_not_started_for_ever() {
        let now = Instant::now();
        let mut state = WardenState::NEW;
        let mut starts = 0;
        while let Some(opening) = state.after(WardenEvent::Open) {
            starts += 1;
            state = opening;
            for event in [
                WardenEvent::Opened,
                WardenEvent::Ready,
                WardenEvent::Ended { now },
            ] {
                state = state.after(event).unwrap();
            }
        }
        assert_eq!((starts, state), (1 + RESTART_PAUSES.len(), WardenState::None));
    }
}
