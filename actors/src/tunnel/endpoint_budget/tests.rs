use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;

/// A budget, a time of its own, and short names for what happens. Slots are numbered by the test.
struct Table {
    budget: EndpointBudget,
    now: Instant,
    usages: BTreeMap<SlotId, SlotUsage>,
}

impl Table {
    fn new(connections: usize, reserve: usize) -> Self {
        Self {
            budget: EndpointBudget::new(BudgetSettings { connections, reserve }),
            now: Instant::now(),
            usages: BTreeMap::new(),
        }
    }

    fn on(&mut self, event: BudgetEvent) -> Vec<String> {
        let effects = self.budget.on(event, self.now);
        effects
            .into_iter()
            .map(|effect| match effect {
                BudgetEffect::Grant { slot } => format!("grant {slot}"),
                BudgetEffect::AskToGiveWay {
                    slot,
                    if_second: false,
                } => format!("give way {slot}"),
                BudgetEffect::AskToGiveWay {
                    slot,
                    if_second: true,
                } => {
                    format!("give way {slot} even if it is a second in use")
                }
            })
            .collect()
    }

    fn want(&mut self, slot: SlotId, purpose: Purpose) -> Vec<String> {
        let usage = SlotUsage::new(Arc::new(AtomicBool::new(true)));
        self.usages.insert(slot, usage.clone());
        let claimant = Claimant {
            instance_id: format!("i-{slot}"),
            os_user: "ubuntu".to_owned(),
            tunnel_id: 1,
            purpose,
        };
        let since = self.now;
        self.on(BudgetEvent::Wanted {
            slot,
            claimant,
            usage,
            since,
        })
    }

    fn pass(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.on(BudgetEvent::Wake)
    }

    /// The slot's tunnel is idle from now on.
    fn idle(&mut self, slot: SlotId) -> Vec<String> {
        assert!(self.usages[&slot].set(Some(self.now)), "it has just turned idle");
        self.on(BudgetEvent::TurnedIdle { slot })
    }
}

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn first_come_first_served_and_the_reserve_is_for_successors() {
    let mut table = Table::new(4, 2);
    assert_eq!(table.want(1, Purpose::First), ["grant 1"]);
    assert_eq!(table.want(2, Purpose::Second), ["grant 2"]);
    assert_eq!(
        table.want(3, Purpose::Second),
        ["give way 2"; 0],
        "the reserve is not for it"
    );
    assert_eq!(
        table.want(4, Purpose::First),
        ["give way 2 even if it is a second in use"],
        "an instance's second yields to another's first"
    );
    assert_eq!(table.want(5, Purpose::Successor), ["grant 5"]);
    assert_eq!(table.want(6, Purpose::Successor), ["grant 6"]);
    assert_eq!(
        table.on(BudgetEvent::Released { slot: 5 }),
        NOTHING,
        "three are held: still only for successors"
    );
    table.on(BudgetEvent::Released { slot: 6 });
    assert_eq!(
        table.on(BudgetEvent::Released { slot: 2 }),
        ["grant 4"],
        "the first goes before the second that came earlier"
    );
    assert_eq!(table.on(BudgetEvent::Released { slot: 4 }), ["grant 3"]);
}

#[tokio::test]
async fn the_longest_idle_gives_way_and_a_busy_one_is_not_asked() {
    let mut table = Table::new(3, 0);
    for slot in 1..=3 {
        table.want(slot, Purpose::First);
    }
    table.idle(2);
    table.now += Duration::from_secs(1);
    table.idle(1);
    assert_eq!(
        table.want(4, Purpose::First),
        ["give way 2 even if it is a second in use"]
    );
    assert_eq!(
        table.want(5, Purpose::First),
        ["give way 1 even if it is a second in use"],
        "one for each who waits"
    );
    assert_eq!(table.want(6, Purpose::First), NOTHING, "3 is busy");
    assert_eq!(
        table.on(BudgetEvent::Declined { slot: 2 }),
        NOTHING,
        "in use after all, and not asked again at once"
    );
    assert_eq!(table.on(BudgetEvent::Released { slot: 1 }), ["grant 4"]);
    assert_eq!(
        table.idle(3),
        ["give way 3 even if it is a second in use"],
        "as soon as it is idle"
    );
    table.usages[&2].set(None);
    assert_eq!(table.idle(2), ["give way 2 even if it is a second in use"]);
    assert_eq!(table.on(BudgetEvent::Released { slot: 3 }), ["grant 5"]);
    assert_eq!(table.on(BudgetEvent::Released { slot: 2 }), ["grant 6"]);
}

#[tokio::test]
async fn whoever_leaves_the_queue_costs_nobody_a_tunnel() {
    let mut table = Table::new(1, 0);
    table.want(1, Purpose::First);
    assert_eq!(table.want(2, Purpose::First), NOTHING);
    table.on(BudgetEvent::Withdrawn { slot: 2 });
    assert!(!table.budget.is_wanted() && !table.budget.knows(2));
    assert_eq!(table.idle(1), NOTHING);
    assert_eq!(table.on(BudgetEvent::Released { slot: 1 }), NOTHING);
}

