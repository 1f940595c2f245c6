//! The flags of `adit emulator` for what goes wrong from the start, the same for every instance.
//!
//! It must know nothing of how a fault works.

use std::time::Duration;

use adit_emulator::{Cut, CutAt, Faults, Times, TunnelRefusal};

/// Heading of these flags in the help.
const HEADING: &str = "Faults (N is how often: a number, or `always`)";

/// What goes wrong with each instance.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct FaultArgs {
    /// Round-trip time added to tunnels, in milliseconds; half each way.
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0")]
    rtt: Duration,
    /// Time added to key pushes, in milliseconds.
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0")]
    grant_latency: Duration,
    /// Key pushes answered by ThrottlingException.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    throttle_grants: Times,
    /// Key pushes answered by AccessDeniedException.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    deny_grants: Times,
    /// Tunnels refused with an internal error of the service.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    refuse_tunnels: Times,
    /// Upgrades that are never answered.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    stall_upgrades: Times,
    /// Upgrades whose connection is closed instead.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    cut_upgrades: Times,
    /// Tunnels that open and carry nothing.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    stall_tunnels: Times,
    /// Tunnels that are cut, at the place of --cut-at.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0", requires = "cut_at")]
    cut_tunnels: Times,
    /// Where: bytes-from:N, bytes-to:N, frames-from:N, frames-to:N (of the instance), after:MS, key-exchange; and for an
    /// instance without an sshd also login, channel-open, exec, output:N, exit-status.
    #[arg(long, value_name = "PLACE", value_parser = place, requires = "cut_tunnels")]
    cut_at: Option<CutAt>,
    /// Tunnels that get `Not allowed at this time` in place of sshd's version.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    penalise: Times,
    /// Logins refused although the key is good; without an sshd only, like those that follow.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    refuse_logins: Times,
    /// Session channels refused although there is room.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    refuse_sessions: Times,
    /// Session channels whose opening is never answered.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    stall_sessions: Times,
    /// Exec requests that are never answered, and not run.
    #[arg(long, value_name = "N", value_parser = times, default_value = "0")]
    stall_execs: Times,
    /// Ignore signal requests.
    #[arg(long)]
    ignore_signals: bool,
}

impl FaultArgs {
    pub(super) fn faults(&self) -> Faults {
        Faults {
            grant_latency: self.grant_latency,
            throttled_pushes: self.throttle_grants,
            denied_pushes: self.deny_grants,
            round_trip: self.rtt,
            refused_tunnels: self.refuse_tunnels,
            tunnel_refusal: TunnelRefusal::default(),
            unanswered_upgrades: self.stall_upgrades,
            cut_upgrades: self.cut_upgrades,
            stalled_tunnels: self.stall_tunnels,
            cut: self.cut_at.map(|at| Cut {
                at,
                times: self.cut_tunnels,
            }),
            penalised_connections: self.penalise,
            refused_logins: self.refuse_logins,
            refused_sessions: self.refuse_sessions,
            max_sessions: None,
            unanswered_channel_opens: self.stall_sessions,
            unanswered_execs: self.stall_execs,
            ignores_signals: self.ignore_signals,
        }
    }
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

fn times(text: &str) -> Result<Times, &'static str> {
    match text {
        "always" => Ok(Times::Always),
        "0" => Ok(Times::Never),
        _ => text
            .parse()
            .map(Times::Next)
            .map_err(|_| "it must be a number or `always`"),
    }
}

