//! The audit: every change of a flag and every confirmed halt as entries, each with the digest of the one
//! before it. Whoever changes, removes or inserts an entry has to change all that follow; who
//! keeps a head from outside finds that out. Who can rewrite the whole stream and no head is kept of, is not found out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Level, Scope};
use crate::Timestamp;

/// What the first entry has in place of a digest.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// An entry, one line of JSON. What the next one names is the digest of these very bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Its number, from 1.
    pub n: u64,
    /// [`digest`] of the entry before it, [`GENESIS`] for the first.
    pub prev: String,
    /// What happened.
    #[serde(flatten)]
    pub happened: Happened,
    /// To the flag of which scope.
    pub scope: Scope,
    /// At which revision of the control bucket.
    pub revision: u64,
    /// When the stream of that bucket was created: its revisions start anew with it.
    pub stream: String,
    /// When the server stored it; of a confirmation when it was found out.
    pub at: Timestamp,
    /// Who wrote this entry down.
    pub written_by: String,
}

/// What happened to a flag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "happened", rename_all = "snake_case")]
pub enum Happened {
    /// It was written, deleted or purged.
    Changed {
        /// What it is to readers.
        state: Level,
        /// What it was to them before.
        previous: Level,
        /// Who, in the value's words.
        by: String,
        /// Whether they were authenticated.
        verified: bool,
        /// Why.
        reason: String,
        /// The stored bytes as text; absent for a deletion.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
    },
    /// Nothing that it keeps from starting could start any more, and nothing of it was in flight.
    Confirmed {
        /// Its level.
        state: Level,
        /// Workers that counted.
        workers: u32,
        /// Those of them that confirmed.
        confirmed: u32,
        /// Milliseconds from when it was seen to then.
        took_ms: u64,
    },
}

/// SHA-256 of an entry's bytes, in hex.
pub fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect()
}
