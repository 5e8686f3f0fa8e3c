//! The workflows that are run, and what has to come of each. Their mix is steady.

use serde_json::{Value, json};

use super::{
    check::{Expected, Workflow},
    rng::Rng,
};

/// Attempts and delays that outlast every way to the market that is cut.
fn patient() -> Value {
    json!({ "attempts": 20, "delay": "200ms", "factor": 1.3 })
}

/// A shape: a workflow, how often it is run, what has to come of it.
pub struct Shape {
    /// Definition and expectation, as the checker knows it.
    pub workflow: Workflow,
    /// How often, out of the sum of all.
    pub weight: u64,
    /// Cancelled after up to so many milliseconds.
    pub cancelled_within_ms: Option<u64>,
    /// The least an execution takes: what its nodes sleep and wait.
    pub least_ms: u64,
}

/// All shapes. `market` is where orders go.
pub fn all(market: &str) -> Vec<Shape> {
    vec![
        shape("chain", 30, 0, chain(market), &["completed"], json!({ "buy": { "status": "filled" } })),
        // One task that its worker begins and ends; and the same while it is cancelled.
        shape("computed", 20, 0, computed(), &["completed"], json!({ "last": { "n": 3 } })),
        Shape { cancelled_within_ms: Some(5), ..shape("raced", 10, 0, computed(), &["completed", "cancelled"], json!({})) },
        shape("diamonds", 12, 0, diamonds(), &["completed"], json!({ "end": { "n": 3 } })),
        shape("fan", 8, 0, fan(), &["completed"], json!({ "last": { "n": 1 } })),
        shape("retry", 10, 300, retry(), &["completed"], json!({ "flaky": { "attempt": 3 }, "after": { "attempt": 3 } })),
        shape("broken", 6, 0, broken(), &["failed"], json!({})),
        shape("naps", 12, 2500, naps(market), &["completed"], json!({ "buy": { "status": "filled" } })),
        shape("join", 8, 2500, join(), &["completed"], json!({ "all": { "n": 3 } })),
        shape("orders", 8, 0, orders(market), &["completed"], json!({ "left": { "side": "buy" }, "right": { "side": "sell" } })),
        shape("large", 6, 0, large(), &["completed"], json!({ "left": { "value": "5" }, "right": { "value": "5" } })),
        Shape { cancelled_within_ms: Some(2500), ..shape("cancelled", 8, 1500, cancelled(market), &["completed", "cancelled"], json!({})) },
        // What ends it depends on how far it got.
        shape("deadline", 4, 1500, deadline(), &["completed", "failed", "timed_out"], json!({})),
    ]
}

/// One of the shapes, by weight.
pub fn draw<'s>(shapes: &'s [Shape], rng: &mut Rng) -> Option<&'s Shape> {
    let mut at = rng.range(1, shapes.iter().map(|s| s.weight).sum());
    shapes.iter().find(|s| {
        let here = at <= s.weight;
        at = at.saturating_sub(s.weight);
        here
    })
}

fn shape(id: &str, weight: u64, least_ms: u64, nodes: Value, statuses: &[&str], outputs: Value) -> Shape {
    let mut definition = json!({ "id": id, "version": "1", "bot_id": "torture", "nodes": nodes });
    if id == "deadline" {
        definition["timeout"] = json!("1500ms");
    }
    let expected = Expected { statuses: statuses.iter().map(|s| (*s).to_owned()).collect(), outputs };
    Shape { workflow: Workflow { definition, expected }, weight, cancelled_within_ms: None, least_ms }
}

fn order(id: &str, market: &str, side: &str, inputs: Value, depends_on: Value) -> Value {
    json!({ "id": id, "category": "actions", "type": "paper_order", "depends_on": depends_on, "inputs": inputs, "timeout": "5s",
            "params": { "market": market, "side": side, "quantity": "10", "symbol": "IBM" }, "retry": patient() })
}

fn chain(market: &str) -> Value {
    json!([
        { "id": "price", "category": "providers", "type": "http", "timeout": "5s", "retry": patient(),
          "params": { "url": format!("{market}/price/IBM?date=2008-10-10"), "extract": { "close": "/close" } } },
        { "id": "cheap", "category": "conditions", "type": "threshold", "params": { "max": "1000" },
          "inputs": { "value": { "node": "price", "output": "close" } } },
        order("buy", market, "buy", json!({ "signal": { "node": "cheap", "output": "pass" } }), json!([])),
    ])
}

fn fixed(id: &str, n: u64, inputs: Value) -> Value {
    json!({ "id": id, "type": "static", "params": { "outputs": { "n": n } }, "inputs": inputs })
}

fn from(node: &str, output: &str) -> Value {
    json!({ "node": node, "output": output })
}

