//! `/v1/executions`: submitting, listing, reading, stopping.

mod detail;
mod list;
mod payload;
mod stop;
mod submit;

use haltline_client::{ApiError, Code, Record};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::{
    api::{Api, Op},
    app::App,
    auth::{Need, Who},
    problem::Problem,
};

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get(
        "/v1/executions",
        list::list,
        Op::new(
            "listExecutions",
            Need::VIEWER,
            "Executions, newest first. A page can have fewer than `limit` and still a `next`: only its absence means the end.",
        ),
    )
    .get("/v1/executions/counts", list::counts, Op::new("countExecutions", Need::VIEWER, "How many executions there are in each status."))
    .post(
        "/v1/executions",
        submit::submit,
        Op::new(
            "submitExecution",
            Need::OPERATOR,
            "Starts an execution. 200 with the outcome if it ended while it was waited for, else 202.",
        )
        .gives(&[200, 202]),
    )
    .post(
        "/v1/executions/cancel",
        stop::cancel_many,
        Op::new(
            "cancelExecutions",
            Need::OPERATOR,
            "Cancels what runs and matches. At most `limit` at a time: repeat while `more` is true. With `dry_run` nothing is cancelled.",
        ),
    )
    .get("/v1/executions/{id}", detail::read, Op::new("readExecution", Need::VIEWER, "An execution's record."))
    .get(
        "/v1/executions/{id}/events",
        detail::events,
        Op::new("readEvents", Need::VIEWER, "An execution's events in the order of the log."),
    )
    .get(
        "/v1/executions/{id}/nodes",
        detail::nodes,
        Op::new("readNodes", Need::VIEWER, "Where each node stands that has an event, folded from the events."),
    )
    .get(
        "/v1/executions/{id}/payload",
        payload::read,
        Op::new(
            "readPayload",
            Need::VIEWER,
            "One payload: the input, a node's output, or all results. Above `max_bytes` only its beginning, as text.",
        ),
    )
    .post(
        "/v1/executions/{id}/cancel",
        stop::cancel,
        Op::new("cancelExecution", Need::OPERATOR, "Asks an execution to end. 202 once that is stored.").gives(&[202]),
    )
    .post(
        "/v1/executions/{id}/nodes/{node}/resolve",
        stop::resolve,
        Op::new("resolveNode", Need::OPERATOR, "Says what became of a side effect whose outcome is unknown. 202 once that is stored.")
            .gives(&[202]),
    );
}

/// A record without what is between client and coordinator only: a key is its submitter's to know.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Shown(serde_json::Value);

/// What of a record is not shown.
const PRIVATE: [&str; 3] = ["key", "body", "notify"];

impl JsonSchema for Shown {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Execution".into()
    }
    fn json_schema(schemas: &mut SchemaGenerator) -> Schema {
        let mut schema = Record::json_schema(schemas);
        for name in PRIVATE {
            if let Some(properties) = schema.get_mut("properties").and_then(|p| p.as_object_mut()) {
                properties.remove(name);
            }
            if let Some(required) = schema.get_mut("required").and_then(|p| p.as_array_mut()) {
                required.retain(|n| n != name);
            }
        }
        schema
    }
}

impl Shown {
    /// What is shown of `record`.
    pub fn of(record: &Record) -> Result<Self, Problem> {
        let mut value = serde_json::to_value(record).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        if let Some(map) = value.as_object_mut() {
            PRIVATE.iter().for_each(|name| _ = map.remove(*name));
        }
        Ok(Self(value))
    }
}

/// The record of an execution that `who` may know of.
pub(super) async fn known(app: &App, who: &Who, id: &str) -> Result<Record, Problem> {
    let record = app.client.record(id).await?;
    who.sees(&record.correlation)?;
    Ok(record)
}
