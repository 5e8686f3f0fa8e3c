//! The control flag: what a value in the control bucket means. Anything that is not plainly an
//! allowance counts as a halt and says why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The key of the flag that covers everything.
pub const GLOBAL_KEY: &str = "halt.global";

/// How grave a control state is; ordered, gravest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything runs.
    Normal,
    /// Everything runs; people watch closer.
    Alert,
    /// Nothing starts and nothing ends: what runs waits until someone resumes or halts. What a
    /// restored installation is in.
    Hold,
    /// No node starts; running executions end as halted.
    Halt,
    /// As halt, and meant for good.
    Shutdown,
}

impl Level {
    /// Whether nodes may start.
    pub const fn runs(self) -> bool {
        matches!(self, Self::Normal | Self::Alert)
    }
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Alert => "alert",
            Self::Hold => "hold",
            Self::Halt => "halt",
            Self::Shutdown => "shutdown",
        }
    }
}

/// A control value as it is stored, one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlValue {
    /// The level.
    pub state: Level,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Who; unverified while the gateway has no authentication.
    #[serde(default)]
    pub by: String,
    /// When, by the writer's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The revision this value replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
}

/// What the flag says, as a reader understood it. Also carried in results, errors and events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flag {
    /// The level.
    pub state: Level,
    /// Why, in the writer's words or, for a value that cannot be read, in ours.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When: the value's own time, else the server's of storing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The bucket's revision; 0 if there is no entry.
    pub revision: u64,
}

impl Flag {
    /// A halt of our own making: the flag cannot be read as an allowance.
    pub fn unreadable(reason: impl Into<String>, revision: u64, at: Option<Timestamp>) -> Self {
        Self { state: Level::Halt, reason: reason.into(), by: "haltline".into(), at, revision }
    }

    /// Reads a stored value. `value` is `None` for a deleted or purged key.
    ///
    /// `HALT` and `SHUTDOWN` are accepted as plain words from the nats CLI; everything else must be
    /// the JSON of [`ControlValue`], or it counts as a halt.
    pub fn read(value: Option<&[u8]>, revision: u64, stored_at: Option<Timestamp>) -> Self {
        let Some(bytes) = value else {
            return Self::unreadable("the key halt.global was deleted or purged", revision, stored_at);
        };
        let word = std::str::from_utf8(bytes).unwrap_or("").trim();
        let plain = |state| Self { state, reason: format!("plain {word}"), by: "unknown (plain word)".into(), at: stored_at, revision };
        if word.eq_ignore_ascii_case("halt") {
            return plain(Level::Halt);
        }
        if word.eq_ignore_ascii_case("shutdown") {
            return plain(Level::Shutdown);
        }
        match serde_json::from_slice::<ControlValue>(bytes) {
            Ok(v) => Self { state: v.state, reason: v.reason, by: v.by, at: v.at.or(stored_at), revision },
            Err(e) => Self::unreadable(format!("the value of halt.global is malformed: {e}"), revision, stored_at),
        }
    }

    /// One sentence for people.
    pub fn sentence(&self) -> String {
        let at = self.at.map(|t| format!(" at {t}")).unwrap_or_default();
        format!("{} by {}{at}: {}", self.state.as_str(), if self.by.is_empty() { "unknown" } else { &self.by }, self.reason)
    }
}

/// What a guard found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The flag allows and was seen recently.
    Open,
    /// The flag refuses.
    Halted(Flag),
    /// Wait, nothing is counted as an attempt: the watch is lost or too old to trust, or the flag
    /// says hold.
    Unsure(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_allowances_run() {
        let read = |v: &str| Flag::read(Some(v.as_bytes()), 1, None).state;
        assert_eq!(read(r#"{"state":"normal","reason":"ok","by":"me"}"#), Level::Normal);
        assert_eq!(read(r#"{"state":"hold"}"#), Level::Hold);
        assert_eq!(read("HALT"), Level::Halt);
        assert_eq!(read(" shutdown\n"), Level::Shutdown);
        for bad in ["", "normal", "NORMAL", "{}", r#"{"state":"fine"}"#, r#"{"state":"normal","x":1}"#, "\u{0}", "null", "[]"] {
            assert!(!read(bad).runs(), "{bad} must halt");
        }
        assert!(!Flag::read(None, 3, None).state.runs());
        assert!(!Flag::read(Some(&[0xff, 0xfe]), 3, None).state.runs());
    }
}
