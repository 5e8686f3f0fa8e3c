//! An event as the hub keeps it: its part of a frame, written once for all clients, and what filters
//! look at.

use std::{borrow::Cow, sync::Arc};

use haltline_common::types::{
    event::EventType,
    feed::{Cursor, Epoch, Subject, Tag},
    json,
};
use serde::Deserialize;

/// An event of the log.
#[derive(Debug)]
pub(crate) struct LogEvent {
    /// Where a client goes on that has seen it and what comes before it: behind its message if it is the last
    /// event of that, else before the message, so that the others of it come again.
    pub cursor: Cursor,
    /// The sequence of its message.
    seq: u64,
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
    /// Reads a message's body: an event a line.
    pub fn read(epoch: Epoch, seq: u64, payload: &[u8]) -> Vec<Result<Self, String>> {
        let behind = Cursor { epoch, seq, tag: Some(Tag::of(payload)) };
        let before = Cursor::bare(epoch, seq.saturating_sub(1));
        let mut lines = json::lines(payload).peekable();
        let mut events = Vec::with_capacity(1);
        while let Some(line) = lines.next() {
            events.push(Self::line(if lines.peek().is_some() { before } else { behind }, seq, line));
        }
        events
    }

    /// Reads an event. The rest of it is not interpreted, only checked to be JSON, since it is put into
    /// frames as it is.
    fn line(cursor: Cursor, seq: u64, line: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|e| e.to_string())?.trim();
        if !text.starts_with('{') {
            return Err("it is no JSON object".into());
        }
        let look: Look<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let mut frame = format!(r#""c":"{cursor}","d":"#);
        let json_at = frame.len();
        frame.reserve_exact(text.len() + 1);
        if text.contains('\r') {
            // Between values only, since it is JSON; an event stream ends a line there.
            frame.extend(text.chars().map(|c| if c == '\r' { ' ' } else { c }));
        } else {
            frame.push_str(text);
        }
        frame.push('}');
        Ok(Self {
            cursor,
            seq,
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

    /// The sequence of its message, which other events may share.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The end of an `ev` that carries it.
    pub fn frame(&self) -> &str {
        &self.frame
    }

    /// The event on one line, as stored.
    pub fn json(&self) -> &str {
        &self.frame[self.json_at..self.frame.len() - 1]
    }

    /// Whether it is an execution's last one.
    pub fn ends(&self) -> bool {
        serde_json::from_value::<EventType>(serde_json::Value::from(&*self.kind)).is_ok_and(EventType::is_terminal)
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
        let body = b" {\"type\":\"t\",\r \"id\":\"i\", \"node_id\": null, \"text\":\"a\\nb\"}\n";
        let e = LogEvent::read(Epoch(1), 7, body).remove(0).expect("reads");
        assert_eq!(e.json(), "{\"type\":\"t\",  \"id\":\"i\", \"node_id\": null, \"text\":\"a\\nb\"}");
        assert_eq!(e.frame(), format!("\"c\":\"{}\",\"d\":{}}}", e.cursor, e.json()));
        for bad in [" ", "[]", "[\"t\",\"i\"]", "{\"type\":\"t\"}", "{\"type\":\"t\",\"id\":\"i\"} x", "\u{feff}{}"] {
            assert!(LogEvent::read(Epoch(1), 7, bad.as_bytes()).iter().all(Result::is_err), "{bad}");
        }
    }

    #[test]
    fn a_message_has_an_event_a_line_and_a_client_goes_on_before_or_behind_all_of_it() {
        let body = b"{\"type\":\"t\",\"id\":\"a\"}\nnonsense\n{\"type\":\"t\",\"id\":\"b\"}";
        let events = LogEvent::read(Epoch(1), 7, body);
        assert!(events.len() == 3 && events[1].is_err());
        let places: Vec<_> = events.into_iter().flatten().map(|e| (e.id.to_string(), e.seq(), e.cursor)).collect();
        let behind = Cursor { epoch: Epoch(1), seq: 7, tag: Some(Tag::of(body)) };
        assert_eq!(places, [("a".into(), 7, Cursor::bare(Epoch(1), 6)), ("b".into(), 7, behind)]);
    }
}
