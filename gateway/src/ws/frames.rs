//! Frames as they are read and written.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::hub::{Filter, Gap, LogEvent, Reason};

/// A client's frame.
#[derive(Debug, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(super) enum ClientFrame {
    /// Must be the first.
    Hello(Hello),
    /// Starts a subscription.
    Sub(Sub),
    /// Ends one.
    Unsub(Unsub),
    /// Answers a ping.
    Pong {},
}

/// See [`ClientFrame::Hello`].
#[derive(Debug, Deserialize)]
pub(super) struct Hello {
    /// Version of the protocol.
    pub v: u32,
}

/// See [`ClientFrame::Sub`].
#[derive(Debug, Deserialize)]
pub(super) struct Sub {
    /// Given back in the answer.
    #[serde(default)]
    pub rid: Option<u64>,
    /// The client's name for it.
    pub id: String,
    /// What it wants.
    #[serde(default)]
    pub filter: Filter,
    /// Where it starts; live if absent.
    #[serde(default)]
    pub from: From,
}

/// See [`ClientFrame::Unsub`].
#[derive(Debug, Deserialize)]
pub(super) struct Unsub {
    /// Given back in the answer.
    #[serde(default)]
    pub rid: Option<u64>,
    /// Which.
    pub id: String,
}

/// Where a subscription starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum From {
    /// `{"live": true}`: with what comes.
    #[default]
    #[serde(skip)]
    Now,
    /// The same as it is written.
    Live(bool),
    /// `{"last": 100}`: with so many matching events that are there already.
    Last(usize),
    /// `{"seq": 42}`: with this sequence.
    Seq(u64),
    /// `{"cursor": "41"}`: behind this `c` of an `ev`.
    Cursor(String),
}

/// What can be wrong with a sub.
pub(super) const LAST_MAX: usize = 1000;
const ID_MAX: usize = 64;

impl Sub {
    /// Why it cannot be, if it cannot: a code and a sentence.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        // Ids are written into frames unescaped.
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
        if self.id.is_empty() || self.id.len() > ID_MAX || !self.id.bytes().all(fine) {
            return Err(("bad_id", format!("id must have 1 to {ID_MAX} letters, digits or any of _-.:")));
        }
        self.filter.check().map_err(|e| ("bad_filter", e))?;
        match &self.from {
            From::Last(n) if *n > LAST_MAX => Err(("bad_from", format!("from.last must be at most {LAST_MAX}"))),
            From::Seq(0) => Err(("bad_from", "from.seq begins with 1".into())),
            From::Cursor(c) if c.parse::<u64>().is_err() => Err(("bad_from", format!("`{c}` is not a cursor of this gateway"))),
            From::Live(false) => Err(("bad_from", "from.live can only be true".into())),
            _ => Ok(()),
        }
    }
}

/// `ev`: an event for one or several subscriptions, each with its counter.
pub(super) fn ev<'a>(event: &LogEvent, subs: impl Iterator<Item = (&'a str, u64)>) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(event.json.len() + 96);
    out.push_str(r#"{"t":"ev","s":{"#);
    for (i, (id, count)) in subs.enumerate() {
        if i > 0 {
            out.push(',');
        }
        let _ = write!(out, r#""{id}":{count}"#);
    }
    let _ = write!(out, r#"}},"c":"{}","d":"#, event.seq);
    out.push_str(&event.json);
    out.push('}');
    out
}

/// `gap`: what a subscription will not get. `lost` counts messages of the log, matching or not; null
/// if it cannot be known.
pub(super) fn gap(id: &str, g: &Gap) -> String {
    let lost = (g.reason == Reason::Retention).then(|| g.next.saturating_sub(g.after + 1));
    json!({ "t": "gap", "id": id, "after": g.after.to_string(), "next": g.next.to_string(), "reason": g.reason, "lost": lost }).to_string()
}

/// `err`: a frame that was refused; the connection goes on.
pub(super) fn err(rid: Option<u64>, code: &str, message: &str) -> String {
    json!({ "t": "err", "rid": rid, "code": code, "msg": message, "retry": false }).to_string()
}

/// `halt`: the control flag as it is stored.
pub(super) fn halt(view: &Value) -> String {
    let mut frame = view.clone();
    frame["t"] = "halt".into();
    frame.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sub(json: &str) -> Sub {
        match serde_json::from_str(json) {
            Ok(ClientFrame::Sub(s)) => s,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn subs_are_read_and_checked() {
        let from = |f: &str| sub(&format!(r#"{{"t":"sub","rid":1,"id":"s1","from":{f}}}"#));
        assert_eq!(from(r#"{"live":true}"#).from, From::Live(true));
        assert_eq!(from(r#"{"seq":7}"#).from, From::Seq(7));
        assert_eq!(sub(r#"{"t":"sub","id":"s1"}"#).from, From::Now);
        for (f, code) in [(r#"{"last":1001}"#, "bad_from"), (r#"{"seq":0}"#, "bad_from"), (r#"{"cursor":"e7.1"}"#, "bad_from")] {
            assert_eq!(from(f).check().err().map(|e| e.0), Some(code), "{f}");
        }
        assert!(from(r#"{"last":1000}"#).check().is_ok());
        assert_eq!(sub(r#"{"t":"sub","id":"a\"b"}"#).check().err().map(|e| e.0), Some("bad_id"));
        assert!(serde_json::from_str::<ClientFrame>(r#"{"t":"sub","id":"s","from":{"sequel":1}}"#).is_err());
        assert!(matches!(serde_json::from_str(r#"{"t":"hello","v":1,"client":{"name":"x"}}"#), Ok(ClientFrame::Hello(Hello { v: 1 }))));
    }

    #[test]
    fn frames_are_json() {
        let event = LogEvent::read(9, br#"{"type":"t","id":"i"}"#).expect("reads");
        let frame: Value = serde_json::from_str(&ev(&event, [("s1", 4), ("s2", 1)].into_iter())).expect("json");
        assert_eq!(frame, json!({ "t": "ev", "s": { "s1": 4, "s2": 1 }, "c": "9", "d": { "type": "t", "id": "i" } }));
        let g = Gap { after: 3, next: 7, reason: Reason::Retention };
        let frame: Value = serde_json::from_str(&gap("s", &g)).expect("json");
        assert_eq!(frame, json!({ "t": "gap", "id": "s", "after": "3", "next": "7", "reason": "retention", "lost": 3 }));
    }
}
