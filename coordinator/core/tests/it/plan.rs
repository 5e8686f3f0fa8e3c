//! Definitions: what is wrong with them is named, and large ones are fast.

use std::time::{Duration, Instant};

use haltline_core::{Plan, Problem};
use haltline_types::{
    definition::{NodeDef, OnError},
    limits::{NODES_MAX, OUTPUT_BYTES_MAX},
};

use crate::sim::workload::{definition, node, stand_in, tolerant, types};

fn compile(nodes: Vec<NodeDef>) -> Result<Plan, Vec<Problem>> {
    Plan::compile(&definition("w", nodes), &types())
}

fn problem(nodes: Vec<NodeDef>) -> Problem {
    compile(nodes).expect_err("invalid").remove(0)
}

/// The chain that starts at a node, by ids.
fn chain(plan: &Plan, head: &str) -> Vec<String> {
    let mut at = plan.find(head);
    let mut ids = Vec::new();
    while let Some(i) = at {
        ids.push(plan.def(i).id.to_string());
        at = plan.node(i).chain_next;
    }
    ids
}

#[test]
fn problems_name_node_and_field() {
    let p = problem(vec![node("a", "nonsense", &[])]);
    assert_eq!((p.field.as_str(), p.node.as_deref()), ("nodes[0].type", Some("a")));
    assert!(p.message.contains("nonsense") && p.message.contains("order"));
    let p = problem(vec![node("a", "give", &["ghost"])]);
    assert_eq!(p.field, "nodes[0].inputs.ghost");
    assert!(p.message.contains("ghost"));
    let p = problem(vec![node("a", "give", &[]), node("a", "give", &[])]);
    assert_eq!(p.field, "nodes[1].id");
    let p = problem(vec![node("a", "give", &["a"])]);
    assert!(p.message.contains("itself"));
    assert_eq!(problem(Vec::new()).field, "nodes");
}

#[test]
fn a_stand_in_has_what_is_needed() {
    let p = problem(vec![tolerant(OnError::Use(serde_json::Map::new().into()), node("a", "give", &[])), node("b", "give", &["a"])]);
    assert_eq!((p.field.as_str(), p.node.as_deref()), ("nodes[0].on_error.use", Some("a")));
    assert!(p.message.contains("`out`") && p.message.contains("`b`"), "{p}");
    let large = OnError::Use(serde_json::Map::from_iter([("out".to_owned(), "x".repeat(OUTPUT_BYTES_MAX).into())]).into());
    let p = problem(vec![tolerant(large, node("a", "give", &[])), node("b", "give", &["a"])]);
    assert_eq!(p.field, "nodes[0].on_error.use");
    assert!(compile(vec![tolerant(stand_in(), node("a", "give", &[])), node("b", "give", &["a"])]).is_ok());
}

#[test]
fn a_cycle_is_named() {
    let p = problem(vec![node("s", "give", &[]), node("a", "give", &["s", "c"]), node("b", "give", &["a"]), node("c", "give", &["b"])]);
    assert!(["a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"].iter().any(|c| p.message.contains(c)), "{}", p.message);
}

#[test]
fn large_definitions_are_fast_and_larger_ones_refused() {
    let ids: Vec<String> = (0..=NODES_MAX).map(|i| format!("n{i}")).collect();
    let make = |n: usize| {
        (0..n)
            .map(|i| {
                node(
                    &ids[i],
                    "give",
                    if i == 0 { &[] } else { std::slice::from_ref(&ids[i - 1]) }.iter().map(String::as_str).collect::<Vec<_>>().as_slice(),
                )
            })
            .collect::<Vec<_>>()
    };
    let begin = Instant::now();
    assert_eq!(compile(make(NODES_MAX)).expect("valid").len(), NODES_MAX);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(problem(make(NODES_MAX + 1)).field, "nodes");
}

#[test]
fn chains() {
    let diamond =
        compile(vec![node("a", "give", &[]), node("b", "give", &["a"]), node("c", "give", &["a"]), node("d", "give", &["b", "c"])])
            .expect("valid");
    for id in ["a", "b", "c", "d"] {
        assert_eq!(chain(&diamond, id), [id], "a diamond is no chain");
    }
    let skip =
        compile(vec![node("price", "give", &[]), node("threshold", "give", &["price"]), node("order", "order", &["price", "threshold"])])
            .expect("valid");
    assert_eq!(chain(&skip, "price"), ["price", "threshold", "order"]);
    let ids: Vec<String> = (0..40).map(|i| format!("n{i}")).collect();
    let long = (0..40).map(|i| if i == 0 { node(&ids[0], "give", &[]) } else { node(&ids[i], "give", &[&ids[i - 1]]) }).collect();
    let long = compile(long).expect("valid");
    let lengths: Vec<usize> = [0, 16, 32].iter().map(|i| chain(&long, &ids[*i]).len()).collect();
    assert_eq!(lengths, [16, 16, 8]);
}
