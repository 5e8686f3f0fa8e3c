//! An execution by property: any graph, any order of completion.

use std::{collections::BTreeSet, sync::Arc};

use haltline_core::{After, Delivery, Execution, Input, Next, NodeOutcome, Output, Plan, TaskRun};
use haltline_types::{
    Timestamp,
    control::{Flag, Gate, Level},
    event::{Correlation, Event, EventType},
    record::{Record, Status},
    task::{Task, TaskInput},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::sim::{
    rng::Rng,
    workload::{definition, node, types},
};

/// The first delivery of a task.
const FIRST: Delivery = Delivery { deliveries: 1, again: false, walk: 1 };

fn record(plan: &Plan) -> Record {
    serde_json::from_value(json!({
        "v": 1, "execution_id": "exec_w_1", "workflow_id": "w", "status": "running", "workflow_version": "1", "shard": 0,
        "node_count": plan.len(), "nodes_completed": 0, "started_at": "2026-01-01T00:00:00.000Z", "key": "k", "body": "b",
    }))
    .expect("a record")
}

/// A random graph: edges only from earlier to later nodes.
fn graph(rng: &mut Rng, fails: bool) -> Arc<Plan> {
    let n = rng.range(1, 14) as usize;
    let ids: Vec<String> = (0..n).map(|i| format!("n{i}")).collect();
    let nodes = (0..n)
        .map(|i| {
            let deps: Vec<&str> = (0..i).filter(|_| rng.chance(25)).map(|d| ids[d].as_str()).collect();
            node(&ids[i], if fails && rng.chance(15) { "fail" } else { "give" }, &deps)
        })
        .collect();
    Arc::new(Plan::compile(&definition("w", nodes), &types()).expect("valid"))
}

/// What one run of a graph showed.
struct Seen {
    execution: Execution,
    inputs: Vec<Event>,
    events: BTreeSet<String>,
    tasks: Vec<Task>,
    ends: Vec<(Event, Record)>,
}

/// Runs one task to its end; the events it published, the result last.
fn work(task: Task, gate: &Gate) -> Vec<Event> {
    let mut run = TaskRun::new(task, "worker", FIRST);
    let mut events = Vec::new();
    loop {
        match run.next(gate, Timestamp(0)) {
            Next::End(mut last) => {
                events.append(&mut last);
                return events;
            }
            Next::Start { started, node, .. } => {
                events.extend(started.map(|e| *e));
                let outcome = match run.task().nodes[node].kind.as_str() {
                    "fail" => NodeOutcome::Failed { error_type: "X".into(), message: "x".into(), retryable: false },
                    _ => NodeOutcome::Completed(Map::from_iter([("out".to_owned(), Value::Bool(true))])),
                };
                match run.after(outcome, gate, true, Timestamp(0), 1.0, |_, _| 0) {
                    After::Note(e) => events.push(*e),
                    After::End(e) => {
                        events.push(*e);
                        return events;
                    }
                    After::Retry(..) => unreachable!("nothing here is retryable"),
                }
            }
            Next::Finished | Next::Wait(_) => unreachable!("a fresh task under a sure gate"),
        }
    }
}

fn run(plan: &Arc<Plan>, rng: &mut Rng, segments: bool, halt_at: Option<usize>) -> Seen {
    let mut execution = Execution::accept(record(plan), plan.clone());
    let mut seen = Seen {
        events: BTreeSet::from([execution.started_event().id]),
        inputs: Vec::new(),
        tasks: Vec::new(),
        ends: Vec::new(),
        execution: execution.clone(),
    };
    let mut open: Vec<Task> = Vec::new();
    let flag = Flag { state: Level::Halt, reason: "r".into(), by: "b".into(), at: None, revision: 2 };
    loop {
        for output in execution.decide(true, segments) {
            match output {
                Output::Task(task) => {
                    seen.tasks.push((*task).clone());
                    open.push(*task);
                }
                Output::End(event, record) => {
                    seen.events.insert(event.id.clone());
                    seen.ends.push((*event, *record));
                }
            }
        }
        assert_eq!(execution.decide(true, segments), Vec::new(), "deciding again decides nothing");
        if open.is_empty() {
            break;
        }
        let task = open.swap_remove(rng.range(0, open.len() as u64 - 1) as usize);
        let gate = if halt_at.is_some_and(|n| seen.inputs.len() >= n) { Gate::Halted(flag.clone()) } else { Gate::Open };
        let events = work(task, &gate);
        seen.events.extend(events.iter().map(|e| e.id.clone()));
        let result = events.into_iter().next_back().expect("a result");
        execution.apply(&Input::Result(Box::new(result.clone())));
        seen.inputs.push(result);
    }
    seen.execution = execution;
    seen
}

proptest! {
    #[test]
    fn ends_once_and_counts_its_events(seed: u64, segments: bool, fails: bool) {
        let mut rng = Rng::new(seed);
        let plan = graph(&mut rng, fails);
        let seen = run(&plan, &mut rng, segments, None);
        prop_assert_eq!(seen.ends.len(), 1);
        let (event, record) = &seen.ends[0];
        prop_assert_eq!(event.event_count, Some(seen.events.len() as u32));
        prop_assert_eq!(record.event_count, event.event_count);
        // Dependents of a failed node are never dispatched, and a dispatched one misses nothing.
        let failed: BTreeSet<&str> = seen.inputs.iter().filter(|e| e.kind == EventType::NodeFailed).filter_map(|e| e.node_id.as_deref()).collect();
        prop_assert_eq!(record.status, if failed.is_empty() { Status::Completed } else { Status::Failed });
        for task in &seen.tasks {
            let i = plan.find(&task.nodes[0].id).expect("known");
            prop_assert!(plan.node(i).deps.iter().all(|d| !failed.contains(plan.def(*d).id.as_str())));
            prop_assert!(task.nodes.iter().flat_map(|n| n.inputs.values()).all(|v| !matches!(v, TaskInput::Missing(_))));
        }
    }

    #[test]
    fn a_rebuilt_state_is_the_live_one(seed: u64, segments: bool, fails: bool) {
        let mut rng = Rng::new(seed);
        let plan = graph(&mut rng, fails);
        let seen = run(&plan, &mut rng, segments, None);
        let mut again = Execution::accept(record(&plan), plan.clone());
        again.decide(true, segments);
        for input in &seen.inputs {
            again.apply(&Input::Result(Box::new(input.clone())));
            again.decide(true, segments);
        }
        prop_assert_eq!(&again, &seen.execution);
        // What comes after the end changes nothing.
        for input in &seen.inputs {
            again.apply(&Input::Result(Box::new(input.clone())));
        }
        prop_assert_eq!(&again, &seen.execution);
    }

    #[test]
    fn a_halt_ends_as_halted(seed: u64, segments: bool, at in 0usize..6) {
        let mut rng = Rng::new(seed);
        let plan = graph(&mut rng, false);
        let seen = run(&plan, &mut rng, segments, Some(at));
        prop_assert_eq!(seen.ends.len(), 1);
        let halted = seen.inputs.iter().any(|e| e.halted.is_some());
        prop_assert_eq!(seen.ends[0].1.status, if halted { Status::Halted } else { Status::Completed });
        prop_assert_eq!(seen.ends[0].0.event_count, Some(seen.events.len() as u32));
    }
}

#[test]
fn a_halt_at_the_last_node_is_a_halt() {
    let plan = Arc::new(Plan::compile(&definition("w", vec![node("a", "give", &[])]), &types()).expect("valid"));
    let mut execution = Execution::accept(record(&plan), plan);
    execution.decide(true, true);
    let c = Correlation { execution_id: "exec_w_1".into(), workflow_id: "w".into(), bot_id: String::new(), strategy_id: String::new() };
    let mut result = Event::new(EventType::NodeCompleted, "exec_w_1/a/result".into(), &c, Timestamp(1));
    result.node_id = Some("a".into());
    result.task_events = Some(2);
    result.halted = Some(Flag::unreadable("gone", 3, None));
    execution.apply(&Input::Result(Box::new(result)));
    let out = execution.decide(true, true);
    assert!(matches!(&out[..], [Output::End(e, r)] if r.status == Status::Halted && r.nodes_completed == 1 && e.event_count == Some(4)));
}

#[test]
fn independent_nodes_go_out_together() {
    let plan =
        Arc::new(Plan::compile(&definition("w", (0..5).map(|i| node(&format!("n{i}"), "give", &[])).collect()), &types()).expect("valid"));
    assert_eq!(Execution::accept(record(&plan), plan).decide(true, true).len(), 5);
}

#[test]
fn a_missing_output_is_missing() {
    let plan = Arc::new(Plan::compile(&definition("w", vec![node("a", "give", &[]), node("b", "give", &["a"])]), &types()).expect("valid"));
    let mut execution = Execution::accept(record(&plan), plan);
    let Some(Output::Task(task)) = execution.decide(true, false).pop() else { panic!("a task") };
    let mut run = TaskRun::new(*task, "w", FIRST);
    run.next(&Gate::Open, Timestamp(0));
    let After::End(e) = run.after(NodeOutcome::Completed(Map::new()), &Gate::Open, false, Timestamp(0), 1.0, |_, _| 0) else {
        panic!("an end")
    };
    execution.apply(&Input::Result(e));
    let Some(Output::Task(task)) = execution.decide(true, false).pop() else { panic!("a task") };
    assert!(matches!(&task.nodes[0].inputs["a"], TaskInput::Missing(why) if why.contains('a')));
    let end = work(*task, &Gate::Open);
    assert_eq!(end.last().and_then(|e| e.error_type.as_deref()), Some("MissingInput"));
}
