//! What must have become of the nodes, told from definition and log alone: a second account of
//! `on_error` that shares nothing with the core's.

use std::collections::{BTreeMap, BTreeSet};

use haltline_core::Plan;
use haltline_types::{
    definition::{InputRef, OnError},
    event::{Event, EventType},
    record::{Record, Status},
};

/// What is wrong with an ended execution, given its events, each id once, in order.
pub fn check(plan: &Plan, record: &Record, events: &[&Event]) -> Vec<String> {
    let mut found = Vec::new();
    let of = |kind: EventType| -> BTreeMap<&str, &Event> {
        let of_kind = events.iter().filter(|e| e.kind == kind);
        of_kind.filter_map(|e| Some((e.node_id.as_deref()?, *e))).collect()
    };
    // Of a node that was read again the last reading is its fate, and one that waited for it may have begun before.
    let again: BTreeSet<&str> = events
        .iter()
        .flat_map(|e| {
            e.read_again.iter().map(|n| n.as_str()).chain((e.kind == EventType::NodeStale).then_some(e.node_id.as_deref()).flatten())
        })
        .collect();
    let mut fate = BTreeMap::new();
    for e in events.iter().filter(|e| matches!(e.kind, EventType::NodeCompleted | EventType::NodeFailed | EventType::NodeSkipped)) {
        fate.insert(e.node_id.as_deref().unwrap_or_default(), e.kind);
    }
    let of = |kind: EventType| -> BTreeMap<&str, &Event> {
        of(kind)
            .into_iter()
            .filter(|(id, _)| !again.contains(id) || fate.get(id).is_none_or(|last| *last == kind) || kind == EventType::NodeStarted)
            .collect()
    };
    let (done, failed, skipped) = (of(EventType::NodeCompleted), of(EventType::NodeFailed), of(EventType::NodeSkipped));
    let started = of(EventType::NodeStarted);
    let whole = matches!(record.status, Status::Completed | Status::CompletedWithErrors);
    let mut admitted = BTreeSet::new();
    let mut fatal = false;
    for n in &plan.definition().nodes {
        let id = n.id.as_str();
        let fates = [done.contains_key(id), failed.contains_key(id), skipped.contains_key(id)].iter().filter(|f| **f).count();
        if fates > 1 || (whole && fates != 1) {
            found.push(format!("node {id} has {fates} fates"));
        }
        if n.kind == "fail" && done.contains_key(id) {
            found.push(format!("node {id} cannot complete"));
        }
        if skipped.contains_key(id) && started.contains_key(id) && !again.contains(id) {
            found.push(format!("node {id} was started and skipped"));
        }
        let needs = n.inputs.values().filter_map(|i| if let InputRef::Node(r) = i { Some(r.node.as_str()) } else { None });
        let needs: BTreeSet<&str> = needs.collect();
        let policy = |id: &str| plan.find(id).map(|i| &plan.def(i).on_error);
        let deps = needs.iter().copied().chain(n.depends_on.iter().map(String::as_str));
        let cause = deps.clone().any(|d| skipped.contains_key(d) || (failed.contains_key(d) && policy(d) == Some(&OnError::Skip)));
        // It may have run before what it depends on was read again, and failed then.
        let ran_before = deps.clone().any(|d| again.contains(d) && (failed.contains_key(d) || skipped.contains_key(d)));
        let as_said = skipped.contains_key(id) == cause || (ran_before && !skipped.contains_key(id));
        if !as_said && (whole || skipped.contains_key(id)) {
            found.push(format!("node {id}: skipped {}, to be skipped {cause}", skipped.contains_key(id)));
        }
        let misses = needs.iter().any(|d| failed.contains_key(d) && policy(d) == Some(&OnError::Continue));
        let missed = failed.get(id).is_some_and(|e| e.error_type.as_deref() == Some("MissingInput"));
        // Too old it is before it misses anything.
        let stale = failed.get(id).is_some_and(|e| e.error_type.as_deref() == Some("StaleInput"));
        if missed != misses && !stale && !ran_before && (missed || (whole && !cause)) {
            found.push(format!("node {id}: MissingInput {missed}, misses an input {misses}"));
        }
        if let Some(e) = failed.get(id) {
            if n.on_error == OnError::Fail {
                fatal = true;
            } else {
                admitted.insert((id, e.error_type.as_deref().unwrap_or_default(), n.on_error.as_str()));
            }
        }
    }
    let expected = match record.status {
        Status::Completed => !fatal && admitted.is_empty(),
        Status::CompletedWithErrors => !fatal && !admitted.is_empty(),
        Status::Failed => fatal,
        Status::TimedOut => plan.definition().timeout.is_some(),
        _ => true,
    };
    if !expected {
        found.push(format!("{:?} with admitted failures {admitted:?}, fatal {fatal}", record.status));
    }
    let told: BTreeSet<_> = record.errors.iter().map(|e| (e.node_id.as_str(), e.error_type.as_str(), e.on_error.as_str())).collect();
    if told != admitted || record.nodes_failed as usize != admitted.len() || record.nodes_skipped as usize != skipped.len() {
        found.push(format!("the record tells {told:?} {} {}, not {admitted:?}", record.nodes_failed, record.nodes_skipped));
    }
    found
}
