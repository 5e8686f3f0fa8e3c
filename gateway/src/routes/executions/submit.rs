//! Starting executions.

use axum::{
    extract::State,
    http::{StatusCode, header},
};
use haltline_client::{Accepted, ApiError, Outcome, Submit};
use haltline_common::{
    fault,
    types::{Millis, SmolStr},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::{Asked, Given, Key, Reply},
    app::App,
    auth::Who,
    problem::Problem,
};

/// A request is not kept open longer: wait again, or follow the socket.
const WAIT_MAX: Millis = Millis::secs(60);

/// What to start.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Submission {
    /// The workflow.
    workflow_id: SmolStr,
    /// Its version; the latest if absent.
    version: Option<SmolStr>,
    /// The execution's input: an object, or null.
    #[serde(default)]
    input: Value,
    /// Instead of the definition's.
    bot_id: Option<SmolStr>,
    /// Instead of the definition's.
    strategy_id: Option<SmolStr>,
}

/// How long to wait for its end.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiting {
    /// Up to 60s, as `500ms` or `10s`; not at all if absent.
    wait: Option<String>,
}

/// The outcome if it was waited for, else that it is accepted.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Submitted {
    /// It was not waited for.
    Accepted(Accepted),
    /// As far as it has come.
    Outcome(Outcome),
}

/// `POST /v1/executions`.
pub(super) async fn submit(
    State(app): State<App>,
    who: Who,
    Key(key): Key,
    Asked(waiting): Asked<Waiting>,
    Given(s): Given<Submission>,
) -> Result<Reply<Submitted>, Problem> {
    let wait = match &waiting.wait {
        Some(text) => text.parse::<Millis>().map_err(|e| ApiError::invalid("wait", e))?,
        None => Millis(0),
    };
    if wait > WAIT_MAX {
        return Err(ApiError::invalid("wait", format!("{wait} is more than {WAIT_MAX}")).into());
    }
    covered(&app, &who, &s).await?;
    let submit = Submit {
        workflow_id: s.workflow_id,
        version: s.version,
        input: s.input,
        bot_id: s.bot_id,
        strategy_id: s.strategy_id,
        key: key.into(),
        notify: None,
    };
    fault::point("gateway.submit");
    let (status, id, body) = if wait.0 == 0 {
        let accepted = app.client.submit(submit).await?;
        (StatusCode::ACCEPTED, accepted.execution_id.clone(), Submitted::Accepted(accepted))
    } else {
        let outcome = app.client.run(submit, wait.duration()).await?;
        let status = if outcome.status.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
        (status, outcome.execution_id.clone(), Submitted::Outcome(outcome))
    };
    fault::point("gateway.answer");
    Ok(Reply::with(status, body).header(header::LOCATION, &format!("/v1/executions/{}", escape(&id))))
}

/// Whether what would run is within the caller's scope: of the bot and strategy that it would run for.
async fn covered(app: &App, who: &Who, s: &Submission) -> Result<(), Problem> {
    if who.0.scopes.all() {
        return Ok(());
    }
    let unknown =
        || Problem::from(ApiError::new(haltline_client::Code::UnknownWorkflow, format!("there is no workflow `{}`", s.workflow_id)));
    if !who.0.scopes.workflows.is_empty() && !who.0.scopes.workflows.iter().any(|w| s.workflow_id == *w) {
        return Err(unknown());
    }
    let definition = app.client.workflow(&s.workflow_id, s.version.as_deref()).await?;
    let given = |own: &Option<SmolStr>, defined: &SmolStr| own.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| defined.clone());
    let (bot, strategy) = (given(&s.bot_id, &definition.bot_id), given(&s.strategy_id, &definition.strategy_id));
    if who.0.sees(&s.workflow_id, &bot, &strategy) {
        return Ok(());
    }
    let detail = format!("your token does not cover workflow `{}` for bot `{bot}` and strategy `{strategy}`", s.workflow_id);
    Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", detail))
}

/// Percent-encodes all but unreserved characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_escaped() {
        assert_eq!(escape("exec_a b/ü_1"), "exec_a%20b%2F%C3%BC_1");
    }
}
