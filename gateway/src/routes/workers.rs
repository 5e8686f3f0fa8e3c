//! `/v1/workers` and `/v1/node-types`.

use axum::extract::State;
use haltline_common::{
    clock,
    types::{catalog::NodeType, worker::Presence},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api::{Api, Op, Reply},
    app::App,
    auth::{Need, Who},
    problem::Problem,
};

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get("/v1/workers", workers, Op::new("listWorkers", Need::VIEWER, "Workers that showed a sign of life within ten seconds.")).get(
        "/v1/node-types",
        types,
        Op::new("listNodeTypes", Need::VIEWER, "What nodes can be."),
    );
}

/// Workers.
#[derive(Serialize, JsonSchema)]
struct Workers {
    /// By id.
    workers: Vec<WorkerShown>,
}

/// A worker.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Worker")]
struct WorkerShown {
    #[serde(flatten)]
    presence: Presence,
    /// Milliseconds since the server stored what it last wrote about its lease; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_age_ms: Option<u64>,
    /// How long that lease holds, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_ms: Option<u64>,
    /// Side effects that it has begun and whose outcome is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_effects: Option<u64>,
}

/// Node types.
#[derive(Serialize, JsonSchema)]
struct NodeTypes {
    /// The built-in ones first.
    node_types: Vec<NodeType>,
}

// For whoever may look, also at a part: workers run everybody's nodes, what is shown names none of them, and whoever
// halts a part has to see who has not confirmed.
async fn workers(State(app): State<App>, _: Who) -> Result<Reply<Workers>, Problem> {
    let (present, leases) = tokio::join!(app.workers(), app.leases());
    let (present, leases) = (present?, leases?);
    let now = clock::now();
    let shown = present.into_iter().map(|presence| {
        // A worker that came back under its name has another life: the one that wrote last.
        let own = leases.iter().filter(|(l, _)| l.worker_id == presence.worker_id && !l.goodbye).max_by_key(|(_, at)| at.0);
        WorkerShown {
            lease_age_ms: own.map(|(_, at)| now.millis_since(*at)),
            lease_ms: own.map(|(l, _)| l.lease_ms),
            open_effects: own.map(|(l, _)| l.open.len() as u64 + l.more),
            presence,
        }
    });
    Ok(Reply::ok(Workers { workers: shown.collect() }))
}

async fn types(State(app): State<App>, _: Who) -> Result<Reply<NodeTypes>, Problem> {
    Ok(Reply::ok(NodeTypes { node_types: app.types().await? }))
}
