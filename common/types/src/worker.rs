//! What workers tell about themselves: presence, and the node types they run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A worker's entry in the workers bucket; it expires when the worker stops renewing it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Presence {
    /// Its id, also the key.
    pub worker_id: String,
    /// Its life, as its lease names it; a worker that comes back under its name has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Where it runs.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// Node types and their slots.
    pub slots: std::collections::BTreeMap<String, usize>,
    /// Tasks it holds.
    pub in_flight: usize,
    /// What the flag is to it: `open`, `halted` or `unsure`.
    pub gate: String,
    /// Revision of the flag it has seen.
    pub control_revision: u64,
    /// Tasks it has finished since it started.
    pub tasks_done: u64,
    /// When it started.
    pub started_at: Timestamp,
    /// When it wrote this.
    pub seen_at: Timestamp,
    /// Its build.
    pub version: String,
    /// True from SIGTERM on: it takes no new work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

impl Presence {
    /// Whether this may be the entry of that life.
    pub fn is_of(&self, instance: &str) -> bool {
        self.instance.as_ref().is_none_or(|own| own == instance)
    }
}
