//! Resolutions: an operator says what became of a node whose outcome is unknown. Checked against the
//! record and the log before it becomes a command.

use haltline_common::{
    Link, clock, history, kv,
    types::{
        error::{ApiError, Code},
        event::{Command, CommandType, Event, EventType},
        submit::{Accepted, Resolve},
        task::token,
    },
};

/// What a request comes to.
pub enum Resolved {
    /// A command to be stored.
    Command(Box<Command>),
    /// It was said before: this is what it led to.
    Known(Accepted),
}

/// Checks a request.
///
/// # Errors
/// `Invalid` or `TooLarge` for what is wrong with it; `UnknownExecution`; `Conflict` if the node does not
/// wait for a resolution, with where it stands; `Unavailable` if that cannot be read.
pub async fn check(link: &Link, payload: &[u8]) -> Result<Resolved, ApiError> {
    let r: Resolve = serde_json::from_slice(payload).map_err(|e| ApiError::invalid("resolution", e.to_string()))?;
    r.check()?;
    let Some((record, _)) = kv::record(link, &r.execution_id).await? else {
        return Err(ApiError::new(Code::UnknownExecution, format!("there is no execution `{}`", r.execution_id)));
    };
    let unknown = record.unknown_nodes.iter().find(|n| n.node_id == r.node_id);
    if let Some(unknown) = unknown.filter(|_| !record.status.is_terminal()) {
        // Said already, and the record does not show it yet.
        let commands = history::commands(link, &r.execution_id).await.map_err(|e| ApiError::new(Code::Unavailable, e.to_string()))?;
        let about = Some(token(unknown.attempt));
        let said = |c: &Command| c.kind == CommandType::Resolve && c.nodes.first() == Some(&r.node_id) && c.token == about;
        if let Some((_, said)) = commands.iter().find(|(_, c)| said(c)) {
            if is_same(said, &r) {
                return Ok(Resolved::Known(Accepted { execution_id: r.execution_id, status: record.status, repeated: true }));
            }
            let by = if said.by.is_empty() { "someone" } else { &said.by };
            let message = format!("{by} has resolved node `{}` already, in another way", r.node_id);
            return Err(ApiError { field: Some("node_id".into()), ..ApiError::new(Code::Conflict, message) });
        }
        return Ok(Resolved::Command(Box::new(Command {
            reason: r.reason,
            by: r.by,
            nodes: vec![r.node_id],
            token: Some(token(unknown.attempt)),
            resolution: Some(r.resolution),
            outputs: r.outputs,
            ..Command::new(CommandType::Resolve, &r.execution_id, clock::now())
        })));
    }
    let log = history::read(link, &r.execution_id).await.map_err(|e| ApiError::new(Code::Unavailable, e.to_string()))?;
    let (mut said, mut last) = (None, None);
    for (_, entry) in log {
        match entry {
            history::Entry::Command(c) if c.kind == CommandType::Resolve && c.nodes.first() == Some(&r.node_id) => said = Some(c),
            history::Entry::Event(e) if e.node_id.as_ref() == Some(&r.node_id) && !e.kind.is_terminal() => last = Some(*e),
            history::Entry::Command(_) | history::Entry::Event(_) => {}
        }
    }
    // The request repeated, because its answer was lost.
    if said.is_some_and(|c| is_same(&c, &r)) {
        return Ok(Resolved::Known(Accepted { execution_id: r.execution_id, status: record.status, repeated: true }));
    }
    let waiting: Vec<&str> = record.unknown_nodes.iter().map(|n| n.node_id.as_str()).collect();
    let others = match (record.status.is_terminal(), waiting.is_empty()) {
        (true, _) => format!("; the execution has ended: {}", record.status.as_str()),
        (false, true) => "; no node of this execution does".to_owned(),
        (false, false) => format!("; these do: {}", waiting.join(", ")),
    };
    let message = format!("node `{}` does not wait for a resolution: {}{others}", r.node_id, state(last.as_ref()));
    Err(ApiError { field: Some("node_id".into()), ..ApiError::new(Code::Conflict, message) })
}

/// Whether a command says what is asked for.
fn is_same(said: &Command, r: &Resolve) -> bool {
    (said.resolution, &said.outputs, &said.reason, &said.by) == (Some(r.resolution), &r.outputs, &r.reason, &r.by)
}

/// Where a node stands, by the last event about it.
fn state(last: Option<&Event>) -> &'static str {
    match last.map(|e| e.kind) {
        None => "it has not started",
        Some(EventType::NodeCompleted) => "it has completed",
        Some(EventType::NodeFailed) => "it has failed",
        Some(EventType::NodeRefused) => "it was refused",
        Some(EventType::NodeSkipped) => "it was skipped",
        Some(EventType::NodeUnknown) => "its outcome is unknown",
        Some(_) => "it is running",
    }
}
