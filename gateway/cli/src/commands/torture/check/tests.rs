//! Every rule of the checker on a bad history that was made by hand, and all of them on a good one:
//! how it is known that the checker can fail.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Asked, Expected, Findings, Message, Remains, Submission, Workflow, judge};

const ID: &str = "exec_w_1";

/// A history that holds: two nodes in sequence, the second one an order, the first one repeated once.
struct History {
    log: Vec<(&'static str, Value)>,
    record: Value,
    tasks: Vec<Value>,
    floors: Vec<(String, u64)>,
    ledger: Vec<Value>,
    server_starts: Option<Vec<i64>>,
    lost_tasks: Vec<String>,
    submission: Submission,
}

fn event(kind: &str, id: &str, more: Value) -> Value {
    let mut e = json!({ "type": kind, "id": format!("{ID}/{id}"), "execution_id": ID, "workflow_id": "w" });
    e.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    e
}

fn node(kind: &str, node: &str, id: &str, token: u64, more: Value) -> Value {
    let mut e = event(kind, &format!("{node}/{id}"), json!({ "node_id": node, "token": token, "attempt": 1 }));
    e.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    e
}

fn claim(nodes: &[&str], token: u64) -> (&'static str, Value) {
    ("command", json!({ "type": "claim", "execution_id": ID, "nodes": nodes, "token": token, "by": "worker-2" }))
}

fn good() -> History {
    let order = json!({ "status": "filled", "order_id": "paper-1" });
    let results = json!({ "a": { "n": 1 }, "buy": order });
    let ledger = json!({ "key": format!("{ID}/buy"), "token": 10, "outcome": "accepted", "execution_id": ID, "order_id": "paper-1" });
    History {
        log: vec![
            ("note", event("execution_started", "started", json!({}))),
            ("note", node("node_started", "a", "1/started", 10, json!({}))),
            ("note", node("node_retrying", "a", "1/retrying", 10, json!({}))),
            ("note", node("node_started", "a", "2/started", 10, json!({ "attempt": 2 }))),
            ("note", node("node_completed", "a", "result", 10, json!({ "outputs": { "n": 1 }, "attempt": 2 }))),
            ("note", node("node_started", "buy", "1/started", 10, json!({}))),
            ("note", node("effect_intended", "buy", "1/intended", 10, json!({}))),
            (
                "input",
                node(
                    "node_completed",
                    "buy",
                    "result",
                    10,
                    json!({ "outputs": order, "task_events": 7, "segment": [{ "node_id": "a", "outputs": { "n": 1 } }] }),
                ),
            ),
            ("note", event("execution_completed", "ended", json!({ "status": "completed", "event_count": 9, "results": results }))),
        ],
        record: json!({ "execution_id": ID, "workflow_id": "w", "key": "k", "status": "completed", "event_count": 9, "results": results, "duration_ms": 5.0 }),
        tasks: vec![],
        floors: vec![("t".into(), 0)],
        ledger: vec![ledger],
        server_starts: None,
        lost_tasks: vec![],
        submission: Submission { key: "k".into(), workflow: "w".into(), told: BTreeSet::from([ID.to_owned()]), ..Submission::default() },
    }
}

impl History {
    fn check(&self) -> Findings {
        let id = |body: &Value| {
            let end = if body["task_events"].is_null() { "" } else { "/end" };
            body["msg_id"].as_str().map_or_else(|| format!("{}{end}", body["id"].as_str().unwrap_or("command")), str::to_owned)
        };
        let message = |seq: usize, subject: String, body: &Value| Message {
            seq: seq as u64,
            subject,
            id: Some(id(body)),
            time_ms: 10 * seq as i64,
            body: body.to_string().into_bytes(),
        };
        let subject = |kind: &str| match kind {
            "command" => format!("t.events.0.input.{ID}.command"),
            kind => format!("t.events.0.{kind}.{ID}"),
        };
        let log = self.log.iter().enumerate().map(|(i, (kind, body))| message(i + 1, subject(kind), body)).collect();
        let records = Some(&self.record).filter(|r| !r.is_null()).map(|r| message(1, format!("kv.{ID}"), r)).into_iter().collect();
        let tasks = self.tasks.iter().map(|t| message(1, "t".into(), t)).collect();
        let definition = json!({ "id": "w", "nodes": [
            { "id": "a", "type": "static" },
            { "id": "buy", "type": "paper_order", "inputs": { "x": { "node": "a", "output": "n" } } } ] });
        let expected = Expected { statuses: vec!["completed".into()], outputs: json!({ "a": { "n": 1 } }) };
        let asked =
            Asked { workflows: [("w".to_owned(), Workflow { definition, expected })].into(), submissions: vec![self.submission.clone()] };
        judge(
            &asked,
            &Remains {
                log,
                records,
                tasks,
                floors: self.floors.clone(),
                ledger: self.ledger.clone(),
                server_starts: self.server_starts.clone(),
                lost_tasks: self.lost_tasks.clone(),
            },
        )
    }

