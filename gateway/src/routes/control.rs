//! `/v1/control`: the control flags. Every answer shows what is stored, never what was asked.

use axum::{
    extract::{Path, State},
    http::{Method, StatusCode},
};
use haltline_client::{ApiError, Code};
use haltline_common::types::{
    control::{Flag, Gate, Level},
    limits::TEXT_BYTES_MAX,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api::{Api, Expected, Given, Op, Reply},
    app::App,
    auth::{Need, Role, Who},
    problem::Problem,
};

/// The scope that covers everything.
const GLOBAL: &str = "global";

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get("/v1/control", list, Op::new("listControl", Need::VIEWER, "The flag of every scope that has one."))
        .get("/v1/control/{scope}", read, Op::new("readControl", Need::VIEWER, "The flag of a scope, from the stream's leader, and what it is to this gateway. Its ETag is the revision."))
        .on(
            Method::PUT,
            "/v1/control/{scope}",
            set,
            Op::new("setControl", Need::OPERATOR, "Sets the flag of a scope. The answer is what is stored then, which may be graver than what was asked for. Lowering takes the role admin; with If-Match nothing happens if another revision is stored."),
        );
}

/// What to set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ControlSetting")]
struct Setting {
    /// The level.
    state: Level,
    /// Why; not empty.
    reason: String,
    /// Who; counts only where nobody needs a token.
    by: Option<String>,
}

/// A flag, and what it is to this gateway.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ControlFlag")]
struct Shown {
    /// What it covers.
    scope: String,
    #[serde(flatten)]
    flag: Flag,
    /// What it is to this gateway's own watch: `open`, `halted`, `unsure`.
    gate: &'static str,
}

/// All flags.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ControlFlags")]
struct Flags {
    /// The gravest first.
    scopes: Vec<Shown>,
}

fn known(scope: &str) -> Result<(), Problem> {
    if scope == GLOBAL {
        return Ok(());
    }
    Err(Problem::new(StatusCode::NOT_FOUND, "UnknownScope", format!("there is no scope `{scope}`")))
}

async fn shown(app: &App) -> Result<Shown, Problem> {
    Ok(Shown { scope: GLOBAL.into(), flag: app.client.flag().await?, gate: gate(app) })
}

async fn list(State(app): State<App>, _: Who) -> Result<Reply<Flags>, Problem> {
    Ok(Reply::ok(Flags { scopes: vec![shown(&app).await?] }))
}

async fn read(State(app): State<App>, _: Who, Path(scope): Path<String>) -> Result<Reply<Shown>, Problem> {
    known(&scope)?;
    let shown = shown(&app).await?;
    let revision = shown.flag.revision;
    Ok(Reply::ok(shown).revision(revision))
}

async fn set(
    State(app): State<App>,
    who: Who,
    Path(scope): Path<String>,
    Expected(expected): Expected,
    Given(s): Given<Setting>,
) -> Result<Reply<Shown>, Problem> {
    known(&scope)?;
    who.everything()?;
    if s.state.runs() && !who.0.may(Role::Admin) {
        let detail = format!("to set {} takes the role admin; `{}` has the role {}", s.state.as_str(), who.0.name, who.0.role.as_str());
        return Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", detail));
    }
    if s.reason.trim().is_empty() {
        return Err(ApiError::invalid("reason", "say why").into());
    }
    let by = who.by(s.by.as_deref());
    if by.len() > TEXT_BYTES_MAX {
        return Err(ApiError::invalid("by", format!("is longer than {TEXT_BYTES_MAX} bytes")).into());
    }
    if let Some(expected) = expected {
        let stored = app.client.flag().await?.revision;
        if stored != expected {
            let message = format!("revision {stored} is stored, not {expected}: read it again");
            return Err(Problem::from(ApiError { field: Some("If-Match".into()), ..ApiError::new(Code::Conflict, message) })
                .with_status(StatusCode::PRECONDITION_FAILED));
        }
    }
    let flag = app.client.set_flag(s.state, s.reason.trim(), &by).await?;
    tracing::warn!(state = flag.state.as_str(), revision = flag.revision, by, reason = flag.reason, "control flag set through the gateway");
    let revision = flag.revision;
    Ok(Reply::ok(Shown { scope, flag, gate: gate(&app) }).revision(revision))
}

/// What the flag is to this gateway's own watch.
pub(super) fn gate(app: &App) -> &'static str {
    match app.control.gate() {
        Gate::Open => "open",
        Gate::Halted(_) => "halted",
        Gate::Unsure(_) => "unsure",
    }
}
