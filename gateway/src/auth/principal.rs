//! Somebody who was let in: a role, and of which workflows, bots and strategies they may know.

use std::time::SystemTime;

pub(crate) use haltline_common::types::access::{Role, Scopes};

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
    fn roles_are_ordered() {
        let p = |role| Principal { role, ..Principal::developer() };
        assert!(p(Role::Admin).may(Role::Operator) && p(Role::Operator).may(Role::Viewer) && !p(Role::Viewer).may(Role::Operator));
    }
}
