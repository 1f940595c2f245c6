//! Pushed public keys and for how long they work.
//!
//! Judged by the emulator's wall clock. It must know nothing of how a key came or who asks.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;
use time::OffsetDateTime;

use crate::clock::WallClock;
use crate::shared::lock;

/// Valid keys kept at once, over all instances and users. AWS publishes no number; a push past it is throttled. Far
/// above what 60 s of honest pushes need, and small enough (1 KiB a key) to stay nothing.
pub(crate) const MAX_KEYS: usize = 4096;

/// All keys that still work.
#[derive(Debug)]
pub(crate) struct Keys {
    clock: WallClock,
    lifetime: Duration,
    pushed: Mutex<HashMap<Login, Vec<PushedKey>>>,
}

/// Whom a key lets in where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Login {
    pub(crate) instance_id: String,
    pub(crate) os_user: String,
}

/// A key and its last moment.
#[derive(Debug, Clone)]
pub(crate) struct PushedKey {
    pub(crate) key: PublicKey,
    pub(crate) expires_at: OffsetDateTime,
}

/// More keys are valid than [`MAX_KEYS`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyKeys;

impl Keys {
    pub(crate) fn new(clock: WallClock, lifetime: Duration) -> Self {
        Self {
            clock,
            lifetime,
            pushed: Mutex::default(),
        }
    }

    /// Adds a key to those that already work, or renews it, and returns all that work for that login now.
    pub(crate) fn push(&self, login: &Login, key: PublicKey) -> Result<Vec<PushedKey>, TooManyKeys> {
        let now = self.clock.now();
        let mut pushed = lock(&self.pushed);
        pushed.retain(|_, keys| {
            keys.retain(|key| now < key.expires_at);
            !keys.is_empty()
        });
        if pushed.values().map(Vec::len).sum::<usize>() >= MAX_KEYS {
            return Err(TooManyKeys);
        }
        let keys = pushed.entry(login.clone()).or_default();
        keys.retain(|known| known.key.key_data() != key.key_data());
        keys.push(PushedKey {
            key,
            expires_at: now + self.lifetime,
        });
        Ok(keys.clone())
    }

    /// Whether this key may log in now.
    pub(crate) fn allows(&self, login: &Login, key: &KeyData) -> bool {
        let now = self.clock.now();
        lock(&self.pushed).get(login).is_some_and(|keys| {
            keys.iter()
                .any(|known| known.key.key_data() == key && now < known.expires_at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_key::HostKey;

    fn key() -> PublicKey {
        HostKey::generate().private_key().public_key().clone()
    }

    fn login(user: &str) -> Login {
        Login {
            instance_id: "i-0123456789abcdef0".to_owned(),
            os_user: user.to_owned(),
        }
    }

    #[test]
    fn a_key_works_for_its_login_until_its_lifetime_has_passed() {
        let clock = WallClock::new();
        let keys = Keys::new(clock.clone(), Duration::from_secs(60));
        let (first, second) = (key(), key());
        keys.push(&login("alice"), first.clone()).unwrap();
        clock.advance(Duration::from_secs(30));
        assert_eq!(keys.push(&login("alice"), second.clone()).unwrap().len(), 2);
        assert!(keys.allows(&login("alice"), first.key_data()));
        assert!(keys.allows(&login("alice"), second.key_data()));
        assert!(!keys.allows(&login("bob"), first.key_data()));

        clock.advance(Duration::from_secs(31));
        assert!(!keys.allows(&login("alice"), first.key_data()));
        assert!(keys.allows(&login("alice"), second.key_data()));
    }

    #[test]
    fn a_key_pushed_again_is_renewed_not_doubled() {
        let clock = WallClock::new();
        let keys = Keys::new(clock.clone(), Duration::from_secs(60));
        let key = key();
        keys.push(&login("alice"), key.clone()).unwrap();
        clock.advance(Duration::from_secs(50));
        assert_eq!(keys.push(&login("alice"), key.clone()).unwrap().len(), 1);
        clock.advance(Duration::from_secs(50));
        assert!(keys.allows(&login("alice"), key.key_data()));
    }

    #[test]
    fn pushes_past_the_bound_are_refused_until_keys_expire() {
        let clock = WallClock::new();
        let keys = Keys::new(clock.clone(), Duration::from_secs(60));
        for _ in 0..MAX_KEYS {
            keys.push(&login("alice"), key()).unwrap();
        }
        assert_eq!(keys.push(&login("bob"), key()).unwrap_err(), TooManyKeys);
        clock.advance(Duration::from_secs(61));
        assert_eq!(keys.push(&login("bob"), key()).unwrap().len(), 1);
    }
}
