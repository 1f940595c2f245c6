use super::super::event::{AwsRequestIds, BeginResult};
use super::super::record::TunnelTemperature;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);
const START_TIMEOUT: Duration = Duration::from_secs(30);

fn facts() -> LeaseFacts {
    LeaseFacts {
        temperature: TunnelTemperature::Warm,
        grant_ms: None,
        connect_ms: None,
        channel_ms: Some(0.5),
        aws_request_ids: AwsRequestIds::default(),
    }
}

/// An exec and its time.
struct Table {
    core: ExecCore,
    now: Instant,
}

impl Table {
    fn new() -> Self {
        Self::in_order(AdmissionOrder::Together)
    }

    fn in_order(order: AdmissionOrder) -> Self {
        let now = Instant::now();
        Self {
            core: ExecCore::new(TIMEOUT, START_TIMEOUT, order, now).0,
            now,
        }
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.core.on(event, self.now)
    }

    /// Begun, and without a channel.
    fn begun() -> Self {
        let mut table = Self::new();
        table.on(Event::Begun(BeginResult::Committed));
        table
    }

    fn requested() -> Self {
        let mut table = Self::begun();
        table.on(Event::Leased(facts()));
        table
    }

    fn accepted() -> Self {
        let mut table = Self::requested();
        table.on(Event::Accepted);
        table
    }

    fn running() -> Self {
        let mut table = Self::accepted();
        table.on(Event::Started);
        table
    }

    fn draining() -> Self {
        let mut table = Self::running();
        table.on(Event::Exited(3));
        table
    }

    fn stopping(by: Event) -> Self {
        let mut table = Self::running();
        table.on(by);
        table
    }

    /// Outcome, cause and error as short words.
    fn ending(&self) -> String {
        let ending = self.core.ending().unwrap();
        let code = ending.error.map_or("", ErrorCode::as_str);
        format!(
            "{:?} by {:?} ran {:?} {code}",
            ending.outcome,
            ending.ended_by,
            self.core.ran()
        )
        .trim_end()
        .to_owned()
    }
}

fn recording() -> Vec<Effect> {
    vec![Effect::Record, Effect::SetTimer(Timer::Finish, FINISH_DEADLINE)]
}

#[tokio::test]
async fn the_request_waits_for_row_and_channel_in_either_order() {
    let sent = vec![
        Effect::SendRequest,
        Effect::SetTimer(Timer::Request, Duration::from_secs(15)),
    ];
    let mut table = Table::new();
    assert_eq!(table.on(Event::Begun(BeginResult::Committed)), []);
    assert_eq!(table.on(Event::Leased(facts())), sent);
    let mut table = Table::new();
    assert_eq!(table.on(Event::Leased(facts())), []);
    assert_eq!(table.on(Event::Begun(BeginResult::Committed)), sent);
    assert_eq!(table.core.ran(), Ran::Unknown, "the point of no return");
}

#[tokio::test]
async fn the_usual_way() {
    let mut table = Table::requested();
    assert_eq!(
        table.on(Event::Accepted),
        [Effect::NoteStart, Effect::SetTimer(Timer::Timeout, TIMEOUT)]
    );
    assert_eq!(table.on(Event::Started), [Effect::AnnounceStart]);
    table.now += Duration::from_secs(2);
    assert_eq!(
        table.on(Event::Exited(7)),
        [Effect::SetTimer(Timer::Silence, SILENCE)]
    );
    table.on(Event::OutputComplete);
    assert_eq!(table.on(Event::Closed), recording());
    assert_eq!(table.on(Event::Recorded), [Effect::Publish { committed: true }]);
    assert_eq!(table.core.phase(), Phase::Ended);
    assert_eq!(table.ending(), "Exited by Exit ran Yes");
    assert_eq!(
        (table.core.exit_code(), table.core.signal(), table.core.kill()),
        (Some(7), None, None)
    );
    assert_eq!(table.core.duration(table.now), Duration::from_secs(2));
}

