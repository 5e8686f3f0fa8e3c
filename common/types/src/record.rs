//! Records: an execution's entry in the executions bucket. Written at acceptance and at the end by
//! compare-and-swap, in between as a progress note. One line of JSON that people read.

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use crate::{
    Timestamp,
    event::{Correlation, UnknownNode},
};

/// What a node gave, by name. Shared: an execution's state, its events and its record all have it.
pub type Outputs = Arc<Map<String, Value>>;
/// Outputs by node.
pub type Results = Arc<BTreeMap<SmolStr, Outputs>>;

/// Where an execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted and not ended.
    Running,
    /// Not ended: a flag holds it back, and none of its nodes is with a worker.
    Waiting,
    /// Not ended: whether a side effect happened is unknown, and an operator has to say.
    Unknown,
    /// Every node completed.
    Completed,
    /// Every node completed, was skipped, or failed in a way that its `on_error` admits.
    CompletedWithErrors,
    /// A node failed.
    Failed,
    /// Its deadline passed.
    TimedOut,
    /// A halt stopped it.
    Halted,
    /// It was cancelled.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Running,
        Self::Waiting,
        Self::Unknown,
        Self::Completed,
        Self::CompletedWithErrors,
        Self::Failed,
        Self::TimedOut,
        Self::Halted,
        Self::Cancelled,
    ];
    /// Whether it has ended.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Running | Self::Waiting | Self::Unknown)
    }
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Unknown => "unknown",
            Self::Completed => "completed",
            Self::CompletedWithErrors => "completed_with_errors",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Halted => "halted",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}

/// A node that failed and whose `on_error` let the execution go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedNode {
    /// The node.
    pub node_id: SmolStr,
    /// Its kind.
    pub error_type: String,
    /// What went wrong; the beginning of it if it is long.
    pub error: String,
    /// What its definition made of it: `skip`, `continue` or `use`.
    pub on_error: String,
}

/// An execution's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Version of this shape.
    pub v: u32,
    /// Whose record it is.
    #[serde(flatten)]
    pub correlation: Correlation,
    /// Where it stands.
    pub status: Status,
    /// The pinned definition's version.
    pub workflow_version: SmolStr,
    /// Its shard.
    pub shard: u32,
    /// How many nodes its workflow has.
    pub node_count: u32,
    /// Nodes completed, as of this record.
    pub nodes_completed: u32,
    /// Nodes that failed and whose `on_error` let the execution go on, once ended.
    #[serde(default, skip_serializing_if = "crate::json::is_zero")]
    pub nodes_failed: u32,
    /// Nodes skipped because of them, once ended.
    #[serde(default, skip_serializing_if = "crate::json::is_zero")]
    pub nodes_skipped: u32,
    /// When it was accepted.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Milliseconds from acceptance to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// The submission's key: tells one's own repeated write from a clash of ids.
    pub key: SmolStr,
    /// Digest of what was submitted: the same key with another body is refused.
    pub body: SmolStr,
    /// The execution's input.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// Subject that is told the end, besides the log: a hint for a waiting client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<SmolStr>,
    /// Outputs by node, once ended.
    #[serde(default, skip_serializing_if = "crate::json::is_empty")]
    pub results: Results,
    /// True if `results` would have been too large; read them from the `node_completed` events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub results_omitted: bool,
    /// What went wrong, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The node that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_node: Option<SmolStr>,
    /// The first of `nodes_failed`, in the order in which they failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FailedNode>,
    /// Why it was halted or cancelled, and by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many events it has, once ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_count: Option<u32>,
    /// Nodes of whose side effects nobody knows whether they happened: while the status is `unknown` they
    /// wait for an operator, once it has ended they stay on record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_nodes: Vec<UnknownNode>,
}

/// What a client sees of an ended or running execution: the answer of `execute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// The execution.
    pub execution_id: SmolStr,
    /// Where it stands.
    pub status: Status,
    /// Milliseconds from acceptance to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Outputs by node.
    #[serde(default)]
    pub outputs: Results,
    /// True if `outputs` would have been too large for one message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outputs_omitted: bool,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// Nodes that failed and whose `on_error` let the execution go on.
    #[serde(default, skip_serializing_if = "crate::json::is_zero")]
    pub nodes_failed: u32,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FailedNode>,
    /// Why it was halted or cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Nodes of whose side effects nobody knows whether they happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_nodes: Vec<UnknownNode>,
}

impl From<&Record> for Outcome {
    fn from(r: &Record) -> Self {
        Self {
            execution_id: r.correlation.execution_id.clone(),
            status: r.status,
            duration_ms: r.duration_ms,
            outputs: r.results.clone(),
            outputs_omitted: r.results_omitted,
            error: r.error.clone(),
            error_type: r.error_type.clone(),
            nodes_failed: r.nodes_failed,
            errors: r.errors.clone(),
            reason: r.reason.clone(),
            unknown_nodes: r.unknown_nodes.clone(),
        }
    }
}
