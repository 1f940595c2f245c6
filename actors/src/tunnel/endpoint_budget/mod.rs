//! The connections of one EC2 Instance Connect Endpoint, shared out among the instances behind it.
//!
//! An endpoint carries 20 connections for a whole VPC, people and other tools included, and AWS does not raise that (EC2 user
//! guide, EC2 Instance Connect Endpoint quotas). So a tunnel asks for a slot before it is dialled. When the slots are spent,
//! the tunnel that has been idle for longest is asked to give way; a busy one never is. The slot is free once its connection
//! has closed, not when that is asked for.
//!
//! [`EndpointBudget`] is the plain struct: events in, effects out. [`actor`] is its shell, [`slot`] what a tunnel holds.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::snapshot::{EndpointHolder, EndpointSnapshot, EndpointWaiter, seconds_between};

mod actor;
mod slot;

pub(crate) use actor::{EndpointBudgets, EndpointKey, GiveWay, SlotGranted, SlotRequest};
pub(crate) use slot::{SlotGuard, SlotUsage};

/// Number of a slot, or of the wish for one, within the process.
pub(crate) type SlotId = u64;

/// Shortest and longest pause before a connection is tried again that the endpoint had refused. The pause doubles with
/// each refusal in a row.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A holder that was in use when it was asked is asked again after this at the latest.
const DECLINED_FOR: Duration = Duration::from_secs(1);

/// How many connections there are to share out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetSettings {
    /// Connections that this process holds at most.
    pub(crate) connections: usize,
    /// Of these, how many are kept for successors of ageing tunnels.
    pub(crate) reserve: usize,
}

/// What a tunnel is for, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// It replaces a tunnel in use whose life ends soon.
    Successor,
    /// The instance has no other.
    First,
    /// The channels of the first are all taken.
    Second,
}

impl Purpose {
    /// The name in snapshots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Successor => "successor",
            Self::First => "first",
            Self::Second => "second",
        }
    }
}

/// Whose tunnel it is, for operators.
#[derive(Clone, Debug)]
pub(crate) struct Claimant {
    pub(crate) instance_id: String,
    pub(crate) os_user: String,
    pub(crate) tunnel_id: u64,
    pub(crate) purpose: Purpose,
}

#[derive(Debug)]
struct Waiting {
    slot: SlotId,
    claimant: Claimant,
    since: Instant,
    usage: SlotUsage,
}

#[derive(Debug)]
struct Held {
    claimant: Claimant,
    usage: SlotUsage,
    granted_at: Instant,
    way: Way,
}

/// Where a holder stands with giving its slot up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Not asked.
    Keeps,
    /// Asked; its connection will close, or it declines.
    Asked,
    /// It takes no new exec, and closes when its last one ends.
    Leaving,
    /// It was in use after all. Asked again when it says that it is idle, when somebody else comes, or at this time: what it
    /// was kept for may have gone without a word.
    Declined { until: Instant },
}

/// What happens to an endpoint's connections.
#[derive(Debug)]
pub(crate) enum BudgetEvent {
    /// A tunnel wants a connection.
    Wanted {
        slot: SlotId,
        claimant: Claimant,
        usage: SlotUsage,
        /// Since when it waits: before now when the endpoint refused it once.
        since: Instant,
    },
    /// It does not any more.
    Withdrawn {
        slot: SlotId,
    },
    /// The endpoint took the connection.
    Opened,
    /// The endpoint has no connection left, though the budget had: others use it too.
    Refused {
        slot: SlotId,
    },
    /// The connection has closed, or was never opened.
    Released {
        slot: SlotId,
    },
    /// A holder turned idle while somebody waits.
    TurnedIdle {
        slot: SlotId,
    },
    /// A holder that was asked to give way is in use.
    Declined {
        slot: SlotId,
    },
    /// A holder that was asked to give way will, when its last exec ends.
    Leaving {
        slot: SlotId,
    },
    Wake,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BudgetEffect {
    Grant {
        slot: SlotId,
    },
    /// Ask the holder to close its tunnel if it is idle; with `if_second` to let no new exec onto it if it is in use and
    /// its instance has another.
    AskToGiveWay {
        slot: SlotId,
        if_second: bool,
    },
}

/// The plain struct.
#[derive(Debug)]
pub(crate) struct EndpointBudget {
    settings: BudgetSettings,
    limit: usize,
    held: BTreeMap<SlotId, Held>,
    queue: Vec<Waiting>,
    refusals: u32,
    last_refusal: Option<Instant>,
    /// While the limit is lowered: when it may grow by one.
    grow_at: Option<Instant>,
}

impl EndpointBudget {
    pub(crate) fn new(settings: BudgetSettings) -> Self {
        Self {
            settings,
            limit: settings.connections,
            held: BTreeMap::new(),
            queue: Vec::new(),
            refusals: 0,
            last_refusal: None,
            grow_at: None,
        }
    }

