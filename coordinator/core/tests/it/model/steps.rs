//! What can happen next in a state: every process and the server take one step at a time, in any order.

use super::{
    Bug, Name, coordinator,
    state::{Entry, Phase, State, Task, Walk, accepted},
};

/// A step: who does what, and what it leads to.
pub type Step = (Name, State);

/// More than the bounds allow.
const DELIVERIES_MAX: u8 = 8;
/// More than the bounds allow.
pub const TASKS_MAX: u8 = 8;

/// Everything that can happen next.
pub fn successors(state: &State, bug: Bug) -> Vec<Step> {
    let mut steps = Vec::new();
    for c in 0..state.coordinators.len() {
        coordinator::steps(state, c, bug, &mut steps);
    }
    for w in 0..state.workers.len() {
        worker(state, w, bug, &mut steps);
    }
    if state.left.forgets > 0 {
        let mut next = state.clone();
        next.left.forgets -= 1;
        next.window = next.end();
        next.window_tasks.clear();
        next.era += 1;
        steps.push((("server", 0, "forgets message ids"), next));
    }
    steps.into_iter().map(|(name, next)| (name, next.in_order())).collect()
}

/// Whether a worker still has the task it was given.
fn is_held(state: &State, task: &Task) -> bool {
    task.holder.is_some_and(|w| state.workers[w as usize].is_some_and(|walk| walk.task == task.seq))
}

/// What worker `w` can do.
fn worker(state: &State, w: usize, bug: Bug, steps: &mut Vec<Step>) {
    let Some(walk) = state.workers[w] else {
        for (i, task) in state.queue.iter().enumerate() {
            // Its ack wait is over: for a worker that lives that is a redelivery too early.
            let early = is_held(state, task);
            if early && state.left.redeliveries == 0 {
                continue;
            }
            let mut next = state.clone();
            next.left.redeliveries -= u8::from(early);
            pull(&mut next, w, i);
            steps.push((("worker", w, if early { "is given a task though another one has it" } else { "is given a task" }), next));
        }
        return;
    };
    let mut next = state.clone();
    let name = advance(&mut next, w, walk, bug);
    steps.push((("worker", w, name), next));
    if state.left.worker_crashes > 0 {
        let mut next = state.clone();
        next.left.worker_crashes -= 1;
        next.workers[w] = None;
        steps.push((("worker", w, "dies"), next));
    }
}

fn pull(state: &mut State, w: usize, i: usize) {
    let task = &mut state.queue[i];
    task.deliveries += 1;
    task.holder = Some(w as u8);
    let contested = task.deliveries > 1 || task.again || task.recovered;
    let old = task.era < state.era;
    state.workers[w] = Some(Walk {
        id: task.seq * DELIVERIES_MAX + task.deliveries,
        task: task.seq,
        node: task.node,
        token: task.deliveries,
        contested,
        phase: if contested || old { Phase::Learn } else { Phase::Ready },
    });
}

/// The walk's one next step.
fn advance(state: &mut State, w: usize, mut walk: Walk, bug: Bug) -> &'static str {
    let node = walk.node as usize;
    let goes_on = |state: &mut State, walk| state.workers[w] = Some(walk);
    match walk.phase {
        Phase::Learn | Phase::LearnAgain => {
            let finished = accepted(&state.log)[node].is_some() || state.told().is_some();
            // The highest token of anything that the log has of the node, void or not.
            let highest = |e: &Entry| match *e {
                Entry::Claim { node, token, .. } | Entry::Result { node, token, .. } if node == walk.node => token,
                _ => 0,
            };
            let highest = state.log.iter().map(highest).max().unwrap_or(0);
            let name = if finished {
                walk.phase = Phase::Acknowledge;
                "reads that the node is done"
            } else if walk.phase == Phase::LearnAgain {
                if standing(&state.log, walk.node) != Some((walk.token, walk.id)) {
                    state.workers[w] = None;
                    return "reads that another one has claimed it, and leaves it";
                }
                walk.phase = Phase::Ready;
                "reads that its claim stands"
            } else if walk.contested || highest > 0 {
                walk.token = walk.token.max(highest) + 1;
                walk.phase = Phase::Claim;
                "reads the log and will claim"
            } else {
                walk.phase = Phase::Ready;
                "reads that nobody else has it"
            };
            goes_on(state, walk);
            name
        }
        Phase::Claim => {
            state.log.push(Entry::Claim { node: walk.node, token: walk.token, walk: walk.id });
            walk.phase = Phase::LearnAgain;
            goes_on(state, walk);
            "claims the node"
        }
        Phase::Ready => {
            if state.venue[node].is_some_and(|(token, _)| walk.token < token) {
                state.workers[w] = None;
                return "is refused by the venue as stale, and leaves the task";
            }
            if accepted(&state.log)[node].is_some() {
                state.wrong = Some("an effect is performed though a result of its node counts already");
            } else if state.venue[node].is_some_and(|(token, by)| token == walk.token && by != walk.id) {
                state.wrong = Some("two walks perform an effect with the same token");
            }
            state.venue[node] = Some((walk.token, walk.id));
            walk.phase = if bug == Bug::AckFirst { Phase::Acknowledge } else { Phase::HasResult };
            goes_on(state, walk);
            "performs the effect"
        }
        Phase::HasResult => {
            store_result(state, &walk);
            walk.phase = Phase::Acknowledge;
            if bug == Bug::AckFirst {
                state.workers[w] = None;
            } else {
                goes_on(state, walk);
            }
            "stores its result"
        }
        Phase::Acknowledge => {
            let counts = accepted(&state.log)[node].is_some() || state.told().is_some();
            if !state.left.acknowledges_void && bug != Bug::AckFirst && !counts {
                state.workers[w] = None;
                return "reads that its result is void, and leaves the task";
            }
            // The server takes an acknowledgement of any delivery of the message.
            state.queue.retain(|t| t.seq != walk.task);
            let stored = counts || state.log.iter().any(|e| matches!(e, Entry::Result { walk: by, .. } if *by == walk.id));
            if bug == Bug::AckFirst && !stored {
                walk.phase = Phase::HasResult;
                goes_on(state, walk);
            } else {
                state.workers[w] = None;
            }
            "acknowledges"
        }
    }
}

/// The claim that stands for a node.
fn standing(log: &[Entry], wanted: u8) -> Option<(u8, u8)> {
    let mut standing = None;
    for entry in log {
        if let Entry::Claim { node, token, walk } = *entry
            && node == wanted
            && standing.is_none_or(|(t, _)| token > t)
        {
            standing = Some((token, walk));
        }
    }
    standing
}

/// Results without a claim share one message id, those under a claim have one for each token.
fn store_result(state: &mut State, walk: &Walk) {
    let claimed = |walk: u8| state.log.iter().any(|e| matches!(e, Entry::Claim { walk: by, .. } if *by == walk));
    let mine = claimed(walk.id).then_some(walk.token);
    let known = state.log.iter().skip(usize::from(state.window)).any(|e| match *e {
        Entry::Result { node, token, walk: by } => node == walk.node && claimed(by).then_some(token) == mine,
        _ => false,
    });
    if !known {
        state.log.push(Entry::Result { node: walk.node, token: walk.token, walk: walk.id });
    }
}
