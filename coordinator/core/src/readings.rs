//! Inputs that waited for too long are read again: the nodes that they come from run once more, then the node
//! that needs them.
//!
//! A node can be read again if it only reads from outside, or only computes from what can be read again.
//! Each reading is a round of its own (see `rounds`), with results of its own; what a task of an earlier round
//! says of the node comes too late.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use haltline_types::{
    Effect, SmolStr, Timestamp,
    definition::{Definition, InputRef, NodeDef},
    event::Event,
    limits::{READ_AGAIN_NODES_MAX, READINGS_MAX},
    record::Outputs,
    task::round,
};

use crate::{
    execution::{Execution, NodeState},
    plan::PlanNode,
};

/// Finds for each node with `max_input_age` what can be read again. `nodes` have no cycle, and their effects are known.
pub(crate) fn link(nodes: &mut [PlanNode], definition: &Definition, by_id: &HashMap<SmolStr, u32>, computes: &dyn Fn(&NodeDef) -> bool) {
    if definition.nodes.iter().all(|def| def.max_input_age.is_none()) {
        return;
    }
    let mut place = vec![0; nodes.len()];
    let mut again = vec![false; nodes.len()];
    for (n, i) in in_order(nodes).into_iter().enumerate() {
        let def = &definition.nodes[i];
        place[i] = n;
        again[i] = nodes[i].effect == Effect::Observes || (computes(def) && sources(def, by_id).all(|from| again[from as usize]));
    }
    for (i, def) in definition.nodes.iter().enumerate().filter(|(_, def)| def.max_input_age.is_some()) {
        let mut found = BTreeSet::new();
        let mut from: Vec<u32> = sources(def, by_id).collect();
        while let Some(n) = from.pop().filter(|_| found.len() <= READ_AGAIN_NODES_MAX) {
            if again[n as usize] && found.insert((place[n as usize], n)) {
                from.extend(sources(&definition.nodes[n as usize], by_id));
            }
        }
        if found.len() <= READ_AGAIN_NODES_MAX {
            nodes[i].read_again = found.into_iter().map(|(_, n)| n).collect();
        }
    }
}

/// Each node behind those it depends on.
fn in_order(nodes: &[PlanNode]) -> Vec<usize> {
    let mut left: Vec<usize> = nodes.iter().map(|n| n.deps.len()).collect();
    let mut ready: VecDeque<usize> = (0..nodes.len()).filter(|i| left[*i] == 0).collect();
    let mut all = Vec::with_capacity(nodes.len());
    while let Some(i) = ready.pop_front() {
        all.push(i);
        for next in &nodes[i].dependents {
            left[*next as usize] -= 1;
            if left[*next as usize] == 0 {
                ready.push_back(*next as usize);
            }
        }
    }
    all
}

/// Nodes whose outputs a node takes.
fn sources<'a>(def: &'a NodeDef, by_id: &'a HashMap<SmolStr, u32>) -> impl Iterator<Item = u32> + 'a {
    def.inputs.values().filter_map(|input| match input {
        InputRef::Node(r) => by_id.get(&r.node).copied(),
        InputRef::Input(_) | InputRef::Value(_) => None,
    })
}

/// What was read again in an execution.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Readings {
    /// How often each node was.
    read: BTreeMap<u32, u32>,
    /// How often it was for the sake of each node.
    asked: BTreeMap<u32, u32>,
    /// The round of the result of each node that ended, or its attempt: whichever is higher.
    ended: BTreeMap<u32, u32>,
    /// What results of an earlier round say of a node comes too late.
    from: BTreeMap<u32, u32>,
    /// What nodes had given that are being read again.
    given: BTreeMap<u32, Outputs>,
}

impl Readings {
    /// A node's task ended in that round.
    pub fn ended(&mut self, i: u32, round: u32) {
        let last = self.ended.entry(i).or_default();
        *last = round.max(*last);
    }

    /// How often a node was read again.
    pub fn of(&self, i: u32) -> u32 {
        self.read.get(&i).copied().unwrap_or_default()
    }

    /// What a node had given before it was read again.
    pub fn given(&self, i: u32) -> Option<&Outputs> {
        self.given.get(&i)
    }
}

