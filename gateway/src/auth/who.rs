//! Who sends a request, as handlers take it. The guard has let them in before.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use haltline_common::types::event::Correlation;

use super::Principal;
use crate::{
    api::Input,
    app::App,
    index::Wanted,
    problem::{Problem, no_execution},
};

/// Who is meant where nobody had to say.
const UNVERIFIED: &str = "http, unverified";

/// Whoever was let in.
#[derive(Clone, Debug)]
pub(crate) struct Who(pub Principal);

impl Input for Who {}

impl FromRequestParts<App> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        // A route that takes one without asking for a role would be open to all: nobody is let in there.
        let missing = || Problem::new(StatusCode::UNAUTHORIZED, "Unauthenticated", "a token is needed");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}

impl Who {
    /// Who acts, for the log: the token's name; what was claimed counts only where nobody needs a token.
    pub fn by(&self, claimed: Option<&str>) -> String {
        match (&self.0.credential, claimed.map(str::trim).filter(|c| !c.is_empty())) {
            (Some(_), _) => self.0.name.clone(),
            (None, Some(claimed)) => claimed.to_owned(),
            (None, None) => UNVERIFIED.to_owned(),
        }
    }

    /// What is not theirs to know does not exist for them.
    ///
    /// # Errors
    /// 404, as if there were no such execution.
    pub fn sees(&self, c: &Correlation) -> Result<(), Problem> {
        if self.0.sees(&c.workflow_id, &c.bot_id, &c.strategy_id) { Ok(()) } else { Err(no_execution(&c.execution_id)) }
    }

    /// Narrows a list to what they may know; `false` if nothing is left of it.
    pub fn narrow(&self, wanted: &mut Wanted) -> bool {
        let scopes = &self.0.scopes;
        let both = |asked: &mut Vec<String>, allowed: &[String]| {
            if allowed.is_empty() {
                return true;
            }
            if asked.is_empty() {
                asked.extend_from_slice(allowed);
            } else {
                asked.retain(|a| allowed.contains(a));
            }
            !asked.is_empty()
        };
        both(&mut wanted.workflows, &scopes.workflows)
            && both(&mut wanted.bots, &scopes.bots)
            && both(&mut wanted.strategies, &scopes.strategies)
    }

    /// What concerns the whole installation is not for somebody who may know a part of it.
    ///
    /// # Errors
    /// 403.
    pub fn everything(&self) -> Result<(), Problem> {
        if self.0.scopes.all() {
            return Ok(());
        }
        Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", "this concerns the whole installation, and your token covers a part of it"))
    }
}
