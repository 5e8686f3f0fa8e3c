//! A control value as it is stored, and how it is read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Level, Scope};
use crate::Timestamp;

/// A control value as it is stored, one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlValue {
    /// The level.
    pub state: Level,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Who.
    #[serde(default)]
    pub by: String,
    /// True if the caller was authenticated as `by`; otherwise `by` is what it said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
    /// When, by the writer's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The revision of this key that the value replaced; 0 if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
}

/// What a flag says, as a reader understood it. Also carried in results, errors and events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flag {
    /// The level.
    pub state: Level,
    /// Why, in the writer's words or, for a value that cannot be read, in ours.
    pub reason: String,
    /// Who.
    pub by: String,
    /// True if whoever wrote it was authenticated as `by`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
    /// When: the value's own time, else the server's of storing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The bucket's revision; 0 if there is no entry.
    pub revision: u64,
    /// What it covers.
    #[serde(default, skip_serializing_if = "Scope::is_global")]
    pub scope: Scope,
}

impl Default for Flag {
    /// A halt: what nobody wrote allows nothing.
    fn default() -> Self {
        Self::unreadable("there is no value", 0, None)
    }
}

impl Flag {
    /// A halt of our own making: the flag cannot be read as an allowance.
    pub fn unreadable(reason: impl Into<String>, revision: u64, at: Option<Timestamp>) -> Self {
        Self { state: Level::Halt, reason: reason.into(), by: "haltline".into(), verified: false, at, revision, scope: Scope::Global }
    }

    /// What a scope without a value has: nothing covers it but the flag of everything, which must be there.
    pub fn unwritten(scope: &Scope) -> Self {
        match scope {
            Scope::Global => Self::unreadable("the key halt.global is missing", 0, None),
            _ => Self { state: Level::Normal, reason: String::new(), by: String::new(), scope: scope.clone(), ..Self::default() },
        }
    }

    /// Reads a stored value. `value` is `None` for a deleted or purged key; `before` is the revision of
    /// the key's value before this one (0: none), or `None` where that is not known.
    ///
    /// `HALT` and `SHUTDOWN` are accepted as plain words from the nats CLI; everything else must be
    /// the JSON of [`ControlValue`] with who, why and the revision it replaces, or it counts as a halt.
    pub fn read(scope: &Scope, value: Option<&[u8]>, revision: u64, stored_at: Option<Timestamp>, before: Option<u64>) -> Self {
        let flag = Self::read_any(&scope.key(), value, revision, stored_at, before);
        Self { scope: scope.clone(), ..flag }
    }

    fn read_any(key: &str, value: Option<&[u8]>, revision: u64, stored_at: Option<Timestamp>, before: Option<u64>) -> Self {
        let unreadable = |why: String| Self::unreadable(why, revision, stored_at);
        let Some(bytes) = value else {
            return unreadable(format!("the key {key} was deleted or purged"));
        };
        let word = std::str::from_utf8(bytes).unwrap_or("").trim();
        let plain = |state| Self { state, by: "unknown (plain word)".into(), ..unreadable(format!("plain {word}")) };
        if word.eq_ignore_ascii_case("halt") {
            return plain(Level::Halt);
        }
        if word.eq_ignore_ascii_case("shutdown") {
            return plain(Level::Shutdown);
        }
        let v = match serde_json::from_slice::<ControlValue>(bytes) {
            Ok(v) => v,
            Err(e) => return unreadable(format!("the value of {key} is malformed: {e}")),
        };
        let lacking = match (v.reason.trim(), v.by.trim(), v.replaces, before) {
            ("", ..) => Some("says no `reason`".to_owned()),
            (_, "", ..) => Some("does not say `by` whom".to_owned()),
            (.., None, _) => Some("does not say which revision it `replaces`".to_owned()),
            (.., Some(replaces), _) if replaces >= revision => {
                Some(format!("claims to replace revision {replaces}, which is not before it"))
            }
            (.., Some(replaces), Some(before)) if replaces != before => {
                Some(format!("was not written by compare-and-swap: it replaces revision {before} and says {replaces}"))
            }
            _ => None,
        };
        match lacking {
            // What halts by itself may lack anything.
            Some(what) if v.state < Level::Halt => unreadable(format!("the value of {key} says {} and {what}", v.state)),
            _ => Self {
                state: v.state,
                reason: v.reason,
                by: v.by,
                verified: v.verified,
                at: v.at.or(stored_at),
                revision,
                scope: Scope::Global,
            },
        }
    }

    /// One sentence for people.
    pub fn sentence(&self) -> String {
        let at = self.at.map(|t| format!(" at {t}")).unwrap_or_default();
        let scope = if self.scope.is_global() { String::new() } else { format!(" of {}", self.scope) };
        format!("{}{scope} by {}{at}: {}", self.state.as_str(), if self.by.is_empty() { "unknown" } else { &self.by }, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str, revision: u64, before: Option<u64>) -> Flag {
        Flag::read(&Scope::Global, Some(value.as_bytes()), revision, None, before)
    }

    #[test]
    fn only_plain_allowances_run() {
        let state = |v: &str| read(v, 8, Some(7)).state;
        assert_eq!(state(r#"{"state":"normal","reason":"ok","by":"me","replaces":7}"#), Level::Normal);
        assert_eq!(state(r#"{"state":"hold","reason":"ok","by":"me","replaces":7}"#), Level::Hold);
        assert_eq!(state("HALT"), Level::Halt);
        assert_eq!(state(" shutdown\n"), Level::Shutdown);
        assert_eq!(state(r#"{"state":"shutdown"}"#), Level::Shutdown);
        for bad in [
            "",
            "normal",
            "NORMAL",
            "{}",
            r#"{"state":"fine","reason":"ok","by":"me","replaces":7}"#,
            r#"{"state":"normal","x":1,"reason":"ok","by":"me","replaces":7}"#,
            r#"{"state":"normal","reason":"ok","by":"me"}"#,
            r#"{"state":"normal","reason":" ","by":"me","replaces":7}"#,
            r#"{"state":"alert","reason":"ok","replaces":7}"#,
            r#"{"state":"normal","reason":"ok","by":"me","replaces":6}"#,
            r#"{"state":"normal","reason":"ok","by":"me","replaces":9}"#,
            "\u{0}",
            "null",
            "[]",
        ] {
            assert_eq!(state(bad), Level::Halt, "{bad} must halt");
        }
        let nothing = |before| Flag::read(&Scope::Bot("b".into()), None, 3, None, before);
        assert_eq!(nothing(None).state, Level::Halt);
        assert_eq!(Flag::read(&Scope::Global, Some(&[0xff, 0xfe]), 3, None, None).state, Level::Halt);
        assert!(nothing(Some(2)).reason.contains("halt.bot.b"), "{}", nothing(None).reason);
    }

    #[test]
    fn where_nothing_is_known_of_the_value_before_any_earlier_one_will_do() {
        let value = r#"{"state":"normal","reason":"ok","by":"me","replaces":5}"#;
        assert_eq!(read(value, 8, None).state, Level::Normal);
        assert_eq!(read(value, 5, None).state, Level::Halt);
    }

    #[test]
    fn scopes_without_a_value_are_normal_but_the_one_of_everything() {
        assert_eq!(Flag::unwritten(&Scope::Bot("b".into())).state, Level::Normal);
        assert_eq!(Flag::unwritten(&Scope::Global).state, Level::Halt);
    }
}
