//! Node types: the descriptors by which definitions are validated, workers choose their consumers
//! and people learn what there is. A worker with types of its own stores their descriptors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node type does to the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing.
    None,
    /// Reads from outside.
    Observes,
    /// Changes something outside; what is undeclared counts as this.
    Acts,
}

/// A node type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeType {
    /// Its name, as definitions write it: lower case letters, digits, `_`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// What it does outside.
    pub effect: Effect,
    /// Inputs and parameters that must be there, by input or by parameter.
    #[serde(default)]
    pub required: Vec<String>,
}

fn built_in(name: &str, effect: Effect, required: &[&str], description: &str) -> NodeType {
    NodeType { name: name.into(), description: description.into(), effect, required: required.iter().map(|s| (*s).to_owned()).collect() }
}

/// The types every worker has.
pub fn built_in_types() -> Vec<NodeType> {
    vec![
        built_in("http", Effect::Acts, &["url"], "HTTP request; outputs status, body and what `extract` points at"),
        built_in("static", Effect::None, &[], "gives its parameter `outputs`"),
        built_in("threshold", Effect::None, &["value"], "passes if min <= value <= max; outputs pass, value"),
        built_in("compare", Effect::None, &["left", "operator", "right"], "compares two values; outputs result"),
        built_in("paper_order", Effect::Acts, &["market", "symbol", "side", "quantity"], "places an order on the paper market"),
        built_in("log", Effect::None, &["message"], "writes a log line; outputs message"),
        built_in("sleep", Effect::None, &["duration"], "waits; outputs slept_ms"),
        built_in("fail", Effect::None, &[], "fails, for tests and drills: message, error_type, attempts"),
    ]
}

/// Whether `name` can name a node type: it becomes a subject token and part of a consumer's name.
pub fn is_type_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