    /// Takes one event and comes to rest.
    pub(crate) fn on(&mut self, event: BudgetEvent, now: Instant) -> Vec<BudgetEffect> {
        match event {
            BudgetEvent::Wanted {
                slot,
                claimant,
                usage,
                since,
            } => {
                // Whoever was in use when last asked may be idle since.
                self.ask_again(|_, _| true);
                self.queue.push(Waiting {
                    slot,
                    claimant,
                    since,
                    usage,
                });
            }
            BudgetEvent::Withdrawn { slot } => self.queue.retain(|waiting| waiting.slot != slot),
            BudgetEvent::Opened => self.refusals = 0,
            BudgetEvent::Refused { slot } => self.on_refused(slot, now),
            BudgetEvent::Released { slot } => drop(self.held.remove(&slot)),
            BudgetEvent::TurnedIdle { slot } => self.ask_again(|other, _| other == slot),
            BudgetEvent::Declined { slot } => {
                let until = now + DECLINED_FOR;
                self.set_way(slot, Way::Asked, Way::Declined { until });
            }
            BudgetEvent::Leaving { slot } => self.set_way(slot, Way::Asked, Way::Leaving),
            BudgetEvent::Wake => {}
        }
        self.ask_again(|_, until| until <= now);
        self.grow(now);
        let mut effects = self.grant(now);
        effects.extend(self.make_room());
        effects
    }

