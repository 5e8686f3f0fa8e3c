//! Ending executions, and settling what nobody knows.

use axum::extract::{Path, State};
use futures_util::{StreamExt, stream};
use haltline_client::{Accepted, ApiError, Resolution, Resolve, Status};
use haltline_common::types::{Timestamp, limits::TEXT_BYTES_MAX, record::Outputs};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::known;
use crate::{
    api::{Given, Reply},
    app::App,
    auth::Who,
    index::{Order, Page, Wanted},
    problem::Problem,
};

/// Executions cancelled by one request: the answer names each, and a person repeats.
const CANCEL_MAX: usize = 500;
/// Cancels on their way at once.
const AT_ONCE: usize = 16;

/// Why an execution is to end.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cancel")]
pub(super) struct Cancelling {
    /// Why.
    #[serde(default)]
    reason: String,
    /// Who; counts only where nobody needs a token.
    by: Option<String>,
}

/// `POST /v1/executions/{id}/cancel`.
pub(super) async fn cancel(
    State(app): State<App>,
    who: Who,
    Path(id): Path<String>,
    Given(c): Given<Cancelling>,
) -> Result<Reply<Accepted>, Problem> {
    if !who.0.scopes.all() {
        known(&app, &who, &id).await?;
    }
    Ok(Reply::accepted(app.client.cancel(&id, &c.reason, &who.by(c.by.as_deref())).await?))
}

/// Which executions are to end: filters AND, values OR. At least one filter, or `all`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CancelMany")]
pub(super) struct Many {
    /// Of these workflows.
    #[serde(default)]
    workflow_id: Vec<String>,
    /// Of these bots.
    #[serde(default)]
    bot_id: Vec<String>,
    /// Of these strategies.
    #[serde(default)]
    strategy_id: Vec<String>,
    /// Of these statuses, of those that have not ended; all such if absent.
    #[serde(default)]
    status: Vec<Status>,
    /// Started at or after this time.
    since: Option<Timestamp>,
    /// Started before this time.
    until: Option<Timestamp>,
    /// Everything that runs.
    #[serde(default)]
    all: bool,
    /// 1 to 500; 100 if absent.
    limit: Option<usize>,
    /// Only say what would be cancelled.
    #[serde(default)]
    dry_run: bool,
    /// Why.
    reason: String,
    /// Who; counts only where nobody needs a token.
    by: Option<String>,
}

/// One that was not cancelled.
#[derive(Serialize, JsonSchema)]
pub(super) struct NotCancelled {
    /// Which.
    execution_id: String,
    /// Why not.
    error: String,
}

/// What became of it.
#[derive(Serialize, JsonSchema)]
pub(super) struct Cancelled {
    /// Ids of what was asked to end, or would be.
    cancelled: Vec<String>,
    /// What could not be asked.
    failed: Vec<NotCancelled>,
    /// Whether others match: repeat.
    more: bool,
    /// Whether nothing was done.
    dry_run: bool,
}

/// `POST /v1/executions/cancel`.
pub(super) async fn cancel_many(State(app): State<App>, who: Who, Given(m): Given<Many>) -> Result<Reply<Cancelled>, Problem> {
    let limit = m.limit.unwrap_or(100);
    if !(1..=CANCEL_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be 1 to {CANCEL_MAX}")).into());
    }
    if m.reason.trim().is_empty() || m.reason.len() > TEXT_BYTES_MAX {
        return Err(ApiError::invalid("reason", format!("say why, in up to {TEXT_BYTES_MAX} bytes")).into());
    }
    if let Some(ended) = m.status.iter().find(|s| s.is_terminal()) {
        return Err(ApiError::invalid("status", format!("what is {} has ended", ended.as_str())).into());
    }
    let filtered = !(m.workflow_id.is_empty() && m.bot_id.is_empty() && m.strategy_id.is_empty() && m.status.is_empty());
    if !filtered && m.since.is_none() && m.until.is_none() && !m.all {
        return Err(ApiError::invalid("all", "without a filter this ends everything that runs: say so by `all`: true").into());
    }
    if !app.index.ready() {
        return Err(ApiError::new(haltline_client::Code::Unavailable, "the list of executions is still being read; repeat").into());
    }
    let statuses = if m.status.is_empty() { Status::ALL.into_iter().filter(|s| !s.is_terminal()).collect() } else { m.status };
    let mut wanted =
        Wanted { workflows: m.workflow_id, bots: m.bot_id, strategies: m.strategy_id, statuses, since: m.since, until: m.until, id: None };
    let found = if who.narrow(&mut wanted) {
        app.index.list(wanted, Page { limit, order: Order::Oldest, after: None }).await?
    } else {
        crate::index::Found::default()
    };
    let more = found.next.is_some();
    let ids: Vec<String> = found.rows.into_iter().map(|s| s.execution_id).collect();
    if m.dry_run {
        return Ok(Reply::ok(Cancelled { cancelled: ids, failed: Vec::new(), more, dry_run: true }));
    }
    let (by, reason) = (who.by(m.by.as_deref()), m.reason);
    let asked = stream::iter(ids).map(|id| {
        let (app, by, reason) = (&app, &by, &reason);
        async move {
            let done = app.client.cancel(&id, reason, by).await;
            (id, done)
        }
    });
    let outcomes: Vec<_> = asked.buffered(AT_ONCE).collect().await;
    let (mut cancelled, mut failed) = (Vec::new(), Vec::new());
    for (id, outcome) in outcomes {
        match outcome {
            Ok(_) => cancelled.push(id),
            Err(e) => failed.push(NotCancelled { execution_id: id, error: e.message }),
        }
    }
    Ok(Reply::ok(Cancelled { cancelled, failed, more, dry_run: false }))
}

/// What was found out about a node.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ResolveNode")]
pub(super) struct Resolving {
    /// What became of its side effect.
    resolution: Resolution,
    /// What the node gave: there if and only if it is `done`.
    outputs: Option<Outputs>,
    /// How it was found out.
    #[serde(default)]
    reason: String,
    /// Who; counts only where nobody needs a token.
    by: Option<String>,
}

/// `POST /v1/executions/{id}/nodes/{node}/resolve`.
pub(super) async fn resolve(
    State(app): State<App>,
    who: Who,
    Path((id, node)): Path<(String, String)>,
    Given(r): Given<Resolving>,
) -> Result<Reply<Accepted>, Problem> {
    if !who.0.scopes.all() {
        known(&app, &who, &id).await?;
    }
    let by = who.by(r.by.as_deref());
    let resolve =
        Resolve { execution_id: id.into(), node_id: node.into(), resolution: r.resolution, outputs: r.outputs, reason: r.reason, by };
    Ok(Reply::accepted(app.client.resolve(&resolve).await?))
}
