//! Acceptances held back for a moment: who waits for the end on the very subject of the request is told
//! once if the end comes soon. A short execution costs one message less; a lost one is asked for again.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

use async_nats::Subject;
use haltline_common::types::{SmolStr, submit::Accepted};

/// Longer than most short executions take under load, and short against a client's patience of two seconds.
const HOLD: Duration = Duration::from_millis(100);

/// What is held back, by execution.
#[derive(Default)]
pub struct Held {
    answers: HashMap<SmolStr, (Subject, Accepted)>,
    since: VecDeque<(Instant, SmolStr)>,
}

impl Held {
    /// Holds an acceptance back; gives it back if one is held for that execution already.
    pub fn hold(&mut self, now: Instant, to: Subject, accepted: Accepted) -> Option<(Subject, Accepted)> {
        match self.answers.entry(accepted.execution_id.clone()) {
            Entry::Occupied(_) => Some((to, accepted)),
            Entry::Vacant(free) => {
                self.since.push_back((now, accepted.execution_id.clone()));
                free.insert((to, accepted));
                None
            }
        }
    }

    /// The end is told: nothing else needs to be.
    pub fn ended(&mut self, execution_id: &str) {
        self.answers.remove(execution_id);
    }

    /// What was held long enough, or all of it.
    pub fn due(&mut self, now: Instant, all: bool) -> Vec<(Subject, Accepted)> {
        let mut due = Vec::new();
        while let Some((_, id)) = self.since.pop_front_if(|(since, _)| all || now.duration_since(*since) >= HOLD) {
            due.extend(self.answers.remove(&id));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use haltline_common::types::record::Status;

    use super::*;

    #[test]
    fn an_acceptance_is_told_once_and_not_after_the_end() {
        let start = Instant::now();
        let accepted = |id: &str| Accepted { execution_id: id.into(), status: Status::Running, repeated: false };
        let mut held = Held::default();
        for id in ["a", "b", "c"] {
            assert_eq!(held.hold(start, id.into(), accepted(id)), None);
        }
        assert!(held.hold(start, "again".into(), accepted("a")).is_some());
        held.ended("b");
        assert_eq!(held.due(start + HOLD / 2, false), []);
        let due: Vec<_> = held.due(start + HOLD, false).into_iter().map(|(to, _)| to.to_string()).collect();
        assert_eq!(due, ["a", "c"]);
        assert_eq!(held.hold(start + HOLD, "d".into(), accepted("d")), None);
        assert_eq!(held.due(start + HOLD, true).len(), 1);
        assert!(held.answers.is_empty() && held.since.is_empty());
    }
}
