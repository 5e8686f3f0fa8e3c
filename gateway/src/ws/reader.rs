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

/// Frames waiting for the writing half; more wait in the socket.
pub(super) const QUEUE_MAX: usize = 8;
/// Frames of a client within [`RATE_WINDOW`]: many subscriptions at once, but no flood.
const RATE_MAX: u32 = 600;
const RATE_WINDOW: Duration = Duration::from_secs(10);

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
    let mut window = Instant::now();
    let mut frames_in_window = 0;
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
        if window.elapsed() > RATE_WINDOW {
            (window, frames_in_window) = (Instant::now(), 0);
        }
        frames_in_window += 1;
        let asked = if frames_in_window > RATE_MAX { Asked::Close(close::RATE, "too many frames") } else { asked };
        let last = matches!(asked, Asked::Close(..));
        if out.send(asked).await.is_err() || last {
            return;
        }
    }
}

/// A frame's meaning; `None` for a pong.
fn parse(text: &str) -> Option<Asked> {
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
        None => Asked::Close(close::BAD_FRAME, "a frame must be a JSON object with t"),
    }
}

fn rid(frame: &serde_json::Value) -> Option<u64> {
    frame.get("rid").and_then(serde_json::Value::as_u64)
}

#[cfg(test)]
mod tests {
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
    }
}
