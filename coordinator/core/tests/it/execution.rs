//! An execution by property: any graph, any order of completion.

use std::{collections::BTreeSet, sync::Arc};

use haltline_core::{After, Applied, Delivery, Execution, Input, LogMessage, Next, NodeOutcome, Output, Plan, STALE_INPUT, TaskRun};
use haltline_types::{
    Timestamp,
    control::{Flag, Gate, Level, OnHalt},
    definition::{Definition, OnError},
    event::{Command, CommandType, Correlation, Event, EventType, Resolution},
    record::{Record, Status},
    task::{Task, TaskInput},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::sim::{
    fates,
    rng::Rng,
    workload::{after, definition, fresh, node, stand_in, tolerant, types},
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

/// A random graph: edges only from earlier to later nodes. `lenient`: what a failure means is random. Of some
/// nodes, of the type `order`, nobody knows on their first attempt what they did.
fn graph(rng: &mut Rng, fails: bool, lenient: bool) -> Arc<Plan> {
    let reads = rng.chance(40);
    let n = rng.range(1, 14) as usize;
    let ids: Vec<String> = (0..n).map(|i| format!("n{i}")).collect();
    let nodes = (0..n)
        .map(|i| {
            let deps: Vec<&str> = (0..i).filter(|_| rng.chance(25)).map(|d| ids[d].as_str()).collect();
            let kind = match rng.range(0, 99) {
                n if fails && n < if lenient { 30 } else { 15 } => "fail",
                n if n >= 80 => "order",
                n if reads && n >= 50 => "quote",
                n if reads && n >= 35 => "calc",
                _ => "give",
            };
            let made = if lenient && rng.chance(30) { after(&ids[i], kind, &deps) } else { node(&ids[i], kind, &deps) };
            let on_error = match rng.range(0, 9) {
                _ if !lenient => OnError::Fail,
                0 => OnError::Fail,
                1..=3 => OnError::Skip,
                4..=6 => OnError::Continue,
                _ => stand_in(),
            };
            let made = if reads && rng.chance(50) { fresh(rng.range(5, 60), made) } else { made };
            tolerant(on_error, made)
        })
        .collect();
    let definition = Definition { on_halt: reads.then_some(OnHalt::Hold), ..definition("w", nodes) };
    Arc::new(Plan::compile(&definition, &types()).expect("valid"))
}

/// What one run of a graph showed.
struct Seen {
    execution: Execution,
    inputs: Vec<Input>,
    records: Vec<Record>,
    events: BTreeSet<String>,
    log: Vec<Event>,
    tasks: Vec<Task>,
    ends: Vec<(Event, Record)>,
}

/// Runs one task to its end; the events it published, the result last.
pub fn work(task: Task, gate: &Gate, mut clock: impl FnMut() -> Timestamp) -> Vec<Event> {
    let mut run = TaskRun::new(task, "worker", FIRST);
    let mut events = Vec::new();
    loop {
        match run.next(gate, clock()) {
            Next::End(mut last) => {
                events.append(&mut last);
                return events;
            }
            Next::Start { started, node, attempt, .. } => {
                events.extend(started.map(|e| *e));
                let outcome = match run.task().nodes[node].kind.as_str() {
                    "order" if attempt == 1 => {
                        let mut intent = run.intend(clock());
                        intent.key = Some("key".into());
                        run.effect(&intent);
                        events.push(intent);
                        NodeOutcome::Unknown { error_type: "Timeout".into(), message: "no answer".into() }
                    }
                    // At its effect it is too late.
                    "order" if run.inputs_until().is_some_and(|until| clock() > until) => {
                        NodeOutcome::Failed { error_type: STALE_INPUT.into(), message: "x".into(), retryable: false }
                    }
                    "fail" => NodeOutcome::Failed { error_type: "X".into(), message: "x".into(), retryable: false },
                    _ => NodeOutcome::Completed(Map::from_iter([("out".to_owned(), Value::Bool(true))])),
                };
                match run.after(outcome, gate, true, clock(), 1.0, |_, _| 0) {
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
        records: Vec::new(),
        log: Vec::new(),
        tasks: Vec::new(),
        ends: Vec::new(),
        execution: execution.clone(),
    };
    let mut open: Vec<Task> = Vec::new();
    let mut now = execution.record().started_at.0;
    let flag = Flag { state: Level::Halt, reason: "r".into(), by: "b".into(), revision: 2, ..Flag::default() };
    loop {
        for output in execution.decide_all(segments) {
            match output {
                Output::Note(event) => {
                    assert!(seen.events.insert(event.id.clone()), "told twice");
                    seen.log.push(*event);
                }
                Output::Standing(record) => seen.records.push(*record),
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
        assert_eq!(execution.decide_all(segments), Vec::new(), "deciding again decides nothing");
        if open.is_empty() {
            let unknown = seen.records.last().filter(|_| seen.ends.is_empty()).and_then(|r| r.unknown_nodes.first().cloned());
            let Some(unknown) = unknown else { break };
            let mut command = Command::new(CommandType::Resolve, "exec_w_1", Timestamp(7));
            command.nodes = vec![unknown.node_id];
            command.resolution = Some(*rng.pick(&[Resolution::Done, Resolution::Repeat, Resolution::Repeat, Resolution::Fail]));
            command.outputs = Some(Map::from_iter([("out".to_owned(), Value::Bool(true))]).into());
            let input = Input::Command(Box::new(command));
            assert_eq!(execution.apply(&input), Applied::Changed);
            assert_eq!(execution.clone().apply(&input), Applied::Ignored, "it is said once");
            seen.inputs.push(input);
            continue;
        }
        let task = open.swap_remove(rng.range(0, open.len() as u64 - 1) as usize);
        let gate = if halt_at.is_some_and(|n| seen.inputs.len() >= n) { Gate::Halted(flag.clone()) } else { Gate::Open };
        let events = work(task, &gate, || {
            now += rng.range(0, 8) as i64;
            Timestamp(now)
        });
        seen.events.extend(events.iter().map(|e| e.id.clone()));
        seen.log.extend(events.iter().cloned());
        let result = Input::Result(Box::new(events.into_iter().next_back().expect("a result")));
        execution.apply(&result);
        seen.inputs.push(result);
    }
    seen.execution = execution;
    seen
}

/// The node that an input makes fail.
fn failed_node(input: &Input) -> Option<&str> {
    match input {
        Input::Result(e) if e.kind == EventType::NodeFailed => e.node_id.as_deref(),
        Input::Command(c) if c.resolution == Some(Resolution::Fail) => c.nodes.first().map(|n| n.as_str()),
        Input::Result(_) | Input::Command(_) | Input::Abandoned(..) => None,
    }
}

proptest! {
    #[test]
    fn ends_once_and_counts_its_events(seed: u64, segments: bool, fails: bool) {
        let mut rng = Rng::new(seed);
        let plan = graph(&mut rng, fails, false);
        let seen = run(&plan, &mut rng, segments, None);
        prop_assert_eq!(seen.ends.len(), 1);
        let (event, record) = &seen.ends[0];
        prop_assert_eq!(event.event_count, Some(seen.events.len() as u32));
        prop_assert_eq!(record.event_count, event.event_count);
        // Dependents of a failed node are never dispatched, and a dispatched one misses nothing.
        let failed: BTreeSet<&str> = seen.inputs.iter().filter_map(failed_node).collect();
        prop_assert_eq!(record.status, if failed.is_empty() { Status::Completed } else { Status::Failed });
        prop_assert!(record.status != Status::Completed || record.unknown_nodes.is_empty());
        // Every task has an id of its own, also those that repeat a node.
        let ids: BTreeSet<&str> = seen.tasks.iter().map(|t| t.task_id.as_str()).collect();
        prop_assert_eq!(ids.len(), seen.tasks.len());
        // What was read again and failed then had let its dependents go on before.
        let again: BTreeSet<&str> = seen.log.iter().flat_map(|e| e.read_again.iter().map(|n| n.as_str())).collect();
        let failed: BTreeSet<&str> = failed.difference(&again).copied().collect();
        for task in &seen.tasks {
            let i = plan.find(&task.nodes[0].id).expect("known");
            prop_assert!(plan.node(i).deps.iter().all(|d| !failed.contains(plan.def(*d).id.as_str())));
            prop_assert!(task.nodes.iter().flat_map(|n| n.inputs.values()).all(|v| !matches!(v, TaskInput::Missing(_))));
        }
    }

    #[test]
    fn failures_do_what_on_error_says(seed: u64, segments: bool) {
        let mut rng = Rng::new(seed);
        let plan = graph(&mut rng, true, true);
        let seen = run(&plan, &mut rng, segments, None);
        prop_assert_eq!(seen.ends.len(), 1);
        let (event, record) = &seen.ends[0];
        prop_assert_eq!(event.event_count, Some(seen.events.len() as u32));
        prop_assert_eq!(&event.errors, &record.errors);
        prop_assert_eq!(event.status.as_deref(), Some(record.status.as_str()));
        let log: Vec<&Event> = seen.log.iter().collect();
        prop_assert_eq!(fates::check(&plan, record, &log), Vec::<String>::new());
    }

    #[test]
    fn a_rebuilt_state_is_the_live_one(seed: u64, segments: bool, fails: bool, lenient: bool) {
        let mut rng = Rng::new(seed);
        let plan = graph(&mut rng, fails, lenient);
        let seen = run(&plan, &mut rng, segments, None);
        let mut again = Execution::accept(record(&plan), plan.clone());
        again.decide_all(segments);
        for input in &seen.inputs {
            again.apply(input);
            again.decide_all(segments);
        }
        prop_assert_eq!(&again, &seen.execution);
        // What comes after the end changes nothing.
        for input in &seen.inputs {
            again.apply(input);
        }
        prop_assert_eq!(&again, &seen.execution);
    }

    #[test]
    fn a_halt_ends_as_halted(seed: u64, segments: bool, lenient: bool, at in 0usize..6) {
        let mut rng = Rng::new(seed);
        let plan = graph(&mut rng, lenient, lenient);
        let seen = run(&plan, &mut rng, segments, Some(at));
        prop_assert_eq!(seen.ends.len(), 1);
        let halted = seen.inputs.iter().any(|i| matches!(i, Input::Result(e) if e.halted.is_some()));
        let failed = seen.inputs.iter().any(|i| failed_node(i).is_some());
        let status = seen.ends[0].1.status;
        // A halt is no failure: `on_error` does not apply. A failure before it stands.
        let expected = if halted {
            status == Status::Halted || (failed && status == Status::Failed)
        } else {
            status == Status::Completed || (failed && status != Status::Halted)
        };
        prop_assert!(expected, "{:?}", status);
        prop_assert_eq!(seen.ends[0].0.event_count, Some(seen.events.len() as u32));
    }
}

#[test]
fn a_halt_at_the_last_node_is_a_halt() {
    let plan = Arc::new(Plan::compile(&definition("w", vec![node("a", "give", &[])]), &types()).expect("valid"));
    let mut execution = Execution::accept(record(&plan), plan);
    execution.decide_all(true);
    let c = Correlation { execution_id: "exec_w_1".into(), workflow_id: "w".into(), bot_id: "".into(), strategy_id: "".into() };
    let mut result = Event::new(EventType::NodeCompleted, "exec_w_1/a/result".into(), &c, Timestamp(1));
    result.node_id = Some("a".into());
    result.task_events = Some(2);
    result.halted = Some(Flag::unreadable("gone", 3, None));
    execution.apply(&Input::Result(Box::new(result)));
    let out = execution.decide_all(true);
    assert!(matches!(&out[..], [Output::End(e, r)] if r.status == Status::Halted && r.nodes_completed == 1 && e.event_count == Some(4)));
}

#[test]
fn independent_nodes_go_out_together() {
    let plan =
        Arc::new(Plan::compile(&definition("w", (0..5).map(|i| node(&format!("n{i}"), "give", &[])).collect()), &types()).expect("valid"));
    assert_eq!(Execution::accept(record(&plan), plan).decide_all(true).len(), 5);
}

#[test]
fn a_missing_output_is_missing() {
    let plan = Arc::new(Plan::compile(&definition("w", vec![node("a", "give", &[]), node("b", "give", &["a"])]), &types()).expect("valid"));
    let mut execution = Execution::accept(record(&plan), plan);
    let Some(Output::Task(task)) = execution.decide_all(false).pop() else { panic!("a task") };
    let mut run = TaskRun::new(*task, "w", FIRST);
    run.next(&Gate::Open, Timestamp(0));
    let After::End(e) = run.after(NodeOutcome::Completed(Map::new()), &Gate::Open, false, Timestamp(0), 1.0, |_, _| 0) else {
        panic!("an end")
    };
    execution.apply(&Input::Result(e));
    let Some(Output::Task(task)) = execution.decide_all(false).pop() else { panic!("a task") };
    assert!(matches!(&task.nodes[0].inputs["a"], TaskInput::Missing(why) if why.contains('a')));
    let end = work(*task, &Gate::Open, || Timestamp(0));
    assert_eq!(end.last().and_then(|e| e.error_type.as_deref()), Some("MissingInput"));
}

fn lenient(on_error: OnError) -> Execution {
    let nodes = vec![tolerant(on_error, node("a", "fail", &[])), node("b", "give", &["a"]), after("c", "give", &["b"])];
    let plan = Arc::new(Plan::compile(&definition("w", nodes), &types()).expect("valid"));
    Execution::accept(record(&plan), plan)
}

/// The first task of an execution, and its end when its worker's clock says `now`.
fn first_end(execution: &mut Execution, now: i64) -> Event {
    let Some(Output::Task(task)) = execution.decide_all(true).pop() else { panic!("a task") };
    let mut run = TaskRun::new(*task, "w", FIRST);
    match run.next(&Gate::Open, Timestamp(now)) {
        Next::End(mut events) => events.pop().expect("a result"),
        Next::Start { .. } => {
            let failed = NodeOutcome::Failed { error_type: "X".into(), message: "é".repeat(300), retryable: false };
            let After::End(e) = run.after(failed, &Gate::Open, true, Timestamp(now), 1.0, |_, _| 0) else { panic!("an end") };
            *e
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_segment_goes_on_behind_a_failure() {
    let mut execution = lenient(stand_in());
    let event = first_end(&mut execution, 0);
    execution.apply(&Input::Result(Box::new(event)));
    let out = execution.decide_all(true);
    let [Output::Task(task)] = &out[..] else { panic!("{out:?}") };
    // The worker may have begun with it, if two walked through the task: it is to read the log.
    assert!(task.recovered && task.nodes.len() == 2, "{task:?}");
    assert_eq!(task.nodes[0].inputs["a"], TaskInput::Value(json!("stand-in")));
    let mut execution = lenient(OnError::Continue);
    let event = first_end(&mut execution, 0);
    execution.apply(&Input::Result(Box::new(event)));
    let Some(Output::Task(task)) = execution.decide_all(true).pop() else { panic!("a task") };
    assert!(matches!(&task.nodes[0].inputs["a"], TaskInput::Missing(why) if why.contains("node `a` failed")), "{task:?}");
}

#[test]
fn skipped_nodes_name_the_failed_one_and_long_errors_are_cut() {
    let mut execution = lenient(OnError::Skip);
    let event = first_end(&mut execution, 0);
    execution.apply(&Input::Result(Box::new(event)));
    let out = execution.decide_all(true);
    let [Output::Note(b), Output::Note(c), Output::End(end, record)] = &out[..] else { panic!("{out:?}") };
    assert_eq!((b.id.as_str(), c.id.as_str()), ("exec_w_1/b/skipped", "exec_w_1/c/skipped"));
    assert!([b, c].iter().all(|e| e.kind == EventType::NodeSkipped));
    assert!([b, c].iter().all(|e| e.reason.as_deref().is_some_and(|r| r.contains("`a`"))));
    assert_eq!((record.status, record.nodes_failed, record.nodes_skipped), (Status::CompletedWithErrors, 1, 2));
    assert!(record.errors[0].error.len() < 300 && record.errors[0].error.ends_with('…'), "{record:?}");
    assert_eq!((end.event_count, end.kind), (Some(6), EventType::ExecutionCompleted));
}

#[test]
fn a_refusal_is_no_failure() {
    // Long after its deadline: the default is 30 days.
    for on_error in [OnError::Skip, OnError::Continue, stand_in()] {
        let mut execution = lenient(on_error);
        let event = first_end(&mut execution, i64::MAX / 2);
        assert_eq!((event.kind, event.error_type.as_deref()), (EventType::NodeRefused, Some("DeadlineExceeded")));
        execution.apply(&Input::Result(Box::new(event)));
        let out = execution.decide_all(true);
        let [Output::End(end, record)] = &out[..] else { panic!("{out:?}") };
        assert_eq!((end.kind, record.status), (EventType::ExecutionTimedOut, Status::TimedOut));
        assert!(record.error.as_deref().is_some_and(|e| e.contains("deadline")) && record.errors.is_empty(), "{record:?}");
    }
}

#[test]
fn a_time_out_stops_what_waits_and_its_workers_say_so() {
    let mut execution = lenient(OnError::Fail);
    let Some(Output::Task(task)) = execution.decide_all(true).pop() else { panic!("a task") };
    let mut run = TaskRun::new(*task, "w", FIRST);
    assert!(matches!(run.next(&Gate::Open, Timestamp(0)), Next::Start { .. }));
    let command = Command::new(CommandType::Timeout, "exec_w_1", execution.deadline());
    execution.apply(&Input::Command(Box::new(command.clone())));
    assert_eq!(execution.decide_all(true), Vec::new(), "the node runs");
    // The first reason stands: a cancel that comes later changes nothing.
    run.command(&command);
    run.cancel("somebody", "late");
    let After::End(event) = run.after(NodeOutcome::Cancelled, &Gate::Open, true, Timestamp(0), 1.0, |_, _| 0) else { panic!("an end") };
    execution.apply(&Input::Result(event));
    let out = execution.decide_all(true);
    assert!(matches!(&out[..], [Output::End(_, r)] if r.status == Status::TimedOut), "{out:?}");
}

/// Two nodes in sequence, dispatched as one task.
fn chain() -> (Execution, Box<Task>) {
    let nodes = vec![node("a", "give", &[]), node("b", "give", &["a"])];
    let plan = Arc::new(Plan::compile(&definition("w", nodes), &types()).expect("valid"));
    let mut execution = Execution::accept(record(&plan), plan);
    let Some(Output::Task(task)) = execution.decide_all(true).pop() else { panic!("no task") };
    (execution, task)
}

/// A clock that goes on by one each time.
fn ticking() -> impl FnMut() -> Timestamp {
    let mut now = 0;
    move || {
        now += 1;
        Timestamp(now)
    }
}

/// Two walks have one task, and the second has claimed what is left. Of the first that is not known to it: a cancel
/// makes it end what it takes for its task. The end waits for the one that goes on, and counts its events.
#[test]
fn a_cancel_waits_for_the_walk_that_claimed_the_task() {
    let (mut execution, task) = chain();
    let mut clock = ticking();
    let only_a = Task { nodes: task.nodes[..1].to_vec(), ..(*task).clone() };
    let first = work(only_a, &Gate::Open, &mut clock).pop().expect("an end");
    let second = work(Task { token: task.token + 1, ..*task }, &Gate::Open, &mut clock);
    let claimed = second[0].token;
    let claim = Command {
        nodes: vec!["b".into()],
        token: claimed,
        by: "other/2".into(),
        ..Command::new(CommandType::Claim, "exec_w_1", Timestamp(2))
    };
    execution.apply(&Input::Command(Box::new(claim)));
    execution.apply(&Input::Command(Box::new(Command::new(CommandType::Cancel, "exec_w_1", Timestamp(3)))));
    assert_eq!(execution.apply(&Input::Result(Box::new(first))), Applied::Changed);
    assert_eq!(execution.decide_all(true), [], "the other one goes on");
    assert_eq!(execution.apply(&Input::Result(Box::new(second.last().expect("an end").clone()))), Applied::Changed);
    let Some(Output::End(event, _)) = execution.decide_all(true).pop() else { panic!("no end") };
    assert_eq!(event.kind, EventType::ExecutionCancelled);
    assert_eq!(event.event_count, Some(2 + second.len() as u32));
}

/// Two walks of one task: the one whose claim is below the other's is overtaken, whichever was stored first.
#[test]
fn who_has_the_lower_claim_is_overtaken() {
    let (_, task) = chain();
    let walk = |deliveries| TaskRun::new((*task).clone(), "w", Delivery { deliveries, again: false, walk: deliveries });
    let (mut one, mut other) = (walk(2), walk(3));
    let claim = |walk: &mut TaskRun| LogMessage::Command(Box::new(walk.claim(Timestamp(1))));
    let (below, above) = (claim(&mut one), claim(&mut other));
    assert!(!one.is_overtaken([&below]) && one.is_overtaken([&below, &above]) && one.is_overtaken([&above]));
    assert!(!other.is_overtaken([&below, &above]));
}

/// Two walks have one chain. The first has tried its second node, and tries again after the other one's claim, which makes
/// that void; then it hands the rest back. Whoever runs that counts what stands.
#[test]
fn what_is_handed_back_after_a_claim_is_counted_by_the_log() {
    let (mut execution, task) = chain();
    let mut clock = ticking();
    let done = || NodeOutcome::Completed(Map::from_iter([("out".to_owned(), Value::Bool(true))]));
    let failed = || NodeOutcome::Failed { error_type: "X".into(), message: "x".into(), retryable: true };
    let mut run = TaskRun::new((*task).clone(), "w", FIRST);
    let (mut log, mut told) = (Vec::new(), 0);
    for outcome in [done(), failed(), failed()] {
        if told == 2 {
            let mut other = TaskRun::new((*task).clone(), "w", Delivery { deliveries: 2, again: false, walk: 2 });
            other.learn(&log);
            let claim = other.claim(clock());
            execution.apply(&Input::Command(Box::new(claim.clone())));
            log.push(LogMessage::Command(Box::new(claim)));
        }
        let Next::Start { started, .. } = run.next(&Gate::Open, clock()) else { panic!("no start") };
        log.extend(started.map(LogMessage::Event));
        match run.after(outcome, &Gate::Open, true, clock(), 1.0, |_, _| 0) {
            After::Note(e) | After::Retry(e, _) => log.push(LogMessage::Event(e)),
            After::End(e) => panic!("ended: {e:?}"),
        }
        told += 1;
    }
    let handed = run.hand_back(clock()).expect("a is done");
    assert_eq!((handed.task_events, handed.rest_events), (Some(2), Some(4)));
    execution.apply(&Input::Result(Box::new(handed.clone())));
    log.push(LogMessage::Event(Box::new(handed)));
    let Some(Output::Task(rest)) = execution.decide_all(true).pop() else { panic!("no rest") };
    let mut run = TaskRun::new(*rest, "w", FIRST);
    run.learn(&log);
    let claim = run.claim(clock());
    execution.apply(&Input::Command(Box::new(claim.clone())));
    log.push(LogMessage::Command(Box::new(claim)));
    run.learn(&log);
    assert!(!run.must_claim());
    execution.apply(&Input::Command(Box::new(Command::new(CommandType::Cancel, "exec_w_1", clock()))));
    run.cancel("me", "no more");
    let Next::End(mut last) = run.next(&Gate::Open, clock()) else { panic!("it goes on") };
    execution.apply(&Input::Result(Box::new(last.pop().expect("a result"))));
    let Some(Output::End(end, _)) = execution.decide_all(true).pop() else { panic!("no end") };
    // The first event, two of `a`, the start and the retry of `b` before the claim, that it was cancelled, and the end.
    assert_eq!(end.event_count, Some(7));
}
