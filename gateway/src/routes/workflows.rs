//! `/v1/workflows`: storing and reading definitions.

use axum::{
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use haltline_client::{ApiError, Code};
use haltline_common::definitions;
use serde::Deserialize;
use serde_json::json;

use super::executions::shown;
use crate::{
    app::App,
    body::{self, Raw},
    problem::{Problem, json_response},
};

/// Which version to read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    version: Option<String>,
}

/// `PUT /v1/workflows/{id}`: 201 if the version is new, 200 if the same is stored already.
pub(super) async fn put(State(app): State<App>, Path(id): Path<String>, headers: HeaderMap, raw: Raw) -> Result<Response, Problem> {
    let is_json = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|v| v.to_ascii_lowercase().contains("json"));
    let definition = if is_json { definitions::from_value(body::json(raw)?)? } else { definitions::parse(&body::text(raw)?)? };
    if definition.id != id {
        let message = format!("the document's id `{}` is not the address's `{id}`", definition.id);
        return Err(ApiError::invalid("id", message).into());
    }
    let new = app.client.put_workflow(&definition).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_response(status, &json!({ "id": definition.id, "version": definition.version, "new": new })))
}

/// `GET /v1/workflows`: ids with their latest versions.
pub(super) async fn list(State(app): State<App>) -> Result<Response, Problem> {
    Ok(json_response(StatusCode::OK, &json!({ "workflows": app.client.workflows().await? })))
}

/// `GET /v1/workflows/{id}`: a definition.
pub(super) async fn read(State(app): State<App>, Path(id): Path<String>, Query(which): Query<Which>) -> Result<Response, Problem> {
    Ok(json_response(StatusCode::OK, &app.client.workflow(&id, which.version.as_deref()).await?))
}

/// `GET /v1/workflows/{id}/executions/latest`: the record of the most recently started execution
/// among those that the gateway lists.
pub(super) async fn latest(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let found = app.index.read().latest(&id);
    let Some(execution) = found else {
        return Err(ApiError::new(Code::UnknownExecution, format!("workflow `{id}` has no recent execution")).into());
    };
    Ok(json_response(StatusCode::OK, &shown(app.client.record(&execution).await?)?))
}