    fn at(&mut self, kind: &str) -> &mut Value {
        let found = self.log.iter_mut().find(|(_, e)| e["type"] == kind);
        &mut found.unwrap().1
    }

    fn place(&self, kind: &str, node: &str) -> usize {
        self.log.iter().position(|(_, e)| e["type"] == kind && (node.is_empty() || e["node_id"] == node)).unwrap()
    }
}

/// The kinds of what is found after `plant` made the good history bad.
fn kinds(plant: impl FnOnce(&mut History)) -> BTreeSet<&'static str> {
    let mut history = good();
    plant(&mut history);
    history.check().violations.iter().map(|v| v.kind).collect()
}

fn fires(kind: &'static str, plant: impl FnOnce(&mut History)) {
    let found = kinds(plant);
    assert!(found.contains(kind), "{kind} is not among {found:?}");
}

fn silent(plant: impl FnOnce(&mut History)) -> Findings {
    let mut history = good();
    plant(&mut history);
    let found = history.check();
    assert!(found.violations.is_empty(), "{:?}", found.violations);
    found
}

#[test]
fn a_good_history_is_good() {
    let found = silent(|_| {});
    assert_eq!(found.durations[ID], 80.0);
    assert_eq!((found.effects, found.repeats, found.void, found.statuses["completed"]), (1, 0, 0, 1));
}

#[test]
fn repeats_and_what_is_void_do_no_harm() {
    // Stored again, word for word, also after the end.
    let found = silent(|h| {
        let again = h.log[4].clone();
        h.log.insert(5, again.clone());
        h.log.push(again);
        let end = h.log[9].clone();
        h.log.push(end);
    });
    assert_eq!(found.repeats, 3);
    // A result that was told before and ends the task now, by another worker.
    let found = silent(|h| {
        let told = node("node_completed", "a", "result", 11, json!({ "outputs": { "n": 1 }, "task_events": 4 }));
        h.log.insert(5, ("input", told));
    });
    assert_eq!(found.repeats, 1);
    // Another worker claims; what the first one stores afterwards does not count.
    let found = silent(|h| {
        h.log.insert(5, claim(&["buy"], 20));
        h.log.insert(6, ("note", node("node_started", "buy", "1/started", 10, json!({ "worker_id": "late" }))));
        for kind in ["node_started", "effect_intended", "node_completed"] {
            for (_, e) in h.log[7..].iter_mut().filter(|(_, e)| e["type"] == kind) {
                e["token"] = 21.into();
            }
        }
        h.log.push(("note", node("node_retrying", "a", "2/retrying", 10, json!({}))));
    });
    assert_eq!(found.void, 2);
    // What workers store after an execution was abandoned does not count: of this one all of it was.
    fires("incomplete", |h| h.log.insert(7, ("command", json!({ "type": "abandon", "execution_id": ID }))));
    // A claim that is not above the highest one is void itself.
    silent(|h| {
        h.log.insert(1, claim(&["a", "buy"], 10));
        h.log.insert(2, claim(&["a", "buy"], 9));
    });
}

#[test]
fn acknowledged_submissions_are_there_once() {
    fires("lost", |h| {
        h.record = Value::Null;
        h.log.clear();
        h.ledger.clear();
    });
    fires("lost", |h| h.record["key"] = "other".into());
    fires("uninvited", |h| h.record["key"] = "other".into());
    fires("two_executions", |h| {
        h.submission.told.insert("exec_w_2".into());
    });
    fires("refused_but_runs", |h| {
        h.submission.told.clear();
        h.submission.refused = Some("no".into());
    });
    fires("no_record", |h| h.record = Value::Null);
    fires("no_events", |h| h.log.clear());
    // One that the client gave up on may exist, if it has ended.
    silent(|h| h.submission.told.clear());
}

