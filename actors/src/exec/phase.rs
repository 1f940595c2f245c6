//! The life of one exec as a plain struct: events in, effects out. Knows no actor, no SSH, no store and no clock.
//!
//! [`super::event`] has the words it understands and the diagram of its phases; [`super::admitting`] what comes before the
//! point of no return; [`super::learned`] what its record is made of.

use std::time::Duration;

use tokio::time::Instant;

use super::ErrorCode;
use super::admitting::AdmissionOrder;
use super::event::{Effect, Event, LeaseFacts, Phase, Timer};
use super::record::{EndedBy, Outcome, Ran};

/// TERM first; KILL when the program is still there after this.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// Both signals and waiting for their effect take this long at most.
const KILL_BUDGET: Duration = Duration::from_secs(5);
/// After the program's end, output is read until the channel closes or nothing comes for this long: a background child
/// may hold the pipes open.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
/// The caller is told `committed: false` when the final row is not committed after this; the audit goes on trying.
const FINISH_DEADLINE: Duration = Duration::from_secs(10);

/// How the exec ended, as far as it has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) ended_by: EndedBy,
    pub(crate) error: Option<ErrorCode>,
}

/// The state machine and what it has learned.
#[derive(Debug)]
pub(crate) struct ExecCore {
    pub(super) phase: Phase,
    pub(super) timeout: Duration,
    pub(super) start_timeout: Duration,
    pub(super) order: AdmissionOrder,
    pub(super) admitted: Instant,
    pub(super) requested: Option<Instant>,
    pub(super) started: Option<Instant>,
    pub(super) ended: Option<Instant>,
    pub(super) ran: Ran,
    pub(super) exit: Option<Exit>,
    pub(super) marked: bool,
    pub(super) cwd_missing: bool,
    pub(super) output_complete: bool,
    /// Why it is being stopped; the first cause wins.
    pub(super) cause: Option<EndedBy>,
    pub(super) is_timeout_over: bool,
    pub(super) signals: Vec<&'static str>,
    pub(super) lease: Option<LeaseFacts>,
    pub(super) leased_at: Option<Instant>,
    pub(super) retry_after: Option<Duration>,
    pub(super) ending: Option<Ending>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Code(u32),
    Signal(String),
}

impl ExecCore {
    /// A new exec and its first effects.
    pub(crate) fn new(
        timeout: Duration,
        start_timeout: Duration,
        order: AdmissionOrder,
        now: Instant,
    ) -> (Self, Vec<Effect>) {
        let core = Self {
            phase: Phase::Admitting {
                begun: false,
                leased: false,
            },
            timeout,
            start_timeout,
            order,
            admitted: now,
            requested: None,
            started: None,
            ended: None,
            ran: Ran::No,
            exit: None,
            marked: false,
            cwd_missing: false,
            output_complete: false,
            cause: None,
            is_timeout_over: false,
            signals: Vec::new(),
            lease: None,
            leased_at: None,
            retry_after: None,
            ending: None,
        };
        let effects = match order {
            AdmissionOrder::Together => vec![Effect::BeginAudit, Effect::AskChannel],
            AdmissionOrder::RowFirst => vec![Effect::BeginAudit],
        };
        (core, effects)
    }

