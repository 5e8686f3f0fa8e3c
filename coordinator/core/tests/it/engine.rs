//! The engine by example: what it sends after an answer that was long in coming, and after one that says no.

use std::sync::Arc;

use haltline_core::{Beside, Body, Engine, Execution, Guard, Limits, Loaded, LogMessage, Out, Output, Plan};
use haltline_types::{
    Timestamp,
    control::Gate,
    error::Code,
    record::Record,
    submit::{Cancel, Reply, Submit},
    task::Task,
};
use serde_json::json;

use crate::{
    execution::work,
    sim::workload::{definition, node, types},
};

const LIMITS: Limits =
    Limits { executions_max: 10, segments: true, shards: 8, abandon_after_ms: 4_000, start_within_ms: 1_000, one_by_one: false };

fn writes(engine: &mut Engine) -> Vec<(u64, Body)> {
    std::iter::from_fn(|| engine.take()).filter_map(|out| if let Out::Write(id, body) = out { Some((id, body)) } else { None }).collect()
}

/// An engine whose first event of an execution of two nodes that run at once is on its way; with the number of that
/// write, and the tasks as another coordinator sends them.
fn waiting() -> (Engine, u64, Vec<Task>) {
    let (engine, start, record, plan) = created();
    let tasks = Execution::accept(record, plan).decide_all(true).into_iter();
    let tasks = tasks.filter_map(|o| if let Output::Task(task) = o { Some(*task) } else { None }).collect();
    (engine, start, tasks)
}

/// The same, with its record and plan.
fn created() -> (Engine, u64, Record, Arc<Plan>) {
    let plan = Arc::new(Plan::compile(&definition("w", vec![node("a", "give", &[]), node("b", "give", &[])]), &types()).expect("valid"));
    let mut engine = Engine::new(LIMITS, 0, 0);
    engine.set_guard(Guard::of(Gate::Open));
    let submit =
        Submit { workflow_id: "w".into(), version: None, input: json!({}), bot_id: None, strategy_id: None, key: "k".into(), notify: None };
    engine.submit(1, submit, plan.clone(), Timestamp(1));
    let Some((create, Body::Create(record))) = writes(&mut engine).pop() else { panic!("no record") };
    let record: Record = *record;
    engine.stored(create, 1);
    let start = writes(&mut engine);
    let [(start, Body::Note(_))] = &start[..] else { panic!("more than the first event: {start:?}") };
    (engine, *start, record, plan)
}

fn tasks(engine: &mut Engine) -> Vec<(String, bool)> {
    let tasks = writes(engine).into_iter().filter_map(|(_, body)| if let Body::Task(task) = body { Some(*task) } else { None });
    tasks.map(|task| (task.nodes[0].id.to_string(), task.recovered)).collect()
}

#[test]
fn a_task_whose_result_came_while_it_waited_is_not_sent() {
    let (mut engine, start, sent) = waiting();
    let of_a = sent.into_iter().find(|task| task.nodes[0].id == "a").expect("a task");
    let result = work(of_a, &Gate::Open, || Timestamp(2)).pop().expect("a result");
    engine.log_message(2, LogMessage::Event(Box::new(result)), Beside::default());
    assert_eq!(tasks(&mut engine), []);
    engine.stored(start, 1);
    assert_eq!(tasks(&mut engine), [("b".to_owned(), false)]);
}

#[test]
fn what_waited_for_a_write_that_was_sent_again_others_may_have_had() {
    let (mut engine, start, _) = waiting();
    engine.sent_again(start);
    engine.stored_before(start, 1);
    assert_eq!(tasks(&mut engine), [("a".to_owned(), true), ("b".to_owned(), true)]);
}

#[test]
fn what_a_server_refuses_is_counted_and_tried_again() {
    let (mut engine, start, record, plan) = created();
    let id = record.correlation.execution_id.clone();
    engine.refused(start, "too large");
    assert_eq!(engine.stuck(), 1);
    for _ in 0..6 {
        assert_eq!(engine.take(), None);
        engine.look_for_stuck();
    }
    let Some(Out::Load(of, None)) = engine.take() else { panic!("not read again") };
    assert_eq!(of, id);
    let record = Some((record, 1));
    engine.loaded(&id, Loaded { record, plan: Some(plan), queued: Vec::new(), history: Vec::new(), anothers: false });
    let again = writes(&mut engine);
    assert!(matches!(again[..], [(_, Body::Start(_))]), "{again:?}");
    // A successor would have to try it, too.
    assert_eq!(engine.floors(9).1, 0);
    engine.stored(again[0].0, 1);
    let tasks = writes(&mut engine);
    assert_eq!(tasks.len(), 2);
    tasks.into_iter().for_each(|(id, _)| engine.stored(id, 1));
    assert_eq!(engine.floors(9).1, 9);
}

#[test]
fn who_asked_for_what_a_server_refuses_is_told() {
    let (mut engine, start, record, _) = created();
    engine.stored(start, 1);
    writes(&mut engine);
    let execution_id = record.correlation.execution_id;
    engine.cancel(7, Cancel { execution_id, reason: "r".into(), by: "b".into() }, Timestamp(2));
    let Some((command, Body::Command(_))) = writes(&mut engine).pop() else { panic!("no command") };
    engine.refused(command, "too large");
    let Some(Out::Reply(7, Reply::Error(e))) = engine.take() else { panic!("no answer") };
    assert_eq!((e.code, e.message.as_str()), (Code::Internal, "the command could not be stored: too large"));
}
