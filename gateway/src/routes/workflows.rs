//! `/v1/workflows`: storing and reading definitions.

use axum::{
    extract::{Path, State},
    http::{Method, StatusCode},
};
use haltline_client::{ApiError, Code, WorkflowSummary};
use haltline_common::{definitions, types::definition::Definition};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::executions::Shown;
use crate::{
    api::{self, Api, Asked, Op, Raw, Reply},
    app::App,
    auth::{Need, Who},
    index::{Order, Page, Wanted},
    problem::Problem,
};

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get("/v1/workflows", list, Op::new("listWorkflows", Need::VIEWER, "Workflows with their latest versions, by id."))
        .get("/v1/workflows/{id}", read, Op::new("readWorkflow", Need::VIEWER, "A definition: the latest version, or the one named."))
        .on(
            Method::PUT,
            "/v1/workflows/{id}",
            put,
            Op::new(
                "putWorkflow",
                Need::OPERATOR,
                "Stores a version of a workflow. 201 if it is new, 200 if the same is there already; a version never changes.",
            )
            .gives(&[200, 201]),
        )
        .get(
            "/v1/workflows/{id}/versions",
            versions,
            Op::new("listVersions", Need::VIEWER, "The versions of a workflow, the oldest first."),
        )
        .get(
            "/v1/workflows/{id}/executions/latest",
            latest,
            Op::new("latestExecution", Need::VIEWER, "The record of the execution of a workflow that was started last."),
        );
}

/// Which version.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// The version; the latest if absent.
    version: Option<String>,
}

/// What was stored.
#[derive(Serialize, JsonSchema)]
pub(super) struct Stored {
    /// The workflow.
    id: String,
    /// The version.
    version: String,
    /// False if the same was there already.
    new: bool,
}

/// Workflows.
#[derive(Serialize, JsonSchema)]
pub(super) struct Workflows {
    /// By id.
    workflows: Vec<WorkflowSummary>,
}

/// Versions of a workflow.
#[derive(Serialize, JsonSchema)]
pub(super) struct Versions {
    /// The workflow.
    id: String,
    /// Which of them is run if none is named.
    latest: String,
    /// The oldest first.
    versions: Vec<String>,
}

/// What the caller may not know does not exist for it.
fn covered(who: &Who, id: &str) -> Result<(), Problem> {
    let allowed = &who.0.scopes.workflows;
    if allowed.is_empty() || allowed.iter().any(|w| w == id) {
        return Ok(());
    }
    Err(ApiError::new(Code::UnknownWorkflow, format!("there is no workflow `{id}`")).into())
}

/// `PUT /v1/workflows/{id}`.
async fn put(State(app): State<App>, who: Who, Path(id): Path<String>, raw: Raw) -> Result<Reply<Stored>, Problem> {
    let definition: Definition = if raw.json {
        definitions::from_value(api::parse(&raw.bytes)?)?
    } else {
        let not_text = |_| Problem::from(ApiError::invalid("body", "is not UTF-8")).with_status(StatusCode::BAD_REQUEST);
        definitions::parse(std::str::from_utf8(&raw.bytes).map_err(not_text)?)?
    };
    if definition.id != id {
        let message = format!("the document's id `{}` is not the address's `{id}`", definition.id);
        return Err(ApiError::invalid("id", message).into());
    }
    // Who may act for one bot must not change what others run.
    let scopes = &who.0.scopes;
    if !scopes.all() && !scopes.workflows.contains(&id) {
        let detail = format!("your token does not cover workflow `{id}`: that takes a scope that names it");
        return Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", detail));
    }
    let new = app.client.put_workflow(&definition).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(Reply::with(status, Stored { id: definition.id.to_string(), version: definition.version.to_string(), new }))
}

/// `GET /v1/workflows`.
async fn list(State(app): State<App>, who: Who) -> Result<Reply<Workflows>, Problem> {
    let mut workflows = app.client.workflows().await?;
    workflows.retain(|w| covered(&who, &w.id).is_ok());
    Ok(Reply::ok(Workflows { workflows }))
}

/// `GET /v1/workflows/{id}`.
async fn read(State(app): State<App>, who: Who, Path(id): Path<String>, Asked(which): Asked<Which>) -> Result<Reply<Definition>, Problem> {
    covered(&who, &id)?;
    Ok(Reply::ok(app.client.workflow(&id, which.version.as_deref()).await?))
}

/// `GET /v1/workflows/{id}/versions`.
async fn versions(State(app): State<App>, who: Who, Path(id): Path<String>) -> Result<Reply<Versions>, Problem> {
    covered(&who, &id)?;
    let (latest, versions) = app.client.versions(&id).await?;
    Ok(Reply::ok(Versions { id, latest, versions }))
}

/// `GET /v1/workflows/{id}/executions/latest`.
async fn latest(State(app): State<App>, who: Who, Path(id): Path<String>) -> Result<Reply<Shown>, Problem> {
    let mut wanted = Wanted { workflows: vec![id.clone()], ..Wanted::default() };
    let mut found = None;
    if who.narrow(&mut wanted) {
        let page = Page { limit: 1, order: Order::Newest, after: None };
        found = app.index.list(wanted, page).await?.rows.pop();
    }
    let Some(summary) = found else {
        return Err(ApiError::new(Code::UnknownExecution, format!("workflow `{id}` has no recent execution")).into());
    };
    Ok(Reply::ok(Shown::of(&app.client.record(&summary.execution_id).await?)?))
}