    /// When [`BudgetEvent::Wake`] is due.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let declined = self.held.values().filter_map(|held| match held.way {
            Way::Declined { until } if self.is_wanted() => Some(until),
            Way::Keeps | Way::Asked | Way::Leaving | Way::Declined { .. } => None,
        });
        declined.chain(self.grow_at).min()
    }

    /// Whether somebody waits; then holders say when they turn idle.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the slot is held or waited for.
    pub(crate) fn knows(&self, slot: SlotId) -> bool {
        self.held.contains_key(&slot) || self.queue.iter().any(|waiting| waiting.slot == slot)
    }

    fn ask_again(&mut self, is_meant: impl Fn(SlotId, Instant) -> bool) {
        for (slot, held) in &mut self.held {
            if let Way::Declined { until } = held.way
                && is_meant(*slot, until)
            {
                held.way = Way::Keeps;
            }
        }
    }

    fn on_refused(&mut self, slot: SlotId, now: Instant) {
        let refused = self.held.remove(&slot);
        self.limit = self.held.len();
        let granted_at = refused.map_or(now, |held| held.granted_at);
        if self.last_refusal.is_some_and(|last| granted_at < last) && self.grow_at.is_some() {
            // Dialled while one was refused that was dialled before it: the same news once more.
            return;
        }
        let pause = SHORTEST_PAUSE.saturating_mul(1_u32.checked_shl(self.refusals).unwrap_or(u32::MAX));
        self.refusals = self.refusals.saturating_add(1);
        self.last_refusal = Some(now);
        self.grow_at = Some(now + pause.min(LONGEST_PAUSE));
    }

    /// Others may have left: after each pause one more connection is tried.
    fn grow(&mut self, now: Instant) {
        if self.grow_at.is_none_or(|at| now < at) {
            return;
        }
        self.limit = self.settings.connections.min(self.limit + 1);
        self.grow_at = (self.limit < self.settings.connections).then_some(now + SHORTEST_PAUSE);
    }

    /// How many connections may be held before one for this purpose is opened. The reserve is taken from the configured
    /// connections, so a lowered limit is shared out whole.
    fn limit_for(&self, purpose: Purpose) -> usize {
        let unreserved = self.settings.connections.saturating_sub(self.settings.reserve);
        match purpose {
            Purpose::Successor => self.limit,
            Purpose::First | Purpose::Second => self.limit.min(unreserved),
        }
    }

    /// The place in the queue of whoever is next: the most urgent purpose first, then whoever has waited for longest.
    fn next(&self) -> Option<(usize, Purpose)> {
        let ranks = self.queue.iter().enumerate();
        ranks
            .min_by_key(|(index, waiting)| (waiting.claimant.purpose, waiting.since, *index))
            .map(|(index, waiting)| (index, waiting.claimant.purpose))
    }

    fn grant(&mut self, now: Instant) -> Vec<BudgetEffect> {
        let mut effects = Vec::new();
        while let Some((index, purpose)) = self.next() {
            if self.held.len() >= self.limit_for(purpose) {
                break;
            }
            let Waiting {
                slot,
                claimant,
                usage,
                ..
            } = self.queue.remove(index);
            self.held.insert(
                slot,
                Held {
                    claimant,
                    usage,
                    granted_at: now,
                    way: Way::Keeps,
                },
            );
            effects.push(BudgetEffect::Grant { slot });
        }
        effects
    }

    /// As many holders are asked to give way as wait; the longest idle first, and for an instance's first tunnel also
    /// another's second. One that leaves only when its execs end counts among the seconds alone: an idle one is quicker.
    fn make_room(&mut self) -> Vec<BudgetEffect> {
        let mut effects = Vec::new();
        let standing = |way: Way| self.held.values().filter(|held| held.way == way).count();
        let (asked, leaving) = (standing(Way::Asked), standing(Way::Leaving));
        let firsts = self
            .queue
            .iter()
            .filter(|waiting| waiting.claimant.purpose != Purpose::Second)
            .count();
        for place in asked..self.queue.len() {
            let may_be_second = place + leaving < firsts;
            let idle = self.longest_idle();
            let Some(slot) = idle.or_else(|| may_be_second.then(|| self.a_second()).flatten()) else {
                break;
            };
            self.set_way(slot, Way::Keeps, Way::Asked);
            effects.push(BudgetEffect::AskToGiveWay {
                slot,
                if_second: may_be_second,
            });
        }
        effects
    }

    fn longest_idle(&self) -> Option<SlotId> {
        let keepers = self.held.iter().filter(|(_, held)| held.way == Way::Keeps);
        let idle = keepers.filter_map(|(slot, held)| Some((held.usage.idle_since()?, *slot)));
        idle.min().map(|(_, slot)| slot)
    }

    fn a_second(&self) -> Option<SlotId> {
        let mut seconds = self
            .held
            .iter()
            .filter(|(_, held)| held.way == Way::Keeps && held.claimant.purpose == Purpose::Second);
        seconds.next().map(|(slot, _)| *slot)
    }

    fn set_way(&mut self, slot: SlotId, from: Way, to: Way) {
        if let Some(held) = self.held.get_mut(&slot).filter(|held| held.way == from) {
            held.way = to;
        }
    }

    /// What an operator sees.
    pub(crate) fn snapshot(&self, key: &EndpointKey, now: Instant) -> EndpointSnapshot {
        let mut holders: Vec<EndpointHolder> = self
            .held
            .values()
            .map(|held| EndpointHolder {
                instance_id: held.claimant.instance_id.clone(),
                os_user: held.claimant.os_user.clone(),
                tunnel_id: held.claimant.tunnel_id,
                idle_s: held.usage.idle_since().map(|since| seconds_between(since, now)),
            })
            .collect();
        holders.sort_by(|a, b| b.idle_s.unwrap_or(-1.0).total_cmp(&a.idle_s.unwrap_or(-1.0)));
        let mut waiting: Vec<&Waiting> = self.queue.iter().collect();
        waiting.sort_by_key(|waiting| (waiting.claimant.purpose, waiting.since));
        EndpointSnapshot {
            region: key.region.clone(),
            endpoint_id: key.endpoint_id.clone(),
            limit: self.limit,
            configured_limit: self.settings.connections,
            reserved_for_successors: self.limit - self.limit_for(Purpose::First),
            in_use: self.held.len(),
            retry_in_s: self.grow_at.map(|at| seconds_between(now, at)),
            holders,
            waiting: waiting
                .into_iter()
                .map(|waiting| EndpointWaiter {
                    instance_id: waiting.claimant.instance_id.clone(),
                    os_user: waiting.claimant.os_user.clone(),
                    purpose: waiting.claimant.purpose.name().to_owned(),
                    waiting_s: seconds_between(waiting.since, now),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
