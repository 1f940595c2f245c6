//! The few threads that all actors share.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use actix::{Actor, Addr, Context};
use actix_rt::{Arbiter, ArbiterHandle};

/// Where actors run: a fixed pool of arbiters, or the current thread (for tests, whose paused time reaches only that).
///
/// An arbiter is one OS thread, so there is none per instance; what belongs to one login runs on one arbiter, chosen by
/// hash, and its messages cross no thread.
#[derive(Clone, Debug)]
pub(crate) enum Arbiters {
    /// A pool.
    Pool(Arc<[ArbiterHandle]>),
    /// The thread that asks.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "tests run actors under their own paused time")
    )]
    Current,
}

impl Arbiters {
    /// Starts `count` arbiters, at least one. Needs an actix `System`.
    pub(crate) fn start(count: usize) -> Self {
        Self::Pool((0..count.max(1)).map(|_| Arbiter::new().handle()).collect())
    }

    /// Starts an actor on the arbiter that `key` belongs to.
    pub(crate) fn run<A, K>(
        &self,
        key: &K,
        make: impl FnOnce(&mut Context<A>) -> A + Send + 'static,
    ) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
        K: Hash,
    {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        match self {
            Self::Current => A::create(make),
            Self::Pool(handles) => {
                let count = handles.len().max(1) as u64;
                let index = usize::try_from(hasher.finish() % count).unwrap_or_default();
                match handles.get(index) {
                    Some(handle) => A::start_in_arbiter(handle, make),
                    None => A::create(make),
                }
            }
        }
    }

    /// Ends the threads; whatever still runs on them is dropped.
    pub(crate) fn stop(&self) {
        if let Self::Pool(handles) = self {
            for handle in handles.iter() {
                handle.stop();
            }
        }
    }
}