#[tokio::test]
async fn endings() {
    let cases: Vec<(Table, Vec<Event>, &str)> = vec![
        (
            Table::running(),
            vec![Event::Signaled("SEGV".into()), Event::Closed],
            "Signaled by Exit ran Yes",
        ),
        (Table::running(), vec![Event::Closed], "Unknown by Exit ran Yes"),
        (
            Table::running(),
            vec![Event::TunnelLost],
            "TunnelLost by TunnelLost ran Yes tunnel_lost",
        ),
        (
            Table::requested(),
            vec![Event::TunnelLost],
            "TunnelLost by TunnelLost ran Unknown tunnel_lost",
        ),
        (
            Table::requested(),
            vec![Event::Refused],
            "Failed by Exit ran No login_refused",
        ),
        (
            Table::requested(),
            vec![Event::Timer(Timer::Request)],
            "TunnelLost by TunnelLost ran Unknown tunnel_lost",
        ),
        (
            Table::draining(),
            vec![Event::TunnelLost],
            "TunnelLost by TunnelLost ran Yes tunnel_lost",
        ),
        (
            Table::draining(),
            vec![Event::OutputComplete, Event::TunnelLost],
            "Exited by Exit ran Yes",
        ),
        (
            Table::draining(),
            vec![Event::Cancel(EndedBy::ClientGone)],
            "Exited by Exit ran Yes",
        ),
        (
            Table::requested(),
            vec![Event::Closed],
            "TunnelLost by TunnelLost ran Unknown tunnel_lost",
        ),
        (
            Table::accepted(),
            vec![Event::Exited(0), Event::Closed],
            "Failed by Exit ran Unknown login_refused",
        ),
        (
            Table::running(),
            vec![Event::CwdNotFound, Event::Exited(1), Event::Closed],
            "Failed by Exit ran No cwd_not_found",
        ),
        (
            Table::begun(),
            vec![Event::Cancel(EndedBy::ClientGone)],
            "Cancelled by ClientGone ran No exec_cancelled",
        ),
        (
            Table::begun(),
            vec![Event::Cancel(EndedBy::Shutdown)],
            "Cancelled by Shutdown ran No shutting_down",
        ),
        (
            Table::begun(),
            vec![Event::NoLease {
                code: ErrorCode::GrantDenied,
                retry_after: None,
            }],
            "Failed by Exit ran No grant_denied",
        ),
        (
            Table::stopping(Event::Cancel(EndedBy::ClientGone)),
            vec![Event::Signaled("TERM".into()), Event::Closed],
            "Cancelled by ClientGone ran Yes exec_cancelled",
        ),
        (
            Table::stopping(Event::Timer(Timer::Timeout)),
            vec![
                Event::Cancel(EndedBy::ClientGone),
                Event::Exited(0),
                Event::Closed,
            ],
            "Timeout by Timeout ran Yes exec_timeout",
        ),
        (
            Table::stopping(Event::Timer(Timer::Timeout)),
            vec![Event::TunnelLost],
            "Timeout by Timeout ran Yes exec_timeout",
        ),
        (
            Table::stopping(Event::Timer(Timer::Timeout)),
            vec![Event::Timer(Timer::TermGrace), Event::Timer(Timer::KillBudget)],
            "Timeout by Timeout ran Yes exec_timeout",
        ),
    ];
    for (mut table, events, expected) in cases {
        for event in &events {
            table.on(event.clone());
        }
        assert_eq!(table.ending(), expected, "after {events:?}");
        assert_eq!(table.core.phase(), Phase::Recording, "after {events:?}");
        let is_exited = expected.starts_with("Exited");
        assert_eq!(
            table.core.exit_code().is_some(),
            is_exited,
            "an exit code only of what exited: {events:?}"
        );
    }
}

#[tokio::test]
async fn term_then_kill_then_poison() {
    let mut table = Table::running();
    let stop = vec![
        Effect::Signal("TERM"),
        Effect::SetTimer(Timer::TermGrace, TERM_GRACE),
        Effect::SetTimer(Timer::KillBudget, KILL_BUDGET),
    ];
    assert_eq!(table.on(Event::Timer(Timer::Timeout)), stop);
    assert_eq!(table.on(Event::Timer(Timer::TermGrace)), [Effect::Signal("KILL")]);
    let mut abandoned = vec![Effect::AbandonChannel { poison: true }];
    abandoned.extend(recording());
    assert_eq!(table.on(Event::Timer(Timer::KillBudget)), abandoned);
    let kill = table.core.kill().unwrap();
    assert_eq!(
        (kill.sent, kill.confirmed),
        (vec!["TERM".to_owned(), "KILL".to_owned()], false)
    );
}

