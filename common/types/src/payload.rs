//! Payloads by reference: what is too large for a message is kept in the object store, and told by its name.
//!
//! In place of a value stands `{"$payload": {"object": "<execution>/<SHA-256>", "bytes": n}}`; with `at`, a JSON pointer
//! into it. The name says whose it is and what is in it: storing it twice is harmless, and what is read is checked.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ids;

/// The one key of a reference. No output of a node may have it.
pub const MARK: &str = "$payload";

/// Where a payload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadRef {
    /// Its name in the object store: `<execution id>/<SHA-256 of its JSON>`.
    pub object: String,
    /// Bytes of its JSON.
    pub bytes: usize,
    /// Which part of it is meant, as a JSON pointer; all of it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

impl PayloadRef {
    /// Of an execution's payload, from its JSON.
    pub fn new(execution_id: &str, json: &[u8]) -> Self {
        Self { object: format!("{execution_id}/{}", ids::sha256(json)), bytes: json.len(), at: None }
    }

    /// What `value` refers to, if it is a reference.
    pub fn of(value: &Value) -> Option<Self> {
        is_marked(value).then(|| serde_json::from_value(value[MARK].clone()).ok()).flatten()
    }

    /// The same, of what lies at `pointer` in it.
    pub fn at(mut self, pointer: &str) -> Self {
        self.at = Some(self.at.unwrap_or_default() + pointer);
        self
    }

    /// Whether it is one of that execution's: no execution reads another's.
    pub fn is_of(&self, execution_id: &str) -> bool {
        self.object.strip_prefix(execution_id).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether `json` is what it refers to.
    pub fn is_true_of(&self, json: &[u8]) -> bool {
        self.bytes == json.len() && self.object.rsplit_once('/').is_some_and(|(_, digest)| digest == ids::sha256(json))
    }

    /// As it stands in place of the value.
    pub fn to_value(&self) -> Value {
        json!({ MARK: self })
    }
}

/// Whether a value looks like a reference, well-formed or not.
pub fn is_marked(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.contains_key(MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_reads_as_it_was_written_and_belongs_to_its_execution() {
        let at = PayloadRef::new("exec_a_00000001", b"[1]").at("/0").at("/b");
        assert_eq!(PayloadRef::of(&at.to_value()), Some(at.clone()));
        assert_eq!(at.at.as_deref(), Some("/0/b"));
        assert!(at.is_true_of(b"[1]") && !at.is_true_of(b"[2]"));
        assert!(at.is_of("exec_a_00000001") && !at.is_of("exec_a_0000000") && !at.is_of("exec_b_00000001"));
        for other in [json!({ "x": 1 }), json!({ MARK: 1 }), json!({ MARK: { "object": "a/b" } }), json!(null)] {
            assert_eq!(PayloadRef::of(&other), None, "{other}");
        }
    }
}
