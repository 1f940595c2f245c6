//! The key grant of one login on one instance.

use std::time::Duration;

use tokio::time::Instant;

/// A public key that EC2 Instance Connect lets log in for a while.
///
/// ```text
///         push             accepted
///  None ------> Pushing -------------> Live { pushed_at }
///   ^              |                      |
///   +--- failed ---+------- margin -------+
/// ```
///
/// AWS honours a key for 60 s from its push; Adit starts logins with it only within a margin below that. A grant gates
/// logins: a channel on a tunnel that is open already outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// No key.
    None,
    /// SendSSHPublicKey is under way.
    Pushing,
    /// The key was accepted.
    Live {
        /// When the push was sent: the service's minute may have begun at any time since.
        pushed_at: Instant,
        /// AWS request id of the push.
        request_id: Option<String>,
    },
}

/// What can happen to a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GrantEvent {
    Push,
    Accepted {
        pushed_at: Instant,
        request_id: Option<String>,
    },
    Failed,
    Expired,
}

impl Grant {
    /// The next state; `None` when the event does not belong to this state.
    pub(crate) fn after(&self, event: GrantEvent) -> Option<Self> {
        match (self, event) {
            (Self::None, GrantEvent::Push) => Some(Self::Pushing),
            (
                Self::Pushing,
                GrantEvent::Accepted {
                    pushed_at,
                    request_id,
                },
            ) => Some(Self::Live {
                pushed_at,
                request_id,
            }),
            (Self::Pushing, GrantEvent::Failed) | (Self::Live { .. }, GrantEvent::Expired) => {
                Some(Self::None)
            }
            (Self::None, GrantEvent::Accepted { .. } | GrantEvent::Failed | GrantEvent::Expired)
            | (Self::Pushing, GrantEvent::Push | GrantEvent::Expired)
            | (Self::Live { .. }, GrantEvent::Push | GrantEvent::Accepted { .. } | GrantEvent::Failed) => {
                None
            }
        }
    }

    /// When logins with this grant stop being started.
    pub(crate) fn expires_at(&self, margin: Duration) -> Option<Instant> {
        match self {
            Self::Live { pushed_at, .. } => Some(*pushed_at + margin),
            Self::None | Self::Pushing => None,
        }
    }

    /// When the push that gave it was sent.
    pub(crate) fn pushed_at(&self) -> Option<Instant> {
        match self {
            Self::Live { pushed_at, .. } => Some(*pushed_at),
            Self::None | Self::Pushing => None,
        }
    }

    /// AWS request id of the push that gave it.
    pub(crate) fn request_id(&self) -> Option<String> {
        match self {
            Self::Live { request_id, .. } => request_id.clone(),
            Self::None | Self::Pushing => None,
        }
    }

    /// Whether a login may be started with it now.
    pub(crate) fn is_usable(&self, margin: Duration, now: Instant) -> bool {
        self.expires_at(margin).is_some_and(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn transitions() {
        let now = Instant::now();
        let live = Grant::Live {
            pushed_at: now,
            request_id: None,
        };
        let accepted = || GrantEvent::Accepted {
            pushed_at: now,
            request_id: None,
        };
        let table = [
            (Grant::None, GrantEvent::Push, Some(Grant::Pushing)),
            (Grant::None, accepted(), None),
            (Grant::None, GrantEvent::Failed, None),
            (Grant::None, GrantEvent::Expired, None),
            (Grant::Pushing, GrantEvent::Push, None),
            (Grant::Pushing, accepted(), Some(live.clone())),
            (Grant::Pushing, GrantEvent::Failed, Some(Grant::None)),
            (Grant::Pushing, GrantEvent::Expired, None),
            (live.clone(), GrantEvent::Push, None),
            (live.clone(), accepted(), None),
            (live.clone(), GrantEvent::Failed, None),
            (live.clone(), GrantEvent::Expired, Some(Grant::None)),
        ];
        for (state, event, next) in table {
            assert_eq!(state.after(event.clone()), next, "{state:?} after {event:?}");
        }
    }

    #[tokio::test]
    async fn usable_strictly_below_the_margin() {
        let now = Instant::now();
        let margin = Duration::from_secs(45);
        let live = Grant::Live {
            pushed_at: now,
            request_id: None,
        };
        assert!(live.is_usable(margin, now + Duration::from_millis(44_999)));
        assert!(!live.is_usable(margin, now + margin));
        assert!(!Grant::Pushing.is_usable(margin, now));
    }
}