fn diamonds() -> Value {
    json!([
        fixed("start", 1, json!({})),
        fixed("a", 1, json!({ "x": from("start", "n") })),
        fixed("b", 2, json!({ "x": from("start", "n") })),
        fixed("middle", 2, json!({ "x": from("a", "n"), "y": from("b", "n") })),
        fixed("c", 3, json!({ "x": from("middle", "n") })),
        fixed("d", 4, json!({ "x": from("middle", "n") })),
        fixed("end", 3, json!({ "x": from("c", "n"), "y": from("d", "n") })),
    ])
}

fn fan() -> Value {
    const WIDTH: u64 = 10;
    let mut nodes = vec![fixed("first", 1, json!({}))];
    let mut inputs = json!({});
    for i in 1..=WIDTH {
        nodes.push(fixed(&format!("f{i}"), i, json!({ "x": from("first", "n") })));
        inputs[format!("x{i}")] = from(&format!("f{i}"), "n");
    }
    nodes.push(fixed("last", 1, inputs));
    Value::Array(nodes)
}

fn retry() -> Value {
    json!([
        fixed("start", 1, json!({})),
        { "id": "flaky", "type": "fail", "params": { "attempts": 2, "error_type": "Timeout" }, "depends_on": ["start"],
          "retry": { "attempts": 4, "delay": "100ms" } },
        { "id": "after", "type": "static", "inputs": { "attempt": from("flaky", "attempt") } },
    ])
}

fn computed() -> Value {
    json!([
        fixed("first", 1, json!({})),
        { "id": "test", "type": "threshold", "params": { "max": 5 }, "inputs": { "value": from("first", "n") } },
        fixed("last", 3, json!({ "x": from("test", "value") })),
    ])
}

fn broken() -> Value {
    json!([
        fixed("start", 1, json!({})),
        { "id": "bad", "type": "fail", "params": { "message": "on purpose" }, "depends_on": ["start"] },
        fixed("never", 1, json!({ "x": from("bad", "attempt") })),
    ])
}

fn naps(market: &str) -> Value {
    json!([
        { "id": "nap", "type": "sleep", "params": { "duration": "1500ms" } },
        order("buy", market, "buy", json!({}), json!(["nap"])),
        { "id": "rest", "type": "sleep", "params": { "duration": "1s" }, "depends_on": ["buy"] },
    ])
}

/// For seconds some of its tasks have ended and some have not.
fn join() -> Value {
    let nap = |id: &str, duration: &str| json!({ "id": id, "type": "sleep", "params": { "duration": duration } });
    let inputs = json!({ "x": from("short", "slept_ms"), "y": from("longer", "slept_ms"), "z": from("longest", "slept_ms") });
    json!([nap("short", "500ms"), nap("longer", "1500ms"), nap("longest", "2500ms"), fixed("all", 3, inputs)])
}

/// What it hands on is too large for a message.
fn large() -> Value {
    let test = |id: &str| json!({ "id": id, "type": "threshold", "params": { "max": 5 }, "inputs": { "value": from("start", "/big/n") } });
    let big = json!({ "n": 5, "of": "x".repeat(80_000) });
    json!([{ "id": "start", "type": "static", "params": { "outputs": { "big": big } } }, test("left"), test("right")])
}

fn orders(market: &str) -> Value {
    json!([
        fixed("start", 1, json!({})),
        order("left", market, "buy", json!({}), json!(["start"])),
        order("right", market, "sell", json!({}), json!(["start"])),
        fixed("end", 1, json!({ "a": from("left", "order_id"), "b": from("right", "order_id") })),
    ])
}

fn cancelled(market: &str) -> Value {
    json!([
        { "id": "one", "type": "sleep", "params": { "duration": "1s" } },
        { "id": "other", "type": "sleep", "params": { "duration": "1500ms" } },
        order("buy", market, "buy", json!({}), json!(["one", "other"])),
    ])
}

fn deadline() -> Value {
    json!([
        { "id": "nap", "type": "sleep", "params": { "duration": "1200ms" } },
        fixed("end", 1, json!({ "x": from("nap", "slept_ms") })),
    ])
}

#[cfg(test)]
mod tests {
    use haltline_common::{definitions, types::catalog::built_in_types};
    use haltline_core::Plan;

    use super::*;

    #[test]
    fn every_shape_is_a_valid_workflow_and_is_drawn() {
        let shapes = all("http://127.0.0.1:1");
        let types = built_in_types();
        for shape in &shapes {
            let definition = definitions::from_value(shape.workflow.definition.clone()).unwrap();
            assert!(Plan::compile(&definition, &types).is_ok(), "{}", definition.id);
        }
        let mut rng = Rng::new(1, 1);
        let drawn: std::collections::BTreeSet<String> =
            (0..2000).filter_map(|_| draw(&shapes, &mut rng)).map(|s| s.workflow.id().to_owned()).collect();
        assert_eq!(drawn.len(), shapes.len());
    }
}
