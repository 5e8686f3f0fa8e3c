//! Breadth first through all states, each once, known by its hash.
//!
//! Not a library: stateright has no features to choose from and would bring an HTTP server and a
//! dozen crates into the tests of a crate that has three dependencies; this is what we need of it.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::Debug,
    hash::{BuildHasher, Hash, RandomState},
};

/// A step: who does it, which one of them, and what.
pub type Name = (&'static str, usize, &'static str);

/// What is searched.
pub trait Model {
    /// Everything that there is at one moment.
    type State: Hash + Debug;
    /// Where it begins.
    fn first(&self) -> Self::State;
    /// Everything that can happen next.
    fn successors(&self, state: &Self::State) -> Vec<(Name, Self::State)>;
    /// What must not be in any state.
    fn violation(&self, state: &Self::State) -> Option<&'static str>;
    /// Whether it may stay so for ever.
    fn finished(&self, state: &Self::State) -> bool;
}

/// What a test run has time for; more is an error, not a proof cut short.
const STATES_MAX: usize = 12_000_000;

/// What was found.
pub struct Found {
    /// States looked at.
    pub states: usize,
    /// Steps from state to state.
    pub steps: usize,
    /// States from which nothing leads on.
    pub ends: usize,
    /// The shortest way to what must not be, as text.
    pub wrong: Option<String>,
}

/// Looks at every state that can be reached, or up to the first that must not be.
pub fn search<M: Model>(model: &M) -> Found {
    // 64 bits: among ten million states two share a hash with a chance of one in 400,000.
    let hasher = RandomState::new();
    let first = model.first();
    let root = hasher.hash_one(&first);
    let mut seen: HashMap<u64, (u64, u16)> = HashMap::from([(root, (root, 0))]);
    let (mut frontier, mut steps_taken, mut ends) = (vec![(root, first)], 0, 0);
    let found = |seen: &HashMap<u64, (u64, u16)>, steps, ends, wrong| Found { states: seen.len(), steps, ends, wrong };
    while !frontier.is_empty() {
        if seen.len() > STATES_MAX {
            return found(&seen, steps_taken, ends, Some(format!("more than {STATES_MAX} states: nothing is shown")));
        }
        let mut next = Vec::new();
        for (hash, state) in frontier {
            let successors = model.successors(&state);
            if successors.is_empty() {
                ends += 1;
                if !model.finished(&state) {
                    let wrong = Some(format!("stuck: nothing can happen any more\n{}", way(model, &hasher, &seen, hash)));
                    return found(&seen, steps_taken, ends, wrong);
                }
            }
            for (n, (_, successor)) in successors.into_iter().enumerate() {
                steps_taken += 1;
                let to = hasher.hash_one(&successor);
                let Entry::Vacant(new) = seen.entry(to) else { continue };
                new.insert((hash, n as u16));
                if let Some(why) = model.violation(&successor) {
                    let wrong = Some(format!("{why}\n{}", way(model, &hasher, &seen, to)));
                    return found(&seen, steps_taken, ends, wrong);
                }
                next.push((to, successor));
            }
        }
        frontier = next;
    }
    found(&seen, steps_taken, ends, None)
}

/// How the state with this hash is reached, a line a step, and what it is.
fn way<M: Model>(model: &M, hasher: &RandomState, seen: &HashMap<u64, (u64, u16)>, mut hash: u64) -> String {
    let mut taken = Vec::new();
    while let Some((from, n)) = seen.get(&hash).filter(|(from, _)| *from != hash) {
        taken.push(*n);
        hash = *from;
    }
    let mut state = model.first();
    debug_assert_eq!(hash, hasher.hash_one(&state));
    let mut text = String::new();
    for n in taken.into_iter().rev() {
        let Some((name, next)) = model.successors(&state).into_iter().nth(usize::from(n)) else { break };
        text.push_str(&format!("  {} {} {}\n", name.0, name.1, name.2));
        state = next;
    }
    format!("{text}{state:#?}")
}
