//! Scopes: what a control value covers.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{check_id, token, untoken};

/// What every key of a control value begins with.
const PREFIX: &str = "halt.";

/// What a control value covers. Written `global`, `strategy:s1`, `bot:b1`, `workflow:w1`,
/// `venue:binance`, `node_type:http`; in JSON as that text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything.
    #[default]
    Global,
    /// Executions of a strategy.
    Strategy(String),
    /// Executions of a bot.
    Bot(String),
    /// Executions of a workflow.
    Workflow(String),
    /// Nodes that act at a venue: the node's `venue`, else its type's.
    Venue(String),
    /// Nodes of a type.
    NodeType(String),
}

impl Scope {
    /// Kinds of scopes that have an id.
    pub const KINDS: [&str; 5] = ["strategy", "bot", "workflow", "venue", "node_type"];

    /// The scope of that kind and id, checked.
    ///
    /// # Errors
    /// When there is no such kind, or the id cannot be one.
    pub fn of(kind: &str, id: &str) -> Result<Self, String> {
        if kind == "global" && id.is_empty() {
            return Ok(Self::Global);
        }
        check_id(id).map_err(|e| format!("scope `{kind}`: the id {e}"))?;
        let id = id.to_owned();
        match kind {
            "strategy" => Ok(Self::Strategy(id)),
            "bot" => Ok(Self::Bot(id)),
            "workflow" => Ok(Self::Workflow(id)),
            "venue" => Ok(Self::Venue(id)),
            "node_type" => Ok(Self::NodeType(id)),
            _ => Err(format!("scope `{kind}` is none of global, {}", Self::KINDS.join(", "))),
        }
    }
    /// Its kind: `global`, `bot`, ...
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Strategy(_) => "strategy",
            Self::Bot(_) => "bot",
            Self::Workflow(_) => "workflow",
            Self::Venue(_) => "venue",
            Self::NodeType(_) => "node_type",
        }
    }
    /// Its id; empty for `global`.
    pub fn id(&self) -> &str {
        match self {
            Self::Global => "",
            Self::Strategy(id) | Self::Bot(id) | Self::Workflow(id) | Self::Venue(id) | Self::NodeType(id) => id,
        }
    }
    /// Its key in the control bucket: `halt.global`, `halt.bot.b1`.
    pub fn key(&self) -> String {
        match self {
            Self::Global => super::GLOBAL_KEY.to_owned(),
            _ => format!("{PREFIX}{}.{}", self.kind(), token(self.id())),
        }
    }
    /// The scope whose key that is.
    pub fn from_key(key: &str) -> Option<Self> {
        let rest = key.strip_prefix(PREFIX)?;
        if rest == "global" {
            return Some(Self::Global);
        }
        let (kind, id) = rest.split_once('.')?;
        Self::of(kind, &untoken(id)?).ok()
    }
    /// Whether it is [`Scope::Global`].
    pub fn is_global(&self) -> bool {
        *self == Self::Global
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            _ => write!(f, "{}:{}", self.kind(), self.id()),
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => Self::of(text, "").map_err(|_| {
                format!("`{text}` is no scope: write `global`, or a kind ({}) and an id, as `bot:b1`", Self::KINDS.join(", "))
            }),
            Some((kind, id)) => Self::of(kind, id),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Scope {
    fn schema_name() -> Cow<'static, str> {
        "Scope".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "global, or a kind and an id: strategy:s1, bot:b1, workflow:w1, venue:binance, node_type:http",
            "pattern": "^(global|(strategy|bot|workflow|venue|node_type):.+)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_round_trip_as_text_and_key() {
        for (text, key) in [
            ("global", "halt.global"),
            ("bot:b1", "halt.bot.b1"),
            ("venue:ven.ue", "halt.venue.ven=2Eue"),
            ("node_type:http", "halt.node_type.http"),
            ("workflow:a:b", "halt.workflow.a=3Ab"),
            ("strategy:*", "halt.strategy.=2A"),
        ] {
            let scope: Scope = text.parse().expect(text);
            assert_eq!((scope.to_string().as_str(), scope.key().as_str()), (text, key));
            assert_eq!(Scope::from_key(key), Some(scope.clone()));
            assert_eq!(serde_json::from_value::<Scope>(serde_json::json!(text)).ok(), Some(scope));
        }
        for bad in ["", "bot", "bot:", "fleet:1", "global:x", "bot:a\nb"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
        for bad in ["halt", "halt.", "halt.bot", "halt.bot.a.b", "halt.bot.a b=2", "lease.x", "halt.fleet.x"] {
            assert_eq!(Scope::from_key(bad).filter(|s| s.key() == bad), None, "{bad}");
        }
    }
}
