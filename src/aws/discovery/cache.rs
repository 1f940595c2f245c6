//! Answers that many ask for, asked for once and kept for a while.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::failure::DiscoveryError;

/// One answer for all who asked. A failure is theirs alike.
pub(super) type Answer<V> = Result<V, Arc<DiscoveryError>>;

/// Keeps each answer for `life` from when it was asked for, and no failure at all.
pub(super) struct LookupCache<K, V> {
    life: Duration,
    /// Entries at most; past it the oldest makes room.
    capacity: usize,
    // Shared with the lookups under way, which take their failures out again.
    entries: Arc<Mutex<Entries<K, V>>>,
}

struct Entries<K, V> {
    by_key: HashMap<K, Entry<V>>,
    next_number: u64,
}

struct Entry<V> {
    number: u64,
    asked_at: Instant,
    answer: Shared<BoxFuture<'static, Answer<V>>>,
}

fn lock<K, V>(entries: &Mutex<Entries<K, V>>) -> MutexGuard<'_, Entries<K, V>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes an entry out unless it has been replaced since.
fn remove<K: Hash + Eq, V>(entries: &Mutex<Entries<K, V>>, key: &K, number: u64) {
    let mut entries = lock(entries);
    if entries
        .by_key
        .get(key)
        .is_some_and(|entry| entry.number == number)
    {
        entries.by_key.remove(key);
    }
}

impl<K, V> LookupCache<K, V>
where
    K: Clone + Hash + Eq + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// `life` must be longer than a lookup may take, or a second one would begin beside it.
    pub(super) fn new(life: Duration, capacity: usize) -> Self {
        Self {
            life,
            capacity,
            entries: Arc::new(Mutex::new(Entries {
                by_key: HashMap::new(),
                next_number: 0,
            })),
        }
    }

    /// The kept answer, that of the lookup under way, or that of `lookup`. The lookup goes on when its askers leave.
    pub(super) async fn get<F>(&self, key: &K, lookup: impl FnOnce() -> F) -> Answer<V>
    where
        F: Future<Output = Result<V, DiscoveryError>> + Send + 'static,
    {
        let answer = self.kept(key).unwrap_or_else(|| self.begin(key, lookup()));
        answer.await
    }

    fn kept(&self, key: &K) -> Option<Shared<BoxFuture<'static, Answer<V>>>> {
        let entries = lock(&self.entries);
        let entry = entries.by_key.get(key)?;
        (entry.asked_at.elapsed() < self.life).then(|| entry.answer.clone())
    }

    fn begin<F>(&self, key: &K, lookup: F) -> Shared<BoxFuture<'static, Answer<V>>>
    where
        F: Future<Output = Result<V, DiscoveryError>> + Send + 'static,
    {
        let mut entries = lock(&self.entries);
        // Someone may have begun since `kept` looked.
        if let Some(entry) = entries.by_key.get(key)
            && entry.asked_at.elapsed() < self.life
        {
            return entry.answer.clone();
        }
        entries.make_room(self.capacity, self.life);
        let number = entries.next_number;
        entries.next_number = number.wrapping_add(1);

        let (shared_entries, own_key) = (Arc::clone(&self.entries), key.clone());
        // The task itself takes its failure out: its askers may have left, and the next one must not get it.
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = lookup.await.map_err(Arc::new);
            if answer.is_err() {
                remove(&shared_entries, &own_key, number);
            }
            answer
        }));
        let (shared_entries, own_key) = (Arc::clone(&self.entries), key.clone());
        let answer = async move {
            match task.await {
                Ok(answer) => answer,
                // It panicked, or its thread's runtime ended.
                Err(_lost) => {
                    remove(&shared_entries, &own_key, number);
                    Err(Arc::new(DiscoveryError::GivenUp))
                }
            }
        };
        let answer = answer.boxed().shared();
        let entry = Entry {
            number,
            asked_at: Instant::now(),
            answer: answer.clone(),
        };
        entries.by_key.insert(key.clone(), entry);
        answer
    }

    /// Drops an answer that somebody has got and that is `least_age` old, and returns it. One that is still under way
    /// has told nobody anything that could be wrong.
    pub(super) fn forget(&self, key: &K, least_age: Duration) -> Option<V> {
        let mut entries = lock(&self.entries);
        let entry = entries.by_key.get(key)?;
        let told = entry.answer.peek()?.clone();
        if entry.asked_at.elapsed() >= least_age {
            entries.by_key.remove(key);
        }
        told.ok()
    }
}

impl<K: Clone + Hash + Eq, V> Entries<K, V> {
    /// Linear in the entries, and only when there are as many as are allowed.
    fn make_room(&mut self, capacity: usize, life: Duration) {
        if self.by_key.len() < capacity {
            return;
        }
        self.by_key.retain(|_, entry| entry.asked_at.elapsed() < life);
        if self.by_key.len() < capacity {
            return;
        }
        let oldest = self.by_key.iter().min_by_key(|(_, entry)| entry.asked_at);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.by_key.remove(&key);
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
