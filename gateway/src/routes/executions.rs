//! `/v1/executions`: submitting, reading and cancelling.

use axum::{
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use haltline_client::{ApiError, Code, Outcome, Record, Resolution, Resolve, Status, Submit};
use haltline_common::{fault, types::Millis};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    app::App,
    body::{self, Raw},
    hub,
    index::Wanted,
    problem::{Problem, json_response, no_execution},
};

/// Executions in one list.
const LIST_MAX: usize = 500;
const LIST_DEFAULT: usize = 100;
/// Events in one answer; `next` leads to the following ones.
const EVENTS_MAX: usize = 1000;
/// Bytes of events in one answer, to keep single events of hundreds of kilobytes bounded.
const EVENTS_BYTES_MAX: usize = 8 << 20;
/// A request is not kept open longer: wait again, or follow the socket.
const WAIT_MAX: Millis = Millis::secs(60);
/// Who asks, while the gateway has no authentication.
pub(super) const BY: &str = "http, unverified";

/// The body of a submission.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Submission {
    workflow_id: String,
    version: Option<String>,
    #[serde(default)]
    input: Value,
    bot_id: Option<String>,
    strategy_id: Option<String>,
}

/// How long to wait.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiting {
    wait: Option<String>,
}

/// `POST /v1/executions`: 200 with the outcome if it ended while waited for, else 202.
pub(super) async fn submit(
    State(app): State<App>,
    Query(waiting): Query<Waiting>,
    headers: HeaderMap,
    raw: Raw,
) -> Result<Response, Problem> {
    let wait = match &waiting.wait {
        Some(text) => text.parse::<Millis>().map_err(|e| ApiError::invalid("wait", e))?,
        None => Millis(0),
    };
    if wait > WAIT_MAX {
        return Err(ApiError::invalid("wait", format!("{wait} is more than {WAIT_MAX}")).into());
    }
    let key = match headers.get("idempotency-key") {
        Some(value) => value.to_str().map_err(|_| ApiError::invalid("Idempotency-Key", "must be visible ASCII"))?.to_owned(),
        None => uuid::Uuid::new_v4().to_string(),
    };
    let s: Submission = body::json(raw)?;
    let submit = Submit {
        workflow_id: s.workflow_id,
        version: s.version,
        input: s.input,
        bot_id: s.bot_id,
        strategy_id: s.strategy_id,
        key,
        notify: None,
    };
    fault::point("gateway.submit");
    if wait.0 == 0 {
        let accepted = app.client.submit(submit).await?;
        fault::point("gateway.answer");
        return Ok(located(json_response(StatusCode::ACCEPTED, &accepted), &accepted.execution_id));
    }
    let outcome = app.client.run(submit, wait.duration()).await?;
    fault::point("gateway.answer");
    let status = if outcome.status.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(located(json_response(status, &full(&outcome)), &outcome.execution_id))
}

/// An outcome with `duration_ms` always there.
fn full(outcome: &Outcome) -> Value {
    let mut value = serde_json::to_value(outcome).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.entry("duration_ms").or_insert(Value::Null);
    }
    value
}

fn located(mut response: Response, execution_id: &str) -> Response {
    // An id that cannot be a header's value stays in the body alone.
    if let Ok(value) = HeaderValue::from_str(&format!("/v1/executions/{}", escape(execution_id))) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// Percent-encodes all but unreserved characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// What to list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    limit: Option<usize>,
    workflow_id: Option<String>,
    bot_id: Option<String>,
    strategy_id: Option<String>,
    status: Option<String>,
}

/// `GET /v1/executions`: summaries, most recently written first, of the newest 20,000.
pub(super) async fn list(State(app): State<App>, Query(l): Query<Listing>) -> Result<Response, Problem> {
    let limit = l.limit.unwrap_or(LIST_DEFAULT);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be 1 to {LIST_MAX}")).into());
    }
    let status = match l.status {
        Some(text) => Some(text.parse::<Status>().map_err(|e| ApiError::invalid("status", e))?),
        None => None,
    };
    if !app.index.ready() {
        return Err(ApiError::new(Code::Unavailable, "the list of executions is still being read; repeat").into());
    }
    let wanted = Wanted { workflow_id: l.workflow_id, bot_id: l.bot_id, strategy_id: l.strategy_id, status };
    let found = app.index.read().list(&wanted, limit);
    Ok(json_response(StatusCode::OK, &json!({ "executions": found })))
}

