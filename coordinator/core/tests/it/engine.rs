//! The engine by example: what it sends after an answer that was long in coming.

use std::sync::Arc;

use haltline_core::{Beside, Body, Engine, Execution, Guard, Limits, LogMessage, Out, Output, Plan};
use haltline_types::{Timestamp, control::Gate, record::Record, submit::Submit, task::Task};
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
    let tasks = Execution::accept(record, plan).decide_all(true).into_iter();
    let tasks = tasks.filter_map(|o| if let Output::Task(task) = o { Some(*task) } else { None }).collect();
    (engine, *start, tasks)
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