/// People and other tools use the endpoint too.
#[tokio::test]
async fn a_refusal_lowers_the_limit_and_time_raises_it() {
    let mut table = Table::new(4, 0);
    for slot in 1..=3 {
        table.want(slot, Purpose::First);
    }
    assert_eq!(table.on(BudgetEvent::Refused { slot: 3 }), NOTHING);
    assert_eq!(table.budget.limit, 2);
    assert_eq!(
        table.want(4, Purpose::First),
        NOTHING,
        "what it refused it is not asked again at once"
    );
    assert_eq!(
        table.idle(1),
        ["give way 1 even if it is a second in use"],
        "what is ours can be shared out anew all the same"
    );
    assert_eq!(table.on(BudgetEvent::Released { slot: 1 }), ["grant 4"]);
    assert_eq!(table.want(5, Purpose::First), NOTHING);
    assert_eq!(table.budget.next_wake(), Some(table.now + SHORTEST_PAUSE));
    assert_eq!(table.pass(SHORTEST_PAUSE), ["grant 5"]);
    table.on(BudgetEvent::Refused { slot: 5 });
    assert_eq!(
        table.budget.next_wake(),
        Some(table.now + SHORTEST_PAUSE * 2),
        "each refusal in a row doubles the pause"
    );
    for _ in 0..10 {
        let Some(at) = table.budget.next_wake() else { break };
        table.now = at;
        let slot = 100 + table.budget.held.len() as SlotId;
        table.want(slot, Purpose::First);
        table.on(BudgetEvent::Opened);
    }
    assert_eq!((table.budget.limit, table.budget.next_wake()), (4, None));
}

#[tokio::test]
async fn an_endpoint_that_others_fill_is_tried_ever_more_seldom() {
    let mut table = Table::new(16, 2);
    table.want(1, Purpose::First);
    let mut pauses = Vec::new();
    for slot in 1..=7 {
        table.on(BudgetEvent::Refused { slot });
        let at = table.budget.next_wake().unwrap();
        pauses.push((at - table.now).as_secs());
        table.now = at;
        assert_eq!(
            table.want(slot + 1, Purpose::First),
            [format!("grant {}", slot + 1)]
        );
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}

#[tokio::test]
async fn operators_see_who_holds_and_who_waits() {
    let mut table = Table::new(2, 0);
    table.want(1, Purpose::First);
    table.want(2, Purpose::First);
    table.idle(2);
    table.now += Duration::from_secs(3);
    table.want(3, Purpose::Second);
    table.want(4, Purpose::First);
    let key = EndpointKey {
        region: "us-east-2".to_owned(),
        endpoint_id: "eice-1".to_owned(),
    };
    let seen = table.budget.snapshot(&key, table.now);
    let holders: Vec<_> = seen
        .holders
        .iter()
        .map(|holder| (holder.instance_id.as_str(), holder.idle_s))
        .collect();
    assert_eq!(holders, [("i-2", Some(3.0)), ("i-1", None)]);
    let waiting: Vec<_> = seen
        .waiting
        .iter()
        .map(|waiter| waiter.instance_id.as_str())
        .collect();
    assert_eq!(waiting, ["i-4", "i-3"]);
    assert_eq!((seen.in_use, seen.limit, seen.configured_limit), (2, 2, 2));
}

#[tokio::test]
async fn dials_that_were_under_way_together_are_refused_once() {
    let mut table = Table::new(16, 2);
    for slot in 1..=14 {
        table.want(slot, Purpose::First);
    }
    for slot in 1..=14 {
        table.now += Duration::from_millis(10);
        table.on(BudgetEvent::Refused { slot });
    }
    assert_eq!(table.budget.limit, 0);
    let pause = SHORTEST_PAUSE - Duration::from_millis(130);
    assert_eq!(table.budget.next_wake(), Some(table.now + pause));
}

#[tokio::test]
async fn of_a_lowered_limit_nothing_is_kept_back() {
    let mut table = Table::new(16, 2);
    for slot in 1..=10 {
        table.want(slot, Purpose::First);
    }
    for slot in 1..=9 {
        table.idle(slot);
        table.now += Duration::from_millis(1);
    }
    table.on(BudgetEvent::Refused { slot: 10 });
    assert_eq!(
        table.want(11, Purpose::First),
        ["give way 1 even if it is a second in use"]
    );
    assert_eq!(
        table.on(BudgetEvent::Released { slot: 1 }),
        ["grant 11"],
        "one for one"
    );
}

#[tokio::test]
async fn whoever_was_refused_keeps_the_place() {
    let mut table = Table::new(1, 0);
    table.want(1, Purpose::First);
    let since = table.now;
    table.now += Duration::from_secs(5);
    table.want(2, Purpose::First);
    table.on(BudgetEvent::Refused { slot: 1 });
    let usage = SlotUsage::new(Arc::new(AtomicBool::new(true)));
    let claimant = Claimant {
        instance_id: "i-1".to_owned(),
        os_user: "ubuntu".to_owned(),
        tunnel_id: 1,
        purpose: Purpose::First,
    };
    let wanted = BudgetEvent::Wanted {
        slot: 3,
        claimant,
        usage,
        since,
    };
    assert_eq!(table.on(wanted), NOTHING);
    assert_eq!(table.pass(SHORTEST_PAUSE), ["grant 3"]);
}

#[tokio::test]
async fn a_second_that_leaves_later_hides_no_idle_one() {
    let mut table = Table::new(3, 0);
    table.want(1, Purpose::First);
    table.want(2, Purpose::Second);
    table.want(3, Purpose::First);
    assert_eq!(
        table.want(4, Purpose::First),
        ["give way 2 even if it is a second in use"]
    );
    table.on(BudgetEvent::Leaving { slot: 2 });
    assert_eq!(table.idle(3), ["give way 3"]);
}

#[tokio::test]
async fn a_holder_that_declined_is_asked_again_before_long() {
    let mut table = Table::new(1, 0);
    table.want(1, Purpose::First);
    table.idle(1);
    let asked = ["give way 1 even if it is a second in use"];
    assert_eq!(table.want(2, Purpose::First), asked);
    assert_eq!(table.on(BudgetEvent::Declined { slot: 1 }), NOTHING);
    assert_eq!(table.budget.next_wake(), Some(table.now + DECLINED_FOR));
    assert_eq!(table.pass(DECLINED_FOR), asked);
}
