//! What bench runs: trivial nodes in a shape, so that what is measured is Haltline.

use std::{fmt, str::FromStr, sync::Arc};

use haltline_common::types::{
    definition::{Definition, InputRef, LiteralRef, NodeDef, NodeRef},
    limits::NODES_MAX,
};
use serde_json::json;

/// How the nodes hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// So many nodes in sequence.
    Chain(usize),
    /// One node, so many in parallel, one that waits for all.
    Fan(usize),
    /// Two diamonds in a row: 8 nodes.
    Dag,
}

impl FromStr for Shape {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let number = |n: &str, most: usize| match n.parse::<usize>() {
            Ok(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(format!("`{n}` must be a number from 1 to {most}")),
        };
        match s.split_once(':') {
            Some(("chain", n)) => Ok(Self::Chain(number(n, NODES_MAX)?)),
            // Besides them, the one before and the one after.
            Some(("fan", n)) => Ok(Self::Fan(number(n, NODES_MAX - 2)?)),
            None if s == "dag" => Ok(Self::Dag),
            _ => Err("write chain:N, fan:N or dag".into()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(n) => write!(f, "chain:{n}"),
            Self::Fan(n) => write!(f, "fan:{n}"),
            Self::Dag => f.write_str("dag"),
        }
    }
}

/// With more nodes than this they are lean, so that the definition stays within its limit.
const FULL_MAX: usize = 5000;

/// The workflow of a shape. Chains alternate like real ones: provider, condition, action.
pub fn definition(shape: Shape, payload: usize) -> Definition {
    let filler = "x".repeat(payload);
    let nodes = match shape {
        Shape::Chain(n) if n > FULL_MAX => (0..n).map(|i| lean(i, i.checked_sub(1).into_iter().collect())).collect(),
        Shape::Fan(n) if n > FULL_MAX => {
            let branches = (1..=n).map(|i| lean(i, vec![0]));
            [lean(0, Vec::new())].into_iter().chain(branches).chain([lean(n + 1, (1..=n).collect())]).collect()
        }
        Shape::Chain(n) => (0..n).map(|i| chain_node(i, n, &filler)).collect(),
        Shape::Fan(n) => {
            let mut nodes = vec![source("source", &filler)];
            nodes.extend((0..n).map(|i| check(&format!("branch_{i}"), "source", "value")));
            let mut sink = source("sink", "");
            sink.depends_on = (0..n).map(|i| format!("branch_{i}")).collect();
            nodes.push(sink);
            nodes
        }
        Shape::Dag => {
            let mut nodes = vec![source("a", &filler), check("b1", "a", "value"), check("b2", "a", "value")];
            let mut join = source("c", &filler);
            join.depends_on = vec!["b1".into(), "b2".into()];
            nodes.extend([join, check("d1", "c", "value"), check("d2", "c", "value")]);
            let mut last = source("e", "");
            last.depends_on = vec!["d1".into(), "d2".into()];
            nodes.extend([last, check("f", "e", "value")]);
            nodes
        }
    };
    Definition {
        bot_id: "bench-bot".into(),
        strategy_id: "bench-strategy".into(),
        ..Definition::new("bench", format!("{}-{payload}", shape.to_string().replace(':', "")), nodes)
    }
}

fn node(id: &str, category: &str, kind: &str) -> NodeDef {
    NodeDef { category: category.into(), ..NodeDef::new(id, kind) }
}

/// A node that says nothing but what it waits for.
fn lean(i: usize, after: Vec<usize>) -> NodeDef {
    let mut n = node(&format!("n{i}"), "", "static");
    n.depends_on = after.into_iter().map(|i| format!("n{i}")).collect();
    n
}

fn source(id: &str, filler: &str) -> NodeDef {
    let mut n = node(id, "providers", "static");
    let mut outputs = json!({ "value": "101.5", "items": [1, 2, 3] });
    if !filler.is_empty() {
        outputs["filler"] = filler.into();
    }
    Arc::make_mut(&mut n.params).insert("outputs".into(), outputs);
    n
}

fn check(id: &str, from: &str, output: &str) -> NodeDef {
    let mut n = node(id, "conditions", "threshold");
    Arc::make_mut(&mut n.params).insert("min".into(), json!(100));
    n.inputs.insert("value".into(), InputRef::Node(NodeRef { node: from.into(), output: output.into() }));
    n
}

fn chain_node(i: usize, n: usize, filler: &str) -> NodeDef {
    let id = format!("n{i}");
    let before = format!("n{}", i.wrapping_sub(1));
    match (i, i + 1 == n) {
        (0, _) => source(&id, filler),
        (_, true) => {
            let mut last = node(&id, "actions", "compare");
            last.inputs.insert("left".into(), InputRef::Node(NodeRef { node: before.into(), output: "value".into() }));
            last.inputs.insert("right".into(), InputRef::Value(LiteralRef { value: json!("100") }));
            Arc::make_mut(&mut last.params).insert("operator".into(), json!("gt"));
            last
        }
        _ => check(&id, &before, "value"),
    }
}