impl Execution {
    /// Nodes that can be read again for the inputs of a node that is dispatched with `chain`, and when the oldest of its
    /// other resolved inputs came about.
    pub(crate) fn readable_inputs(&self, i: u32, chain: &[u32]) -> (Vec<SmolStr>, Option<Timestamp>) {
        let plan = &self.plan;
        let readable = &plan.node(i).read_again;
        if readable.is_empty() || self.readings.asked.get(&i).is_some_and(|asked| *asked >= READINGS_MAX) {
            return (Vec::new(), None);
        }
        let fixed = |input: &InputRef| match input {
            InputRef::Value(_) => None,
            InputRef::Input(_) => Some(self.record.started_at),
            InputRef::Node(r) => plan
                .find(&r.node)
                .filter(|n| !(chain.contains(n) || readable.contains(n) && self.can_run_again(*n)))
                .map(|n| self.done_at[n as usize]),
        };
        let fixed_at = plan.def(i).inputs.values().filter_map(fixed).min();
        (readable.iter().map(|n| plan.def(*n).id.clone()).collect(), fixed_at)
    }

    /// Not what stands for the outputs of a node that failed.
    fn can_run_again(&self, i: u32) -> bool {
        matches!(self.nodes[i as usize], NodeState::Done(_) | NodeState::Waiting(_) | NodeState::Ready | NodeState::InTask(_))
    }

    /// Whether a result is of a node that was read again since its task was dispatched.
    pub(crate) fn is_of_earlier_reading(&self, i: u32, event: &Event) -> bool {
        let Some(round) = event.token.map(round).filter(|_| !self.readings.from.is_empty()) else { return false };
        let earlier = |n: u32| self.readings.from.get(&n).is_some_and(|from| round < *from);
        earlier(i) || event.segment.iter().filter_map(|s| self.plan.find(&s.node_id)).any(earlier)
    }

    /// The inputs of a node were too old: those that still are run again, with what depends on them on the way to
    /// the node, and then the node.
    pub(crate) fn read_again(&mut self, i: u32, event: &Event) {
        *self.readings.asked.entry(i).or_default() += 1;
        let age = self.plan.def(i).max_input_age.map_or(i64::MAX, |age| i64::try_from(age.0).unwrap_or(i64::MAX));
        let mut running = BTreeSet::new();
        let plan = self.plan.clone();
        for n in event.read_again.iter().filter_map(|id| plan.find(id)).filter(|n| *n != i) {
            match &self.nodes[n as usize] {
                NodeState::Done(_) => {
                    let is_old = event.timestamp.0 > self.done_at[n as usize].0.saturating_add(age);
                    if is_old || self.plan.node(n).deps.iter().any(|dep| running.contains(dep)) {
                        self.run_again(n);
                        running.insert(n);
                    }
                }
                // For another node's sake already.
                NodeState::Waiting(_) | NodeState::Ready | NodeState::InTask(_) => {
                    running.insert(n);
                }
                NodeState::Unknown | NodeState::Failed | NodeState::Skipped | NodeState::Ended => {}
            }
        }
        self.next_round(i);
        self.wait_for_deps(i);
    }

    fn run_again(&mut self, n: u32) {
        let was = std::mem::replace(&mut self.nodes[n as usize], NodeState::Waiting(0));
        if let NodeState::Done(outputs) = was {
            self.readings.given.insert(n, outputs);
        }
        self.completed -= 1;
        *self.readings.read.entry(n).or_default() += 1;
        // What is ready already counts as dispatched: whoever rebuilds this state cannot know that it was not.
        let plan = self.plan.clone();
        for next in &plan.node(n).dependents {
            if let NodeState::Waiting(left) = &mut self.nodes[*next as usize] {
                *left += 1;
            }
        }
        self.next_round(n);
        self.wait_for_deps(n);
    }

    /// Attempts go on above all that the node had, tokens above all that were given out for it.
    fn next_round(&mut self, n: u32) {
        let last = self.readings.ended.get(&n).copied().unwrap_or(1).max(self.rounds.get(&n).copied().unwrap_or(1));
        self.rounds.insert(n, last + 1);
        self.readings.from.insert(n, last + 1);
    }

    fn wait_for_deps(&mut self, n: u32) {
        let left = self.plan.node(n).deps.iter().filter(|dep| !self.lets_on(**dep)).count();
        let state = if left == 0 { NodeState::Ready } else { NodeState::Waiting(left as u32) };
        self.settle(n, state);
        if left == 0 {
            self.ready.push_back(n);
        }
    }
}
