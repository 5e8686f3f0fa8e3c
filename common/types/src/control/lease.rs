//! What workers write into the control bucket about themselves, and what marks the bucket.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{Level, Place, Scope};
use crate::{Effect, Timestamp};

/// A worker's lease, in its own key `lease.<worker>.<instance>`: renewal, confirmation and goodbye in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The worker.
    pub worker_id: String,
    /// Its life: a worker that comes back under its name has another.
    pub instance: String,
    /// Number of this write in this life.
    pub n: u64,
    /// How long it holds, in milliseconds from its sending; 0 for a write that only confirms.
    pub lease_ms: u64,
    /// The highest revision of a flag that this worker obeys.
    pub seen: u64,
    /// Intents that this worker stores after this write come after this position of the log.
    pub log: u64,
    /// Effects intended and not settled, the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenEffect>,
    /// How many more are open.
    #[serde(default, skip_serializing_if = "crate::json::is_zero")]
    pub more: u64,
    /// The worker has left with nothing open: it starts nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goodbye: bool,
}

impl Lease {
    /// What this write and another one of the same life say together: the newer one counts, but for how long leases
    /// hold, which only renewals say.
    pub fn with(self, other: Self) -> Self {
        let lease_ms = self.lease_ms.max(other.lease_ms);
        let newer = if other.n > self.n { other } else { self };
        Self { lease_ms, ..newer }
    }
}

/// An effect that was intended and whose outcome is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenEffect {
    /// Its execution.
    pub execution_id: SmolStr,
    /// Its node.
    pub node_id: SmolStr,
    /// Its idempotency key.
    pub key: String,
    /// Since when.
    pub since: Timestamp,
    /// The workflow.
    pub workflow_id: SmolStr,
    /// The bot; empty for none.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub bot_id: SmolStr,
    /// The strategy; empty for none.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub strategy_id: SmolStr,
    /// The venue; empty for none.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub venue: SmolStr,
    /// The node's type; empty where it is not known.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub node_type: SmolStr,
    /// What it does outside.
    pub effect: Effect,
    /// Allowed while halted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allowed_while_halted: bool,
}

impl OpenEffect {
    /// Whether a flag of `scope` at `level` would have kept it from starting. What is not known of it
    /// counts as covered.
    pub fn is_covered(&self, scope: &Scope, level: Level) -> bool {
        let unknown = self.node_type.is_empty();
        let covered = match scope {
            Scope::Global => true,
            Scope::Strategy(id) => self.strategy_id == *id,
            Scope::Bot(id) => self.bot_id == *id,
            Scope::Workflow(id) => self.workflow_id == *id,
            Scope::Venue(id) => unknown || self.venue == *id,
            Scope::NodeType(id) => unknown || self.node_type == *id,
        };
        let place = Place { effect: self.effect, allowed_while_halted: self.allowed_while_halted, ..Place::default() };
        covered && (level == Level::Hold || place.is_refused(level))
    }
}

/// Marks the control bucket of an installation: written once, when `ensure` makes the bucket. A bucket
/// without it, or with that of another stream, was made again, emptied or restored: everything is halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The installation: drawn once.
    pub install: String,
    /// When the stream of the bucket was created, as the server tells it.
    pub stream_created: String,
    /// Who wrote it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writes_of_a_life_say_the_newer_and_the_longer_lease() {
        let of = |n: u64, lease_ms: u64, seen: u64| -> Lease {
            let text = format!(r#"{{"worker_id":"w","instance":"i","n":{n},"lease_ms":{lease_ms},"seen":{seen},"log":0}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let (renewed, seen) = (of(3, 5000, 1), of(4, 0, 2));
        assert_eq!(renewed.clone().with(seen.clone()), of(4, 5000, 2));
        assert_eq!(seen.with(renewed), of(4, 5000, 2), "in whatever order they come");
    }
}
