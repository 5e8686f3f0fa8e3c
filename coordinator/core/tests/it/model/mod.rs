//! The protocol of commit, dispatch and fencing as a model, looked at in every state it can reach.
//!
//! One execution of two nodes in sequence; two coordinators that may both believe to own its shard; two
//! workers; a server that redelivers tasks and forgets message ids; a venue that refuses a token lower
//! than it has seen. Each takes one step at a time and any order of steps is looked at: a process that
//! stalls, and wakes up late with a result in its hands, is one that takes no step for a while.
//! What a step stores and its confirmation are one: what dies between the two is the same as what
//! dies after both, since all that a process knows dies with it.
//!
//! The simulation next door runs the real engine on some schedules; this runs the idea of it on all.
//! `HALTLINE_MODEL_LARGE=1` adds what takes minutes.

#![allow(clippy::disallowed_methods, reason = "the environment chooses the size")]

mod coordinator;
pub mod search;
mod state;
mod steps;

use search::{Found, Model, Name, search};
use state::State;

/// How large the model is, and how often what can go wrong goes wrong at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// One node, or two in sequence.
    pub one_node: bool,
    /// Coordinators that die.
    pub coordinator_crashes: u8,
    /// Workers that die.
    pub worker_crashes: u8,
    /// Tasks given to a second worker though the first one lives.
    pub redeliveries: u8,
    /// Coordinators that take over though another one is active.
    pub rivals: u8,
    /// Times that the server forgets which message ids it has seen.
    pub forgets: u8,
    /// Tasks stored whose confirmation is lost, so that they are sent again.
    pub lost_answers: u8,
    /// Which executions coordinators look at for lost tasks.
    pub sweep: Sweep,
    /// Workers acknowledge a task also if the result that they stored is void.
    pub acknowledges_void: bool,
}

impl Bounds {
    /// How many nodes.
    pub fn nodes(&self) -> usize {
        if self.one_node { 1 } else { state::NODES }
    }
}

/// Which executions coordinators look at for lost tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sweep {
    /// None.
    Off,
    /// Those in their memory.
    Memory,
    /// All that have a record which is not final.
    All,
}

/// A mistake planted in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// None.
    None,
    /// Coordinators take results that a claim made void.
    NoTokenCheck,
    /// Workers acknowledge a task before its result is stored.
    AckFirst,
    /// The record is put, not swapped.
    PutRecord,
    /// The floor passes an input whose outputs are not stored yet: a pending dispatch is forgotten.
    FloorEarly,
}

/// Two nodes, and nothing goes wrong.
const CALM: Bounds = Bounds {
    one_node: false,
    coordinator_crashes: 0,
    worker_crashes: 0,
    redeliveries: 0,
    rivals: 0,
    forgets: 0,
    lost_answers: 0,
    sweep: Sweep::All,
    acknowledges_void: true,
};

/// One node, and nothing goes wrong; no task is lost, so none is looked for.
const ONE_CAREFUL: Bounds = Bounds { one_node: true, acknowledges_void: false, sweep: Sweep::Off, ..CALM };

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
        state.violation()
    }
    fn finished(&self, state: &State) -> bool {
        state.finished()
    }
}

fn look(what: &str, bounds: Bounds, bug: Bug) -> Found {
    let began = std::time::Instant::now();
    let found = search(&Protocol { bounds, bug });
    println!("{what}: {} states, {} steps, {} ends, {:.1?}", found.states, found.steps, found.ends, began.elapsed());
    found
}

/// Looks at every state within each of these bounds.
fn holds(all: &[(&str, Bounds)]) {
    for (what, bounds) in all {
        if let Some(wrong) = look(what, *bounds, Bug::None).wrong {
            panic!("{what}: {wrong}");
        }
    }
}

/// Finds what must not be, and says so in these words.
fn is_found(what: &str, bounds: Bounds, bug: Bug, words: &str) {
    let wrong = look(what, bounds, bug).wrong.unwrap_or_default();
    assert!(wrong.starts_with(words), "{what}: found {wrong:?}");
}

#[test]
fn two_nodes() {
    holds(&[
        ("calm", CALM),
        ("each kind of process dies once", Bounds { coordinator_crashes: 1, worker_crashes: 1, ..CALM }),
        ("a stalled worker", Bounds { redeliveries: 1, ..CALM }),
        ("two owners", Bounds { rivals: 1, ..CALM }),
        ("ids are forgotten", Bounds { forgets: 1, ..CALM }),
        ("a task is sent twice", Bounds { lost_answers: 1, ..CALM }),
    ]);
}

#[test]
fn two_nodes_a_stalled_worker_and_a_dead_one() {
    holds(&[("a stalled worker and a dead one", Bounds { worker_crashes: 1, redeliveries: 1, ..CALM })]);
}

#[test]
fn planted_bugs_are_found() {
    let stuck = "stuck: nothing can happen any more";
    let other = "an end tells other results than a reader of the log accepts";
    is_found("result applied without token check", Bounds { redeliveries: 1, ..CALM }, Bug::NoTokenCheck, other);
    let no_sweep = Bounds { sweep: Sweep::Off, ..CALM };
    is_found("acknowledged before its result is stored", Bounds { worker_crashes: 1, ..no_sweep }, Bug::AckFirst, stuck);
    let another = "an end is about another submission than the record";
    is_found("record put, not swapped", Bounds { rivals: 1, ..CALM }, Bug::PutRecord, another);
    is_found("pending dispatch forgotten", Bounds { coordinator_crashes: 1, ..no_sweep }, Bug::FloorEarly, stuck);
}

/// A stalled worker wakes up, stores a result that is void by then, and acknowledges: the task is gone
/// while another worker runs it. If that one dies, and the coordinator was restarted in between, nobody
/// has the execution in memory, and nobody finds the task lost. So a coordinator that takes a shard reads
/// all that runs, not only what is above its floor; that workers acknowledge no void result would do, too.
#[test]
fn a_late_acknowledgement_needs_a_sweep_over_everything_or_care() {
    let faults = Bounds { coordinator_crashes: 1, worker_crashes: 1, redeliveries: 1, ..ONE_CAREFUL };
    let stuck = "stuck: nothing can happen any more";
    let careless = Bounds { acknowledges_void: true, ..faults };
    is_found("sweep over memory only", Bounds { sweep: Sweep::Memory, ..careless }, Bug::None, stuck);
    holds(&[("one node, everything dies once, a stalled worker; void results are not acknowledged, no sweep", faults)]);
    if std::env::var_os("HALTLINE_MODEL_LARGE").is_some() {
        holds(&[
            ("sweep over everything", Bounds { sweep: Sweep::All, ..careless }),
            ("two owners, a stalled worker", Bounds { rivals: 1, redeliveries: 1, ..ONE_CAREFUL }),
        ]);
    }
}
