//! Everything the log has of one execution, read by subject.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use haltline_types::event::{Command, Event};
use serde_json::json;

use crate::Link;

/// A message of the log.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An event.
    Event(Box<Event>),
    /// A command.
    Command(Command),
}

/// Messages asked for at once.
const BATCH: usize = 512;

/// A failed read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The server did not answer completely.
    #[error("reading the log: {0}")]
    Silent(String),
    /// A stored message is not what it should be.
    #[error("message {seq} of the log is malformed: {source}")]
    Malformed {
        /// Its sequence.
        seq: u64,
        /// Why.
        source: serde_json::Error,
    },
}

/// Events and commands of an execution in stream order, each with its sequence; what was stored
/// twice is given once.
pub async fn read(link: &Link, execution_id: &str) -> Result<Vec<(u64, Entry)>, HistoryError> {
    let [events, command] = link.names.log_of(execution_id);
    let mut raw = read_subject(link, &link.names.events_stream(), &events).await?;
    raw.extend(read_subject(link, &link.names.events_stream(), &command).await?);
    raw.sort_by_key(|(seq, ..)| *seq);
    let mut seen = HashSet::new();
    let mut out = Vec::with_capacity(raw.len());
    for (seq, is_command, payload) in raw {
        let malformed = |source| HistoryError::Malformed { seq, source };
        if is_command {
            out.push((seq, Entry::Command(serde_json::from_slice(&payload).map_err(malformed)?)));
        } else {
            let event: Event = serde_json::from_slice(&payload).map_err(malformed)?;
            // A result that ends a task may repeat, with more, the note that told it.
            if seen.insert((event.id.clone(), event.task_events.is_some())) {
                out.push((seq, Entry::Event(Box::new(event))));
            }
        }
    }
    Ok(out)
}

/// Events only, each id once: what a reader shows.
pub async fn events(link: &Link, execution_id: &str) -> Result<Vec<(u64, Event)>, HistoryError> {
    let all = read(link, execution_id).await?;
    let mut seen = HashSet::new();
    Ok(all
        .into_iter()
        .filter_map(|(seq, entry)| match entry {
            Entry::Event(e) if seen.insert(e.id.clone()) => Some((seq, *e)),
            Entry::Event(_) | Entry::Command(_) => None,
        })
        .collect())
}

/// Messages of a stream whose subject matches, by batched direct get.
async fn read_subject(link: &Link, stream: &str, subject: &str) -> Result<Vec<(u64, bool, Bytes)>, HistoryError> {
    let mut out = Vec::new();
    let mut from = 1u64;
    loop {
        let (last, more) = read_batch(link, stream, subject, from, &mut out).await?;
        if !more {
            return Ok(out);
        }
        from = last + 1;
    }
}

async fn read_batch(
    link: &Link,
    stream: &str,
    subject: &str,
    from: u64,
    out: &mut Vec<(u64, bool, Bytes)>,
) -> Result<(u64, bool), HistoryError> {
    let silent = |e: String| HistoryError::Silent(e);
    let inbox = link.client.new_inbox();
    let mut sub = link.client.subscribe(inbox.clone()).await.map_err(|e| silent(e.to_string()))?;
    let ask = json!({ "seq": from, "batch": BATCH, "next_by_subj": subject }).to_string();
    link.client
        .publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, Bytes::from(ask))
        .await
        .map_err(|e| silent(e.to_string()))?;
    let mut last = from;
    let mut got = 0;
    loop {
        let message = tokio::time::timeout(Duration::from_secs(5), sub.next())
            .await
            .map_err(|_| silent("no answer within 5s".into()))?
            .ok_or_else(|| silent("connection closed".into()))?;
        let header = |name: &str| message.headers.as_ref().and_then(|h| h.get(name)).map(|v| v.as_str().to_owned());
        if let Some(status) = message.status {
            return match status.as_u16() {
                // End of batch, which the server may also cut short by bytes: it says what is left.
                204 => Ok((last, got > 0 && header("Nats-Num-Pending").is_none_or(|left| left != "0"))),
                404 => Ok((last, false)), // nothing (more) there
                _ => Err(silent(format!("{status} {}", message.description.unwrap_or_default()))),
            };
        }
        let seq = header("Nats-Sequence").and_then(|s| s.parse().ok()).ok_or_else(|| silent("answer without sequence".into()))?;
        let is_command = header("Nats-Subject").is_some_and(|s| haltline_types::Names::is_command(&s));
        last = seq;
        got += 1;
        out.push((seq, is_command, message.payload));
    }
}
