//! An event as the hub keeps it: its part of a frame, written once for all clients, and what filters
//! look at.

use std::{borrow::Cow, sync::Arc};

use haltline_common::types::feed::{Cursor, Epoch, Subject, Tag};
use serde::Deserialize;

/// An event of the log.
#[derive(Debug)]
pub(crate) struct LogEvent {
    /// Its place in the log.
    pub cursor: Cursor,
    /// Its deterministic id.
    pub id: Arc<str>,
    /// What happened, as written; types of newer versions pass unchanged.
    pub kind: Box<str>,
    /// Whose it is; empty where it belongs to none.
    pub execution: Box<str>,
    pub workflow: Box<str>,
    pub bot: Box<str>,
    pub strategy: Box<str>,
    pub node: Box<str>,
    /// `"c":"<cursor>","d":<the event>}`: the end of every `ev` that carries it.
    frame: Box<str>,
    /// Where the event begins in it.
    json_at: usize,
}

#[derive(Deserialize)]
struct Look<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default, borrow)]
    execution_id: Cow<'a, str>,
    #[serde(default, borrow)]
    workflow_id: Cow<'a, str>,
    #[serde(default, borrow)]
    bot_id: Cow<'a, str>,
    #[serde(default, borrow)]
    strategy_id: Cow<'a, str>,
    #[serde(default, borrow)]
    node_id: Option<Cow<'a, str>>,
}

impl LogEvent {
    /// Reads a message's body. The rest of the event is not interpreted, only checked to be JSON,
    /// since it is put into frames as it is.
    pub fn read(epoch: Epoch, seq: u64, payload: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(payload).map_err(|e| e.to_string())?.trim();
        if !text.starts_with('{') {
            return Err("it is no JSON object".into());
        }
        let look: Look<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let cursor = Cursor { epoch, seq, tag: Some(Tag::of(payload)) };
        let mut frame = format!(r#""c":"{cursor}","d":"#);
        let json_at = frame.len();
        frame.reserve_exact(text.len() + 1);
        if text.contains(['\n', '\r']) {
            // Between values only, since it is JSON; an event stream ends a line there.
            frame.extend(text.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
        } else {
            frame.push_str(text);
        }
        frame.push('}');
        Ok(Self {
            cursor,
            id: look.id.into(),
            kind: look.kind.into(),
            execution: look.execution_id.into(),
            workflow: look.workflow_id.into(),
            bot: look.bot_id.into(),
            strategy: look.strategy_id.into(),
            node: look.node_id.unwrap_or_default().into(),
            frame: frame.into(),
            json_at,
        })
    }

    /// Its sequence.
    pub fn seq(&self) -> u64 {
        self.cursor.seq
    }

    /// The end of an `ev` that carries it.
    pub fn frame(&self) -> &str {
        &self.frame
    }

    /// The event on one line, as stored.
    pub fn json(&self) -> &str {
        &self.frame[self.json_at..self.frame.len() - 1]
    }

    /// What filters look at.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            kind: &self.kind,
            execution: &self.execution,
            workflow: &self.workflow,
            bot: &self.bot,
            strategy: &self.strategy,
            node: &self.node,
        }
    }

    /// Bytes it holds, roughly.
    pub fn bytes(&self) -> usize {
        self.frame.len() + 2 * self.id.len() + self.execution.len() + self.workflow.len() + self.bot.len() + self.strategy.len() + 288
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_stays_as_it_is() {
        let body = b" {\"type\":\"t\",\n \"id\":\"i\", \"node_id\": null, \"text\":\"a\\nb\"}\n";
        let e = LogEvent::read(Epoch(1), 7, body).expect("reads");
        assert_eq!(e.json(), "{\"type\":\"t\",  \"id\":\"i\", \"node_id\": null, \"text\":\"a\\nb\"}");
        assert_eq!(e.frame(), format!("\"c\":\"{}\",\"d\":{}}}", e.cursor, e.json()));
        for bad in ["", "[]", "[\"t\",\"i\"]", "{\"type\":\"t\"}", "{\"type\":\"t\",\"id\":\"i\"} x", "\u{feff}{}"] {
            assert!(LogEvent::read(Epoch(1), 7, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
