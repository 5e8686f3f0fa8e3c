//! Whether a coordinator answers.

use std::time::Duration;

use haltline_common::Link;
use serde_json::Value;

/// A healthy coordinator answers within milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What the first coordinator that answers says of itself; `None` if there is none.
pub async fn coordinator(link: &Link) -> Option<Value> {
    let ask = link.client.request(link.names.coordinator(), "".into());
    let answer = tokio::time::timeout(ANSWER_WITHIN, ask).await.ok()?.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}
