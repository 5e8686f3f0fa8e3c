//! Somebody who was let in: a role, and of which workflows, bots and strategies they may know.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What one may do; each may what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Look.
    Viewer,
    /// Submit, cancel, resolve, halt.
    Operator,
    /// Resume, manage tokens and rules.
    Admin,
}

impl Role {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// What one may know of: fields AND, values OR; an empty field does not restrict. Something without the
/// id that a field is about is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scopes {
    /// Workflow ids.
    pub workflows: Vec<String>,
    /// Bot ids.
    pub bots: Vec<String>,
    /// Strategy ids.
    pub strategies: Vec<String>,
}

impl Scopes {
    /// Whether something of this workflow, bot and strategy (empty: none) is known.
    pub fn admit(&self, workflow: &str, bot: &str, strategy: &str) -> bool {
        let one = |wanted: &[String], have: &str| wanted.is_empty() || (!have.is_empty() && wanted.iter().any(|w| w == have));
        one(&self.workflows, workflow) && one(&self.bots, bot) && one(&self.strategies, strategy)
    }

    /// Whether everything is known.
    pub fn all(&self) -> bool {
        self.workflows.is_empty() && self.bots.is_empty() && self.strategies.is_empty()
    }
}

/// Somebody who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Who, for the audit and for people.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// What they may know of.
    pub scopes: Scopes,
    /// Until when; for ever if absent.
    pub until: Option<SystemTime>,
    /// Which token or session let them in, so that its end can end their connections.
    pub credential: Option<String>,
}

impl Principal {
    /// Whoever uses a developer's machine.
    pub fn developer() -> Self {
        Self { name: "developer".into(), role: Role::Admin, scopes: Scopes::default(), until: None, credential: None }
    }

    /// Whether they may do what asks for `role`.
    pub fn may(&self, role: Role) -> bool {
        self.role >= role
    }

    /// Whether they may know of something; see [`Scopes::admit`].
    pub fn sees(&self, workflow: &str, bot: &str, strategy: &str) -> bool {
        self.scopes.admit(workflow, bot, strategy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_admit_only_what_they_name() {
        let s = Scopes { bots: vec!["b1".into(), "b2".into()], ..Scopes::default() };
        assert!(s.admit("w", "b2", "") && !s.admit("w", "b3", "") && !s.admit("w", "", "s"));
        assert!(Scopes::default().admit("", "", "") && Scopes::default().all() && !s.all());
        let both = Scopes { workflows: vec!["w".into()], ..s };
        assert!(both.admit("w", "b1", "") && !both.admit("v", "b1", ""));
    }

    #[test]
    fn roles_are_ordered() {
        let p = |role| Principal { role, ..Principal::developer() };
        assert!(p(Role::Admin).may(Role::Operator) && p(Role::Operator).may(Role::Viewer) && !p(Role::Viewer).may(Role::Operator));
    }
}