#[tokio::test]
async fn a_program_that_heeds_term_is_not_killed() {
    let mut table = Table::stopping(Event::Timer(Timer::Timeout));
    table.on(Event::Signaled("TERM".into()));
    assert_eq!(table.on(Event::Timer(Timer::TermGrace)), []);
    assert_eq!(table.on(Event::Timer(Timer::KillBudget)), []);
    table.on(Event::Closed);
    assert_eq!(table.core.kill().unwrap().sent, ["TERM"]);
    assert_eq!(table.core.signal().as_deref(), Some("TERM"));
}

#[tokio::test]
async fn held_pipes_end_after_silence() {
    let mut table = Table::draining();
    let ended = table.now;
    table.now += SILENCE;
    let last_output = Some(ended + Duration::from_millis(500));
    let again = Effect::SetTimer(Timer::Silence, Duration::from_millis(500));
    assert_eq!(
        table.on(Event::Silence { last_output }),
        [again],
        "a child still prints"
    );
    table.now += Duration::from_millis(500);
    let mut abandoned = vec![Effect::AbandonChannel { poison: false }];
    abandoned.extend(recording());
    assert_eq!(table.on(Event::Silence { last_output }), abandoned);
    assert_eq!(table.ending(), "Exited by Exit ran Yes");
}

#[tokio::test]
async fn a_row_that_cannot_be_begun_runs_nothing() {
    for (result, settles) in [
        (BeginResult::NotWritten, false),
        (BeginResult::Taken, false),
        (BeginResult::Uncertain, true),
    ] {
        let mut table = Table::new();
        table.on(Event::Leased(facts()));
        let effects = table.on(Event::Begun(result));
        assert!(!effects.contains(&Effect::SendRequest));
        assert!(effects.contains(&Effect::ReleaseChannel));
        assert_eq!(
            effects.contains(&Effect::Settle),
            settles,
            "an uncertain begin must be settled"
        );
        assert_eq!(effects.last(), Some(&Effect::Publish { committed: false }));
        assert_eq!(table.ending(), "Failed by Exit ran No audit_unavailable");
    }
}

#[tokio::test]
async fn an_idempotent_exec_asks_for_a_channel_once_its_row_is_begun() {
    let mut table = Table::in_order(AdmissionOrder::RowFirst);
    assert_eq!(table.core.phase(), Table::new().core.phase());
    table.now += Duration::from_secs(4);
    assert_eq!(
        table.on(Event::Begun(BeginResult::Committed)),
        [
            Effect::AskChannel,
            Effect::SetTimer(Timer::Start, START_TIMEOUT - Duration::from_secs(4))
        ]
    );
    table.now += START_TIMEOUT;
    let mut refused = vec![Effect::ReleaseChannel];
    refused.extend(recording());
    assert_eq!(table.on(Event::Timer(Timer::Start)), refused);
    assert_eq!(table.ending(), "Failed by Exit ran No start_timeout");
}

#[tokio::test]
async fn an_id_of_another_try_leaves_nothing() {
    for cancel in [None, Some(Event::Cancel(EndedBy::Shutdown))] {
        let mut table = Table::in_order(AdmissionOrder::RowFirst);
        if let Some(cancel) = cancel {
            assert_eq!(table.on(cancel), [Effect::ReleaseChannel]);
        }
        assert_eq!(table.on(Event::Begun(BeginResult::Taken)), [Effect::Disown]);
        assert_eq!(table.core.phase(), Phase::Ended);
        assert_eq!(table.on(Event::Cancel(EndedBy::Delete)), []);
    }
}

