//! What runs: small workflows that between them have every shape.

use std::sync::{Arc, OnceLock};

use haltline_core::Plan;
use haltline_types::{
    Millis,
    catalog::{Effect, NodeType},
    definition::{Definition, InputRef, NodeDef, NodeRef, RetryPolicy},
};
use serde_json::json;

/// Types of the simulation: their names say what they do.
pub fn types() -> Vec<NodeType> {
    ["give", "flaky", "fail", "order"]
        .iter()
        .map(|n| NodeType { name: (*n).into(), description: String::new(), effect: Effect::Acts, required: Vec::new() })
        .collect()
}

/// A node that depends on others by their output `out`.
pub fn node(id: &str, kind: &str, deps: &[&str]) -> NodeDef {
    NodeDef {
        id: id.into(),
        name: String::new(),
        category: String::new(),
        kind: kind.into(),
        params: serde_json::Map::new(),
        inputs: deps.iter().map(|d| ((*d).to_owned(), InputRef::Node(NodeRef { node: (*d).into(), output: "out".into() }))).collect(),
        depends_on: Vec::new(),
        timeout: None,
        retry: Some(RetryPolicy { attempts: 4, delay: Millis(20), factor: 1.0 }),
        ui: serde_json::Value::Null,
    }
}

/// A definition of nodes.
pub fn definition(id: &str, nodes: Vec<NodeDef>) -> Definition {
    Definition {
        id: id.into(),
        name: String::new(),
        version: "1".into(),
        description: String::new(),
        bot_id: String::new(),
        strategy_id: String::new(),
        timeout: None,
        nodes,
        ui: json!(null),
    }
}

/// The workflows. The first has a segment, a retry and an order: every run has it.
pub fn plans() -> &'static [Arc<Plan>] {
    static PLANS: OnceLock<Vec<Arc<Plan>>> = OnceLock::new();
    PLANS.get_or_init(|| {
        let all = [
            vec![node("price", "give", &[]), node("gate", "flaky", &["price"]), node("order", "order", &["price", "gate"])],
            vec![
                node("a", "give", &[]),
                node("b", "order", &["a"]),
                node("c", "flaky", &["a"]),
                node("d", "give", &["b", "c"]),
                node("e", "order", &["d"]),
            ],
            vec![node("x", "order", &[]), node("y", "give", &[]), node("z", "flaky", &[])],
            vec![node("bad", "fail", &[]), node("p", "order", &[]), node("q", "give", &["p"]), node("r", "order", &["bad"])],
            vec![node("only", "order", &[])],
        ];
        let compile = |(i, nodes)| Arc::new(Plan::compile(&definition(&format!("w{i}"), nodes), &types()).expect("valid"));
        all.into_iter().enumerate().map(compile).collect()
    })
}

/// The plan of a workflow.
pub fn plan_of(workflow: &str) -> Option<Arc<Plan>> {
    plans().iter().find(|p| p.definition().id == workflow).cloned()
}
