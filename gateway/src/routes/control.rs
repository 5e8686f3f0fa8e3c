//! `/v1/control`: the control flags. Every answer shows what is stored, never what was asked.

use axum::{
    extract::{Path, State},
    http::{Method, StatusCode},
};
use haltline_client::{ApiError, Code, Confirming};
use haltline_common::types::{
    Millis,
    control::{Actor, Flag, Gate, Level, Place, Scope},
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

/// The longest that an answer waits for the workers.
const WAIT_MAX: Millis = Millis::secs(30);

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
    /// To leave a shutdown: the scope once more.
    confirm: Option<String>,
    /// How long the answer may wait for the workers to confirm, as `2s`; at most 30s.
    #[serde(default)]
    wait: Option<Millis>,
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
    /// Which workers have confirmed it, and what is in flight; where `wait` was given, and it stops something.
    /// `complete`: nothing that it covers can start or is in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmation: Option<serde_json::Value>,
}

/// All flags.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ControlFlags")]
struct Flags {
    /// The gravest first.
    scopes: Vec<Shown>,
}

fn known(scope: &str) -> Result<Scope, Problem> {
    scope.parse().map_err(|e| Problem::new(StatusCode::NOT_FOUND, "UnknownScope", e))
}

fn show(app: &App, scope: &Scope, flag: Flag) -> Shown {
    Shown { scope: scope.to_string(), gate: gate_of(app, scope), flag, confirmation: None }
}

async fn list(State(app): State<App>, _: Who) -> Result<Reply<Flags>, Problem> {
    let mut flags = vec![app.client.flag().await?];
    // Those of parts as this gateway has them: the leader answers for single ones.
    flags.extend(app.control.flags().iter().flat_map(|all| all.iter().map(|(_, f)| f.clone()).filter(|f| !f.scope.is_global())));
    flags.sort_by_key(|f| std::cmp::Reverse(f.state));
    Ok(Reply::ok(Flags { scopes: flags.into_iter().map(|f| show(&app, &f.scope.clone(), f)).collect() }))
}

async fn read(State(app): State<App>, _: Who, Path(scope): Path<String>) -> Result<Reply<Shown>, Problem> {
    let scope = known(&scope)?;
    let flag = app.client.flag_of(&scope).await?;
    let revision = flag.revision;
    Ok(Reply::ok(show(&app, &scope, flag)).revision(revision))
}

async fn set(
    State(app): State<App>,
    who: Who,
    Path(scope): Path<String>,
    Expected(expected): Expected,
    Given(s): Given<Setting>,
) -> Result<Reply<Shown>, Problem> {
    let scope = known(&scope)?;
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
    if s.wait.is_some_and(|w| w > WAIT_MAX) {
        return Err(ApiError::invalid("wait", format!("is at most {WAIT_MAX}")).into());
    }
    let current = app.client.flag_of(&scope).await?;
    if let Some(expected) = expected
        && current.revision != expected
    {
        let message = format!("revision {} is stored, not {expected}: read it again", current.revision);
        return Err(Problem::from(ApiError { field: Some("If-Match".into()), ..ApiError::new(Code::Conflict, message) })
            .with_status(StatusCode::PRECONDITION_FAILED));
    }
    // Down to anything but normal goes only who says from where.
    let lowers = s.state == Level::Normal || (expected.is_some() && s.state < current.state);
    if lowers && !who.0.may(Role::Admin) {
        let detail = format!("to lower {scope} takes the role admin; `{}` has the role {}", who.0.name, who.0.role.as_str());
        return Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", detail));
    }
    if !lowers && s.state == Level::Alert && !current.state.runs() {
        let message = format!("alert would lower {}; resume to normal first", current.state);
        return Err(ApiError::new(Code::Conflict, message).into());
    }
    let by = Actor { verified: who.0.credential.is_some(), name: by };
    let stored = if lowers {
        app.client.lower(&scope, s.state, by, &s.reason, current.revision, s.confirm.as_deref()).await?
    } else {
        app.client.raise(&scope, s.state, by, &s.reason).await?
    };
    let flag = stored.flag();
    tracing::warn!(scope = %scope, state = flag.state.as_str(), revision = flag.revision, by = flag.by, reason = flag.reason, "control flag set through the gateway");
    let confirmation = match s.wait.filter(|_| !flag.state.runs()) {
        Some(wait) => Some(Confirming::of(app.client.link(), &stored).wait(wait.duration()).await),
        None => None,
    };
    let confirmation = confirmation.and_then(|report| serde_json::to_value(report).ok());
    let revision = flag.revision;
    Ok(Reply::ok(Shown { confirmation, ..show(&app, &scope, flag) }).revision(revision))
}

/// What a scope's flag is to this gateway's own watch: of what opens risk in it.
fn gate_of(app: &App, scope: &Scope) -> &'static str {
    let id = scope.id();
    let place = match scope {
        Scope::Global => Place::default(),
        Scope::Strategy(_) => Place { strategy_id: id, ..Place::default() },
        Scope::Bot(_) => Place { bot_id: id, ..Place::default() },
        Scope::Workflow(_) => Place { workflow_id: id, ..Place::default() },
        Scope::Venue(_) => Place { venue: id, ..Place::default() },
        Scope::NodeType(_) => Place { node_type: id, ..Place::default() },
    };
    word(&app.control.gate_at(&place))
}

/// What the flag is to this gateway's own watch.
pub(super) fn gate(app: &App) -> &'static str {
    word(&app.control.gate())
}

fn word(gate: &Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::Halted(_) => "halted",
        Gate::Unsure(_) => "unsure",
    }
}
