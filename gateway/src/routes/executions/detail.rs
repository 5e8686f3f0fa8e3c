//! One execution: its record, its events, where its nodes stand.

use std::collections::{BTreeMap, HashSet};

use axum::extract::{Path, State};
use haltline_client::{ApiError, Code};
use haltline_common::{
    history::{self, HistoryError},
    types::{
        SmolStr, Timestamp,
        event::{Event, EventType},
        json,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Shown, known};
use crate::{
    api::{Asked, Reply},
    app::App,
    auth::Who,
    problem::Problem,
};

/// Events in one answer; `next` leads to the following ones.
const EVENTS_MAX: usize = 1000;
/// Bytes of events in one answer, to keep single events of hundreds of kilobytes bounded.
const EVENTS_BYTES_MAX: usize = 8 << 20;

/// `GET /v1/executions/{id}`.
pub(super) async fn read(State(app): State<App>, who: Who, Path(id): Path<String>) -> Result<Reply<Shown>, Problem> {
    Ok(Reply::ok(Shown::of(&known(&app, &who, &id).await?)?))
}

/// Which events.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// Only events after this `seq`.
    after: Option<u64>,
    /// 1 to 1000.
    limit: Option<usize>,
}

/// A page of events.
#[derive(Serialize, JsonSchema)]
pub(super) struct Events {
    /// Whose.
    execution_id: String,
    /// The events as they are in the log, each with the `seq` of its message. Events that were told in the same
    /// instant share one, and are not separated: there may be a few more than `limit`.
    events: Vec<Map<String, Value>>,
    /// The `after` to ask with for what follows; null at the end.
    next: Option<u64>,
}

/// `GET /v1/executions/{id}/events`.
pub(super) async fn events(
    State(app): State<App>,
    who: Who,
    Path(id): Path<String>,
    Asked(p): Asked<Paging>,
) -> Result<Reply<Events>, Problem> {
    let limit = p.limit.unwrap_or(EVENTS_MAX);
    if !(1..=EVENTS_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be 1 to {EVENTS_MAX}")).into());
    }
    if !who.0.scopes.all() {
        known(&app, &who, &id).await?;
    }
    let unavailable = |e: HistoryError| ApiError::new(Code::Unavailable, e.to_string());
    let page = history::page(&app.link, &id, p.after.unwrap_or(0), limit, EVENTS_BYTES_MAX).await.map_err(unavailable)?;
    let mut found: Vec<Map<String, Value>> = Vec::new();
    let mut seen = HashSet::new();
    let (mut bytes, mut next) = (0, None);
    let mut messages = page.messages.into_iter().peekable();
    while let Some((seq, body)) = messages.next() {
        // All of a message, also above the limit: what follows is asked for by sequence.
        for line in json::lines(&body) {
            match serde_json::from_slice::<Map<String, Value>>(line) {
                Ok(mut event) if seen.insert(event.get("id").cloned()) => {
                    event.insert("seq".into(), seq.into());
                    found.push(event);
                }
                Ok(_) => {} // stored twice
                Err(error) => tracing::warn!(seq, %error, "an event of the log is malformed; left out"),
            }
        }
        let more = messages.peek().is_some() || !page.end;
        next = more.then_some(seq);
        bytes += body.len();
        if found.len() >= limit || bytes >= EVENTS_BYTES_MAX {
            break;
        }
    }
    if found.is_empty() && p.after.is_none() {
        // Nothing yet, or nobody by that name?
        known(&app, &who, &id).await?;
    }
    Ok(Reply::ok(Events { execution_id: id, events: found, next }))
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// An attempt runs.
    Running,
    /// An attempt failed, another follows.
    Retrying,
    /// It succeeded.
    Completed,
    /// It failed for good.
    Failed,
    /// The flag or a cancel refused it.
    Refused,
    /// It does not run, because of another node.
    Skipped,
    /// Whether its side effect happened is not known.
    Unknown,
}