    /// Takes one event. An event that has no meaning in the present phase (a late timer, an answer to something given
    /// up) changes nothing.
    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Begun(result) => self.on_begun(result, now),
            Event::Leased(facts) => self.on_leased(facts, now),
            Event::NoLease { code, retry_after } => self.on_no_lease(code, retry_after, now),
            Event::Accepted => self.on_accepted(now),
            Event::Refused => self.on_refused(now),
            Event::Started => self.on_started(),
            Event::CwdNotFound => {
                self.cwd_missing = true;
                Vec::new()
            }
            Event::Exited(code) => self.on_exit(Exit::Code(code), now),
            Event::Signaled(signal) => self.on_exit(Exit::Signal(signal), now),
            Event::OutputComplete => {
                self.output_complete = true;
                Vec::new()
            }
            Event::Closed => self.on_closed(now),
            Event::TunnelLost => self.on_tunnel_lost(now),
            Event::Cancel(by) => self.on_cancel(by, now),
            Event::Timer(timer) => self.on_timer(timer, now),
            Event::Silence { last_output } => self.on_silence(last_output, now),
            Event::Recorded => self.publish(true),
        }
    }

    fn on_accepted(&mut self, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Requested => {
                self.phase = Phase::Running;
                self.started = Some(now);
                vec![Effect::NoteStart, Effect::SetTimer(Timer::Timeout, self.timeout)]
            }
            Phase::Stopping => {
                self.started = Some(now);
                vec![Effect::NoteStart]
            }
            Phase::Admitting { .. }
            | Phase::Undecided
            | Phase::Running
            | Phase::Draining
            | Phase::Recording
            | Phase::Ended => Vec::new(),
        }
    }

    fn on_refused(&mut self, now: Instant) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Requested | Phase::Stopping) {
            return Vec::new();
        }
        self.ran = Ran::No;
        self.end_without_exit(Outcome::Failed, EndedBy::Exit, Some(ErrorCode::LoginRefused), now);
        self.record()
    }

    fn on_started(&mut self) -> Vec<Effect> {
        if self.marked
            || !matches!(
                self.phase,
                Phase::Requested | Phase::Running | Phase::Stopping | Phase::Draining
            )
        {
            return Vec::new();
        }
        self.marked = true;
        self.ran = Ran::Yes;
        vec![Effect::AnnounceStart]
    }

    fn on_exit(&mut self, exit: Exit, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Requested | Phase::Running | Phase::Stopping => {
                self.exit = Some(exit);
                self.ended = Some(now);
                self.phase = Phase::Draining;
                vec![Effect::SetTimer(Timer::Silence, SILENCE)]
            }
            Phase::Admitting { .. }
            | Phase::Undecided
            | Phase::Draining
            | Phase::Recording
            | Phase::Ended => Vec::new(),
        }
    }

    fn on_closed(&mut self, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Draining => {
                self.output_complete = true;
                self.end_by_exit(now);
                self.record()
            }
            // Closed with no answer to the request: the channel was gone before the request came, or as it came.
            Phase::Requested => self.on_tunnel_lost(now),
            // sshd always says how a program ended before it closes; a peer that doesn't leaves it unknown.
            Phase::Running | Phase::Stopping => {
                self.end_without_exit(Outcome::Unknown, EndedBy::Exit, None, now);
                self.record()
            }
            Phase::Admitting { .. } | Phase::Undecided | Phase::Recording | Phase::Ended => Vec::new(),
        }
    }

    fn on_tunnel_lost(&mut self, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Draining if self.output_complete => self.end_by_exit(now),
            Phase::Admitting { .. } => {
                // The channel died before anything was sent over it.
                return self.on_no_lease(ErrorCode::TunnelLost, None, now);
            }
            Phase::Draining | Phase::Requested | Phase::Running | Phase::Stopping => {
                self.end_without_exit(
                    Outcome::TunnelLost,
                    EndedBy::TunnelLost,
                    Some(ErrorCode::TunnelLost),
                    now,
                );
            }
            Phase::Undecided | Phase::Recording | Phase::Ended => return Vec::new(),
        }
        self.record()
    }

    fn on_cancel(&mut self, by: EndedBy, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Admitting { begun, .. } => {
                self.end(Outcome::Cancelled, by, Some(cancel_code(by, self.ran)), now);
                self.leave_admission(begun)
            }
            Phase::Requested | Phase::Running => self.stop(by),
            Phase::Draining => self.give_up_output(now),
            Phase::Undecided | Phase::Stopping | Phase::Recording | Phase::Ended => Vec::new(),
        }
    }

    fn stop(&mut self, cause: EndedBy) -> Vec<Effect> {
        self.phase = Phase::Stopping;
        self.cause = Some(cause);
        self.signals.push("TERM");
        vec![
            Effect::Signal("TERM"),
            Effect::SetTimer(Timer::TermGrace, TERM_GRACE),
            Effect::SetTimer(Timer::KillBudget, KILL_BUDGET),
        ]
    }

    fn on_timer(&mut self, timer: Timer, now: Instant) -> Vec<Effect> {
        match (timer, self.phase) {
            (Timer::Start, Phase::Admitting { .. }) => self.on_no_lease(ErrorCode::StartTimeout, None, now),
            (Timer::Timeout, Phase::Running) => self.stop(EndedBy::Timeout),
            (Timer::Timeout, Phase::Draining) => self.bound_draining(now),
            (Timer::TermGrace, Phase::Stopping) => {
                self.signals.push("KILL");
                vec![Effect::Signal("KILL")]
            }
            (Timer::KillBudget, Phase::Stopping) => {
                self.end_without_exit(Outcome::Unknown, EndedBy::Exit, None, now);
                self.abandon(true)
            }
            (Timer::Request, Phase::Requested) => {
                self.end(
                    Outcome::TunnelLost,
                    EndedBy::TunnelLost,
                    Some(ErrorCode::TunnelLost),
                    now,
                );
                self.signals.extend(["TERM", "KILL"]);
                let mut effects = vec![Effect::Signal("TERM"), Effect::Signal("KILL")];
                effects.extend(self.abandon(true));
                effects
            }
            (Timer::Finish, Phase::Recording) => self.publish(false),
            _ => Vec::new(),
        }
    }

    fn on_silence(&mut self, last_output: Option<Instant>, now: Instant) -> Vec<Effect> {
        if self.phase != Phase::Draining {
            return Vec::new();
        }
        let quiet_since = last_output.max(self.ended).unwrap_or(now);
        let quiet_for = now.saturating_duration_since(quiet_since);
        // Past the timeout, and for a program that was stopped, it is two seconds from its end, whatever a child of its
        // goes on printing.
        if quiet_for >= SILENCE || self.cause.is_some() || self.is_timeout_over {
            return self.give_up_output(now);
        }
        vec![Effect::SetTimer(Timer::Silence, SILENCE - quiet_for)]
    }

    /// The timeout has come while output is still on its way: from here on it gets what is left of the two seconds since
    /// the program's end, and no more for every further byte.
    fn bound_draining(&mut self, now: Instant) -> Vec<Effect> {
        self.is_timeout_over = true;
        let left = self.ended.map_or(Duration::ZERO, |ended| {
            (ended + SILENCE).saturating_duration_since(now)
        });
        vec![Effect::SetTimer(Timer::Silence, left)]
    }

    /// The program has ended, something else holds its pipes.
    fn give_up_output(&mut self, now: Instant) -> Vec<Effect> {
        self.end_by_exit(now);
        self.abandon(false)
    }

    fn abandon(&mut self, poison: bool) -> Vec<Effect> {
        let mut effects = vec![Effect::AbandonChannel { poison }];
        effects.extend(self.record());
        effects
    }

    pub(super) fn record(&mut self) -> Vec<Effect> {
        vec![Effect::Record, Effect::SetTimer(Timer::Finish, FINISH_DEADLINE)]
    }

    pub(super) fn publish(&mut self, committed: bool) -> Vec<Effect> {
        if self.phase != Phase::Recording {
            return Vec::new();
        }
        self.phase = Phase::Ended;
        vec![Effect::Publish { committed }]
    }

    pub(super) fn end(
        &mut self,
        outcome: Outcome,
        ended_by: EndedBy,
        error: Option<ErrorCode>,
        now: Instant,
    ) {
        self.phase = Phase::Recording;
        self.ended.get_or_insert(now);
        self.ending.get_or_insert(Ending {
            outcome,
            ended_by,
            error,
        });
    }

    fn end_by_exit(&mut self, now: Instant) {
        if let Some(cause) = self.cause {
            return self.end_by_cause(cause, now);
        }
        if self.cwd_missing {
            self.ran = Ran::No;
            return self.end(Outcome::Failed, EndedBy::Exit, Some(ErrorCode::CwdNotFound), now);
        }
        if !self.marked {
            // Something ran and ended, but not a POSIX shell with our line: a forced command, csh, fish.
            return self.end(Outcome::Failed, EndedBy::Exit, Some(ErrorCode::LoginRefused), now);
        }
        let outcome = match self.exit {
            Some(Exit::Code(_)) => Outcome::Exited,
            Some(Exit::Signal(_)) => Outcome::Signaled,
            None => Outcome::Unknown,
        };
        self.end(outcome, EndedBy::Exit, None, now);
    }

    fn end_without_exit(&mut self, outcome: Outcome, by: EndedBy, error: Option<ErrorCode>, now: Instant) {
        match self.cause {
            Some(cause) => self.end_by_cause(cause, now),
            None => self.end(outcome, by, error, now),
        }
    }

    fn end_by_cause(&mut self, cause: EndedBy, now: Instant) {
        match cause {
            EndedBy::Timeout => self.end(Outcome::Timeout, cause, Some(ErrorCode::ExecTimeout), now),
            EndedBy::ClientGone
            | EndedBy::Delete
            | EndedBy::Evict
            | EndedBy::Shutdown
            | EndedBy::Exit
            | EndedBy::TunnelLost
            | EndedBy::Crash => self.end(Outcome::Cancelled, cause, Some(cancel_code(cause, self.ran)), now),
        }
    }
}

fn cancel_code(by: EndedBy, ran: Ran) -> ErrorCode {
    // 503 promises that nothing ran.
    if by == EndedBy::Shutdown && ran == Ran::No {
        ErrorCode::ShuttingDown
    } else {
        ErrorCode::ExecCancelled
    }
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
