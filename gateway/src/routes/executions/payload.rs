//! Payloads by reference: lists and pictures stay small, and what is large is asked for alone.

use axum::extract::{Path, State};
use haltline_client::{ApiError, Code};
use haltline_common::{
    payloads::{self, PayloadError},
    types::{
        event::EventType,
        limits::{PAYLOAD_BYTES_MAX, PAYLOADS_BYTES_MAX},
        payload::{self, PayloadRef},
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::known;
use crate::{
    api::{Asked, Reply},
    app::App,
    auth::Who,
    problem::Problem,
};

/// Bytes given if the caller names no other number: what a page can show.
const BYTES_DEFAULT: usize = 64 * 1024;

/// Which part.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// What it was started with.
    Input,
    /// What one node gave; `node` says which. What is kept by reference is brought back.
    Output,
    /// What all nodes gave, references as they are.
    Results,
}

/// Which payload.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Which part.
    part: Part,
    /// The node, of an output.
    node: Option<String>,
    /// Bytes of JSON above which only the beginning is given: 1 to 8388608; 65536 if absent.
    max_bytes: Option<usize>,
}

/// A payload.
#[derive(Serialize, JsonSchema)]
pub(super) struct Payload {
    /// Whose.
    execution_id: String,
    /// Which part.
    part: Part,
    /// Of which node.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// Bytes of its JSON.
    bytes: usize,
    /// Whether only `beginning` is given.
    cut: bool,
    /// The payload, unless it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// The beginning of its JSON, if it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    beginning: Option<String>,
}

/// `GET /v1/executions/{id}/payload`.
pub(super) async fn read(
    State(app): State<App>,
    who: Who,
    Path(id): Path<String>,
    Asked(w): Asked<Which>,
) -> Result<Reply<Payload>, Problem> {
    let max = w.max_bytes.unwrap_or(BYTES_DEFAULT);
    if !(1..=PAYLOAD_BYTES_MAX).contains(&max) {
        return Err(ApiError::invalid("max_bytes", format!("must be 1 to {PAYLOAD_BYTES_MAX}")).into());
    }
    if w.node.is_some() != (w.part == Part::Output) {
        return Err(ApiError::invalid("node", "must be there if and only if `part` is `output`").into());
    }
    let record = known(&app, &who, &id).await?;
    let value = match (w.part, &w.node) {
        (Part::Input, _) => record.input,
        (Part::Output, Some(node)) => {
            let value = match record.results.get(node.as_str()) {
                Some(output) => json!(output),
                None => output(&app, &id, node).await?,
            };
            whole(&app, &id, value).await?
        }
        _ if record.results_omitted => {
            return Err(ApiError::invalid("part", "the results are too large for one answer: ask for the outputs of single nodes").into());
        }
        _ => json!(record.results),
    };
    let text = value.to_string();
    let cut = text.len() > max;
    let beginning = cut.then(|| text[..text.floor_char_boundary(max)].to_owned());
    Ok(Reply::ok(Payload {
        execution_id: id,
        part: w.part,
        node: w.node,
        bytes: text.len(),
        cut,
        value: (!cut).then_some(value),
        beginning,
    }))
}

/// What a node gave, from the log: it runs still, or the record had no room.
async fn output(app: &App, id: &str, node: &str) -> Result<Value, Problem> {
    let events = app.client.events(id).await?;
    let own = events.iter().rev().map(|(_, e)| e).find(|e| e.kind == EventType::NodeCompleted && e.node_id.as_deref() == Some(node));
    let outputs = own.and_then(|e| e.outputs.clone());
    outputs.map(|outputs| json!(outputs)).ok_or_else(|| {
        ApiError { field: Some("node".into()), ..ApiError::new(Code::UnknownExecution, format!("`{id}` has no output of a node `{node}`")) }
            .into()
    })
}

/// Outputs with what they refer to.
async fn whole(app: &App, id: &str, mut outputs: Value) -> Result<Value, Problem> {
    let Some(map) = outputs.as_object_mut().filter(|map| map.values().any(payload::is_marked)) else { return Ok(outputs) };
    let unavailable = |why: String| ApiError::new(Code::Unavailable, why);
    let _room = app.payloads.acquire().await.map_err(|e| unavailable(e.to_string()))?;
    let mut left = PAYLOADS_BYTES_MAX;
    for (name, value) in map {
        let Some(reference) = PayloadRef::of(value).filter(|r| r.is_of(id)) else { continue };
        // What is more than that stays a reference: `nats object get` gives it.
        let Some(rest) = left.checked_sub(reference.bytes) else { continue };
        left = rest;
        *value = payloads::get(&app.link, &reference).await.map_err(|e| match e {
            PayloadError::Gone(..) => {
                ApiError { field: Some("node".into()), ..ApiError::new(Code::UnknownExecution, format!("output `{name}`: {e}")) }
            }
            PayloadError::Unavailable(..) => unavailable(e.to_string()),
        })?;
    }
    Ok(outputs)
}