/// `GET /v1/executions/{id}`: the record.
pub(super) async fn read(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(json_response(StatusCode::OK, &shown(app.client.record(&id).await?)?))
}

/// A record without what is between client and coordinator only: a key is its submitter's to know.
pub(super) fn shown(record: Record) -> Result<Value, Problem> {
    let mut value = serde_json::to_value(record).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    if let Value::Object(map) = &mut value {
        for private in ["key", "body", "notify"] {
            map.remove(private);
        }
    }
    Ok(value)
}

/// Which events.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    after: Option<u64>,
    limit: Option<usize>,
}

/// `GET /v1/executions/{id}/events`: events in the log's order, each with its `seq`. If there may be
/// more, `next` is the `after` to ask for them with.
pub(super) async fn events(State(app): State<App>, Path(id): Path<String>, Query(p): Query<Paging>) -> Result<Response, Problem> {
    let limit = p.limit.unwrap_or(EVENTS_MAX);
    if !(1..=EVENTS_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be 1 to {EVENTS_MAX}")).into());
    }
    let subject = app.link.names.events_of(&id);
    let mut pos = p.after.unwrap_or(0);
    let (mut bytes, mut end) = (0, false);
    let mut found: Vec<Value> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    while !end && found.len() < limit && bytes < EVENTS_BYTES_MAX {
        let page = hub::page(&app.link, &subject, pos + 1, limit - found.len()).await.map_err(|e| ApiError::new(Code::Unavailable, e))?;
        end = page.end;
        for (seq, event) in page.messages {
            pos = seq;
            let Some(event) = event.filter(|e| seen.insert(e.id.clone())) else { continue };
            bytes += event.json.len();
            let mut map: Map<String, Value> = serde_json::from_str(&event.json).unwrap_or_default();
            map.insert("seq".into(), seq.into());
            found.push(Value::Object(map));
        }
    }
    if found.is_empty() && p.after.is_none() {
        // Nothing yet, or nobody by that name?
        app.client.record(&id).await.map_err(|e| if e.code == Code::UnknownExecution { no_execution(&id) } else { e.into() })?;
    }
    let next = (!end).then_some(pos);
    Ok(json_response(StatusCode::OK, &json!({ "execution_id": id, "events": found, "next": next })))
}

/// The body of a cancel.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancelling {
    #[serde(default)]
    reason: String,
    by: Option<String>,
}

/// `POST /v1/executions/{id}/cancel`: 202 once the request is stored.
pub(super) async fn cancel(State(app): State<App>, Path(id): Path<String>, raw: Raw) -> Result<Response, Problem> {
    let c: Cancelling = body::json(raw)?;
    let accepted = app.client.cancel(&id, &c.reason, c.by.as_deref().unwrap_or(BY)).await?;
    Ok(json_response(StatusCode::ACCEPTED, &accepted))
}

/// The body of a resolution.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolving {
    resolution: Resolution,
    outputs: Option<Map<String, Value>>,
    #[serde(default)]
    reason: String,
    by: Option<String>,
}

/// `POST /v1/executions/{id}/nodes/{node}/resolve`: 202 once it is stored.
pub(super) async fn resolve(State(app): State<App>, Path((id, node)): Path<(String, String)>, raw: Raw) -> Result<Response, Problem> {
    let r: Resolving = body::json(raw)?;
    let resolve = Resolve {
        execution_id: id,
        node_id: node,
        resolution: r.resolution,
        outputs: r.outputs,
        reason: r.reason,
        by: r.by.unwrap_or_else(|| BY.to_owned()),
    };
    let accepted = app.client.resolve(&resolve).await?;
    Ok(json_response(StatusCode::ACCEPTED, &accepted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_escaped() {
        assert_eq!(escape("exec_a b/ü_1"), "exec_a%20b%2F%C3%BC_1");
    }
}
