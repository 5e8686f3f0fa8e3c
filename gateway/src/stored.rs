//! Reading a page of a stream as it is stored, by batched direct get.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use haltline_common::Link;
use serde_json::json;

/// Bytes of a page at most; at least one message comes.
const PAGE_BYTES: usize = 2 << 20;
/// The server answers a page within this time, or the read has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Up to `batch` messages that match `subject`, from sequence `from` on, with their sequences.
///
/// # Errors
/// When the server does not answer completely.
pub(crate) async fn page(link: &Link, stream: &str, subject: &str, from: u64, batch: usize) -> Result<Vec<(u64, Bytes)>, String> {
    let inbox = link.client.new_inbox();
    let mut answers = link.client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
    let ask = json!({ "seq": from.max(1), "batch": batch, "max_bytes": PAGE_BYTES, "next_by_subj": subject });
    let address = format!("$JS.API.DIRECT.GET.{stream}");
    link.client.publish_with_reply(address, inbox, Bytes::from(ask.to_string())).await.map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, answers.next())
            .await
            .map_err(|_| format!("{stream} did not answer within {PATIENCE:?}"))?
            .ok_or("the connection was closed")?;
        if let Some(status) = message.status {
            return match status.as_u16() {
                204 | 404 => Ok(found),
                _ => Err(format!("{stream} answered {status} {}", message.description.unwrap_or_default())),
            };
        }
        let seq = message.headers.as_ref().and_then(|h| h.get("Nats-Sequence")).and_then(|v| v.as_str().parse().ok());
        found.push((seq.ok_or("an answer without sequence")?, message.payload));
    }
}
