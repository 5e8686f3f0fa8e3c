//! `/v1/workers` and `/v1/node-types`.

use axum::{extract::State, http::StatusCode, response::Response};
use serde_json::json;

use crate::{
    app::App,
    problem::{Problem, json_response},
};

/// `GET /v1/workers`: workers that showed a sign of life within ten seconds.
pub(super) async fn workers(State(app): State<App>) -> Result<Response, Problem> {
    Ok(json_response(StatusCode::OK, &json!({ "workers": app.workers().await? })))
}

/// `GET /v1/node-types`: what nodes can be.
pub(super) async fn types(State(app): State<App>) -> Result<Response, Problem> {
    Ok(json_response(StatusCode::OK, &json!({ "node_types": app.types().await? })))
}
