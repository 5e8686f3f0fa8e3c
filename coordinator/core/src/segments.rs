//! Which nodes form linear chains, so that one task may carry several of them.
//!
//! A node `b` follows `a` in a chain if `a` completing is what makes `b` ready, and nothing else
//! could start before `b` completes because of `a`: then waiting for the whole chain delays nobody.

use haltline_types::limits::SEGMENT_NODES_MAX;

use crate::plan::PlanNode;

/// How far a skipping edge (from a chain's early node to a later one) is followed.
const SKIP_MAX: usize = 64;

/// Links chains in `nodes`, whose dependencies are known.
pub(crate) fn link(nodes: &mut [PlanNode]) {
    let follows: Vec<Option<u32>> = (0..nodes.len()).map(|a| follower(nodes, a as u32)).collect();
    let mut followed = vec![false; nodes.len()];
    for b in follows.iter().flatten() {
        followed[*b as usize] = true;
    }
    for node in nodes.iter_mut() {
        node.chain_left = 1;
    }
    for head in (0..nodes.len()).filter(|i| !followed[*i]) {
        let mut chain = vec![head];
        let mut at = head;
        while let Some(next) = follows[at] {
            at = next as usize;
            chain.push(at);
        }
        for part in chain.chunks(SEGMENT_NODES_MAX) {
            for (i, node) in part.iter().enumerate() {
                nodes[*node].chain_left = (part.len() - i) as u32;
                nodes[*node].chain_next = part.get(i + 1).map(|n| *n as u32);
            }
        }
    }
}

/// The node that follows `a` in a chain.
fn follower(nodes: &[PlanNode], a: u32) -> Option<u32> {
    let dependents = &nodes[a as usize].dependents;
    let b = *dependents.iter().find(|b| {
        // All of b's dependencies are a and ancestors of a: a is the last to complete.
        nodes[**b as usize].deps.iter().all(|dep| *dep == a || reaches(nodes, a, *dep))
    })?;
    let others_wait_for_b = dependents.iter().all(|d| *d == b || reaches(nodes, *d, b));
    others_wait_for_b.then_some(b)
}

/// Whether `to` is an ancestor of `from`, looking at a bounded number of nodes: a chain is an
/// optimisation, so "not found soon" counts as no.
fn reaches(nodes: &[PlanNode], from: u32, to: u32) -> bool {
    let mut seen = vec![from];
    let mut at = 0;
    while at < seen.len() && seen.len() <= SKIP_MAX {
        for dep in &nodes[seen[at] as usize].deps {
            if *dep == to {
                return true;
            }
            if !seen.contains(dep) {
                seen.push(*dep);
            }
        }
        at += 1;
    }
    false
}
