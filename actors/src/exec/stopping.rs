//! How an exec is stopped: signals over its own channel, the tunnel's warden beside it, and what both must show before it is
//! said that nothing is left.

use std::time::Duration;

use tokio::time::Instant;

use super::event::{Effect, Phase, Timer};
use super::phase::ExecCore;
use super::record::{EndedBy, Kill, Outcome};
use crate::tunnel::{NoReceipt, Receipt};

/// TERM first; KILL when the program is still there after this.
pub(super) const TERM_GRACE: Duration = Duration::from_secs(2);
/// Both signals, waiting for their effect and the warden's answer take this long at most.
pub(crate) const KILL_BUDGET: Duration = Duration::from_secs(5);

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stop {
    /// The first cause; later ones change nothing.
    pub(super) cause: EndedBy,
    /// The warden's answer, once it is known.
    answer: Option<Result<Receipt, NoReceipt>>,
    /// sshd has closed the channel: nobody holds the program's pipes.
    is_closed: bool,
    /// The program has ended and something else holds its pipes.
    is_silent: bool,
    /// The budget is spent: what comes now confirms nothing.
    is_over: bool,
}

impl Stop {
    fn is_confirmed(&self) -> bool {
        self.is_closed && matches!(&self.answer, Some(Ok(Receipt { left: 0, .. })))
    }

    /// Whether a process may be left that only the end of the tunnel will end.
    fn leaves_doubt(&self) -> bool {
        let is_all_there_is = self.is_closed && matches!(self.answer, Some(Err(NoReceipt::NoWarden)));
        !self.is_confirmed() && !is_all_there_is
    }
}

impl ExecCore {
    pub(super) fn stop(&mut self, cause: EndedBy) -> Vec<Effect> {
        self.phase = Phase::Stopping;
        self.stop = Some(Stop {
            cause,
            answer: None,
            is_closed: false,
            is_silent: false,
            is_over: false,
        });
        self.signals.push("TERM");
        vec![
            Effect::Signal("TERM"),
            Effect::EndOnInstance {
                session: self.session,
            },
            Effect::SetTimer(Timer::TermGrace, TERM_GRACE),
            Effect::SetTimer(Timer::KillBudget, KILL_BUDGET),
        ]
    }

    /// What the stop waits for may be complete now.
    pub(super) fn on_stopped(&mut self, news: StopNews, now: Instant) -> Vec<Effect> {
        let Some(stop) = &mut self.stop else {
            return Vec::new();
        };
        match news {
            StopNews::Answered(answer) => drop(stop.answer.get_or_insert(answer)),
            StopNews::Closed if stop.is_over => stop.is_silent = true,
            StopNews::Closed => stop.is_closed = true,
            StopNews::Silent => stop.is_silent = true,
            StopNews::Over => stop.is_over = true,
        }
        let has_drained = stop.is_closed || stop.is_silent;
        let is_decided = stop.answer.is_some() || stop.is_over;
        let doubt = stop.leaves_doubt();
        match self.phase {
            Phase::Draining if has_drained && is_decided => {
                self.end_by_exit(now);
                if doubt { self.abandon(true) } else { self.record() }
            }
            Phase::Stopping if matches!(self.stop, Some(Stop { is_over: true, .. })) => {
                self.end_without_exit(Outcome::Unknown, EndedBy::Exit, None, now);
                self.abandon(true)
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn kill(&self) -> Option<Kill> {
        let receipt = self
            .stop
            .as_ref()
            .and_then(|stop| stop.answer.as_ref()?.as_ref().ok());
        let by_warden = receipt.map_or(&[][..], |receipt| &receipt.sent);
        let was_sent = |signal: &&str| self.signals.contains(signal) || by_warden.contains(signal);
        let sent: Vec<String> = ["TERM", "KILL"]
            .into_iter()
            .filter(was_sent)
            .map(str::to_owned)
            .collect();
        (!sent.is_empty()).then_some(Kill {
            sent,
            confirmed: self.stop.as_ref().is_some_and(Stop::is_confirmed),
        })
    }
}

/// What a stop waits for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StopNews {
    Answered(Result<Receipt, NoReceipt>),
    Closed,
    Silent,
    Over,
}

#[cfg(test)]
#[path = "stopping_tests.rs"]
mod tests;
