//! Lists and counts, from the index.

use std::{collections::BTreeMap, time::Duration};

use axum::extract::State;
use haltline_client::{ApiError, Code, Status};
use haltline_common::types::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api::{Asked, Reply},
    app::App,
    auth::Who,
    index::{Cursor, Order, Page, Summary, Wanted},
    problem::Problem,
};

/// Executions in one page.
const LIST_MAX: usize = 500;
const LIST_DEFAULT: usize = 100;
/// How long a list waits for what was stored before it was asked for: the index is milliseconds behind.
const FRESH_WITHIN: Duration = Duration::from_secs(2);
/// Values of one filter: each is a list to merge.
const VALUES_MAX: usize = 64;

/// What to list: filters AND, values of one filter OR.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filters {
    /// A workflow; several by repeating it.
    #[serde(default)]
    workflow_id: Vec<String>,
    /// A bot; several by repeating it.
    #[serde(default)]
    bot_id: Vec<String>,
    /// A strategy; several by repeating it.
    #[serde(default)]
    strategy_id: Vec<String>,
    /// A status; several by repeating it or separated by commas.
    #[serde(default)]
    status: Vec<String>,
    /// Started at or after this time.
    since: Option<Timestamp>,
    /// Started before this time.
    until: Option<Timestamp>,
    /// The id begins with this. Such a list is in the order of ids.
    id: Option<String>,
    /// `-started_at` (newest first, the default) or `started_at`.
    sort: Option<String>,
    /// 1 to 500; 100 if absent.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of executions.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExecutionPage")]
pub(super) struct Listed {
    /// The executions.
    executions: Vec<Summary>,
    /// Leads to the next page as `cursor`; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Executions by status.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExecutionCounts")]
pub(super) struct Counts {
    /// How many of each status there are.
    statuses: BTreeMap<String, u64>,
    /// Of all statuses.
    total: u64,
}

/// What a list asks for, checked.
fn wanted(f: &Filters) -> Result<Wanted, Problem> {
    for (name, values) in [("workflow_id", &f.workflow_id), ("bot_id", &f.bot_id), ("strategy_id", &f.strategy_id), ("status", &f.status)] {
        if values.len() > VALUES_MAX {
            return Err(ApiError::invalid(name, format!("has {} values, more than {VALUES_MAX}", values.len())).into());
        }
    }
    let mut statuses = Vec::new();
    for text in f.status.iter().flat_map(|s| s.split(',')) {
        let status = text.trim().parse::<Status>().map_err(|e| ApiError::invalid("status", e))?;
        if !statuses.contains(&status) {
            statuses.push(status);
        }
    }
    Ok(Wanted {
        workflows: f.workflow_id.clone(),
        bots: f.bot_id.clone(),
        strategies: f.strategy_id.clone(),
        statuses,
        since: f.since,
        until: f.until,
        id: f.id.clone().filter(|id| !id.is_empty()),
    })
}

/// `GET /v1/executions`.
pub(super) async fn list(State(app): State<App>, who: Who, Asked(f): Asked<Filters>) -> Result<Reply<Listed>, Problem> {
    let limit = f.limit.unwrap_or(LIST_DEFAULT);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be 1 to {LIST_MAX}")).into());
    }
    let order = match f.sort.as_deref() {
        None | Some("-started_at") => Order::Newest,
        Some("started_at") => Order::Oldest,
        Some(other) => return Err(ApiError::invalid("sort", format!("`{other}` is none of -started_at, started_at")).into()),
    };
    let after = match &f.cursor {
        Some(text) => Some(text.parse::<Cursor>().map_err(|e| ApiError::invalid("cursor", e))?),
        None => None,
    };
    let mut wanted = wanted(&f)?;
    ready(&app)?;
    if !who.narrow(&mut wanted) {
        return Ok(Reply::ok(Listed { executions: Vec::new(), next: None }));
    }
    fresh(&app).await;
    let found = app.index.list(wanted, Page { limit, order, after }).await?;
    Ok(Reply::ok(Listed { executions: found.rows, next: found.next.map(|p| p.to_string()) }))
}

/// `GET /v1/executions/counts`.
pub(super) async fn counts(State(app): State<App>, who: Who) -> Result<Reply<Counts>, Problem> {
    who.everything()?;
    ready(&app)?;
    let counts = app.index.counts().await?;
    let statuses: BTreeMap<String, u64> = counts.into_iter().map(|(status, n)| (status.to_owned(), n)).collect();
    let total = statuses.values().sum();
    Ok(Reply::ok(Counts { statuses, total }))
}

/// Waits for what was stored before it was asked for: who submitted, or heard of an execution, finds it in the list. Without
/// nats-server, or where the list is further behind, it shows what it has.
async fn fresh(app: &App) {
    match tokio::time::timeout(FRESH_WITHIN, app.index.caught_up(&app.link)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error, "a list may be behind"),
        Err(_) => tracing::debug!("a list may be behind: nats-server did not answer in time"),
    }
}

/// A list of half of what there is would look like all of it.
fn ready(app: &App) -> Result<(), Problem> {
    if app.index.ready() {
        return Ok(());
    }
    Err(ApiError::new(Code::Unavailable, "the list of executions is still being read; repeat").into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::query;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        /// Any query: filters, or 400 or 422 with the field that is wrong.
        #[test]
        fn any_query_is_a_list_or_names_a_field(
            pairs in prop::collection::vec(
                (
                    prop::sample::select(vec!["workflow_id", "bot_id", "status", "since", "until", "id", "sort", "limit", "cursor", "x"]),
                    prop_oneof![any::<String>(), "[a-z0-9%,]{0,9}", prop::sample::select(vec!["failed", "running,x", "2026-01-01T00:00:00Z", "-1", "501", "9999999999999999999999", "t.1.x"]).prop_map(str::to_owned)],
                ),
                0..5,
            ),
            raw in any::<String>(),
        ) {
            let joined: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
            for text in [joined.join("&"), raw] {
                match query::<Filters>(&text).and_then(|f| wanted(&f)) {
                    Ok(wanted) => prop_assert!(wanted.workflows.len() <= VALUES_MAX),
                    Err(problem) => {
                        let status = problem.status();
                        prop_assert!((status == 400 || status == 422) && !problem.detail().is_empty() && problem.field().is_some(), "{}: {:?}", text, problem);
                    }
                }
            }
        }
    }
}
