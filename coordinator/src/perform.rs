//! From what the engine wants written to messages, each with its fault point.

use haltline_common::{
    fault,
    outbox::Write,
    types::{self, Names, event::EventType, ids::token},
};
use haltline_core::Body;
use serde::Serialize;

/// The message for a body.
pub fn message(names: &Names, body: &Body) -> Write {
    match body {
        Body::Create(record) => {
            fault::point("coordinator.create");
            let key = token(&record.correlation.execution_id);
            Write::swap(Names::kv_subject(&names.executions_bucket(), &key), 0, json(record))
        }
        Body::Replace(record, revision) => {
            fault::point("coordinator.final");
            let key = token(&record.correlation.execution_id);
            Write::swap(Names::kv_subject(&names.executions_bucket(), &key), *revision, json(record))
        }
        Body::Note(event) => {
            fault::point(match event.kind {
                EventType::ExecutionStarted => "coordinator.started",
                EventType::NodeSkipped => "coordinator.skipped",
                _ => "coordinator.ended",
            });
            Write::with_id(names.note(&event.execution_id), event.id.as_str(), json(event))
        }
        Body::Task(task) => {
            fault::point("coordinator.task");
            let kind = task.nodes.first().map_or("", |n| n.kind.as_str());
            Write::with_id(names.task(kind, &task.correlation.execution_id), task.message_id(), json(task))
        }
        Body::Command(command) => {
            fault::point("coordinator.command");
            Write::with_id(names.command(&command.execution_id), command.message_id(), json(command))
        }
    }
}

/// One line of JSON. Our own types serialize; an empty message would be refused by its reader.
pub fn json(value: &impl Serialize) -> Vec<u8> {
    types::json::line(value).unwrap_or_else(|e| {
        tracing::error!(error = %e, "cannot serialize");
        Vec::new()
    })
}
