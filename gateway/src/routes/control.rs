//! `/v1/control/global`: the control flag. Every answer shows what is stored, never what was asked.

use axum::{extract::State, http::StatusCode, response::Response};
use haltline_client::ApiError;
use haltline_common::types::{
    control::{Gate, Level},
    limits::TEXT_BYTES_MAX,
};
use serde::Deserialize;

use super::executions::BY;
use crate::{
    app::App,
    body::{self, Raw},
    problem::{Problem, json_response},
};

/// What to set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setting {
    state: Level,
    reason: String,
    by: Option<String>,
}

/// `GET /v1/control/global`: the flag from the stream's leader, and this gateway's `gate`.
pub(super) async fn read(State(app): State<App>) -> Result<Response, Problem> {
    let mut value = serde_json::to_value(app.client.flag().await?).unwrap_or_default();
    value["gate"] = gate(&app).into();
    Ok(json_response(StatusCode::OK, &value))
}

/// `PUT /v1/control/global`: 200 with the flag as it is stored then, which may be graver than what
/// was asked for.
pub(super) async fn set(State(app): State<App>, raw: Raw) -> Result<Response, Problem> {
    let s: Setting = body::json(raw)?;
    if s.reason.trim().is_empty() {
        return Err(ApiError::invalid("reason", "say why").into());
    }
    let by = s.by.as_deref().map(str::trim).filter(|b| !b.is_empty()).unwrap_or(BY);
    if by.len() > TEXT_BYTES_MAX {
        return Err(ApiError::invalid("by", format!("is longer than {TEXT_BYTES_MAX} bytes")).into());
    }
    let flag = app.client.set_flag(s.state, s.reason.trim(), by).await?;
    tracing::warn!(state = flag.state.as_str(), revision = flag.revision, by, reason = flag.reason, "control flag set through the gateway");
    Ok(json_response(StatusCode::OK, &flag))
}

/// What the flag is to this gateway's own watch.
pub(super) fn gate(app: &App) -> &'static str {
    match app.control.gate() {
        Gate::Open => "open",
        Gate::Halted(_) => "halted",
        Gate::Unsure(_) => "unsure",
    }
}
