//! Watching an execution: its nodes as a list that changes in place on a terminal, as lines
//! elsewhere, as JSON events for programs.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use haltline_client::{Client, Outcome, Status};
use haltline_common::{
    tail::{self, Item, Start, Tail},
    types::{
        SmolStr,
        definition::Definition,
        event::{Event, EventType},
        json,
    },
};

use crate::output;

/// Workflows with more nodes are shown as lines: the list would scroll away.
const LIST_NODES_MAX: usize = 24;
/// The record follows the terminal event within milliseconds.
const RECORD_WITHIN: Duration = Duration::from_secs(30);

/// Shows what happens until the execution ends or `limit` is over; how it stands then.
///
/// # Errors
/// When its record cannot be read.
pub async fn follow(client: &Client, definition: &Definition, id: &str, limit: Duration, json: bool) -> anyhow::Result<Outcome> {
    let link = client.link();
    let mut tail = Tail::start(
        link,
        tail::Options {
            stream: link.names.events_stream(),
            filter: link.names.events_of(id),
            start: Start::Seq(1),
            heartbeat: Duration::from_secs(5),
            buffer: 1024,
            reader: "follow".into(),
            headers_only: false,
        },
    );
    let mut view = View::new(definition, json);
    let watch = async {
        let mut seen = HashSet::new();
        while let Some(item) = tail.next().await {
            let Item::Message(message) = item else { continue };
            for line in json::lines(&message.payload) {
                let event: Event = match serde_json::from_slice(line) {
                    Ok(event) => event,
                    Err(error) => {
                        tracing::warn!(seq = message.seq, %error, "an event is malformed; left out");
                        continue;
                    }
                };
                if !seen.insert(event.id.clone()) {
                    continue; // stored twice
                }
                view.show(&event);
                if event.kind.is_terminal() {
                    return;
                }
            }
        }
    };
    match tokio::time::timeout(limit, watch).await {
        Ok(()) => Ok(client.wait(id, RECORD_WITHIN).await?),
        Err(_) => Ok(Outcome::from(&client.record(id).await?)),
    }
}

enum View {
    Json,
    Lines(HashMap<SmolStr, SmolStr>),
    List { rows: Vec<Row>, drawn: bool },
}

struct Row {
    id: SmolStr,
    title: SmolStr,
    kind: SmolStr,
    state: String,
}

impl View {
    fn new(definition: &Definition, json: bool) -> Self {
        if json {
            return Self::Json;
        }
        if !output::is_terminal() || definition.nodes.len() > LIST_NODES_MAX {
            return Self::Lines(definition.nodes.iter().map(|n| (n.id.clone(), n.title().clone())).collect());
        }
        let rows = definition.nodes.iter().map(|n| Row {
            id: n.id.clone(),
            title: n.title().clone(),
            kind: n.kind.clone(),
            state: "waiting".into(),
        });
        Self::List { rows: rows.collect(), drawn: false }
    }

    fn show(&mut self, event: &Event) {
        match self {
            Self::Json => output::json(event),
            Self::Lines(titles) => {
                let title = |id| titles.get(id).map_or("", SmolStr::as_str);
                let node = event.node_id.as_ref().map(|id| format!(" {}", title(id))).unwrap_or_default();
                output::line(format_args!("{} {}{node}{}", event.timestamp, event.kind.as_str(), details(event)));
            }
            Self::List { rows, drawn } => {
                if let Some(row) = rows.iter_mut().find(|r| event.node_id.as_ref() == Some(&r.id)) {
                    row.state = format!("{}{}", word(event.kind), details(event));
                }
                draw(rows, drawn);
            }
        }
    }
}

/// Redraws the list over itself.
fn draw(rows: &[Row], drawn: &mut bool) {
    let width = |f: fn(&Row) -> &str| rows.iter().map(|r| f(r).chars().count()).max().unwrap_or(0);
    let (title, kind) = (width(|r| &r.title), width(|r| &r.kind));
    let mut text = if std::mem::replace(drawn, true) { format!("\x1b[{}A", rows.len()) } else { String::new() };
    for row in rows {
        // Short enough not to wrap: a wrapped line would break the count of lines above.
        let state: String = row.state.chars().take(60).collect();
        text.push_str(&format!("\x1b[2K  {:title$}  {:kind$}  {state}\n", row.title, row.kind));
    }
    output::text(text);
}

fn word(kind: EventType) -> &'static str {
    match kind {
        EventType::NodeStarted => "running",
        EventType::NodeCompleted => "completed",
        EventType::NodeFailed => "failed",
        EventType::NodeRetrying => "retrying",
        EventType::NodeRefused => "refused",
        EventType::NodeSkipped => "skipped",
        EventType::NodeUnknown => "unknown",
        EventType::NodeStale => "stale",
        EventType::EffectIntended | EventType::EffectSettled => "acting",
        other => other.as_str(),
    }
}

/// What else matters about an event, after its name.
pub fn details(event: &Event) -> String {
    let mut out = String::new();
    if event.status.as_deref() == Some(Status::CompletedWithErrors.as_str()) {
        out.push_str(" with errors");
    }
    if let Some(attempt) = event.attempt.filter(|n| *n > 1) {
        out.push_str(&format!(" attempt {attempt}"));
    }
    if let Some(ms) = event.duration_ms {
        out.push_str(&format!(" in {}", output::duration(ms)));
    }
    if let Some(ms) = event.retry_in_ms {
        out.push_str(&format!(" again in {}", output::duration(ms as f64)));
    }
    if let Some(error) = &event.error {
        out.push_str(&format!(" {}: {error}", event.error_type.as_deref().unwrap_or("error")));
    }
    if let Some(reason) = &event.reason {
        out.push_str(&format!(" ({reason})"));
    }
    out
}
