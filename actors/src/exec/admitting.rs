//! What comes before the point of no return: a row that is begun and a channel that is leased.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use super::ErrorCode;
use super::event::{BeginResult, Effect, LeaseFacts, Phase, Timer};
use super::phase::ExecCore;
use super::record::{EndedBy, Outcome, Ran};

/// How long sshd may take to answer the exec request: what is left of the start timeout, within these two. It forks before
/// it answers, so a loaded instance is slow here; but the caller's bound on the whole answer counts from admission.
const REQUEST_DEADLINE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(15);

/// In which order an exec gets what it needs before it may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdmissionOrder {
    /// Row and channel at once, which is fastest.
    Together,
    /// The row first: another try may own the exec's id, and must not be disturbed.
    RowFirst,
}

impl ExecCore {
    pub(super) fn on_begun(&mut self, result: BeginResult, now: Instant) -> Vec<Effect> {
        match (result, self.phase) {
            (BeginResult::Committed, Phase::Admitting { leased, .. }) => {
                self.phase = Phase::Admitting { begun: true, leased };
                match self.order {
                    AdmissionOrder::Together => self.send_when_ready(now),
                    AdmissionOrder::RowFirst => {
                        vec![
                            Effect::AskChannel,
                            Effect::SetTimer(Timer::Start, self.left_to_start(now)),
                        ]
                    }
                }
            }
            (BeginResult::Committed, Phase::Undecided) => {
                self.phase = Phase::Recording;
                self.record()
            }
            (BeginResult::Taken, Phase::Admitting { .. } | Phase::Undecided)
                if self.order == AdmissionOrder::RowFirst =>
            {
                self.phase = Phase::Ended;
                vec![Effect::Disown]
            }
            // A random id can't be another's; if it is, this exec has no row.
            (BeginResult::NotWritten | BeginResult::Taken, Phase::Admitting { .. } | Phase::Undecided) => {
                self.refuse_unrecorded(now, vec![Effect::ReleaseChannel])
            }
            (BeginResult::Uncertain, Phase::Admitting { .. } | Phase::Undecided) => {
                self.refuse_unrecorded(now, vec![Effect::ReleaseChannel, Effect::Settle])
            }
            _ => Vec::new(),
        }
    }

    /// Nobody waits for a row that says that nothing ran: the store is in trouble as it is.
    fn refuse_unrecorded(&mut self, now: Instant, mut effects: Vec<Effect>) -> Vec<Effect> {
        let code = Some(ErrorCode::AuditUnavailable);
        self.end(Outcome::Failed, EndedBy::Exit, code, now);
        effects.extend(self.publish(false));
        effects
    }

    /// It is over before anything was sent: its end is recorded once it is known whose row it is.
    pub(super) fn leave_admission(&mut self, begun: bool) -> Vec<Effect> {
        let mut effects = vec![Effect::ReleaseChannel];
        if begun {
            effects.extend(self.record());
        } else {
            self.phase = Phase::Undecided;
        }
        effects
    }

    pub(super) fn on_leased(&mut self, facts: LeaseFacts, now: Instant) -> Vec<Effect> {
        let Phase::Admitting { begun, .. } = self.phase else {
            return vec![Effect::ReleaseChannel];
        };
        self.lease = Some(facts);
        self.leased_at = Some(now);
        self.phase = Phase::Admitting { begun, leased: true };
        self.send_when_ready(now)
    }

    pub(super) fn on_no_lease(
        &mut self,
        code: ErrorCode,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Vec<Effect> {
        let Phase::Admitting { begun, .. } = self.phase else {
            return Vec::new();
        };
        self.retry_after = retry_after;
        self.end(Outcome::Failed, EndedBy::Exit, Some(code), now);
        self.leave_admission(begun)
    }

    fn send_when_ready(&mut self, now: Instant) -> Vec<Effect> {
        if self.phase
            != (Phase::Admitting {
                begun: true,
                leased: true,
            })
        {
            return Vec::new();
        }
        self.phase = Phase::Requested;
        self.requested = Some(now);
        self.ran = Ran::Unknown;
        let answer_within = self
            .left_to_start(now)
            .clamp(*REQUEST_DEADLINE.start(), *REQUEST_DEADLINE.end());
        vec![
            Effect::SendRequest,
            Effect::SetTimer(Timer::Request, answer_within),
        ]
    }

    fn left_to_start(&self, now: Instant) -> Duration {
        (self.admitted + self.start_timeout).saturating_duration_since(now)
    }
}
