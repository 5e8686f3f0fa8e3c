//! Tasks: what a worker pulls. A task is one node, or a segment: a linear chain of nodes that one
//! worker can run, in order, each result confirmed before the next node starts. A worker may stop a
//! segment after any node; the coordinator dispatches the rest.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use crate::{
    Effect, Timestamp, WIRE_VERSION,
    control::{OnHalt, Place},
    definition::RetryPolicy,
    event::{Correlation, Event},
};

/// Version of a task's shape that is the whole execution ([`Task::whole`]): a worker that does not know how to tell
/// the start hands it back.
pub const WHOLE_VERSION: u32 = WIRE_VERSION + 1;

/// A task message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Flat")]
pub struct Task {
    /// Version of this shape.
    pub v: u32,
    /// `<execution>/<first node>/<attempt>`, also the message's `Nats-Msg-Id`.
    pub task_id: String,
    /// Whose task it is.
    #[serde(flatten)]
    pub correlation: Correlation,
    /// The pinned definition's version.
    pub workflow_version: SmolStr,
    /// The execution's shard: part of the subjects that its events go to.
    pub shard: u32,
    /// First attempt number to use.
    pub attempt: u32,
    /// Fencing token; a worker adds the delivery count. Higher is newer.
    pub token: u64,
    /// No node starts after it.
    pub deadline: Timestamp,
    /// When the coordinator caused it.
    pub created_at: Timestamp,
    /// W3C trace context.
    pub traceparent: SmolStr,
    /// True if it was emitted by recovery: the worker reads the log for results that are there
    /// already, as it does for a redelivered task.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
    /// What a halt means for the execution; none if it has nothing that a halt refuses.
    #[serde(default = "abort")]
    pub on_halt: Option<OnHalt>,
    /// Where the log stood when this task was found to have got lost and was emitted again; 0 if it was not.
    #[serde(default, skip_serializing_if = "crate::json::is_zero")]
    pub repair: u64,
    /// It is the whole execution, and nobody has told its start: the worker does, with its own first events, and
    /// its end if every node completes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// The nodes, in order; at least one.
    pub nodes: Vec<TaskNode>,
}

/// A task as it is read: `flatten` would read everything twice, a tenth of a worker's time.
#[derive(Deserialize)]
struct Flat {
    v: u32,
    task_id: String,
    execution_id: SmolStr,
    workflow_id: SmolStr,
    #[serde(default)]
    bot_id: SmolStr,
    #[serde(default)]
    strategy_id: SmolStr,
    workflow_version: SmolStr,
    shard: u32,
    attempt: u32,
    token: u64,
    deadline: Timestamp,
    created_at: Timestamp,
    traceparent: SmolStr,
    #[serde(default)]
    recovered: bool,
    #[serde(default = "abort")]
    on_halt: Option<OnHalt>,
    #[serde(default)]
    repair: u64,
    #[serde(default)]
    whole: bool,
    nodes: Vec<TaskNode>,
}

impl From<Flat> for Task {
    fn from(t: Flat) -> Self {
        Self {
            v: t.v,
            task_id: t.task_id,
            correlation: Correlation {
                execution_id: t.execution_id,
                workflow_id: t.workflow_id,
                bot_id: t.bot_id,
                strategy_id: t.strategy_id,
            },
            workflow_version: t.workflow_version,
            shard: t.shard,
            attempt: t.attempt,
            token: t.token,
            deadline: t.deadline,
            created_at: t.created_at,
            traceparent: t.traceparent,
            recovered: t.recovered,
            on_halt: t.on_halt,
            repair: t.repair,
            whole: t.whole,
            nodes: t.nodes,
        }
    }
}

/// Of a task that does not say.
#[allow(clippy::unnecessary_wraps, reason = "the field's type")]
fn abort() -> Option<OnHalt> {
    Some(OnHalt::Abort)
}

impl Task {
    /// Where its i-th node is, for the flags.
    pub fn place(&self, i: usize) -> Place<'_> {
        let place = Place { on_halt: self.on_halt, ..Place::of(&self.correlation) };
        match self.nodes.get(i) {
            Some(n) => {
                Place { venue: &n.venue, node_type: &n.kind, effect: n.effect, allowed_while_halted: n.allowed_while_halted, ..place }
            }
            None => place,
        }
    }

    /// Says whether it is the whole execution; see [`Task::whole`].
    pub fn set_whole(&mut self, whole: bool) {
        self.whole = whole;
        self.v = if whole { WHOLE_VERSION } else { WIRE_VERSION };
    }

    /// The execution's first event, of a task that is the whole of it.
    pub fn start(&self) -> Event {
        Event::started(&self.correlation, self.created_at, self.nodes.len() as u32, &self.workflow_version, &self.traceparent)
    }

    /// Its `Nats-Msg-Id`: one that is emitted again because it got lost is not a repeat.
    pub fn message_id(&self) -> String {
        match self.repair {
            0 => self.task_id.clone(),
            at => format!("{}~{at}", self.task_id),
        }
    }
}

/// One node of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskNode {
    /// Its id.
    pub id: SmolStr,
    /// Its name for people.
    pub name: SmolStr,
    /// Its category.
    pub category: SmolStr,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: SmolStr,
    /// What it does outside.
    #[serde(default)]
    pub effect: Effect,
    /// The venue it acts at; empty for none.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub venue: SmolStr,
    /// It may run while its scope is halted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allowed_while_halted: bool,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "crate::json::is_empty")]
    pub params: Arc<Map<String, Value>>,
    /// Its inputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, TaskInput>,
    /// How old its inputs may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_input_age_ms: Option<u64>,
    /// When the oldest of those inputs came about that are resolved; only where their age counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs_at: Option<Timestamp>,
    /// Nodes that its inputs come from and that can be read again when these are too old, each behind those it
    /// depends on; empty if nothing can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_again: Vec<SmolStr>,
    /// When the oldest of the resolved inputs came about that no reading makes newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_at: Option<Timestamp>,
    /// How often it was read again.
    #[serde(default, skip_serializing_if = "crate::json::is_zero")]
    pub readings: u32,
    /// How long one attempt may run.
    pub timeout_ms: u64,
    /// What happens after a failed attempt.
    pub retry: RetryPolicy,
}

/// An input as the coordinator could resolve it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskInput {
    /// Resolved.
    Value(Value),
    /// An output of an earlier node of the same segment: `[node, output]`.
    Earlier(SmolStr, SmolStr),
    /// Not there; the node fails with `MissingInput` and this sentence.
    Missing(String),
}

/// Id of a task.
pub fn task_id(execution_id: &str, node_id: &str, attempt: u32) -> String {
    format!("{execution_id}/{node_id}/{attempt}")
}

/// Fencing token of an attempt; leaves room for the delivery count that the worker adds.
pub const fn token(attempt: u32) -> u64 {
    (attempt as u64) << 16
}

/// First attempt number of the task that a token belongs to: tells a repeated task from the one
/// before it.
pub const fn round(token: u64) -> u32 {
    (token >> 16) as u32
}
