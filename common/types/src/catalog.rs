//! Node types: the descriptors by which definitions are validated, workers choose their consumers
//! and people learn what there is. A worker with types of its own stores their descriptors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::definition::{InputRef, NodeDef};
pub use crate::effect::Effect;

/// A node type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeType {
    /// Its name, as definitions write it: lower case letters, digits, `_`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// What it does outside; what does not say counts as opening risk.
    #[serde(default)]
    pub effect: Effect,
    /// It does nothing outside at all, reads included: it has no door to the world and pays nothing for one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub computes_only: bool,
    /// It runs while its scope is halted, as what cancels working orders does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allowed_while_halted: bool,
    /// The venue its nodes act at, unless they name another.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub venue: SmolStr,
    /// Inputs and parameters that must be there, by input or by parameter.
    #[serde(default)]
    pub required: Vec<String>,
}

impl NodeType {
    /// A type of that name and effect; the rest is empty.
    pub fn new(name: impl Into<String>, effect: Effect) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            effect,
            computes_only: false,
            allowed_while_halted: false,
            venue: "".into(),
            required: Vec::new(),
        }
    }
    /// The same, described in one line.
    pub fn describe(self, description: &str) -> Self {
        Self { description: description.into(), ..self }
    }
    /// The same, which needs these inputs or parameters.
    pub fn require(self, names: &[&str]) -> Self {
        Self { required: names.iter().map(|s| (*s).to_owned()).collect(), ..self }
    }
    /// The same, which does nothing outside.
    pub fn computing(self) -> Self {
        Self { computes_only: true, ..self }
    }
    /// The same, at that venue.
    pub fn at(self, venue: &str) -> Self {
        Self { venue: venue.into(), ..self }
    }

    /// What a node of this type does outside: what the node says, else what its type says. An `http`
    /// request is known by its method; one whose method comes from an input opens risk.
    pub fn effect_of(&self, node: &NodeDef) -> Effect {
        if let Some(effect) = node.effect {
            return effect;
        }
        if self.name != HTTP {
            return self.effect;
        }
        let method = match node.inputs.get("method") {
            Some(InputRef::Value(v)) => v.value.as_str(),
            Some(_) => None,
            None => Some(node.params.get("method").map_or("GET", |m| m.as_str().unwrap_or(""))),
        };
        match method.map(str::to_ascii_uppercase).as_deref() {
            Some("GET" | "HEAD") => Effect::Observes,
            _ => Effect::OpensRisk,
        }
    }
}

/// The type whose effect depends on its method.
const HTTP: &str = "http";

/// The types every worker has.
pub fn built_in_types() -> Vec<NodeType> {
    let computes = |name: &str, required: &[&str], description: &str| {
        NodeType::new(name, Effect::Neutral).computing().require(required).describe(description)
    };
    vec![
        NodeType::new(HTTP, Effect::OpensRisk)
            .require(&["url"])
            .describe("HTTP request; outputs status, body and what `extract` points at; GET and HEAD observe, everything else opens risk"),
        computes("static", &[], "gives its parameter `outputs`"),
        computes("threshold", &["value"], "passes if min <= value <= max; outputs pass, value"),
        computes("compare", &["left", "operator", "right"], "compares two values; outputs result"),
        NodeType::new("paper_order", Effect::OpensRisk)
            .at("paper")
            .require(&["market", "symbol", "side", "quantity"])
            .describe("places an order on the paper market"),
        computes("log", &["message"], "writes a log line; outputs message"),
        computes("sleep", &["duration"], "waits; outputs slept_ms"),
        computes("fail", &[], "fails, for tests and drills: message, error_type, attempts"),
    ]
}

/// Whether `name` can name a node type: it becomes a subject token and part of a consumer's name.
pub fn is_type_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
