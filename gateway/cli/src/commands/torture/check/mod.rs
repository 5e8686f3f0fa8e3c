//! The checker: reads what is left after a torture and says what does not hold. It shares no code
//! with what it judges: it reads JSON as JSON, from streams, buckets and the market's ledger file.

mod effects;
mod execution;
mod judge;
mod read;
#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use super::shapes::Shape;

pub use self::{
    judge::judge,
    read::{Source, save},
};

/// A stored message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its sequence in its stream.
    pub seq: u64,
    /// Its subject.
    pub subject: String,
    /// Its `Nats-Msg-Id`.
    pub id: Option<String>,
    /// When the server stored it, in milliseconds; the one clock that nobody moves.
    pub time_ms: i64,
    /// Its body.
    pub body: Vec<u8>,
}

/// A workflow that was run, and what has to come of it.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// As it was stored.
    pub definition: Value,
    /// What has to come of it.
    pub expected: Expected,
}

/// What has to come of an execution.
#[derive(Clone, Debug)]
pub struct Expected {
    /// One of these.
    pub statuses: Vec<String>,
    /// If it completed: some of its outputs, by node.
    pub outputs: Value,
}

/// A submission and what the client was told.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// Its key.
    pub key: String,
    /// Its workflow.
    pub workflow: String,
    /// The execution ids it was told; one, if all is well, and none if nobody answered.
    pub told: BTreeSet<String>,
    /// Why it was refused for good, if it was.
    pub refused: Option<String>,
    /// Whether a cancel was asked for.
    pub cancelled: bool,
}

impl Submission {
    /// As a line of the artefacts.
    pub fn to_json(&self) -> Value {
        json!({ "key": self.key, "workflow": self.workflow, "told": self.told, "refused": self.refused, "cancelled": self.cancelled })
    }
}

/// All that is left.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// The log.
    pub log: Vec<Message>,
    /// Records.
    pub records: Vec<Message>,
    /// Tasks.
    pub tasks: Vec<Message>,
    /// Up to which sequence tasks were acknowledged, by the beginning of their subjects.
    pub floors: Vec<(String, u64)>,
    /// The market's ledger, by line.
    pub ledger: Vec<Value>,
    /// Ids of tasks that coordinators found neither in the queue nor in the log, and emitted again.
    pub lost_tasks: Vec<String>,
    /// When the one nats-server was started, in milliseconds; `None` in a cluster.
    pub server_starts: Option<Vec<i64>>,
}

/// What a run is judged against.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Workflows by id.
    pub workflows: BTreeMap<String, Workflow>,
    /// Submissions.
    pub submissions: Vec<Submission>,
}

impl Asked {
    /// Everything that was asked with these shapes.
    pub fn of(shapes: &[Shape], submissions: Vec<Submission>) -> Self {
        Self { workflows: shapes.iter().map(|s| (s.workflow.id().to_owned(), s.workflow.clone())).collect(), submissions }
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which rule.
    pub kind: &'static str,
    /// Which execution, if one.
    pub execution_id: String,
    /// What, with sequences.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What does not hold.
    pub violations: Vec<Violation>,
    /// Executions that ended, by status.
    pub statuses: BTreeMap<String, u64>,
    /// Milliseconds from the first event to the end as the server stored them, by execution.
    pub durations: BTreeMap<String, f64>,
    /// Orders that the market accepted.
    pub effects: u64,
    /// Messages stored again with the same id and content.
    pub repeats: u64,
    /// Events that a claim or the end made void.
    pub void: u64,
    /// Tasks of ended executions that the server still stores though they were acknowledged: it forgot
    /// to remove them, as when its disk was full. Nobody is given them any more.
    pub orphans: u64,
}

/// Whether a task is below its consumer's floor: acknowledged, and never delivered again.
fn is_acknowledged(task: &Message, floors: &[(String, u64)]) -> bool {
    floors.iter().any(|(beginning, floor)| task.subject.starts_with(beginning) && task.seq <= *floor)
}

impl Findings {
    /// Something does not hold.
    pub fn add(&mut self, kind: &'static str, execution: &str, what: String) {
        self.violations.push(Violation { kind, execution_id: execution.to_owned(), what });
    }
}

impl Workflow {
    /// Its id.
    pub fn id(&self) -> &str {
        text(&self.definition, "id")
    }

    /// The nodes that each node waits for.
    fn dependencies(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let nodes = self.definition["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        nodes
            .iter()
            .map(|node| {
                let inputs = node["inputs"].as_object().into_iter().flat_map(|inputs| inputs.values());
                let named = inputs.filter_map(|input| input["node"].as_str());
                let listed = node["depends_on"].as_array().into_iter().flatten().filter_map(Value::as_str);
                (text(node, "id"), named.chain(listed).collect())
            })
            .collect()
    }

    /// Its nodes of a type.
    fn nodes_of_type<'w>(&'w self, kind: &'w str) -> impl Iterator<Item = &'w str> {
        let nodes = self.definition["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        nodes.iter().filter(move |n| text(n, "type") == kind).map(|n| text(n, "id"))
    }
}

/// A text field; empty if it is not there.
fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// Whether a status is one of an execution that has ended.
fn is_end(status: &str) -> bool {
    matches!(status, "completed" | "completed_with_errors" | "failed" | "timed_out" | "halted" | "cancelled")
}