#[test]
fn it_ends_once_and_everyone_agrees() {
    fires("stuck", |h| h.record["status"] = "running".into());
    fires("stuck", |h| h.record["status"] = "unknown".into());
    fires("no_end", |h| drop(h.log.pop()));
    fires("two_ends", |h| {
        h.log.push(("note", event("execution_failed", "ended", json!({ "status": "failed", "event_count": 9 }))));
    });
    fires("two_ends", |h| {
        h.log.push(("note", event("execution_failed", "other", json!({ "status": "failed", "event_count": 9 }))));
    });
    fires("disagree", |h| h.record["status"] = "failed".into());
    // Another submission wrote over the record.
    fires("disagree", |h| h.record["started_at"] = "1970-01-01T00:00:01.000Z".into());
    fires("disagree", |h| h.record["results"]["a"]["n"] = 2.into());
    fires("disagree", |h| {
        h.record["results"]["a"]["n"] = 2.into();
        h.at("execution_completed")["results"]["a"]["n"] = 2.into();
    });
    fires("disagree", |h| h.at("execution_completed")["status"] = "failed".into());
    fires("incomplete", |h| h.record["event_count"] = 8.into());
    fires("incomplete", |h| drop(h.log.remove(2)));
    fires("unexpected", |h| {
        h.record["status"] = "failed".into();
        h.at("execution_completed")["status"] = "failed".into();
        h.at("execution_completed")["type"] = "execution_failed".into();
    });
    fires("unexpected", |h| {
        for at in [4, 7, 8] {
            let text = h.log[at].1.to_string().replace("\"n\":1", "\"n\":2");
            h.log[at].1 = serde_json::from_str(&text).unwrap();
        }
        h.record["results"]["a"]["n"] = 2.into();
    });
    let task = json!({ "execution_id": ID, "task_id": format!("{ID}/a/1") });
    fires("leftover_task", |h| h.tasks.push(task.clone()));
    // One that was acknowledged and that the server did not remove does no harm once all has ended.
    let forget = |h: &mut History| {
        h.tasks.push(task.clone());
        h.floors[0].1 = 1;
    };
    assert_eq!(silent(forget).orphans, 1);
    fires("leftover_task", |h| {
        forget(h);
        h.record["status"] = "running".into();
    });
}

#[test]
fn a_cancel_is_final() {
    let cancel = ("command", json!({ "type": "cancel", "execution_id": ID, "by": "someone" }));
    fires("not_stopped", |h| h.log.insert(7, cancel.clone()));
    // Too late: everything was done.
    silent(|h| h.log.insert(8, cancel.clone()));
}

#[test]
fn events_are_stored_once_in_order() {
    fires("two_contents", |h| {
        let mut other = h.log[3].clone();
        other.1["worker_id"] = "worker-2".into();
        h.log.insert(4, other);
    });
    fires("order", |h| h.log.swap(0, 1));
    // The order starts before the node it depends on ends.
    fires("order", |h| h.log.swap(4, 5));
    // A result before its start.
    fires("order", |h| {
        let (start, end) = (h.place("node_started", "buy"), h.place("node_completed", "buy"));
        h.log.swap(start, end);
    });
    // Started again after its result.
    fires("order", |h| h.log.insert(5, ("note", node("node_started", "a", "3/started", 10, json!({ "attempt": 3 })))));
    // An attempt that nothing announced.
    fires("order", |h| drop(h.log.remove(2)));
    // A segment that tells another result than the log.
    fires("order", |h| h.log[7].1["segment"][0]["outputs"]["n"] = 2.into());
    // Message ids by which the server would not recognise a repeat, or would take another message for one.
    for bad in ["", "draw-1", "exec_w_1/buy/result", "exec_w_1/buy/result/end@11"] {
        fires("message_id", |h| h.log[7].1["msg_id"] = bad.into());
    }
    silent(|h| h.log[7].1["msg_id"] = "exec_w_1/buy/result/end@10".into());
    fires("misplaced", |h| h.log[2].1["execution_id"] = "exec_w_2".into());
    fires("unreadable", |h| h.record = json!({ "status": "completed" }));
}

