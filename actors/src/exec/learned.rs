//! What an exec has learned so far, as its record shows it.

use std::time::Duration;

use tokio::time::Instant;

use super::event::{AwsRequestIds, Phase};
use super::phase::{Ending, ExecCore, Exit};
use super::record::{Kill, Outcome, Ran, Timing, TunnelTemperature};

impl ExecCore {
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    pub(crate) fn ran(&self) -> Ran {
        self.ran
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn exit_code(&self) -> Option<u32> {
        match (&self.exit, self.ending.as_ref().map(|ending| ending.outcome)) {
            (Some(Exit::Code(code)), Some(Outcome::Exited)) => Some(*code),
            _ => None,
        }
    }

    pub(crate) fn signal(&self) -> Option<String> {
        match (&self.exit, &self.ending) {
            (Some(Exit::Signal(signal)), Some(_)) => Some(signal.clone()),
            _ => None,
        }
    }

    pub(crate) fn kill(&self) -> Option<Kill> {
        // The SSH signal request has no answer, so nothing is ever confirmed by it.
        let sent: Vec<String> = self.signals.iter().map(|signal| (*signal).to_owned()).collect();
        (!sent.is_empty()).then_some(Kill {
            sent,
            confirmed: false,
        })
    }

    pub(crate) fn temperature(&self) -> Option<TunnelTemperature> {
        self.lease.as_ref().map(|lease| lease.temperature)
    }

    /// Those of the tunnel that the exec was given a channel on, if it was.
    pub(crate) fn aws_request_ids(&self) -> Option<&AwsRequestIds> {
        self.lease.as_ref().map(|lease| &lease.aws_request_ids)
    }

    /// From the start of the program, or from admission while or because it has not started, to the end, or so far.
    pub(crate) fn duration(&self, now: Instant) -> Duration {
        let from = self.started.unwrap_or(self.admitted);
        self.ended.unwrap_or(now).saturating_duration_since(from)
    }

    pub(crate) fn timing(&self, first_output: Option<Instant>) -> Timing {
        let between = |from: Option<Instant>, to: Option<Instant>| {
            Some(milliseconds(to?.saturating_duration_since(from?)))
        };
        Timing {
            queued: between(Some(self.admitted), self.leased_at),
            grant: self.lease.as_ref().and_then(|lease| lease.grant_ms),
            connect: self.lease.as_ref().and_then(|lease| lease.connect_ms),
            channel: self.lease.as_ref().and_then(|lease| lease.channel_ms),
            first_byte: between(self.requested, first_output),
            run: between(self.started, self.ended),
        }
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}
