//! What an instance, its endpoint and the key push for it are told to do wrong, and how often.
//!
//! Plain data that tests set by call and the command line by flag. It must know nothing of sockets, HTTP or SSH.

use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;

/// Everything that can go wrong with one instance. [`Faults::default`] has all of it off, and then nothing differs
/// from AWS and OpenSSH.
///
/// A change applies at once, to open tunnels and connections too, unless a field says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Added to the time that a key push takes. The key works from its end.
    pub grant_latency: Duration,
    /// Key pushes answered by `ThrottlingException`.
    pub throttled_pushes: Times,
    /// Key pushes answered by `AccessDeniedException`, as IAM words it.
    pub denied_pushes: Times,

    /// Added to each round trip through a tunnel, half each way, and once to the answer of its upgrade. Order and
    /// throughput stay. Exact to the timer's millisecond.
    pub round_trip: Duration,
    /// `openTunnel` requests that are refused as [`Faults::tunnel_refusal`] says.
    pub refused_tunnels: Times,
    /// What those requests are answered.
    pub tunnel_refusal: TunnelRefusal,
    /// `openTunnel` requests that get no answer, on a connection that stays open. They take no place of the endpoint's.
    pub unanswered_upgrades: Times,
    /// `openTunnel` requests whose connection is closed instead of an answer.
    pub cut_upgrades: Times,
    /// Tunnels that open and then carry nothing, until [`Emulator::resume_tunnels`](crate::Emulator::resume_tunnels).
    pub stalled_tunnels: Times,
    /// Where tunnels are cut, as a network failure would: no CLOSE, no more bytes.
    pub cut: Option<Cut>,

    /// Tunnels that get `Not allowed at this time` in place of sshd's version line and are then closed: what an sshd
    /// with `PerSourcePenalties` or `MaxStartups` says (OpenSSH, `sshd.c`).
    pub penalised_connections: Times,
    /// Logins that an in-process instance refuses although the key is good.
    pub refused_logins: Times,
    /// Session channels that an in-process instance refuses although it has room.
    pub refused_sessions: Times,
    /// Session channels per SSH connection to an in-process instance, instead of
    /// [`Settings::max_sessions`](crate::Settings::max_sessions). A smaller number ends no session.
    pub max_sessions: Option<usize>,
    /// Session channels whose open request an in-process instance never answers.
    pub unanswered_channel_opens: Times,
    /// Exec requests that an in-process instance never answers. Their commands are not run.
    pub unanswered_execs: Times,
    /// Whether an in-process instance ignores `signal` requests, as OpenSSH before 7.9 does.
    pub ignores_signals: bool,
}

/// What can go wrong with `DescribeInstances` and `DescribeInstanceConnectEndpoints`, which are asked for many instances
/// at once. [`DiscoveryFaults::default`] has all of it off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiscoveryFaults {
    /// Added to the time that an answer takes.
    pub latency: Duration,
    /// Requests answered by `RequestLimitExceeded`.
    pub throttled: Times,
    /// Requests answered by `UnauthorizedOperation`.
    pub denied: Times,
}

/// How often a fault happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Times {
    /// Not at all.
    #[default]
    Never,
    /// The next so many times. It counts down to [`Times::Never`], which tells a test that the fault has happened.
    Next(u32),
    /// Each time, until it is changed.
    Always,
}

impl Times {
    /// Whether it happens now; this time then counts.
    pub(crate) fn take(&mut self) -> bool {
        match *self {
            Self::Never | Self::Next(0) => {
                *self = Self::Never;
                false
            }
            Self::Next(1) => {
                *self = Self::Never;
                true
            }
            Self::Next(times) => {
                *self = Self::Next(times - 1);
                true
            }
            Self::Always => true,
        }
    }
}

/// A refusal of `openTunnel`: `{"ErrorCode": CODE, "Message": MESSAGE}` under a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelRefusal {
    /// Status of the answer.
    pub status: StatusCode,
    /// `ErrorCode` of the body.
    pub code: String,
    /// `Message` of the body.
    pub message: String,
}

impl Default for TunnelRefusal {
    /// A fault of the service's own, which says nothing about the request: 500 `InternalServerError`.
    fn default() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "InternalServerError".to_owned(),
            message: "An internal error has occurred. Retry your request.".to_owned(),
        }
    }
}

/// Where tunnels are cut, and how many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The place.
    pub at: CutAt,
    /// How many tunnels that come to it are cut there.
    pub times: Times,
}

