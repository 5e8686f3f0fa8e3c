//! Workflows that the tests run.

use haltline_client::Submit;
use haltline_common::{definitions, types::definition::Definition};
use serde_json::{Value, json};

/// A definition with those nodes.
///
/// # Errors
/// When it has not the shape of one.
pub fn workflow(id: &str, nodes: Value) -> anyhow::Result<Definition> {
    Ok(definitions::from_value(json!({ "id": id, "version": "1", "bot_id": "bot", "strategy_id": "dips", "nodes": nodes }))?)
}

/// A submission of it.
pub fn submission(definition: &Definition, key: &str, input: Value) -> Submit {
    Submit {
        workflow_id: definition.id.clone(),
        version: Some(definition.version.clone()),
        input,
        bot_id: None,
        strategy_id: None,
        key: key.into(),
        notify: None,
    }
}

/// The order that every trading shape ends with: node `buy`, if `signal` says so.
fn buy(signal: Value, depends_on: Value) -> Value {
    json!({ "id": "buy", "category": "actions", "type": "paper_order", "depends_on": depends_on,
            "params": { "side": "buy", "quantity": "10", "symbol": "IBM" },
            "inputs": { "market": { "input": "market" }, "signal": signal } })
}

/// A price, a condition, an order: one chain.
///
/// # Errors
/// As [`workflow`].
pub fn chain(id: &str) -> anyhow::Result<Definition> {
    workflow(
        id,
        json!([
            { "id": "price", "category": "providers", "type": "static", "params": { "outputs": { "close": "99.5" } } },
            { "id": "cheap", "category": "conditions", "type": "threshold", "params": { "max": 100 },
              "inputs": { "value": { "node": "price", "output": "close" } } },
            buy(json!({ "node": "cheap", "output": "pass" }), json!([])),
        ]),
    )
}

/// A price and two conditions: one chain that only computes.
///
/// # Errors
/// As [`workflow`].
pub fn computing(id: &str) -> anyhow::Result<Definition> {
    let condition = |name: &str, value: Value| json!({ "id": name, "category": "conditions", "type": "threshold", "params": { "max": 100 }, "inputs": { "value": value } });
    workflow(
        id,
        json!([
            { "id": "price", "category": "providers", "type": "static", "params": { "outputs": { "close": "99.5" } } },
            condition("cheap", json!({ "node": "price", "output": "close" })),
            condition("again", json!({ "node": "cheap", "output": "value" })),
        ]),
    )
}

/// The same with a price in a book that is too large for a message.
///
/// # Errors
/// As [`workflow`].
pub fn large(id: &str) -> anyhow::Result<Definition> {
    let book = json!({ "close": "99.5", "of": "x".repeat(100 * 1024) });
    workflow(
        id,
        json!([
            { "id": "price", "type": "static", "params": { "outputs": { "book": book } } },
            { "id": "cheap", "type": "threshold", "params": { "max": 100 }, "inputs": { "value": { "node": "price", "output": "/book/close" } } },
            buy(json!({ "node": "cheap", "output": "pass" }), json!([])),
        ]),
    )
}

/// The same with a condition that fails once in a way that is worth another attempt.
///
/// # Errors
/// As [`workflow`].
pub fn retrying(id: &str) -> anyhow::Result<Definition> {
    workflow(
        id,
        json!([
            { "id": "price", "type": "static", "params": { "outputs": { "close": "99.5" } } },
            { "id": "flaky", "type": "fail", "params": { "attempts": 1, "error_type": "Timeout" },
              "retry": { "attempts": 3, "delay": "50ms" }, "depends_on": ["price"] },
            buy(json!({ "value": true }), json!(["flaky"])),
        ]),
    )
}

/// A price by HTTP, two conditions at once, an order that waits for both.
///
/// # Errors
/// As [`workflow`].
pub fn parallel(id: &str) -> anyhow::Result<Definition> {
    let condition = |name: &str| json!({ "id": name, "type": "threshold", "params": { "max": 1000 }, "inputs": { "value": { "node": "price", "output": "close" } } });
    workflow(
        id,
        json!([
            { "id": "price", "type": "http", "inputs": { "url": { "input": "price_url" } }, "params": { "extract": { "close": "/close" } } },
            condition("cheap"),
            condition("calm"),
            buy(json!({ "node": "cheap", "output": "pass" }), json!(["calm"])),
        ]),
    )
}

/// Two waits at once, then an order.
///
/// # Errors
/// As [`workflow`].
pub fn waiting(id: &str, one: &str, other: &str) -> anyhow::Result<Definition> {
    workflow(
        id,
        json!([
            { "id": "one", "type": "sleep", "params": { "duration": one } },
            { "id": "other", "type": "sleep", "params": { "duration": other } },
            buy(json!({ "value": true }), json!(["one", "other"])),
        ]),
    )
}

/// A failure that skips two nodes, beside an order.
///
/// # Errors
/// As [`workflow`].
pub fn skipping(id: &str) -> anyhow::Result<Definition> {
    workflow(
        id,
        json!([
            { "id": "bad", "type": "fail", "on_error": "skip" },
            { "id": "behind", "type": "log", "params": { "message": "never" }, "depends_on": ["bad"] },
            { "id": "further", "type": "log", "params": { "message": "never" }, "depends_on": ["behind", "buy"] },
            buy(json!({ "value": true }), json!([])),
        ]),
    )
}
