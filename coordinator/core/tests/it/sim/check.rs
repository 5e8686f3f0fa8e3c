//! What must be true when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use haltline_core::LogMessage;
use haltline_types::{
    Timestamp,
    definition::OnError,
    event::{Claims, CommandType, Event, EventType, event_id},
    record::{Record, Status},
};

use super::{fates, server::Class, workload, world::World};

/// How far the clocks of two processes may be apart.
const CLOCKS_APART: i64 = 400;

/// An event with its position and the time it was stored.
struct Stored<'w> {
    event: &'w Event,
    position: usize,
    at: u64,
}

/// All violations found.
pub fn check(w: &World) -> Vec<String> {
    let mut found = w.failures.clone();
    let mut logs: BTreeMap<&str, Vec<Stored>> = BTreeMap::new();
    let mut claims: BTreeMap<&str, Claims> = BTreeMap::new();
    for (position, entry) in w.server.log.iter().enumerate() {
        let claims = claims.entry(&entry.execution).or_default();
        match &entry.message {
            LogMessage::Command(command) => claims.take_in(command),
            // Readers leave out what a claim made void.
            LogMessage::Event(event) if claims.is_void(event) => {}
            LogMessage::Event(event) => logs.entry(&entry.execution).or_default().push(Stored { event, position, at: entry.at }),
        }
    }
    for id in logs.keys().filter(|id| !w.server.records.contains_key(**id)) {
        found.push(format!("{id}: events without a record"));
    }
    for (id, (_, record)) in &w.server.records {
        let events = logs.remove(id.as_str()).unwrap_or_default();
        for problem in execution(w, record, &events) {
            found.push(format!("{id} ({:?}, {}): {problem}", record.status, record.correlation.workflow_id));
        }
    }
    keys(w, &mut found);
    openings(w, &mut found);
    found
}

/// A start among the inputs is the first of them and the only one; an end that a worker told comes before any command.
fn openings(w: &World, found: &mut Vec<String>) {
    let (mut begun, mut commanded) = (BTreeSet::new(), BTreeSet::new());
    for entry in &w.server.log {
        let id = entry.execution.as_str();
        match &entry.message {
            LogMessage::Command(_) => {
                commanded.insert(id);
            }
            LogMessage::Event(_) if entry.class == Class::Note => {}
            LogMessage::Event(event) => {
                let first = begun.insert(id);
                if event.kind == EventType::ExecutionStarted && !first {
                    found.push(format!("{id}: started after an input"));
                }
                if event.kind.is_terminal() && commanded.contains(id) {
                    found.push(format!("{id}: a worker told the end after a command"));
                }
            }
        }
    }
}

/// Same key, same execution; every acknowledged one has its record.
fn keys(w: &World, found: &mut Vec<String>) {
    let mut by_key: BTreeMap<&str, &str> = BTreeMap::new();
    for (id, (_, r)) in &w.server.records {
        if let Some(other) = by_key.insert(&r.key, id) {
            found.push(format!("key {} has two records: {other}, {id}", r.key));
        }
    }
    for (key, id) in &w.acknowledged {
        if by_key.get(key.as_str()) != Some(&id.as_str()) {
            found.push(format!("key {key} was acknowledged as {id}, the record is {:?}", by_key.get(key.as_str())));
        }
    }
    for c in w.clients.iter().filter(|c| c.done) {
        let record = c.execution.as_ref().and_then(|id| w.server.records.get(id));
        if let (Some(saw), Some((_, r))) = (c.saw, record)
            && saw != r.status
        {
            found.push(format!("the client saw {:?} of {:?}, the record says {:?}", saw, c.execution, r.status));
        }
    }
}

fn execution(w: &World, record: &Record, events: &[Stored]) -> Vec<String> {
    let mut found = Vec::new();
    let id = record.correlation.execution_id.as_str();
    let overlapped = w.overlapped.contains(id);
    if !record.status.is_terminal() {
        return vec!["not terminal".into()];
    }
    // Readers drop repeats: the first of an id counts.
    let mut seen = BTreeSet::new();
    let first: Vec<&Stored> = events.iter().filter(|s| seen.insert(s.event.id.as_str())).collect();
    let terminal: Vec<&&Stored> = first.iter().filter(|s| s.event.kind.is_terminal()).collect();
    let [end] = terminal[..] else { return vec![format!("{} terminal events", terminal.len())] };
    if end.event.id != event_id::ended(id) {
        found.push(format!("terminal id {}", end.event.id));
    }
    for s in events.iter().filter(|s| s.event.kind.is_terminal()) {
        if s.event.status != end.event.status || s.event.event_count != end.event.event_count || s.event.results != end.event.results {
            found.push(format!(
                "two different ends: {:?} {:?} and {:?} {:?}",
                end.event.status, end.event.event_count, s.event.status, s.event.event_count
            ));
        }
    }
    if end.event.status.as_deref() != Some(record.status.as_str())
        || end.event.event_count != record.event_count
        || end.event.results.as_ref() != Some(&record.results)
    {
        found.push(format!(
            "the end says {:?} {:?}, the record {:?} {:?}",
            end.event.status, end.event.event_count, record.status, record.event_count
        ));
    }
    if first.first().is_none_or(|s| s.event.kind != EventType::ExecutionStarted) {
        found.push("execution_started is not the first event".into());
    }
    let counted = first.iter().filter(|s| s.position <= end.position).count() as u32;
    let told = record.event_count.unwrap_or(0);
    if told != counted {
        found.push(format!("event_count {told}, but {counted} distinct events up to the end"));
    }
    if let Some(late) = first.iter().find(|s| s.position > end.position) {
        found.push(format!("{} after the end", late.event.id));
    }
    order(record, &first, &mut found);
    results(record, &first, &mut found);
    let plan = workload::plan_of(&record.correlation.workflow_id).expect("known");
    let until_end: Vec<&Event> = first.iter().filter(|s| s.position <= end.position).map(|s| s.event).collect();
    found.extend(fates::check(&plan, record, &until_end));
    if record.status == Status::TimedOut && record.finished_at.is_none_or(|at| at.0 + CLOCKS_APART <= deadline(record).0) {
        found.push(format!("timed out at {:?}, before its deadline", record.finished_at));
    }
    let abandoned = w.server.log.iter().any(|e| e.execution == id && is_abandon(&e.message));
    market(w, record, end.at, overlapped || abandoned, &mut found);
    found
}

