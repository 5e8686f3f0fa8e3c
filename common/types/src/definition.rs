//! Workflow definitions as users write them. What makes one valid is the core's to say
//! (`haltline_core::Plan`); this file is only their shape.

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smol_str::SmolStr;

use crate::{Effect, Millis, control::OnHalt, record::Outputs};

/// A workflow: an immutable version of a directed acyclic graph of nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The workflow's id: any text of 1 to 128 bytes without control characters.
    pub id: SmolStr,
    /// A name for people; the id if absent.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub name: SmolStr,
    /// The version: once stored under this name it never changes.
    pub version: SmolStr,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The bot its executions belong to, unless a submission names another.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub bot_id: SmolStr,
    /// The strategy its executions belong to, unless a submission names another.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub strategy_id: SmolStr,
    /// How long an execution may take (default 30d); then it ends as `timed_out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// What a halt of its scope means for an execution that runs: `abort` or `hold`. By default `abort` if
    /// it has a node that a halt refuses; without such a node it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_halt: Option<OnHalt>,
    /// The nodes, in any order.
    pub nodes: Vec<NodeDef>,
    /// Carried for editors, not interpreted.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub ui: Value,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeDef {
    /// Unique in the workflow.
    pub id: SmolStr,
    /// A name for people; the id if absent.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub name: SmolStr,
    /// Free text such as providers, conditions, actions; `type` decides what runs.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub category: SmolStr,
    /// The node type that runs it.
    #[serde(rename = "type")]
    pub kind: SmolStr,
    /// Parameters of the type.
    #[serde(default, skip_serializing_if = "crate::json::is_empty")]
    pub params: Arc<serde_json::Map<String, Value>>,
    /// Named inputs, each from a node's output, the execution's input, or a literal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, InputRef>,
    /// Nodes that must have completed first, besides those that inputs name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// What it does outside, where that is not what its type says: as an `http` POST that only asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// It may run while its scope is halted, as what cancels orders; never during a shutdown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allowed_while_halted: bool,
    /// The venue it acts at, for halts of a venue (default: its type's).
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub venue: SmolStr,
    /// How old what its inputs come from may be when it starts, and at its side effect; older, it fails as
    /// `StaleInput`. Outputs of nodes are as old as their node's end, the execution's input as its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_input_age: Option<Millis>,
    /// How long one attempt may run (default 30s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// What happens after a failed attempt (default: 3 attempts on connection and time-out errors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// What its failure means for the nodes that depend on it (default: the execution fails).
    #[serde(default, skip_serializing_if = "OnError::is_default")]
    pub on_error: OnError,
    /// Carried for editors, not interpreted.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub ui: Value,
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum InputRef {
    /// `{"node": "price", "output": "close"}`: an output of another node.
    Node(NodeRef),
    /// `{"input": "symbol"}`: a field of the execution's input.
    Input(ExecutionInputRef),
    /// `{"value": 10}`: a literal.
    Value(LiteralRef),
}

/// An output of another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeRef {
    /// The node's id.
    pub node: SmolStr,
    /// The output's name, or a JSON pointer into the outputs if it starts with `/`.
    pub output: SmolStr,
}

/// A field of the execution's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecutionInputRef {
    /// The field's name, or a JSON pointer into the input if it starts with `/`.
    pub input: String,
}

/// A literal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LiteralRef {
    /// The value itself.
    pub value: Value,
}

/// Retry of a node. Delays grow exponentially with jitter, up to 60 s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts in all, 1 to 20.
    pub attempts: u32,
    /// Delay before the second attempt.
    pub delay: Millis,
    /// Factor from one delay to the next.
    pub factor: f64,
}

/// What a node's failure means, once it has failed for good. Halts, cancels and deadlines are no failures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The execution fails: nothing starts any more.
    #[default]
    Fail,
    /// Everything that depends on the node is skipped; the rest goes on.
    Skip,
    /// What depends on the node goes on without its outputs: a node that needs one of them fails
    /// with `MissingInput`, one that only waits for the node runs.
    Continue,
    /// `{"use": {..}}`: what depends on the node goes on with these in place of its outputs.
    Use(Outputs),
}

impl OnError {
    /// Whether it is what a node without it has.
    pub fn is_default(&self) -> bool {
        *self == Self::Fail
    }
    /// As it is written.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Continue => "continue",
            Self::Use(_) => "use",
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 3, delay: Millis::secs(1), factor: 2.0 }
    }
}

/// Looks `path` up in `value`: a field's name, or a JSON pointer if it starts with `/`.
pub fn look_up<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if path.starts_with('/') { value.pointer(path) } else { value.get(path) }
}

impl Definition {
    /// A workflow of those nodes, and nothing else.
    pub fn new(id: impl Into<SmolStr>, version: impl Into<SmolStr>, nodes: Vec<NodeDef>) -> Self {
        Self {
            id: id.into(),
            name: "".into(),
            version: version.into(),
            description: String::new(),
            bot_id: "".into(),
            strategy_id: "".into(),
            timeout: None,
            on_halt: None,
            nodes,
            ui: Value::Null,
        }
    }
    /// The name for people.
    pub fn title(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }
    /// The JSON Schema of a definition.
    pub fn json_schema() -> Value {
        schemars::schema_for!(Definition).to_value()
    }
}

impl NodeDef {
    /// A node of that id and type, and nothing else.
    pub fn new(id: impl Into<SmolStr>, kind: impl Into<SmolStr>) -> Self {
        Self {
            id: id.into(),
            name: "".into(),
            category: "".into(),
            kind: kind.into(),
            params: Arc::default(),
            inputs: BTreeMap::new(),
            depends_on: Vec::new(),
            effect: None,
            allowed_while_halted: false,
            venue: "".into(),
            max_input_age: None,
            timeout: None,
            retry: None,
            on_error: OnError::Fail,
            ui: Value::Null,
        }
    }
    /// The name for people.
    pub fn title(&self) -> &SmolStr {
        if self.name.is_empty() { &self.id } else { &self.name }
    }
}
