//! The halt protocol as a model, looked at in every state it can reach: flag, lease, intent, confirmation.
//!
//! A control bucket whose messages have one order; workers that renew a lease by writing their own key
//! and seeing it come back in that order, and that hear of the flag in no other way; intents that are
//! stored before an effect, with a guard before and after; a halting side that stores the flag and then waits for
//! each worker's confirmation, or for lease and margin; it knows of a worker once it has heard of a lease of it. Each takes one step at a time in any order, and time
//! passes between any two of them, so that whoever stalls, is partitioned, or is behind takes no step for a while.
//! Clocks have different rates: of a slow one a lease lasts half as long again, and the margin covers that.
//!
//! Told is only: nothing starts any more, and nothing is in flight. What must not be: that an effect passes its last
//! guard after that, or that the venue takes one. A process that froze between guard and effect may still send it;
//! the venue refuses what is past its deadline, and nobody calls an effect undone before that.

mod state;
mod steps;

use crate::model::search::{Found, Model, Name, search};
use state::State;

/// How large the model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// One worker, or two.
    pub workers: usize,
    /// Effects that a worker wants.
    pub effects: u8,
    /// Times that a worker renews its lease, in one life.
    pub renewals: u8,
    /// Workers that die, and come back under the same name.
    pub deaths: u8,
    /// The first worker's clock is slow.
    pub slow: bool,
}

/// A mistake planted in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// None.
    None,
    /// The guard is not asked again once the intent is stored.
    NoSecondCheck,
    /// A lease does not end.
    EndlessLease,
    /// The lease counts from when its key comes back.
    FromReceipt,
    /// The flag is read from a leader, which may have been deposed.
    LeaderRead,
    /// The answer to the write starts the lease, not its delivery.
    AckIsEnough,
    /// A worker that comes back counts its renewals from the beginning.
    CounterReused,
    /// The halting side does not ask for open intents.
    IgnoresIntents,
    /// The halting side does not wait for silent workers.
    NoWait,
    /// It tells before it has heard of every worker that wrote a lease before the flag.
    NotReadUp,
    /// It waits for the lease by its own clock, without margin.
    NoMargin,
    /// The venue takes what is past its deadline.
    NoDeadline,
    /// An effect in doubt is called undone before its deadline.
    UndoneEarly,
}

/// The protocol within bounds, with or without a mistake.
struct Protocol {
    bounds: Bounds,
    bug: Bug,
}

impl Model for Protocol {
    type State = State;
    fn first(&self) -> State {
        State::new(self.bounds)
    }
    fn successors(&self, state: &State) -> Vec<(Name, State)> {
        steps::successors(state, self.bug)
    }
    fn violation(&self, state: &State) -> Option<&'static str> {
        state.wrong
    }
    /// A halt that never confirms would be safe and useless.
    fn finished(&self, state: &State) -> bool {
        state.is_told()
    }
}

const ONE: Bounds = Bounds { workers: 1, effects: 2, renewals: 3, deaths: 1, slow: true };
const TWO: Bounds = Bounds { workers: 2, effects: 1, renewals: 1, deaths: 0, slow: true };

fn look(what: &str, bounds: Bounds, bug: Bug) -> Found {
    let began = std::time::Instant::now();
    let found = search(&Protocol { bounds, bug });
    println!("{what}: {} states, {} steps, {} ends, {:.1?}", found.states, found.steps, found.ends, began.elapsed());
    found
}

fn holds(what: &str, bounds: Bounds) {
    if let Some(wrong) = look(what, bounds, Bug::None).wrong {
        panic!("{what}: {wrong}");
    }
}

#[test]
fn one_worker_that_dies_and_comes_back() {
    holds("one worker, even clocks", Bounds { slow: false, ..ONE });
    holds("one worker, slow clock", ONE);
    holds("one worker that dies twice", Bounds { deaths: 2, effects: 1, ..ONE });
}

#[test]
fn two_workers() {
    holds("two workers", TWO);
    if std::env::var_os("HALTLINE_MODEL_LARGE").is_some() {
        holds("two workers, one dies", Bounds { deaths: 1, ..TWO });
    }
}

#[test]
fn planted_bugs_are_found() {
    let starts = "an effect starts after the confirmation";
    let arrives = "the venue takes an effect after the confirmation";
    for (bug, words) in [
        (Bug::NoSecondCheck, starts),
        (Bug::EndlessLease, starts),
        (Bug::FromReceipt, starts),
        (Bug::LeaderRead, starts),
        (Bug::AckIsEnough, starts),
        (Bug::CounterReused, starts),
        (Bug::IgnoresIntents, arrives),
        (Bug::NoWait, starts),
        (Bug::NotReadUp, starts),
        (Bug::NoMargin, starts),
        (Bug::NoDeadline, arrives),
        (Bug::UndoneEarly, arrives),
    ] {
        let wrong = look(&format!("{bug:?}"), ONE, bug).wrong.unwrap_or_default();
        assert!(wrong.starts_with(words), "{bug:?}: found {wrong:?}");
    }
}

/// Without a slow clock the margin makes no difference: it is there for rates, not for what clocks show.
#[test]
fn the_margin_is_for_the_rates_of_clocks() {
    assert!(look("no margin, even clocks", Bounds { slow: false, ..ONE }, Bug::NoMargin).wrong.is_none());
}
