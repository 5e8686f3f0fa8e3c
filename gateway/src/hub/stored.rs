//! Reading older parts of the log from the stream, a page at a time, by batched direct get.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use haltline_common::{Link, types::Names};
use serde_json::json;

use super::{Chunk, Entry, Gap, LogEvent, Reason};

/// Bytes of a page at most, so that one of large events stays bounded; at least one message comes.
const PAGE_BYTES: usize = 2 << 20;
/// The server answers a page within this time, or the read has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Messages of the stream in order: their sequences, with the event if it is one.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The messages.
    pub messages: Vec<(u64, Option<LogEvent>)>,
    /// Whether the stream has no more that match.
    pub end: bool,
}

/// Reads up to `batch` messages that match `subject`, from sequence `from` on.
///
/// # Errors
/// When the server does not answer completely.
pub(crate) async fn page(link: &Link, subject: &str, from: u64, batch: usize) -> Result<Page, String> {
    let inbox = link.client.new_inbox();
    let mut answers = link.client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
    let ask = json!({ "seq": from.max(1), "batch": batch, "max_bytes": PAGE_BYTES, "next_by_subj": subject });
    let stream = link.names.events_stream();
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    link.client.publish_with_reply(subject, inbox, Bytes::from(ask.to_string())).await.map_err(|e| e.to_string())?;
    let mut page = Page::default();
    loop {
        let message = tokio::time::timeout(PATIENCE, answers.next())
            .await
            .map_err(|_| format!("the log did not answer within {PATIENCE:?}"))?
            .ok_or("the connection was closed")?;
        let header = |name: &str| message.headers.as_ref().and_then(|h| h.get(name)).map(|v| v.as_str());
        if let Some(status) = message.status {
            let left = header("Nats-Num-Pending").and_then(|n| n.parse::<u64>().ok());
            match status.as_u16() {
                204 => page.end = left == Some(0) || page.messages.is_empty(),
                404 => page.end = true,
                _ => return Err(format!("the log answered {status} {}", message.description.unwrap_or_default())),
            }
            return Ok(page);
        }
        let seq = header("Nats-Sequence").and_then(|s| s.parse().ok()).ok_or("an answer without sequence")?;
        let command = header("Nats-Subject").is_some_and(Names::is_command);
        page.messages.push((seq, if command { None } else { read(seq, &message.payload) }));
    }
}

/// An event, or nothing but a line in the log if it cannot be read.
pub(super) fn read(seq: u64, payload: &[u8]) -> Option<LogEvent> {
    match LogEvent::read(seq, payload) {
        Ok(event) => Some(event),
        Err(error) => {
            tracing::warn!(seq, error, "an event of the log is malformed; left out");
            None
        }
    }
}

/// A page that was read after `pos` as a run of the log up to `floor`, where memory begins. What is
/// missing between is declared.
pub(super) fn chunk(page: Page, pos: u64, floor: u64, epoch: u64) -> Chunk {
    let mut chunk = Chunk { epoch, entries: Vec::new(), upto: pos, stored: true };
    let end = page.end;
    for (seq, event) in page.messages {
        if seq > floor {
            break;
        }
        if seq > chunk.upto + 1 {
            chunk.entries.push(Arc::new(Entry::Gap(Gap { after: chunk.upto, next: seq, reason: Reason::Retention })));
        }
        chunk.upto = seq;
        chunk.entries.extend(event.map(|e| Arc::new(Entry::Event(e))));
    }
    // Nothing more below the ring: what is missing up to there is gone.
    let nothing = chunk.upto == pos;
    if chunk.upto < floor && (end || nothing) {
        chunk.entries.push(Arc::new(Entry::Gap(Gap { after: chunk.upto, next: floor + 1, reason: Reason::Retention })));
        chunk.upto = floor;
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u64) -> (u64, Option<LogEvent>) {
        (seq, read(seq, format!(r#"{{"type":"t","id":"{seq}"}}"#).as_bytes()))
    }
    fn gaps(chunk: &Chunk) -> Vec<(u64, u64)> {
        chunk.entries.iter().filter_map(|e| if let Entry::Gap(g) = &**e { Some((g.after, g.next)) } else { None }).collect()
    }

    #[test]
    fn missing_stretches_are_declared() {
        // Retention took 1..=4; 6 is a command.
        let page = Page { messages: vec![message(5), (6, None), message(7)], end: false };
        let chunk = chunk(page, 0, 20, 0);
        assert_eq!((gaps(&chunk), chunk.upto, chunk.entries.len()), (vec![(0, 5)], 7, 3));
    }

    #[test]
    fn nothing_beyond_memory_is_taken_and_the_end_closes_the_hole() {
        let page1 = Page { messages: vec![message(5), message(6), message(9)], end: true };
        let a = chunk(page1, 4, 5, 0);
        assert_eq!((gaps(&a), a.upto), (vec![], 5));
        let a = chunk(Page { messages: vec![message(9)], end: true }, 3, 8, 0);
        assert_eq!((gaps(&a), a.upto), (vec![(3, 9)], 8));
        let a = chunk(Page { messages: vec![], end: true }, 3, 8, 0);
        assert_eq!((gaps(&a), a.upto), (vec![(3, 9)], 8));
    }
}
