//! Answers to HTTP requests, read up to a limit.

use reqwest::{RequestBuilder, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;

use super::client;
use crate::context::NodeError;

/// Characters of a refusal's body that a message shows.
const EXCERPT_CHARS: usize = 300;

/// A whole answer.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Whether its content type says JSON.
    says_json: bool,
    body: Vec<u8>,
}

impl Answer {
    /// Sends `request` and reads the answer, of at most `bytes_max`. `target` is shown to people.
    ///
    /// # Errors
    /// Retryable `Connection` and `Timeout`, which say so if nothing was sent; fatal `OutputTooLarge` if a successful answer's body has
    /// more bytes.
    pub async fn of(request: RequestBuilder, target: &str, bytes_max: usize) -> Result<Self, NodeError> {
        let mut response = request.send().await.map_err(|e| client::failed(target, e))?;
        let status = response.status();
        let says_json = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.split(';').next())
            .map(|v| v.trim().to_ascii_lowercase())
            .is_some_and(|v| v == "application/json" || v.ends_with("+json"));
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| client::failed(target, e))? {
            if body.len() + piece.len() > bytes_max {
                if status.is_success() {
                    return Err(NodeError::fatal("OutputTooLarge", format!("{target}: the answer has more than {bytes_max} bytes")).done());
                }
                // Of a refusal only the beginning is shown.
                break;
            }
            body.extend_from_slice(&piece);
        }
        Ok(Self { status, says_json, body })
    }

    /// The body: its JSON if the content type says so or `expect_json`, else its text; `null` if it
    /// is empty. What claims to be JSON and is not is text.
    ///
    /// # Errors
    /// Fatal `InvalidOutput` if it is not UTF-8.
    pub fn body(&self, expect_json: bool) -> Result<Value, NodeError> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        if (self.says_json || expect_json)
            && let Ok(value) = serde_json::from_slice(&self.body)
        {
            return Ok(value);
        }
        let text = std::str::from_utf8(&self.body)
            .map_err(|e| NodeError::fatal("InvalidOutput", format!("the answer is neither JSON nor UTF-8 text: {e}")))?;
        Ok(Value::String(text.to_owned()))
    }

    /// `target` answered with this status, and the beginning of what it said.
    pub fn refusal(&self, target: &str) -> String {
        let text: String = String::from_utf8_lossy(&self.body).chars().filter(|c| !c.is_control()).take(EXCERPT_CHARS).collect();
        let colon = if text.is_empty() { "" } else { ": " };
        format!("{target} answered {}{colon}{text}", self.status)
    }

    /// Whether it says that nothing was done. A server error, or that something took too long, does
    /// not: exchanges answer so when an order may have been placed.
    pub fn is_refusal(&self) -> bool {
        self.status.is_client_error() && self.status != StatusCode::REQUEST_TIMEOUT
    }

    /// Whether the same request may succeed later.
    pub fn may_pass_later(&self) -> bool {
        self.status.is_server_error() || matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
    }
}
