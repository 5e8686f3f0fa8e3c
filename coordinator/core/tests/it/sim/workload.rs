//! What runs: small workflows that between them have every shape.

use std::sync::{Arc, OnceLock};

use haltline_core::Plan;
use haltline_types::{
    Millis,
    catalog::{Effect, NodeType},
    control::OnHalt,
    definition::{Definition, InputRef, NodeDef, NodeRef, OnError, RetryPolicy},
};
use serde_json::json;

/// Types of the simulation: their names say what they do.
pub fn types() -> Vec<NodeType> {
    let acting = ["give", "flaky", "fail", "order"].iter().map(|n| NodeType::new(*n, Effect::OpensRisk));
    acting.chain([NodeType::new("quote", Effect::Observes), NodeType::new("calc", Effect::Neutral).computing()]).collect()
}

/// A node whose inputs may be so many milliseconds old.
pub fn fresh(ms: u64, node: NodeDef) -> NodeDef {
    NodeDef { max_input_age: Some(Millis(ms)), ..node }
}

/// A node that depends on others by their output `out`.
pub fn node(id: &str, kind: &str, deps: &[&str]) -> NodeDef {
    NodeDef {
        inputs: deps.iter().map(|d| ((*d).to_owned(), InputRef::Node(NodeRef { node: (*d).into(), output: "out".into() }))).collect(),
        retry: Some(RetryPolicy { attempts: 4, delay: Millis(20), factor: 1.0 }),
        ..NodeDef::new(id, kind)
    }
}

/// The same with what its failure means.
pub fn tolerant(on_error: OnError, node: NodeDef) -> NodeDef {
    NodeDef { on_error, ..node }
}

/// What stands for the outputs of a node that failed.
pub fn stand_in() -> OnError {
    OnError::Use(serde_json::Map::from_iter([("out".to_owned(), json!("stand-in"))]).into())
}

/// A node that only waits for others.
pub fn after(id: &str, kind: &str, deps: &[&str]) -> NodeDef {
    NodeDef { depends_on: deps.iter().map(|d| (*d).to_owned()).collect(), ..node(id, kind, &[]) }
}

/// A definition of nodes.
pub fn definition(id: &str, nodes: Vec<NodeDef>) -> Definition {
    Definition::new(id, "1", nodes)
}

/// The workflow that always skips nodes.
pub const SKIPS: usize = 5;
/// The one with a deadline.
const TIMED: usize = 8;
/// The one that reads again what is too old. A halt that is never lowered it would wait for without end.
pub const READS: usize = 9;

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
            // A diamond with a failure on one side.
            vec![
                tolerant(OnError::Skip, node("bad", "fail", &[])),
                node("behind", "order", &["bad"]),
                node("free", "order", &[]),
                node("join", "order", &["free", "behind"]),
                node("last", "flaky", &["free"]),
            ],
            // Chains that go on behind a failure, with and without what it should have given.
            vec![
                node("first", "give", &[]),
                tolerant(stand_in(), node("shaky", "fail", &["first"])),
                node("user", "order", &["first", "shaky"]),
                tolerant(OnError::Continue, node("gone", "fail", &["user"])),
                after("waits", "order", &["gone"]),
                tolerant(OnError::Skip, node("needs", "give", &["gone"])),
                after("skipped", "order", &["needs"]),
            ],
            // Failures that are let pass, and one that is not.
            vec![
                tolerant(OnError::Skip, node("a", "fail", &[])),
                node("b", "order", &["a"]),
                node("c", "flaky", &[]),
                node("d", "fail", &["c"]),
                tolerant(stand_in(), node("e", "fail", &["d"])),
            ],
            // A deadline that some runs keep.
            vec![node("s", "give", &[]), node("t", "order", &["s"]), node("u", "flaky", &["t"]), node("v", "order", &["u"])],
            // Readings that wait for something else, alone and for two.
            vec![
                node("quote", "quote", &[]),
                node("calc", "calc", &["quote"]),
                node("slow", "flaky", &[]),
                fresh(40, NodeDef { depends_on: vec!["slow".into()], ..node("one", "order", &["calc", "quote"]) }),
                fresh(60, NodeDef { depends_on: vec!["slow".into()], ..node("two", "order", &["quote"]) }),
                node("last", "give", &["one", "calc"]),
            ],
        ];
        let timeout = |i| (i == TIMED).then_some(Millis(120));
        let compile = |(i, nodes)| {
            let on_halt = (i == READS).then_some(OnHalt::Hold);
            let d = Definition { timeout: timeout(i), on_halt, ..definition(&format!("w{i}"), nodes) };
            Arc::new(Plan::compile(&d, &types()).expect("valid"))
        };
        all.into_iter().enumerate().map(compile).collect()
    })
}

/// The plan of a workflow.
pub fn plan_of(workflow: &str) -> Option<Arc<Plan>> {
    plans().iter().find(|p| p.definition().id == workflow).cloned()
}