fn place(text: &str) -> Result<CutAt, &'static str> {
    let (name, number) = match text.split_once(':') {
        None => (text, None),
        Some((name, number)) => (name, Some(number)),
    };
    let number = number
        .map(str::parse::<u64>)
        .transpose()
        .map_err(|_| "after `:` there must be a number")?;
    match (name, number) {
        ("bytes-from", Some(bytes)) => Ok(CutAt::BytesFromInstance(bytes)),
        ("bytes-to", Some(bytes)) => Ok(CutAt::BytesToInstance(bytes)),
        ("frames-from", Some(frames)) => Ok(CutAt::FramesFromInstance(frames)),
        ("frames-to", Some(frames)) => Ok(CutAt::FramesToInstance(frames)),
        ("after", Some(milliseconds)) => Ok(CutAt::After(Duration::from_millis(milliseconds))),
        ("output", Some(bytes)) => Ok(CutAt::AfterBytesOfOutput(bytes)),
        ("key-exchange", None) => Ok(CutAt::KeyExchange),
        ("login", None) => Ok(CutAt::Login),
        ("channel-open", None) => Ok(CutAt::ChannelOpen),
        ("exec", None) => Ok(CutAt::ExecRequest),
        ("exit-status", None) => Ok(CutAt::AfterExitStatus),
        _ => Err("there is no such place; see --help"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        faults: FaultArgs,
    }

    fn parse(line: &str) -> Option<Faults> {
        let words = std::iter::once("adit").chain(line.split_whitespace());
        Some(Program::try_parse_from(words).ok()?.faults.faults())
    }

    #[test]
    fn without_flags_nothing_goes_wrong() {
        assert_eq!(parse(""), Some(Faults::default()));
    }

    #[test]
    fn each_flag_is_its_own_fault() {
        let always = Times::Always;
        let off = Faults::default;
        let table: [(&str, Faults); 15] = [
            (
                "--rtt 50",
                Faults {
                    round_trip: Duration::from_millis(50),
                    ..off()
                },
            ),
            (
                "--grant-latency 3000",
                Faults {
                    grant_latency: Duration::from_secs(3),
                    ..off()
                },
            ),
            (
                "--throttle-grants 2",
                Faults {
                    throttled_pushes: Times::Next(2),
                    ..off()
                },
            ),
            (
                "--deny-grants always",
                Faults {
                    denied_pushes: always,
                    ..off()
                },
            ),
            (
                "--refuse-tunnels always",
                Faults {
                    refused_tunnels: always,
                    ..off()
                },
            ),
            (
                "--stall-upgrades always",
                Faults {
                    unanswered_upgrades: always,
                    ..off()
                },
            ),
            (
                "--cut-upgrades always",
                Faults {
                    cut_upgrades: always,
                    ..off()
                },
            ),
            (
                "--stall-tunnels always",
                Faults {
                    stalled_tunnels: always,
                    ..off()
                },
            ),
            (
                "--cut-tunnels 3 --cut-at output:4096",
                Faults {
                    cut: Some(Cut {
                        at: CutAt::AfterBytesOfOutput(4096),
                        times: Times::Next(3),
                    }),
                    ..off()
                },
            ),
            (
                "--penalise always",
                Faults {
                    penalised_connections: always,
                    ..off()
                },
            ),
            (
                "--refuse-logins always",
                Faults {
                    refused_logins: always,
                    ..off()
                },
            ),
            (
                "--refuse-sessions always",
                Faults {
                    refused_sessions: always,
                    ..off()
                },
            ),
            (
                "--stall-sessions always",
                Faults {
                    unanswered_channel_opens: always,
                    ..off()
                },
            ),
            (
                "--stall-execs always",
                Faults {
                    unanswered_execs: always,
                    ..off()
                },
            ),
            (
                "--ignore-signals",
                Faults {
                    ignores_signals: true,
                    ..off()
                },
            ),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn places_are_named() {
        for (text, expected) in [
            ("bytes-from:1", Some(CutAt::BytesFromInstance(1))),
            ("bytes-to:2", Some(CutAt::BytesToInstance(2))),
            ("frames-from:3", Some(CutAt::FramesFromInstance(3))),
            ("frames-to:4", Some(CutAt::FramesToInstance(4))),
            ("after:50", Some(CutAt::After(Duration::from_millis(50)))),
            ("output:0", Some(CutAt::AfterBytesOfOutput(0))),
            ("key-exchange", Some(CutAt::KeyExchange)),
            ("login", Some(CutAt::Login)),
            ("channel-open", Some(CutAt::ChannelOpen)),
            ("exec", Some(CutAt::ExecRequest)),
            ("exit-status", Some(CutAt::AfterExitStatus)),
            ("login:1", None),
            ("output", None),
            ("output:x", None),
            ("", None),
        ] {
            assert_eq!(place(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_number_of_cuts_and_their_place_go_together() {
        for line in [
            "--cut-tunnels 1",
            "--cut-at login",
            "--rtt -1",
            "--rtt 1s",
            "--deny-grants often",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
