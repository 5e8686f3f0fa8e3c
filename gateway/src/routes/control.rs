//! `/v1/control`: the control flags. Every answer shows what is stored, never what was asked.

use axum::{
    extract::{Path, State},
    http::{Method, StatusCode},
};
use haltline_client::{ApiError, Code, Listening};
use haltline_common::{
    control::Stored,
    types::{
        Millis, Timestamp,
        control::{Actor, Flag, Gate, Level, Place, Scope},
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    api::{Api, Expected, Given, Op, Reply},
    app::App,
    audit::Noted,
    auth::{Need, Role, Who},
    problem::Problem,
};

/// The longest that an answer waits for the workers.
const WAIT_MAX: Millis = Millis::secs(30);

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get("/v1/control", list, Op::new("listControl", Need::VIEWER, "The flag of every scope that has one, the gravest first."))
        .get(
            "/v1/control/{scope}",
            read,
            Op::new("readControl", Need::VIEWER, "The flag of a scope (`global`, `bot:b1`, `strategy:s1`, `workflow:w1`, `venue:v1`, `node_type:http`), from the stream's leader. Its ETag is the revision."),
        )
        .post(
            "/v1/control/{scope}/raise",
            raise,
            Op::new("raiseControl", Need::OPERATOR, "Raises the flag of a scope: `alert`, `reducing`, `hold`, `halt`, `shutdown`. It never lowers one: the answer is what is stored then, which may be graver than what was asked for. With `wait` it says which workers have confirmed."),
        )
        .post(
            "/v1/control/{scope}/lower",
            lower,
            Op::new("lowerControl", Need::ADMIN, "Lowers the flag of a scope. Takes `If-Match` with the revision that was looked at; 412 if another one is stored by now. To leave a shutdown, `confirm` names the scope once more."),
        )
        .on(
            Method::PUT,
            "/v1/control/{scope}",
            set,
            Op::new("setControl", Need::OPERATOR, "Raises or lowers the flag of a scope: for scripts. Lowering takes the role admin, and to another level than `normal` an `If-Match`; with `If-Match` nothing happens if another revision is stored (412)."),
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
    wait: Option<Millis>,
}

/// What to lower it to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ControlLowering")]
struct Lowering {
    /// The level; `normal` if absent.
    state: Option<Level>,
    /// Why it is safe to go on; not empty.
    reason: String,
    /// To leave a shutdown: the scope once more.
    confirm: Option<String>,
    /// Who; counts only where nobody needs a token.
    by: Option<String>,
}

/// A flag, and what it is to this gateway.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ControlFlag")]
struct Shown {
    /// What it covers.
    scope: Scope,
    /// The level.
    state: Level,
    /// Why.
    reason: String,
    /// Who.
    by: String,
    /// Whether who wrote it was authenticated as `by`.
    verified: bool,
    /// When.
    at: Option<Timestamp>,
    /// Its revision; 0 if there is no entry.
    revision: u64,
    /// What it is to this gateway's own watch, of what opens risk: `open`, `halted`, `unsure`.
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

fn shown(app: &App, f: Flag) -> Shown {
    Shown {
        gate: gate_of(app, &f.scope),
        scope: f.scope,
        state: f.state,
        reason: f.reason,
        by: f.by,
        verified: f.verified,
        at: f.at,
        revision: f.revision,
        confirmation: None,
    }
}

/// The scope that an address names.
pub(super) fn parsed(scope: &str) -> Result<Scope, Problem> {
    scope.parse().map_err(|e: String| Problem::new(StatusCode::NOT_FOUND, "UnknownScope", e))
}

/// Whoever may know of a part may act on that part alone.
pub(super) fn covers(who: &Who, scope: &Scope) -> Result<(), Problem> {
    let s = &who.0.scopes;
    let one = |list: &[String], id: &str| list.iter().any(|v| v == id);
    let covered = s.all()
        || match scope {
            Scope::Workflow(id) => one(&s.workflows, id) && s.bots.is_empty() && s.strategies.is_empty(),
            Scope::Bot(id) => one(&s.bots, id) && s.workflows.is_empty() && s.strategies.is_empty(),
            Scope::Strategy(id) => one(&s.strategies, id) && s.workflows.is_empty() && s.bots.is_empty(),
            Scope::Global | Scope::Venue(_) | Scope::NodeType(_) => false,
        };
    if covered {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", format!("your token does not cover the scope `{scope}`")))
}

/// Who acts, and whether that is certain.
fn actor(who: &Who, claimed: Option<&str>) -> Actor {
    Actor { name: who.by(claimed), verified: who.0.credential.is_some() }
}

async fn list(State(app): State<App>, who: Who) -> Result<Reply<Flags>, Problem> {
    let mut flags = vec![app.client.flag().await?];
    // Those of parts as this gateway has them: the leader answers for single ones.
    flags.extend(app.control.flags().iter().flat_map(|all| all.iter().map(|(_, f)| f.clone()).filter(|f| !f.scope.is_global())));
    flags.retain(|f| who.0.scopes.concerned(&f.scope));
    flags.sort_by_key(|f| std::cmp::Reverse(f.state));
    Ok(Reply::ok(Flags { scopes: flags.into_iter().map(|f| shown(&app, f)).collect() }))
}

async fn read(State(app): State<App>, who: Who, Path(scope): Path<String>) -> Result<Reply<Shown>, Problem> {
    let scope = parsed(&scope)?;
    if !who.0.scopes.concerned(&scope) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", format!("your token does not cover the scope `{scope}`")));
    }
    let flag = app.client.flag_of(&scope).await?;
    let revision = flag.revision;
    Ok(Reply::ok(shown(&app, flag)).revision(revision))
}

async fn raise(State(app): State<App>, who: Who, Path(scope): Path<String>, Given(s): Given<Setting>) -> Result<Reply<Shown>, Problem> {
    let scope = parsed(&scope)?;
    covers(&who, &scope)?;
    if s.state == Level::Normal {
        return Err(ApiError::invalid("state", "must be graver than normal; lower a flag to get there").into());
    }
    let wait = patience(&app, s.wait).await?;
    let stored = app.client.raise(&scope, s.state, actor(&who, s.by.as_deref()), &s.reason).await?;
    Ok(told(&app, &stored, wait).await)
}

async fn lower(
    State(app): State<App>,
    who: Who,
    Path(scope): Path<String>,
    Expected(expected): Expected,
    Given(s): Given<Lowering>,
) -> Result<Reply<Shown>, Problem> {
    let scope = parsed(&scope)?;
    covers(&who, &scope)?;
    let Some(revision) = expected else {
        let missing = ApiError {
            field: Some("If-Match".into()),
            ..ApiError::new(Code::Invalid, "If-Match: lowering takes the revision that was looked at")
        };
        return Err(Problem::from(missing).with_status(StatusCode::PRECONDITION_REQUIRED));
    };
    let level = s.state.unwrap_or(Level::Normal);
    let stored = app.client.lower(&scope, level, actor(&who, s.by.as_deref()), &s.reason, revision, s.confirm.as_deref()).await;
    Ok(told(&app, &stored.map_err(stale)?, None).await)
}

async fn set(
    State(app): State<App>,
    who: Who,
    Path(scope): Path<String>,
    Expected(expected): Expected,
    Given(s): Given<Setting>,
) -> Result<Reply<Shown>, Problem> {
    let scope = parsed(&scope)?;
    covers(&who, &scope)?;
    let wait = patience(&app, s.wait).await?;
    let current = app.client.flag_of(&scope).await?;
    if expected.is_some_and(|e| e != current.revision) {
        let message = format!("revision {} of {scope} is stored: read it again", current.revision);
        return Err(stale(ApiError { field: Some("revision".into()), ..ApiError::new(Code::Conflict, message) }));
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
    let by = actor(&who, s.by.as_deref());
    let stored = if lowers {
        app.client.lower(&scope, s.state, by, &s.reason, current.revision, s.confirm.as_deref()).await.map_err(stale)?
    } else {
        app.client.raise(&scope, s.state, by, &s.reason).await?
    };
    Ok(told(&app, &stored, wait).await)
}

/// How long the answer may wait for the workers, and who listens to them from before the flag is stored.
async fn patience(app: &App, wait: Option<Millis>) -> Result<Option<(Millis, Listening)>, Problem> {
    match wait {
        Some(wait) if wait > WAIT_MAX => Err(ApiError::invalid("wait", format!("is at most {WAIT_MAX}")).into()),
        Some(wait) => Ok(Some((wait, Listening::start(app.client.link()).await))),
        None => Ok(None),
    }
}

/// 412 where the revision is what is in the way.
fn stale(e: ApiError) -> Problem {
    if e.code == Code::Conflict && e.field.as_deref() == Some("revision") {
        return Problem::from(ApiError { field: Some("If-Match".into()), ..e }).with_status(StatusCode::PRECONDITION_FAILED);
    }
    e.into()
}

/// What is stored, and which workers have confirmed it if that was asked for.
async fn told(app: &App, stored: &Stored, wait: Option<(Millis, Listening)>) -> Reply<Shown> {
    let flag = stored.flag();
    tracing::warn!(scope = %flag.scope, state = flag.state.as_str(), revision = flag.revision, by = flag.by, reason = flag.reason, "control flag set through the gateway");
    let confirmation = match wait.filter(|_| !flag.state.runs()) {
        Some((wait, listening)) => serde_json::to_value(listening.to(stored).wait(wait.duration()).await).ok(),
        None => None,
    };
    let noted = Noted { reason: flag.reason.clone(), before: Some(json!(stored.previous)), after: Some(json!(flag)) };
    let revision = flag.revision;
    Reply::ok(Shown { confirmation, ..shown(app, flag) }).revision(revision).noted(noted)
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

/// What the flag of everything is to this gateway's own watch.
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