#[test]
fn nothing_is_committed_after_it_was_fenced() {
    // A claim comes before the result of the worker it fences off, which is taken nevertheless.
    fires("fenced", |h| h.log.insert(7, claim(&["buy"], 20)));
    // The claim of one node fences off no other.
    let found = kinds(|h| h.log.insert(7, claim(&["a"], 20)));
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_the_server_remembers_is_stored_once() {
    let again = |h: &mut History, starts: Option<Vec<i64>>| {
        let again = h.log[4].clone();
        h.log.insert(5, again);
        h.server_starts = starts;
    };
    fires("stored_twice", |h| again(h, Some(vec![])));
    fires("stored_twice", |h| again(h, Some(vec![-60_000])));
    // It forgot: it was started again, or others lead.
    silent(|h| again(h, Some(vec![55])));
    silent(|h| again(h, None));
    // Another message with the same id.
    let other = kinds(|h| {
        again(h, Some(vec![]));
        h.log[5].1["worker_id"] = "worker-2".into();
    });
    assert!(!other.contains("stored_twice"), "{other:?}");
}

#[test]
fn tasks_leave_the_queue_when_their_result_is_stored() {
    fires("lost_task", |h| h.lost_tasks.push(format!("{ID}/a/1")));
    // The late acknowledgement of a worker whose result was void.
    let late = kinds(|h| {
        h.lost_tasks.push(format!("{ID}/a/1"));
        h.log.insert(7, claim(&["a", "buy"], 20));
    });
    assert!(!late.contains("lost_task"), "{late:?}");
}

/// The order is placed at `placed`; the attempt after it began at 70 ms, intends and places it again.
fn repeated(h: &mut History, placed: &str) {
    h.log.insert(6, ("note", node("node_retrying", "buy", "1/retrying", 10, json!({}))));
    h.log.insert(7, ("note", node("effect_intended", "buy", "2/intended", 10, json!({}))));
    let mut again = h.ledger[0].clone();
    again["outcome"] = "duplicate".into();
    again["time"] = "1970-01-01T00:00:00.100Z".into();
    h.ledger[0]["time"] = placed.into();
    h.ledger.push(again);
}

#[test]
fn what_may_have_happened_is_asked_for() {
    fires("not_asked", |h| repeated(h, "1970-01-01T00:00:00.010Z"));
    // It was on its way when it was asked for.
    let late = kinds(|h| repeated(h, "1970-01-01T00:00:00.090Z"));
    assert!(!late.contains("not_asked"), "{late:?}");
    // What a claim had made void before it was stored.
    let void = kinds(|h| {
        repeated(h, "1970-01-01T00:00:00.010Z");
        h.ledger[0]["token"] = 9.into();
    });
    assert!(!void.contains("not_asked"), "{void:?}");
}

#[test]
fn fills_have_causes_and_orders_have_fills() {
    fires("filled_twice", |h| {
        let again = h.ledger[0].clone();
        h.ledger.push(again);
    });
    fires("no_fill", |h| h.ledger.clear());
    fires("no_fill", |h| h.ledger[0]["order_id"] = "paper-2".into());
    fires("stray_fill", |h| {
        h.ledger.push(json!({ "key": "exec_w_9/buy", "outcome": "accepted", "execution_id": "exec_w_9", "order_id": "paper-9" }));
    });
    // A fill of a node that was never about to act.
    fires("stray_fill", |h| {
        h.ledger.push(json!({ "key": format!("{ID}/other"), "outcome": "accepted", "execution_id": ID, "order_id": "paper-9" }));
    });
    // Without an intent, where the engine stores intents for others.
    let acted = |h: &mut History, intent: bool| {
        h.log.truncate(8);
        h.log.remove(7);
        if !intent {
            h.log[6].1["node_id"] = "a".into();
        }
        h.log.push(("input", node("node_failed", "buy", "result", 10, json!({ "error": "no answer", "task_events": 7 }))));
        h.log.push((
            "note",
            event("execution_failed", "ended", json!({ "status": "failed", "event_count": 9, "results": { "a": { "n": 1 } } })),
        ));
        h.record["status"] = "failed".into();
        h.record["results"] = json!({ "a": { "n": 1 } });
    };
    fires("stray_fill", |h| acted(h, false));
    assert!(!kinds(|h| acted(h, true)).contains("stray_fill"));
    // Arrivals that were refused or recognised are no fills.
    let found = silent(|h| {
        for outcome in ["duplicate", "stale"] {
            let mut again = h.ledger[0].clone();
            again["outcome"] = outcome.into();
            h.ledger.push(again);
        }
    });
    assert_eq!(found.effects, 1);
}