impl Cut {
    /// Cuts the next tunnel that comes to this place.
    #[must_use]
    pub fn next(at: CutAt) -> Self {
        Self {
            at,
            times: Times::Next(1),
        }
    }
}

/// A place in the life of a tunnel.
///
/// The first six are seen from outside, so they work for every instance. Bytes and frames count from the tunnel's
/// start; a tunnel that is past them is cut at its next byte. The others are steps of SSH, which is encrypted: only an
/// in-process instance sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutAt {
    /// After so many bytes from the instance, exactly.
    BytesFromInstance(u64),
    /// After so many bytes to the instance, exactly.
    BytesToInstance(u64),
    /// After so many binary frames to the client.
    FramesFromInstance(u64),
    /// After so many binary frames from the client, empty ones not counted.
    FramesToInstance(u64),
    /// A time after the tunnel opened.
    After(Duration),
    /// In the key exchange: after the instance's version line and before its first packet.
    KeyExchange,
    /// At the signed login request, before an answer.
    Login,
    /// At the request for a session channel, before an answer.
    ChannelOpen,
    /// At the exec request, before an answer. The command is not run.
    ExecRequest,
    /// When a command has written so many bytes to stdout and stderr and the client has them. With 0, when the command
    /// was started and its exec request answered. The command goes on.
    AfterBytesOfOutput(u64),
    /// When a command's exit status or exit signal has reached the client, before its channel is closed.
    AfterExitStatus,
}

/// The faults of one running instance.
#[derive(Debug)]
pub(crate) struct FaultSwitch(watch::Sender<Faults>);

impl FaultSwitch {
    pub(crate) fn new(faults: Faults) -> Self {
        Self(watch::Sender::new(faults))
    }

    /// Hears of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Faults> {
        self.0.subscribe()
    }

    pub(crate) fn get(&self) -> Faults {
        self.0.borrow().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Faults)) {
        self.0.send_modify(change);
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Faults) -> T) -> T {
        read(&self.0.borrow())
    }

    /// Whether this fault happens now; this time then counts.
    pub(crate) fn take(&self, of: impl Fn(&mut Faults) -> &mut Times) -> bool {
        let mut taken = false;
        self.0.send_if_modified(|faults| {
            taken = of(faults).take();
            taken
        });
        taken
    }

    /// What `matches` says of the place where tunnels are to be cut, if it says that this is it; this time then counts.
    pub(crate) fn take_cut<T>(&self, matches: impl FnOnce(CutAt) -> Option<T>) -> Option<T> {
        // By far the most asks end here, without the lock for writing.
        self.0.borrow().cut?;
        let mut found = None;
        self.0.send_if_modified(|faults| {
            let Some(cut) = &mut faults.cut else { return false };
            found = matches(cut.at).filter(|_| cut.times.take());
            if cut.times == Times::Never {
                faults.cut = None;
            }
            found.is_some()
        });
        found
    }

    /// Whether a tunnel is to be cut at exactly this place; this time then counts.
    pub(crate) fn take_cut_at(&self, place: CutAt) -> bool {
        self.take_cut(|at| (at == place).then_some(())).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_happens_as_often_as_it_was_told() {
        for (times, happens, left) in [
            (Times::Never, [false, false, false], Times::Never),
            (Times::Next(0), [false, false, false], Times::Never),
            (Times::Next(1), [true, false, false], Times::Never),
            (Times::Next(2), [true, true, false], Times::Never),
            (Times::Next(5), [true, true, true], Times::Next(2)),
            (Times::Always, [true, true, true], Times::Always),
        ] {
            let faults = FaultSwitch::new(Faults {
                refused_logins: times,
                ..Faults::default()
            });
            let happened = [(); 3].map(|()| faults.take(|faults| &mut faults.refused_logins));
            assert_eq!(happened, happens, "{times:?}");
            assert_eq!(faults.get().refused_logins, left, "{times:?}");
        }
    }

    #[test]
    fn a_cut_is_taken_at_its_place_and_is_then_gone() {
        let faults = FaultSwitch::new(Faults::default());
        assert!(!faults.take_cut_at(CutAt::Login));
        faults.update(|faults| faults.cut = Some(Cut::next(CutAt::Login)));
        assert!(!faults.take_cut_at(CutAt::ChannelOpen));
        assert!(faults.take_cut_at(CutAt::Login));
        assert!(!faults.take_cut_at(CutAt::Login));
        assert_eq!(faults.get(), Faults::default());
    }
}