/// A node of an execution.
#[derive(Serialize, JsonSchema)]
pub(super) struct NodeState {
    /// The node.
    node_id: SmolStr,
    /// Where it stands.
    status: Standing,
    /// Attempts begun.
    attempts: u32,
    /// When its first attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    /// Milliseconds of its last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<f64>,
    /// The worker of its last event.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_id: Option<SmolStr>,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_type: Option<String>,
    /// Why it was refused or skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The nodes of an execution that have events.
#[derive(Serialize, JsonSchema)]
pub(super) struct Nodes {
    /// Whose.
    execution_id: String,
    /// Which definition: what has no event yet is in there.
    workflow_id: String,
    /// Its version.
    workflow_version: String,
    /// The nodes by id.
    nodes: Vec<NodeState>,
    /// The last event's `seq`: events after it are not in this picture.
    as_of: u64,
}

/// `GET /v1/executions/{id}/nodes`.
pub(super) async fn nodes(State(app): State<App>, who: Who, Path(id): Path<String>) -> Result<Reply<Nodes>, Problem> {
    let record = known(&app, &who, &id).await?;
    let events = app.client.events(&id).await?;
    let as_of = events.last().map_or(0, |(seq, _)| *seq);
    let mut nodes = BTreeMap::new();
    events.iter().for_each(|(_, event)| fold(&mut nodes, event));
    Ok(Reply::ok(Nodes {
        execution_id: id,
        workflow_id: record.correlation.workflow_id.to_string(),
        workflow_version: record.workflow_version.to_string(),
        nodes: nodes.into_values().collect(),
        as_of,
    }))
}

/// Takes an event in, in the log's order.
fn fold(nodes: &mut BTreeMap<SmolStr, NodeState>, e: &Event) {
    let Some(id) = &e.node_id else { return };
    let status = match e.kind {
        EventType::NodeStarted => Standing::Running,
        EventType::NodeRetrying | EventType::NodeStale => Standing::Retrying,
        EventType::NodeCompleted => Standing::Completed,
        EventType::NodeFailed => Standing::Failed,
        EventType::NodeRefused => Standing::Refused,
        EventType::NodeSkipped => Standing::Skipped,
        EventType::NodeUnknown => Standing::Unknown,
        _ => return,
    };
    let node = nodes.entry(id.clone()).or_insert_with(|| NodeState {
        node_id: id.clone(),
        status,
        attempts: 0,
        started_at: None,
        finished_at: None,
        duration_ms: None,
        worker_id: None,
        error: None,
        error_type: None,
        reason: None,
    });
    let settled =
        matches!(node.status, Standing::Completed | Standing::Failed | Standing::Refused | Standing::Skipped) && node.finished_at.is_some();
    let is_next = e.kind == EventType::NodeStarted && e.attempt > Some(node.attempts);
    node.attempts = node.attempts.max(e.attempt.unwrap_or(0));
    // Read again, or the late start of an attempt that is over.
    if settled && !is_next {
        return;
    }
    node.finished_at = None;
    node.status = status;
    node.worker_id = e.worker_id.clone().or(node.worker_id.take());
    match status {
        Standing::Running => {
            node.started_at.get_or_insert(e.timestamp);
        }
        Standing::Retrying | Standing::Unknown => {}
        Standing::Completed | Standing::Failed | Standing::Refused | Standing::Skipped => node.finished_at = Some(e.timestamp),
    }
    if status == Standing::Completed {
        (node.error, node.error_type, node.reason) = (None, None, None);
    } else if e.error.is_some() {
        (node.error, node.error_type) = (e.error.clone(), e.error_type.clone());
    }
    node.duration_ms = e.duration_ms.or(node.duration_ms);
    node.reason = e.reason.clone().or(node.reason.take());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_stand_where_their_events_say() {
        let event = |json: &str| serde_json::from_str::<Event>(json).expect("event");
        let mut nodes = BTreeMap::new();
        let common = r#""execution_id":"e","workflow_id":"w","timestamp":"2026-11-23T00:00:00.000Z","node_id":"a""#;
        for (kind, more, want) in [
            ("node_started", r#","attempt":1"#, Standing::Running),
            ("node_retrying", r#","attempt":1,"error":"no answer","error_type":"Timeout""#, Standing::Retrying),
            ("node_started", r#","attempt":2"#, Standing::Running),
            ("node_completed", r#","attempt":2,"duration_ms":3.5"#, Standing::Completed),
            ("node_started", r#","attempt":2"#, Standing::Completed),
            // It is read again, for another node.
            ("node_started", r#","attempt":3"#, Standing::Running),
            ("node_completed", r#","attempt":3,"duration_ms":2.5"#, Standing::Completed),
        ] {
            fold(&mut nodes, &event(&format!(r#"{{"type":"{kind}","id":"x",{common}{more}}}"#)));
            assert_eq!(nodes["a"].status, want);
        }
        assert_eq!((nodes["a"].attempts, nodes["a"].duration_ms, nodes["a"].error.clone()), (3, Some(2.5), None));
    }
}
