//! What clients send.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cursor, Filter, LAST_MAX};
use crate::Timestamp;

/// Bytes of a subscription's id.
const ID_MAX: usize = 64;

/// A client's frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ClientFrame {
    /// Must be the first, within 5 s.
    Hello(Hello),
    /// Starts a subscription.
    Sub(Box<Sub>),
    /// Ends one.
    Unsub(Unsub),
    /// Another token, before the one in use ends.
    Auth(Auth),
    /// Answers a ping.
    Pong {},
}

/// See [`ClientFrame::Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// Version of the protocol: 1.
    pub v: u32,
    /// A token, where no header or cookie said who connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Who connects, for people who read logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientInfo>,
}

/// A client's name and version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClientInfo {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ver: String,
}

/// See [`ClientFrame::Sub`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sub {
    /// Given back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<u64>,
    /// The client's name for it: 1 to 64 letters, digits or any of `_-.:`.
    pub id: String,
    /// What it wants.
    #[serde(default)]
    pub filter: Filter,
    /// Where it starts.
    #[serde(default)]
    pub from: From,
    /// What to do if that place is not there any more.
    #[serde(default)]
    pub if_gap: IfGap,
    /// What to do when the client is slow.
    #[serde(default)]
    pub mode: Mode,
}

/// See [`ClientFrame::Unsub`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Unsub {
    /// Given back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<u64>,
    /// Which.
    pub id: String,
}

/// See [`ClientFrame::Auth`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Auth {
    /// Given back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<u64>,
    /// The fresh token.
    pub token: String,
}

/// Where a subscription starts. Exactly one of them; with what comes if absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum From {
    /// `{"live": true}`: with what comes.
    Live(bool),
    /// `{"cursor": "…"}`: behind this place.
    Cursor(Cursor),
    /// `{"seq": 42}`: with this sequence of whatever stream there is.
    Seq(u64),
    /// `{"last": 100}`: with so many matching events that are there already.
    Last(usize),
    /// `{"since": "2026-11-23T03:00:00Z"}`: with what was stored at or after this time.
    Since(Timestamp),
    /// `{"snapshot": true}`: with the state of what matches, then what comes after it.
    Snapshot(bool),
}

impl Default for From {
    fn default() -> Self {
        Self::Live(true)
    }
}

impl From {
    /// Whether the client had a place before.
    pub const fn recovers(&self) -> bool {
        matches!(self, Self::Cursor(_) | Self::Seq(_) | Self::Since(_))
    }
}

/// What to do with a subscription whose start is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfGap {
    /// Tell the gap, then go on behind it.
    #[default]
    Continue,
    /// Tell the gap, then the state of what matches, then what comes after it.
    Snapshot,
    /// Refuse with the code `gap`.
    Reject,
}

/// What a slow client gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every event, later.
    #[default]
    Lossless,
    /// Of what waits for it, the newest event of each node and of each execution. The counter counts
    /// what was left out as well.
    Conflate,
}

/// Why a subscription cannot be: a code and a sentence.
pub type SubError = (super::Code, String);

impl Sub {
    /// Checks it.
    ///
    /// # Errors
    /// What is wrong with which field.
    pub fn check(&self) -> Result<(), SubError> {
        use super::Code;
        // Ids are written into frames unescaped.
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
        if self.id.is_empty() || self.id.len() > ID_MAX || !self.id.bytes().all(fine) {
            return Err((Code::BadId, format!("id must have 1 to {ID_MAX} letters, digits or any of _-.:")));
        }
        self.filter.check().map_err(|e| (Code::BadFilter, e))?;
        match &self.from {
            From::Last(n) if *n > LAST_MAX => Err((Code::BadFrom, format!("from.last must be at most {LAST_MAX}"))),
            From::Seq(0) => Err((Code::BadFrom, "from.seq begins with 1".into())),
            From::Live(false) => Err((Code::BadFrom, "from.live can only be true".into())),
            From::Snapshot(false) => Err((Code::BadFrom, "from.snapshot can only be true".into())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Code, *};

    fn sub(json: &str) -> Sub {
        match serde_json::from_str(json) {
            Ok(ClientFrame::Sub(s)) => *s,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn subs_are_read_and_checked() {
        let from = |f: &str| sub(&format!(r#"{{"t":"sub","rid":1,"id":"s1","from":{f}}}"#));
        assert_eq!(from(r#"{"live":true}"#).from, From::Live(true));
        assert_eq!(from(r#"{"seq":7}"#).from, From::Seq(7));
        assert_eq!(from(r#"{"snapshot":true}"#).from, From::Snapshot(true));
        assert!(matches!(from(r#"{"since":"2026-01-01T00:00:00Z"}"#).from, From::Since(_)));
        assert!(matches!(from(r#"{"cursor":"00000007.9.-"}"#).from, From::Cursor(c) if c.seq == 9));
        assert_eq!(sub(r#"{"t":"sub","id":"s1"}"#).from, From::Live(true));
        let full = sub(r#"{"t":"sub","id":"s1","if_gap":"reject","mode":"conflate"}"#);
        assert_eq!((full.if_gap, full.mode), (IfGap::Reject, Mode::Conflate));
        for (f, code) in [(r#"{"last":1001}"#, Code::BadFrom), (r#"{"seq":0}"#, Code::BadFrom), (r#"{"live":false}"#, Code::BadFrom)] {
            assert_eq!(from(f).check().err().map(|e| e.0), Some(code), "{f}");
        }
        assert!(from(r#"{"last":1000}"#).check().is_ok());
        assert_eq!(sub(r#"{"t":"sub","id":"a\"b"}"#).check().err().map(|e| e.0), Some(Code::BadId));
        for bad in
            [r#"{"sequel":1}"#, r#"{"cursor":"e7.1"}"#, r#"{"since":"yesterday"}"#, r#"{"seq":-1}"#, r#"{"seq":1,"last":2}"#, "{}", "7"]
        {
            assert!(serde_json::from_str::<ClientFrame>(&format!(r#"{{"t":"sub","id":"s","from":{bad}}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn hello_passes_what_it_does_not_know() {
        let hello = serde_json::from_str(r#"{"t":"hello","v":1,"client":{"name":"x","os":"y"},"later":1}"#);
        assert!(matches!(hello, Ok(ClientFrame::Hello(Hello { v: 1, token: None, .. }))));
    }
}
