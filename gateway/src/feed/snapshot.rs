//! The state of what a subscription matches: executions as a listing shows them; for executions that
//! are named, their nodes as well.
//!
//! What follows a snapshot are events behind its place, so it has to show all that the events up to there did. Records
//! are not events: an execution's is stored before its first event, and its final one after its last. So the list is
//! read when it has every record that was stored by then, and an end that the log has already is put over a record that
//! does not know it yet.

use std::collections::{BTreeMap, HashSet};

use haltline_client::Code;
use haltline_common::{
    history,
    types::{
        Timestamp,
        event::{Event, EventType},
        feed::{Filter, Subject},
    },
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    app::App,
    auth::{Principal, Who},
    hub::Entry,
    index::{Summary, Wanted},
};

/// Executions of a snapshot at most: what a page can show, in a few hundred kilobytes.
pub(crate) const SNAPSHOT_MAX: usize = 1000;

/// Executions, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub items: Vec<Value>,
    /// There are more.
    pub more: bool,
}

/// Where snapshots come from.
pub(crate) trait Snapshots {
    /// The state of what `filter` matches and `principal` may see: of everything up to `pos`, and
    /// maybe of something behind it.
    fn state(&self, filter: &Filter, principal: &Principal, pos: u64) -> impl Future<Output = Result<State, String>> + Send;
}

impl Snapshots for App {
    async fn state(&self, filter: &Filter, principal: &Principal, pos: u64) -> Result<State, String> {
        match filter.executions() {
            Some(ids) => named(self, &ids, filter, principal, pos).await,
            None => listed(self, filter, principal, pos).await,
        }
    }
}

/// Executions that are read with their nodes: each costs a few requests.
const NAMED_MAX: usize = 16;

async fn listed(app: &App, filter: &Filter, principal: &Principal, pos: u64) -> Result<State, String> {
    if !app.index.ready() {
        return Err("the executions have not been read yet".into());
    }
    app.index.caught_up(&app.link).await?;
    let (of, who) = (filter.clone(), principal.clone());
    let wants = move |s: &Summary| {
        let subject = Subject {
            execution: &s.execution_id,
            workflow: &s.workflow_id,
            bot: &s.bot_id,
            strategy: &s.strategy_id,
            ..Subject::default()
        };
        who.sees(&s.workflow_id, &s.bot_id, &s.strategy_id) && of.may_match(&subject)
    };
    let mut base = Wanted::default();
    if !Who(principal.clone()).narrow(&mut base) {
        return Ok(State::default());
    }
    let (found, more) = app.index.newest(base, wants, SNAPSHOT_MAX).await.map_err(|e| e.message)?;
    let mut items: Vec<Value> = found.iter().filter_map(|s| serde_json::to_value(s).ok()).collect();
    let running = found.into_iter().filter(|s| !s.status.is_terminal()).map(|s| s.execution_id).collect::<HashSet<_>>();
    if !running.is_empty() {
        for entry in app.hub.ends(&running, pos) {
            if let Entry::Event(end) = &*entry
                && let Some(item) = items.iter_mut().find(|i| i["execution_id"] == *end.execution)
                && let Ok(end) = serde_json::from_str::<Event>(end.json())
            {
                close(item, &end);
            }
        }
    }
    Ok(State { items, more })
}

/// Puts an execution's last event over what a record knew before it.
fn close(item: &mut Value, end: &Event) {
    let Value::Object(item) = item else { return };
    let texts = [
        ("status", end.status.as_deref()),
        ("error", end.error.as_deref()),
        ("error_type", end.error_type.as_deref()),
        ("reason", end.reason.as_deref()),
    ];
    item.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
    item.insert("finished_at".into(), end.timestamp.to_string().into());
    if let Some(ms) = end.duration_ms {
        item.insert("duration_ms".into(), ms.into());
    }
}

async fn named(app: &App, ids: &[&str], filter: &Filter, principal: &Principal, pos: u64) -> Result<State, String> {
    let mut state = State { items: Vec::new(), more: ids.len() > NAMED_MAX };
    for id in ids.iter().take(NAMED_MAX) {
        let record = match app.client.record(id).await {
            Ok(record) => record,
            Err(e) if e.code == Code::UnknownExecution => continue,
            Err(e) => return Err(e.to_string()),
        };
        let c = &record.correlation;
        let subject = Subject { execution: id, workflow: &c.workflow_id, bot: &c.bot_id, strategy: &c.strategy_id, ..Subject::default() };
        if !principal.sees(&c.workflow_id, &c.bot_id, &c.strategy_id) || !filter.may_match(&subject) {
            continue;
        }
        let events = history::events(&app.link, id).await.map_err(|e| e.to_string())?;
        let mut nodes: BTreeMap<&str, Node<'_>> = BTreeMap::new();
        for (_, event) in events.iter().filter(|(seq, _)| *seq <= pos) {
            if let Some(node) = &event.node_id {
                nodes.entry(node).or_default().take_in(event);
            }
        }
        let mut item = serde_json::to_value(&record).unwrap_or_default();
        if let Value::Object(map) = &mut item {
            // What only recovery needs, and what may be large.
            for hidden in ["v", "key", "body", "input", "notify", "results", "shard"] {
                map.remove(hidden);
            }
            map.insert("nodes".into(), serde_json::to_value(&nodes).unwrap_or_default());
        }
        let ended = events.iter().find(|(seq, event)| *seq <= pos && event.kind.is_terminal());
        if let Some((_, end)) = ended.filter(|_| !record.status.is_terminal()) {
            close(&mut item, end);
        }
        state.items.push(item);
    }
    Ok(state)
}

/// A node as its events tell it.
#[derive(Debug, Default, Serialize)]
struct Node<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_type: Option<&'a str>,
}

impl<'a> Node<'a> {
    fn take_in(&mut self, event: &'a Event) {
        let status = match event.kind {
            EventType::NodeStarted => "running",
            EventType::NodeCompleted => "completed",
            EventType::NodeFailed => "failed",
            EventType::NodeRetrying | EventType::NodeStale => "retrying",
            EventType::NodeRefused => "refused",
            EventType::NodeSkipped => "skipped",
            EventType::NodeUnknown => "unknown",
            _ => return,
        };
        self.status = status;
        self.attempt = event.attempt.or(self.attempt);
        self.worker_id = event.worker_id.as_deref().or(self.worker_id);
        self.error = event.error.as_deref();
        self.error_type = event.error_type.as_deref();
        self.duration_ms = event.duration_ms;
        if event.kind == EventType::NodeStarted {
            self.started_at = Some(event.timestamp);
            self.ended_at = None;
        } else if !matches!(event.kind, EventType::NodeRetrying | EventType::NodeStale | EventType::NodeUnknown) {
            self.ended_at = Some(event.timestamp);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_is_put_over_a_record_that_does_not_know_it() {
        let end = json!({
            "type": "execution_failed", "id": "e/ended", "execution_id": "e", "workflow_id": "w", "bot_id": "", "strategy_id": "",
            "timestamp": "2026-01-01T00:00:01.000Z", "status": "failed", "duration_ms": 1.5, "error": "no answer", "error_type": "Timeout",
        });
        let mut item = json!({ "execution_id": "e", "status": "running", "node_count": 3 });
        close(&mut item, &serde_json::from_value(end).expect("an event"));
        let wanted = json!({
            "execution_id": "e", "status": "failed", "node_count": 3, "error": "no answer", "error_type": "Timeout",
            "finished_at": "2026-01-01T00:00:01.000Z", "duration_ms": 1.5,
        });
        assert_eq!(item, wanted);
    }
}
