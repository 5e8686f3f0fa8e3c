//! Who may do what at the gateway: roles, scopes, API tokens as they are stored, and what is put on
//! record about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, control::Scope};

/// What every API token begins with, so that one is found where it should not be.
pub const TOKEN_PREFIX: &str = "hlt_";

/// What one may do; each may what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Submit, cancel, resolve, halt.
    Operator,
    /// Resume, manage tokens and rules.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.as_str() == text).ok_or_else(|| format!("`{text}` is none of viewer, operator, admin"))
    }
}

/// What one may know of: fields AND, values OR; an empty field does not restrict. Something without the
/// id that a field is about is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scopes {
    /// Workflow ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<String>,
    /// Bot ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bots: Vec<String>,
    /// Strategy ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strategies: Vec<String>,
}

impl Scopes {
    /// Whether something of this workflow, bot and strategy (empty: none) is known.
    pub fn admit(&self, workflow: &str, bot: &str, strategy: &str) -> bool {
        let one = |wanted: &[String], have: &str| wanted.is_empty() || (!have.is_empty() && wanted.iter().any(|w| w == have));
        one(&self.workflows, workflow) && one(&self.bots, bot) && one(&self.strategies, strategy)
    }

    /// Whether a flag of this scope may stop something that is known. One of a venue or a node type may; one of a bot
    /// that is not known is none of their business.
    pub fn concerned(&self, scope: &Scope) -> bool {
        let one = |known: &[String], id: &str| known.is_empty() || known.iter().any(|k| k == id);
        match scope {
            Scope::Workflow(id) => one(&self.workflows, id),
            Scope::Bot(id) => one(&self.bots, id),
            Scope::Strategy(id) => one(&self.strategies, id),
            Scope::Global | Scope::Venue(_) | Scope::NodeType(_) => true,
        }
    }

    /// Whether everything is known.
    pub fn all(&self) -> bool {
        self.workflows.is_empty() && self.bots.is_empty() && self.strategies.is_empty()
    }
}

/// An API token as it is stored: all but the secret, of which there is only a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredToken {
    /// Its id, also the key and the middle of the token.
    pub id: String,
    /// Whose it is, for people and for the record.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// What it covers.
    #[serde(default, skip_serializing_if = "Scopes::all", deserialize_with = "crate::json::object")]
    pub scopes: Scopes,
    /// SHA-256 of the secret, in hex. The secret has 240 random bits: no slower digest makes it safer.
    pub sha256: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// Until when it counts; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An API token as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenSummary {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// What it covers; everything if empty.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// Until when it counts; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl From<StoredToken> for TokenSummary {
    fn from(t: StoredToken) -> Self {
        Self {
            id: t.id,
            name: t.name,
            role: t.role,
            scopes: t.scopes,
            created_at: t.created_at,
            created_by: t.created_by,
            expires_at: t.expires_at,
        }
    }
}

/// Something on record about access: a refusal, or a change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessEntry {
    /// When.
    pub at: Timestamp,
    /// What was asked for, as the operation's id; `connect` and the like for sockets.
    pub action: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// The status it was answered with.
    pub status: u16,
    /// Who; empty if nobody was recognised.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Whether that is certain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
    /// The role they had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// From where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The page that sent it, if one did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    /// On what: the path of the request.
    pub target: String,
    /// Why it was refused or failed; or the reason that was given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What was there before, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    /// What is there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
    /// Refusals like this one since the last entry that were not put on record one by one.
    #[serde(default, skip_serializing_if = "crate::json::is_zero")]
    pub more: u64,
    /// The gateway that wrote it.
    pub gateway: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_admit_only_what_they_name() {
        let s = Scopes { bots: vec!["b1".into(), "b2".into()], ..Scopes::default() };
        assert!(s.admit("w", "b2", "") && !s.admit("w", "b3", "") && !s.admit("w", "", "s"));
        assert!(Scopes::default().admit("", "", "") && Scopes::default().all() && !s.all());
        let stored = |scopes: &str| {
            let token = format!(
                r#"{{"id":"i","name":"n","role":"viewer","scopes":{scopes},"sha256":"","created_at":"2026-01-01T00:00:00Z","created_by":""}}"#
            );
            serde_json::from_str::<StoredToken>(&token)
        };
        assert!(stored(r#"{"bots":["b1"]}"#).is_ok_and(|t| t.scopes.bots == ["b1"]));
        // A list is no scopes: read field by field, an empty one would cover everything.
        assert!(stored("[]").is_err() && stored(r#"[["w"]]"#).is_err() && stored("null").is_err());
        let concerned = |scope: &str| s.concerned(&scope.parse().expect("a scope"));
        assert!(concerned("global") && concerned("bot:b1") && concerned("workflow:w") && concerned("venue:v") && !concerned("bot:b3"));
        let both = Scopes { workflows: vec!["w".into()], ..s };
        assert!(both.admit("w", "b1", "") && !both.admit("v", "b1", ""));
    }
}
