use super::super::phase::SILENCE;
use super::super::phase::tests::{Table, receipt, recording};
use super::*;
use crate::exec::event::Event;

fn killed(left: u32) -> Event {
    let sent = vec!["TERM", "KILL"];
    Event::EndedOnInstance(Ok(Receipt { sent, left }))
}

fn no_receipt(why: NoReceipt) -> Event {
    Event::EndedOnInstance(Err(why))
}

fn term() -> Event {
    Event::Signaled("TERM".to_owned())
}

fn budget() -> Event {
    Event::Timer(Timer::KillBudget)
}

fn stopping() -> Table {
    Table::stopping(Event::Cancel(EndedBy::Delete))
}

fn poisoned() -> Vec<Effect> {
    let mut effects = vec![Effect::AbandonChannel { poison: true }];
    effects.extend(recording());
    effects
}

#[tokio::test]
async fn a_stop_signals_and_asks_the_warden_at_once() {
    let stop = |session| {
        vec![
            Effect::Signal("TERM"),
            Effect::EndOnInstance { session },
            Effect::SetTimer(Timer::TermGrace, TERM_GRACE),
            Effect::SetTimer(Timer::KillBudget, KILL_BUDGET),
        ]
    };
    let mut table = Table::running();
    assert_eq!(table.on(Event::Timer(Timer::Timeout)), stop(Some(4711)));
    assert_eq!(
        table.on(Event::Timer(Timer::TermGrace)),
        [Effect::Signal("KILL")],
        "whatever the warden does"
    );
    let mut table = Table::requested();
    assert_eq!(table.on(Event::Cancel(EndedBy::Evict)), stop(None));
}

/// What comes, in which order, and what is said of it: signals, whether it is confirmed, whether the tunnel is poisoned.
#[tokio::test]
async fn a_stop_ends_with_receipt_and_channel() {
    let silence = || Event::Silence { last_output: None };
    let cases: Vec<(&str, Vec<Event>, &str, bool, bool)> = vec![
        (
            "in order",
            vec![term(), Event::Closed, receipt(0)],
            "TERM",
            true,
            false,
        ),
        (
            "receipt first",
            vec![receipt(0), term(), Event::Closed],
            "TERM",
            true,
            false,
        ),
        (
            "receipt between",
            vec![term(), receipt(0), Event::Closed],
            "TERM",
            true,
            false,
        ),
        (
            "no exit status",
            vec![Event::Closed, receipt(0)],
            "TERM",
            true,
            false,
        ),
        (
            "killed by the warden alone",
            vec![Event::Exited(0), Event::Closed, killed(0)],
            "TERM KILL",
            true,
            false,
        ),
        (
            "killed by both",
            vec![Event::Timer(Timer::TermGrace), term(), killed(0), Event::Closed],
            "TERM KILL",
            true,
            false,
        ),
        (
            "somebody lives",
            vec![term(), Event::Closed, receipt(1)],
            "TERM",
            false,
            true,
        ),
        (
            "something unseen holds the pipes",
            vec![term(), receipt(0), silence()],
            "TERM",
            false,
            true,
        ),
        (
            "no warden",
            vec![no_receipt(NoReceipt::NoWarden), term(), Event::Closed],
            "TERM",
            false,
            false,
        ),
        (
            "no warden, and held pipes",
            vec![no_receipt(NoReceipt::NoWarden), term(), silence()],
            "TERM",
            false,
            true,
        ),
        (
            "a deaf warden",
            vec![term(), Event::Closed, no_receipt(NoReceipt::Unanswered)],
            "TERM",
            false,
            true,
        ),
        (
            "no answer in time",
            vec![term(), Event::Closed, budget()],
            "TERM",
            false,
            true,
        ),
        (
            "nothing in time",
            vec![Event::Timer(Timer::TermGrace), budget()],
            "TERM KILL",
            false,
            true,
        ),
        (
            "closed too late",
            vec![receipt(0), term(), budget(), Event::Closed],
            "TERM",
            false,
            true,
        ),
    ];
    for (name, events, sent, is_confirmed, is_poisoned) in cases {
        let mut table = stopping();
        let (last, before) = events.split_last().unwrap();
        for event in before {
            table.on(event.clone());
            assert_eq!(table.core.ending(), None, "{name}: not before {last:?}");
        }
        let effects = table.on(last.clone());
        assert_eq!(
            effects,
            if is_poisoned { poisoned() } else { recording() },
            "{name}"
        );
        let kill = table.core.kill().unwrap();
        assert_eq!(
            (kill.sent.join(" ").as_str(), kill.confirmed),
            (sent, is_confirmed),
            "{name}"
        );
        assert_eq!(
            table.ending(),
            "Cancelled by Delete ran Yes exec_cancelled",
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_program_that_heeds_term_is_not_killed() {
    let mut table = stopping();
    table.on(term());
    assert_eq!(table.on(Event::Timer(Timer::TermGrace)), []);
    assert_eq!(table.core.signal(), None, "it is not over");
    table.on(receipt(0));
    table.on(Event::Closed);
    assert_eq!(table.core.kill().unwrap().sent, ["TERM"]);
    assert_eq!(table.core.signal().as_deref(), Some("TERM"));
}

#[tokio::test]
async fn a_program_that_ends_with_the_budget_has_its_two_seconds_of_output() {
    let mut table = stopping();
    table.now += KILL_BUDGET;
    assert_eq!(
        table.on(Event::Exited(1)),
        [Effect::SetTimer(Timer::Silence, SILENCE)]
    );
    assert_eq!(table.on(budget()), []);
    table.now += SILENCE;
    assert_eq!(table.on(Event::Silence { last_output: None }), poisoned());
}

#[tokio::test]
async fn later_causes_change_nothing() {
    let mut table = stopping();
    for by in [EndedBy::ClientGone, EndedBy::Shutdown] {
        assert_eq!(table.on(Event::Cancel(by)), []);
    }
    table.on(Event::Exited(0));
    assert_eq!(
        table.on(Event::Cancel(EndedBy::Evict)),
        [],
        "nor do they cut its output"
    );
    table.on(Event::TunnelLost);
    assert_eq!(table.ending(), "Cancelled by Delete ran Yes exec_cancelled");
    assert!(!table.core.kill().unwrap().confirmed);
    assert_eq!(table.on(receipt(0)), [], "and a late receipt none either");
}
