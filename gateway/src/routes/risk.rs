//! `/v1/risk`: limits that trip by themselves, how near they are, and dead-man switches.

use axum::{
    extract::{Path, State},
    http::{Method, StatusCode},
};
use haltline_client::ApiError;
use haltline_common::{
    risk::{self, RuleStatus, SwitchStatus},
    types::{
        Millis, Timestamp,
        control::{Level, Scope},
    },
};
use haltline_risk::{Heartbeat, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::control::{covers, parsed};
use crate::{
    api::{Api, Given, Op, Reply},
    app::App,
    audit::Noted,
    auth::{Need, Who},
    problem::Problem,
};

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get(
        "/v1/risk",
        status,
        Op::new("readRisk", Need::VIEWER, "Every limit and how near it is, and the dead-man switches that are armed."),
    )
    .on(
        Method::PUT,
        "/v1/risk/rules",
        put,
        Op::new("putRiskRule", Need::ADMIN, "Stores a rule, in place of the one of its name and scope if there is one."),
    )
    .on(
        Method::DELETE,
        "/v1/risk/rules/{scope}/{name}",
        delete,
        Op::new("deleteRiskRule", Need::ADMIN, "Removes a rule; what its scope has reserved stays counted."),
    )
    .post(
        "/v1/risk/reservations/{scope}/reset",
        reset,
        Op::new(
            "resetReservations",
            Need::ADMIN,
            "Begins anew what the actions of a scope have reserved and spent: no positions, nothing spent.",
        ),
    )
    .on(
        Method::PUT,
        "/v1/heartbeats/{scope}",
        beat,
        Op::new(
            "sendHeartbeat",
            Need::OPERATOR,
            "Sends a heartbeat and arms the scope's dead-man switch: if none follows in time, its level is raised.",
        ),
    )
    .on(
        Method::DELETE,
        "/v1/heartbeats/{scope}",
        disarm,
        Op::new("disarmHeartbeat", Need::ADMIN, "Takes a dead-man switch back; what it raised stays."),
    );
}

/// Limits and switches.
#[derive(Serialize, JsonSchema)]
struct Risk {
    /// By scope and name.
    rules: Vec<RuleStatus>,
    /// By scope.
    switches: Vec<SwitchStatus>,
}

async fn status(State(app): State<App>, who: Who) -> Result<Reply<Risk>, Problem> {
    let (rules, switches) = (risk::status(&app.link).await?, risk::switches(&app.link).await?);
    let own = |scope: Option<&Scope>| who.0.scopes.all() || scope.is_some_and(|s| covers(&who, s).is_ok());
    Ok(Reply::ok(Risk {
        rules: rules.into_iter().filter(|s| own(s.rule.as_ref().map(|r| &r.scope))).collect(),
        switches: switches.into_iter().filter(|s| own(s.scope.as_ref())).collect(),
    }))
}

/// A rule as it is stored now.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StoredRule")]
struct Stored {
    /// Its key in the control bucket.
    key: String,
    /// The revision.
    revision: u64,
}

async fn put(State(app): State<App>, who: Who, Given(rule): Given<Rule>) -> Result<Reply<Stored>, Problem> {
    covers(&who, &rule.scope)?;
    if let Some(target) = &rule.target {
        covers(&who, target)?;
    }
    let by = who.by(Some(&rule.by));
    let rule = Rule { by, ..rule };
    let revision = risk::set(&app.link, &rule).await?;
    let noted = Noted { after: Some(json!(rule)), ..Noted::default() };
    Ok(Reply::ok(Stored { key: rule.key(), revision }).revision(revision).noted(noted))
}

/// A rule that is gone.
#[derive(Serialize, JsonSchema)]
struct RuleGone {
    /// Its scope.
    scope: Scope,
    /// Its name.
    deleted: String,
}

async fn delete(State(app): State<App>, who: Who, Path((scope, name)): Path<(String, String)>) -> Result<Reply<RuleGone>, Problem> {
    let scope = parsed(&scope)?;
    covers(&who, &scope)?;
    if !risk::delete(&app.link, &scope, &name).await? {
        let missing = ApiError::invalid("name", format!("there is no rule `{name}` of {scope}"));
        return Err(Problem::from(missing).with_status(StatusCode::NOT_FOUND));
    }
    Ok(Reply::ok(RuleGone { scope, deleted: name }))
}

/// Reservations that count as nothing.
#[derive(Serialize, JsonSchema)]
struct ReservationsReset {
    /// Whose.
    scope: Scope,
    /// The revision.
    revision: u64,
}

async fn reset(State(app): State<App>, who: Who, Path(scope): Path<String>) -> Result<Reply<ReservationsReset>, Problem> {
    let scope = parsed(&scope)?;
    covers(&who, &scope)?;
    let revision = risk::reset(&app.link, &scope).await?;
    Ok(Reply::ok(ReservationsReset { scope, revision }))
}

/// What a heartbeat says.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Beat {
    /// How long it is good for, 1s to 24h; 30s if absent.
    every: Option<Millis>,
    /// What a missing one raises: `alert`, `reducing` or `halt`, which it is if absent.
    level: Option<Level>,
    /// Who; counts only where nobody needs a token.
    by: Option<String>,
}

/// A switch.
#[derive(Serialize, JsonSchema)]
struct Switch {
    /// Whose.
    scope: Scope,
    /// Whether someone has to send on.
    armed: bool,
}

async fn beat(State(app): State<App>, who: Who, Path(scope): Path<String>, Given(b): Given<Beat>) -> Result<Reply<Switch>, Problem> {
    let scope = parsed(&scope)?;
    covers(&who, &scope)?;
    let heartbeat = Heartbeat {
        scope: scope.clone(),
        every: b.every.unwrap_or(Millis::secs(30)),
        level: b.level.unwrap_or(Level::Halt),
        by: who.by(b.by.as_deref()),
        at: Timestamp::default(),
    };
    let revision = risk::heartbeat(&app.link, &heartbeat).await?;
    Ok(Reply::ok(Switch { scope, armed: true }).revision(revision))
}

async fn disarm(State(app): State<App>, who: Who, Path(scope): Path<String>) -> Result<Reply<Switch>, Problem> {
    let scope = parsed(&scope)?;
    covers(&who, &scope)?;
    risk::disarm(&app.link, &scope).await?;
    Ok(Reply::ok(Switch { scope, armed: false }))
}
