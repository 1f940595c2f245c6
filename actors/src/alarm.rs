//! One wake-up call of an actor, moved as its plain struct says.

use actix::{Actor, AsyncContext, Context, SpawnHandle};
use tokio::time::Instant;

/// At most one timer: setting it anew replaces the one before.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<(Instant, SpawnHandle)>);

impl Alarm {
    /// Rings at `due`, or not at all. `ring` has to call [`Alarm::rang`].
    pub(crate) fn set<A: Actor<Context = Context<A>>>(
        &mut self,
        due: Option<Instant>,
        ctx: &mut Context<A>,
        ring: fn(&mut A, &mut Context<A>),
    ) {
        if due == self.0.map(|(at, _)| at) {
            return;
        }
        if let Some((_, handle)) = self.0.take() {
            ctx.cancel_future(handle);
        }
        self.0 = due.map(|at| {
            (
                at,
                ctx.run_later(at.saturating_duration_since(Instant::now()), ring),
            )
        });
    }

    /// It has rung: the next one may be for the same time.
    pub(crate) fn rang(&mut self) {
        self.0 = None;
    }
}
