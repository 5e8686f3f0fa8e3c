//! The JetStream API by request and reply, for what async-nats has no call for.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::Link;

/// How long an answer is waited for that may take some time, as to making a stream.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// An error that the JetStream API answered, or that kept it from answering.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiFailure {
    /// The server answered with an error.
    #[error("{description} (JetStream error {err_code})")]
    Answered {
        /// HTTP-like code.
        code: u16,
        /// JetStream's own code.
        err_code: u64,
        /// In words.
        description: String,
    },
    /// No answer; whether the request took effect is unknown.
    #[error("no answer from the JetStream API: {0}")]
    Silent(String),
}

impl ApiFailure {
    /// Whether the same question may be answered soon: a server starts, or a leader is being chosen.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Silent(_) | Self::Answered { code: 503, .. })
    }
    /// Whether the stream or consumer does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Answered { err_code: 10059 | 10014, .. })
    }
}

#[derive(Deserialize)]
pub(crate) struct ErrorBody {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub err_code: u64,
    #[serde(default)]
    pub description: String,
}

#[derive(Deserialize)]
struct Envelope {
    error: Option<ErrorBody>,
}

/// Asks `$JS.API.<subject>`.
pub async fn api<T: DeserializeOwned>(link: &Link, subject: &str, body: &Value) -> Result<T, ApiFailure> {
    api_within(link, subject, body, PATIENCE).await
}

/// The same, and gives up sooner.
pub async fn api_within<T: DeserializeOwned>(link: &Link, subject: &str, body: &Value, within: Duration) -> Result<T, ApiFailure> {
    let payload = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let ask = link.client.request(format!("$JS.API.{subject}"), payload);
    let answer = match tokio::time::timeout(within, ask).await {
        Ok(Ok(message)) => message,
        Ok(Err(e)) => return Err(ApiFailure::Silent(e.to_string())),
        Err(_) => return Err(ApiFailure::Silent(format!("timed out after {within:?}"))),
    };
    let malformed = |e: serde_json::Error| ApiFailure::Silent(format!("malformed answer: {e}"));
    if let Some(e) = serde_json::from_slice::<Envelope>(&answer.payload).map_err(malformed)?.error {
        return Err(ApiFailure::Answered { code: e.code, err_code: e.err_code, description: e.description });
    }
    serde_json::from_slice(&answer.payload).map_err(malformed)
}

/// What of a stream's information Haltline uses.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamInfo {
    /// When it was created, as the server writes it.
    pub created: String,
    /// Its state.
    pub state: StreamState,
    /// Its configuration.
    pub config: Value,
}

/// A stream's state.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamState {
    /// Messages stored.
    pub messages: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Sequence of the first message.
    pub first_seq: u64,
    /// Sequence of the last message.
    pub last_seq: u64,
}

/// Asks for a stream's information.
pub async fn stream_info(link: &Link, stream: &str) -> Result<StreamInfo, ApiFailure> {
    stream_info_within(link, stream, PATIENCE).await
}

/// The same, and gives up sooner.
pub async fn stream_info_within(link: &Link, stream: &str, within: Duration) -> Result<StreamInfo, ApiFailure> {
    api_within(link, &format!("STREAM.INFO.{stream}"), &Value::Null, within).await
}
