//! The dead-man switch: who lets its heartbeat be missed is taken for gone.

use haltline_types::{
    Millis, Timestamp,
    control::{Level, Scope},
    error::ApiError,
    limits::TEXT_BYTES_MAX,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shorter, and a busy machine would trip it.
const EVERY_MIN: Millis = Millis::secs(1);
/// Longer, and nobody would call it a switch.
const EVERY_MAX: Millis = Millis::secs(24 * 3600);

/// A heartbeat as it is stored: one key per scope, armed until it is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Whose.
    pub scope: Scope,
    /// How long this one is good for.
    pub every: Millis,
    /// What a missing one raises: `alert`, `reducing` or `halt`.
    pub level: Level,
    /// Who.
    #[serde(default)]
    pub by: String,
    /// When, by the sender's clock; only for people.
    #[serde(default)]
    pub at: Timestamp,
}

impl Heartbeat {
    /// The first problem, by its field.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check(&self) -> Result<(), ApiError> {
        if !(EVERY_MIN..=EVERY_MAX).contains(&self.every) {
            return Err(ApiError::invalid("every", format!("{} is not within {EVERY_MIN} and {EVERY_MAX}", self.every)));
        }
        if !matches!(self.level, Level::Alert | Level::Reducing | Level::Halt) {
            return Err(ApiError::invalid("level", "must be alert, reducing or halt"));
        }
        if self.by.is_empty() || self.by.len() > TEXT_BYTES_MAX {
            return Err(ApiError::invalid("by", "say who sends it"));
        }
        Ok(())
    }

    /// Whether it is missed, `heard` having been its arrival.
    pub fn is_missed(&self, heard: Timestamp, now: Timestamp) -> bool {
        now.millis_since(heard) > self.every.0
    }

    /// Why the level is raised.
    pub fn reason(&self, now: Timestamp, heard: Timestamp) -> String {
        let silent = Millis(now.millis_since(heard) / 1000 * 1000);
        format!("dead-man switch: no heartbeat of {} for {silent} (promised every {}, last by {})", self.scope, self.every, self.by)
    }
}