/// An execution was ended without a worker that did not answer: what that one had begun may come after.
fn is_abandon(message: &LogMessage) -> bool {
    matches!(message, LogMessage::Command(c) if c.kind == CommandType::Abandon)
}

/// Started before result; dependencies before dependents.
fn order(record: &Record, first: &[&Stored], found: &mut Vec<String>) {
    let plan = workload::plan_of(&record.correlation.workflow_id).expect("known");
    let position = |node: &str, kinds: &[EventType]| {
        first
            .iter()
            .filter(|s| s.event.node_id.as_deref() == Some(node) && kinds.contains(&s.event.kind) && !s.event.kind.is_terminal())
            .map(|s| s.position)
            .min()
    };
    for i in 0..plan.len() as u32 {
        let node = &plan.def(i).id;
        let started = position(node, &[EventType::NodeStarted]);
        let result = position(node, &[EventType::NodeCompleted, EventType::NodeFailed]);
        if let Some(result) = result
            && started.is_none_or(|s| s > result)
        {
            found.push(format!("node {node} has a result before it started"));
        }
        for dep in plan.node(i).deps.iter().map(|d| &plan.def(*d).id) {
            let lets_on = plan.find(dep).is_some_and(|d| matches!(plan.def(d).on_error, OnError::Continue | OnError::Use(_)));
            let kinds = if lets_on { &[EventType::NodeCompleted, EventType::NodeFailed][..] } else { &[EventType::NodeCompleted] };
            let done = position(dep, kinds);
            if let Some(started) = started
                && done.is_none_or(|d| d > started)
            {
                found.push(format!("node {node} started before its dependency {dep} was done"));
            }
        }
    }
}

fn deadline(record: &Record) -> Timestamp {
    let plan = workload::plan_of(&record.correlation.workflow_id).expect("known");
    let limit = plan.definition().timeout.map_or(i64::MAX / 2, |t| t.0 as i64);
    Timestamp(record.started_at.0 + limit)
}

/// The record's results are those of the log.
fn results(record: &Record, first: &[&Stored], found: &mut Vec<String>) {
    for (node, value) in record.results.iter() {
        // Of a node that was read again the last reading.
        let event = first.iter().rev().find(|s| s.event.kind == EventType::NodeCompleted && s.event.node_id.as_deref() == Some(node));
        let outputs = event.and_then(|s| s.event.outputs.clone());
        if outputs.as_ref() != Some(value) {
            found.push(format!("the record's result of {node} is {value:?}, the log's {outputs:?}"));
        }
    }
    if record.status == Status::Completed && record.results.len() != record.node_count as usize {
        found.push(format!("completed with {} results", record.results.len()));
    }
}

fn market(w: &World, record: &Record, ended_at: u64, overlapped: bool, found: &mut Vec<String>) {
    let id = &record.correlation.execution_id;
    let plan = workload::plan_of(&record.correlation.workflow_id).expect("known");
    for node in plan.definition().nodes.iter().filter(|n| n.kind == "order") {
        let fills: Vec<_> = w.market.orders.iter().filter(|(key, _)| key.split('#').next() == Some(&format!("{id}/{}", node.id))).collect();
        let count: u32 = fills.iter().map(|(_, f)| f.fills).sum();
        if count > 1 || (count == 0 && record.results.contains_key(&node.id)) {
            found.push(format!("order {} filled {count} times", node.id));
        }
        // Whoever goes on with it asks first: the market need not know repeats.
        let arrivals: u32 = fills.iter().map(|(_, f)| f.arrivals).sum();
        if !overlapped && arrivals > 1 {
            found.push(format!("order {} arrived {arrivals} times", node.id));
        }
        // Only a process that was frozen or cut off may come too late.
        if !overlapped && fills.iter().any(|(_, f)| f.filled_at > ended_at) {
            found.push(format!("order {} was filled after the end", node.id));
        }
    }
}
