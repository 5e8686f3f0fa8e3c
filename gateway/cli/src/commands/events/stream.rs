//! Server-Sent Events, read from a gateway.

use std::time::Duration;

use haltline_common::types::error::{ApiError, Code};
use serde_json::Value;

/// The gateway says something every 15 s: silence for longer means that the stream is lost.
const SILENCE: Duration = Duration::from_secs(40);
/// Bytes of one message: an event is at most a megabyte.
const MESSAGE_MAX: usize = 4 << 20;

/// A message of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its name; empty for events.
    pub name: String,
    /// The cursor behind it, if it has one.
    pub id: Option<String>,
    /// Its body.
    pub data: String,
}

/// Why a stream ended.
#[derive(Debug)]
pub enum Ended {
    /// It may come back.
    Lost(String),
    /// It will not.
    Refused(ApiError),
}

/// An open stream.
pub struct Stream {
    response: reqwest::Response,
    parser: Parser,
}

impl Stream {
    /// Opens one, behind a cursor if there is one.
    pub async fn open(url: &str, token: Option<&str>, cursor: Option<&str>) -> Result<Self, Ended> {
        let lost = |e: reqwest::Error| Ended::Lost(e.to_string());
        let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).read_timeout(SILENCE).build().map_err(lost)?;
        let mut request = client.get(url).header("accept", "text/event-stream");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(cursor) = cursor {
            request = request.header("last-event-id", cursor);
        }
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        if status.is_success() {
            return Ok(Self { response, parser: Parser::default() });
        }
        let body: Value = response.text().await.ok().and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        let why = body["detail"].as_str().map_or_else(|| status.to_string(), str::to_owned);
        if status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
            return Err(Ended::Lost(why));
        }
        let code: Code = serde_json::from_value(body["code"].clone()).unwrap_or(Code::Invalid);
        let mut error = ApiError::new(code, why);
        error.field = body["field"].as_str().map(str::to_owned);
        Err(Ended::Refused(error))
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Message>, Ended> {
        loop {
            if let Some(message) = self.parser.next() {
                return Ok(Some(message));
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.parser.push(&bytes).map_err(|e| Ended::Lost(e.into()))?,
                Ok(None) => return Ok(None),
                Err(e) => return Err(Ended::Lost(e.to_string())),
            }
        }
    }
}

/// Takes bytes, gives messages.
#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
    /// Up to here there is no end of a line.
    looked: usize,
    message: Message,
    some: bool,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > MESSAGE_MAX { Err("a message is too large") } else { Ok(()) }
    }

    fn next(&mut self) -> Option<Message> {
        while let Some(end) = self.bytes[self.looked..].iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=self.looked + end).collect();
            self.looked = 0;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if std::mem::take(&mut self.some) {
                    return Some(message);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.message.name = value.to_owned(),
                "id" => self.message.id = Some(value.to_owned()),
                "data" => {
                    if self.some {
                        self.message.data.push('\n');
                    }
                    self.message.data.push_str(value);
                    self.some = true;
                }
                _ => {} // comments, retry
            }
        }
        self.looked = self.bytes.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let text = ":\n\nretry: 1\n\nid: c1\ndata: {\"a\":1}\n\nevent: gap\ndata: x\r\ndata: y\r\n\r\n";
        for cut in 1..text.len() {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                parser.push(piece).expect("fits");
                found.extend(std::iter::from_fn(|| parser.next()));
            }
            let first = Message { name: String::new(), id: Some("c1".into()), data: "{\"a\":1}".into() };
            let second = Message { name: "gap".into(), id: None, data: "x\ny".into() };
            assert_eq!(found, [first, second], "cut every {cut}");
        }
    }
}