/// The final row goes to the store after the begin has come back, in whichever way.
#[tokio::test]
async fn an_end_before_the_begin_is_decided_waits_for_that() {
    let ends = [
        Event::Cancel(EndedBy::Delete),
        Event::NoLease {
            code: ErrorCode::GrantDenied,
            retry_after: None,
        },
    ];
    let published = Effect::Publish { committed: false };
    for (result, expected) in [
        (BeginResult::Committed, recording()),
        (
            BeginResult::NotWritten,
            vec![Effect::ReleaseChannel, published.clone()],
        ),
        (
            BeginResult::Uncertain,
            vec![Effect::ReleaseChannel, Effect::Settle, published],
        ),
    ] {
        for end in &ends {
            let mut table = Table::new();
            assert_eq!(table.on(end.clone()), [Effect::ReleaseChannel]);
            let ending = table.ending();
            assert_eq!(table.core.phase(), Phase::Undecided);
            assert_eq!(table.on(Event::Leased(facts())), [Effect::ReleaseChannel]);
            assert_eq!(table.on(Event::Cancel(EndedBy::Evict)), []);
            assert_eq!(table.on(Event::Begun(result)), expected);
            assert_eq!(table.ending(), ending, "the first ending stays");
        }
    }
}

#[tokio::test]
async fn the_caller_is_told_after_the_finish_deadline() {
    let mut table = Table::draining();
    table.on(Event::Closed);
    assert_eq!(
        table.on(Event::Timer(Timer::Finish)),
        [Effect::Publish { committed: false }]
    );
    assert_eq!(table.on(Event::Recorded), [], "told once");
}

#[tokio::test]
async fn a_lease_that_comes_too_late_is_given_back() {
    let mut table = Table::new();
    table.on(Event::Cancel(EndedBy::ClientGone));
    assert_eq!(table.on(Event::Leased(facts())), [Effect::ReleaseChannel]);
}

/// Every event in every phase: nothing follows the end, and the first ending stays.
#[tokio::test]
async fn late_events_change_nothing() {
    let events = [
        Event::Begun(BeginResult::Committed),
        Event::NoLease {
            code: ErrorCode::TunnelLost,
            retry_after: None,
        },
        Event::Accepted,
        Event::Refused,
        Event::Started,
        Event::Exited(1),
        Event::Signaled("TERM".into()),
        Event::Closed,
        Event::TunnelLost,
        Event::Cancel(EndedBy::Delete),
        Event::Timer(Timer::Timeout),
        Event::Timer(Timer::TermGrace),
        Event::Timer(Timer::KillBudget),
        Event::Timer(Timer::Request),
        Event::Silence { last_output: None },
    ];
    let mut table = Table::draining();
    table.on(Event::Closed);
    let ending = table.ending();
    for event in &events {
        assert_eq!(table.on(event.clone()), [], "recording, {event:?}");
    }
    table.on(Event::Recorded);
    for event in &events {
        assert_eq!(table.on(event.clone()), [], "ended, {event:?}");
    }
    assert_eq!(table.ending(), ending);
}

/// A program that ends just before its timeout still gets two seconds for what it printed, and not more.
#[tokio::test]
async fn a_timeout_during_draining_bounds_it() {
    let mut table = Table::running();
    table.now += TIMEOUT - Duration::from_millis(1);
    table.on(Event::Exited(0));
    table.now += Duration::from_millis(1);
    let left = SILENCE - Duration::from_millis(1);
    assert_eq!(
        table.on(Event::Timer(Timer::Timeout)),
        [Effect::SetTimer(Timer::Silence, left)]
    );
    table.now += left;
    let last_output = Some(table.now);
    let effects = table.on(Event::Silence { last_output });
    assert_eq!(effects.first(), Some(&Effect::AbandonChannel { poison: false }));
    assert_eq!(table.ending(), "Exited by Exit ran Yes");
}

#[tokio::test]
async fn the_answer_to_the_request_counts_against_the_start_timeout() {
    for (waited, left) in [(0, 15), (20, 10), (29, 5)] {
        let mut table = Table::new();
        table.on(Event::Begun(BeginResult::Committed));
        table.now += Duration::from_secs(waited);
        let timer = Effect::SetTimer(Timer::Request, Duration::from_secs(left));
        assert_eq!(table.on(Event::Leased(facts())), [Effect::SendRequest, timer]);
    }
}
