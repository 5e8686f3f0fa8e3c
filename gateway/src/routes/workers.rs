//! `/v1/workers` and `/v1/node-types`.

use axum::extract::State;
use haltline_common::types::{catalog::NodeType, worker::Presence};
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
    workers: Vec<Presence>,
}

/// Node types.
#[derive(Serialize, JsonSchema)]
struct NodeTypes {
    /// The built-in ones first.
    node_types: Vec<NodeType>,
}

async fn workers(State(app): State<App>, _: Who) -> Result<Reply<Workers>, Problem> {
    Ok(Reply::ok(Workers { workers: app.workers().await? }))
}

async fn types(State(app): State<App>, _: Who) -> Result<Reply<NodeTypes>, Problem> {
    Ok(Reply::ok(NodeTypes { node_types: app.types().await? }))
}
