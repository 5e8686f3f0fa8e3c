//! What was stored, as the one who stored it knows it.

use std::collections::{BTreeMap, HashSet};

use haltline_common::types::feed::{Cursor, Epoch, Filter, Subject};
use serde_json::{Value, json};

/// A message of the log.
pub struct Stored {
    /// Its lines; none for commands.
    pub lines: Vec<Line>,
    /// It was removed: from then on a gap may cover it.
    pub removed: bool,
}

/// A line of a message.
pub struct Line {
    /// The event; `None` for what is none.
    pub event: Option<Value>,
    /// An event with this id was stored before: whether it is told again is up to the gateway.
    pub repeat: bool,
}

/// The log, in all its epochs.
#[derive(Default)]
pub struct Truth {
    epochs: Vec<(Epoch, BTreeMap<u64, Stored>)>,
    ids: HashSet<String>,
}

impl Truth {
    /// A stream begins, after `seq` messages that nobody knows.
    pub fn begin(&mut self, epoch: Epoch) {
        self.epochs.push((epoch, BTreeMap::new()));
        self.ids.clear();
    }

    fn now(&mut self) -> &mut BTreeMap<u64, Stored> {
        &mut self.epochs.last_mut().expect("a stream was begun").1
    }

    /// A message was stored.
    pub fn put(&mut self, seq: u64, events: Vec<Option<Value>>) {
        let mut line = |event: Option<Value>| {
            let id = event.as_ref().and_then(|e| e["id"].as_str()).unwrap_or_default().to_owned();
            let repeat = event.is_some() && !self.ids.insert(id);
            Line { event, repeat }
        };
        let lines = events.into_iter().map(&mut line).collect();
        self.now().insert(seq, Stored { lines, removed: false });
    }

    /// Messages up to here were removed.
    pub fn purge(&mut self, upto: u64) {
        self.now().range_mut(..=upto).for_each(|(_, m)| m.removed = true);
    }

    /// One was.
    pub fn delete(&mut self, seq: u64) {
        if let Some(m) = self.now().get_mut(&seq) {
            m.removed = true;
        }
    }

    /// Sequences that are there.
    pub fn present(&mut self) -> Vec<u64> {
        self.now().iter().filter(|(_, m)| !m.removed).map(|(s, _)| *s).collect()
    }

    /// The last sequence.
    pub fn head(&mut self) -> u64 {
        self.now().keys().next_back().copied().unwrap_or(0)
    }

    /// The epoch that counts.
    pub fn epoch(&self) -> Epoch {
        self.epochs.last().map(|e| e.0).unwrap_or_default()
    }

    /// Where in the order of all epochs one comes.
    pub fn order(&self, epoch: Epoch) -> Option<usize> {
        self.epochs.iter().position(|(e, _)| *e == epoch)
    }

    /// Where the event with this cursor is: the sequence of its message, and which line of it. The last line has the
    /// place behind the message, the others that before it.
    pub fn find(&self, c: &Cursor, event: &Value) -> Option<(u64, usize)> {
        let log = &self.epochs[self.order(c.epoch)?].1;
        let is = |line: &Line| line.event.as_ref() == Some(event);
        if c.tag.is_some() {
            let last = log.get(&c.seq)?.lines.len().checked_sub(1)?;
            return is(&log[&c.seq].lines[last]).then_some((c.seq, last));
        }
        let lines = &log.get(&(c.seq + 1))?.lines;
        lines[..lines.len().checked_sub(1)?].iter().position(is).map(|n| (c.seq + 1, n))
    }

    /// Messages after one place and before another, in order.
    pub fn between(&self, after: &Cursor, before: &Cursor) -> Option<Vec<(Epoch, u64, &Stored)>> {
        let (a, b) = (self.order(after.epoch)?, self.order(before.epoch)?);
        let mut found = Vec::new();
        for (n, (epoch, log)) in self.epochs.iter().enumerate().take(b + 1).skip(a) {
            let from = if n == a { after.seq + 1 } else { 0 };
            let upto = if n == b { before.seq } else { u64::MAX };
            if from < upto {
                found.extend(log.range(from..upto).map(|(s, m)| (*epoch, *s, m)));
            }
        }
        Some(found)
    }
}

/// What a filter says about an event.
pub fn wants(filter: &Filter, event: &Value) -> bool {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    filter.matches(&Subject {
        kind: text("type"),
        execution: text("execution_id"),
        workflow: text("workflow_id"),
        bot: text("bot_id"),
        strategy: text("strategy_id"),
        node: text("node_id"),
    })
}

/// An event of a small world, so that filters match often.
pub fn event(kind: &str, id: &str, n: [u64; 5]) -> Value {
    let (bot, strategy) = (["", "b1", "b2"][n[2] as usize % 3], ["", "s1"][n[3] as usize % 2]);
    json!({
        "type": kind, "id": id, "execution_id": format!("exec_w{}_{}", n[0] % 3, n[1] % 3), "workflow_id": format!("w{}", n[0] % 3),
        "bot_id": bot, "strategy_id": strategy, "node_id": format!("n{}", n[4] % 3),
        "timestamp": "2026-01-01T00:00:00.000Z",
    })
}
