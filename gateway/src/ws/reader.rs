//! The half of a session that reads the client's frames.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::extract::ws::{Message, WebSocket};
use futures_util::{StreamExt, stream::SplitStream};
use tokio::sync::mpsc;

use haltline_common::types::feed::{Auth, ClientFrame, Code, Hello, ServerFrame, Sub, Unsub, close};

use super::frames;
use crate::limits::Flow;

/// Frames waiting for the writing half; more wait in the socket.
pub(super) const QUEUE_MAX: usize = 8;

/// What the reading half passes on.
pub(super) enum Asked {
    /// A greeting.
    Hello(Box<Hello>),
    /// Start a subscription.
    Sub(Box<Sub>),
    /// End one.
    Unsub(Box<Unsub>),
    /// Go by another token.
    Auth(Box<Auth>),
    /// Send this frame: it says what was wrong.
    Answer(Box<ServerFrame>),
    /// End the connection.
    Close(u16, &'static str),
}

/// When the client was last heard, for the half that pings.
pub(super) struct Heard {
    epoch: Instant,
    ms: AtomicU64,
}

impl Heard {
    /// Just now.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { epoch: Instant::now(), ms: AtomicU64::new(0) })
    }
    fn mark(&self) {
        self.ms.store(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }
    /// Whether anything came at or after `at`.
    pub fn since(&self, at: Instant) -> bool {
        self.epoch + Duration::from_millis(self.ms.load(Ordering::Acquire) + 1) >= at
    }
}

/// Reads until the connection ends.
pub(super) async fn read(mut socket: SplitStream<WebSocket>, heard: Arc<Heard>, out: mpsc::Sender<Asked>) {
    let mut flow = Flow::new();
    while let Some(message) = socket.next().await {
        heard.mark();
        let asked = match message {
            Ok(Message::Text(text)) => match parse(text.as_str()) {
                Some(asked) => asked,
                None => continue,
            },
            Ok(Message::Binary(_)) => Asked::Close(close::BAD_FRAME, "binary frames are not understood"),
            Ok(Message::Ping(_) | Message::Pong(_)) => continue,
            Ok(Message::Close(_)) => return,
            // The library's words for its own limit.
            Err(e) if e.to_string().contains("too long") => Asked::Close(close::TOO_BIG, "a frame has more than 65536 bytes"),
            Err(_) => return,
        };
        let asked = if flow.one_more(Instant::now()) { asked } else { Asked::Close(close::RATE, "too many frames") };
        let last = matches!(asked, Asked::Close(..));
        if out.send(asked).await.is_err() || last {
            return;
        }
    }
}

const NO_FRAME: &str = "a frame must be a JSON object with t";

/// A frame's meaning; `None` for a pong.
fn parse(text: &str) -> Option<Asked> {
    // Derived code takes a list as well, as `["pong"]`.
    if !text.trim_start().starts_with('{') {
        return Some(Asked::Close(close::BAD_FRAME, NO_FRAME));
    }
    match serde_json::from_str(text) {
        Ok(ClientFrame::Hello(h)) => Some(Asked::Hello(Box::new(h))),
        Ok(ClientFrame::Sub(s)) => Some(Asked::Sub(s)),
        Ok(ClientFrame::Unsub(u)) => Some(Asked::Unsub(Box::new(u))),
        Ok(ClientFrame::Auth(a)) => Some(Asked::Auth(Box::new(a))),
        Ok(ClientFrame::Pong {}) => None,
        Err(e) => Some(wrong(text, &e.to_string())),
    }
}

/// An object with a known `t` and a wrong field is told; anything else ends the connection.
fn wrong(text: &str, error: &str) -> Asked {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    match value.get("t").and_then(serde_json::Value::as_str) {
        Some("hello" | "sub" | "unsub" | "auth") => Asked::Answer(Box::new(frames::err(rid(&value), Code::BadFrame, error))),
        Some(_) => Asked::Answer(Box::new(frames::err(rid(&value), Code::UnknownFrame, "t must be hello, sub, unsub, auth or pong"))),
        None => Asked::Close(close::BAD_FRAME, NO_FRAME),
    }
}

fn rid(frame: &serde_json::Value) -> Option<u64> {
    frame.get("rid").and_then(serde_json::Value::as_u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wrong_frames_are_told_or_end_the_connection() {
        assert!(matches!(parse("{"), Some(Asked::Close(close::BAD_FRAME, _))));
        assert!(matches!(parse("[]"), Some(Asked::Close(close::BAD_FRAME, _))));
        let answer = |text: &str| match parse(text) {
            Some(Asked::Answer(a)) => frames::text(&a),
            _ => panic!("{text} has an answer"),
        };
        assert!(answer(r#"{"t":"halt"}"#).contains("unknown_frame"));
        let told = answer(r#"{"t":"sub","rid":7,"id":"s","filter":{"bot":[5]}}"#);
        assert!(told.contains("\"rid\":7") && told.contains("bad_frame") && told.contains("prefix"), "{told}");
        assert!(parse(r#"{"t":"pong"}"#).is_none());
        assert!(matches!(parse(r#"["pong"]"#), Some(Asked::Close(close::BAD_FRAME, _))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        /// Text of any kind, as a frame and in the fields of one: it is understood, told to be wrong, or ends the
        /// connection with one code. An answer is itself a frame, and names the request that it is about.
        #[test]
        fn any_text_is_understood_or_refused(
            text in prop_oneof![any::<String>(), r#"[\[{"t:,subhelo}\] 0-9]{0,40}"#],
            kind in prop_oneof![prop::sample::select(vec!["hello", "sub", "unsub", "auth", "pong", "halt", ""]).prop_map(str::to_owned), any::<String>()],
            field in prop::sample::select(vec!["v", "rid", "id", "filter", "from", "token", "client", "mode", "if_gap"]),
            rid in any::<u64>(),
        ) {
            let as_field = serde_json::json!({ "t": kind, "rid": rid, field: text }).to_string();
            for frame in [text.as_str(), &as_field] {
                match parse(frame) {
                    Some(Asked::Answer(answer)) => {
                        let written = frames::text(&answer);
                        let read: ServerFrame = serde_json::from_str(&written).expect("a frame");
                        let ServerFrame::Err(e) = read else { panic!("{written}") };
                        prop_assert!(!e.msg.is_empty() && (frame == text || field == "rid" || e.rid == Some(rid)), "{}", written);
                    }
                    Some(Asked::Close(code, why)) => {
                        prop_assert!(code == close::BAD_FRAME && why.len() <= 123, "{} {}", code, why);
                        let object = serde_json::from_str::<serde_json::Value>(frame).is_ok_and(|v| v["t"].is_string() && v.is_object());
                        prop_assert!(!object, "{}", frame);
                    }
                    Some(_) | None => {
                        let object = frame.trim_start().starts_with('{');
                        prop_assert!(object);
                    }
                }
            }
        }
    }
}
