//! Everything the log has of one execution, read by subject.

use std::{collections::HashSet, time::Duration};

use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;
use haltline_types::{
    Names,
    event::{Claims, Command, CommandType, Event},
    json,
};
use serde_json::json as object;

use crate::Link;

/// A message of the log.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An event.
    Event(Box<Event>),
    /// A command.
    Command(Box<Command>),
}

impl Entry {
    /// The event, if it is one.
    pub fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Command(_) => None,
        }
    }
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

/// Events and commands of an execution in stream order, each with the sequence of its message, which several
/// events may share: everything, also what was stored twice or is void.
pub async fn read(link: &Link, execution_id: &str) -> Result<Vec<(u64, Entry)>, HistoryError> {
    let raw = raw(link, execution_id).await?;
    let mut out = Vec::with_capacity(raw.len());
    for (seq, subject, payload) in raw {
        let malformed = |source| HistoryError::Malformed { seq, source };
        if Names::is_command(&subject) {
            out.push((seq, Entry::Command(serde_json::from_slice(&payload).map_err(malformed)?)));
        } else {
            for line in json::lines(&payload) {
                out.push((seq, Entry::Event(serde_json::from_slice(line).map_err(malformed)?)));
            }
        }
    }
    Ok(out)
}

/// The same as it is stored: sequence, subject, body.
pub async fn raw(link: &Link, execution_id: &str) -> Result<Vec<(u64, String, Bytes)>, HistoryError> {
    let [events, command] = link.names.log_of(execution_id);
    let stream = link.names.events_stream();
    // Events first: one that a claim has made void is then never read without the claim.
    let mut raw = read_subject(link, &stream, &events).await?;
    let commands = read_subject(link, &stream, &command).await?;
    if let Some((abandoned, ..)) = commands.iter().find(|(_, _, body)| is_abandon(body)) {
        // How many events there are before it counts: those stored while commands were read as well.
        let (stored, from) = (*abandoned, raw.last().map_or(1, |(seq, ..)| seq + 1));
        let rest = read_subject_from(link, &stream, &events, from).await?;
        raw.extend(rest.into_iter().filter(|(seq, ..)| *seq < stored));
    }
    raw.extend(commands);
    raw.sort_by_key(|(seq, ..)| *seq);
    Ok(raw)
}

/// Commands only, in stream order, each with its sequence: few, whatever the execution has become.
pub async fn commands(link: &Link, execution_id: &str) -> Result<Vec<(u64, Command)>, HistoryError> {
    let [_, command] = link.names.log_of(execution_id);
    let raw = read_subject(link, &link.names.events_stream(), &command).await?;
    let parse = |(seq, _, payload): (u64, String, Bytes)| {
        let command = serde_json::from_slice(&payload).map_err(|source| HistoryError::Malformed { seq, source })?;
        Ok((seq, command))
    };
    raw.into_iter().map(parse).collect()
}

/// Events only, each id once, without void ones: what a reader shows.
pub async fn events(link: &Link, execution_id: &str) -> Result<Vec<(u64, Event)>, HistoryError> {
    let all = read(link, execution_id).await?;
    let (mut seen, mut claims) = (HashSet::new(), Claims::default());
    let mut out = Vec::with_capacity(all.len());
    for (seq, entry) in all {
        match entry {
            Entry::Command(c) => claims.take_in(&c),
            Entry::Event(e) if !claims.is_void(&e) && seen.insert(e.id.clone()) => out.push((seq, *e)),
            Entry::Event(_) => {}
        }
    }
    Ok(out)
}

/// Ids of an execution's tasks that are in the queue: waiting, or with a worker that has not
/// acknowledged them.
pub async fn queued(link: &Link, execution_id: &str) -> Result<Vec<String>, HistoryError> {
    #[derive(serde::Deserialize)]
    struct Id {
        task_id: String,
    }
    let raw = read_subject(link, &link.names.tasks_stream(), &link.names.tasks_of(execution_id)).await?;
    raw.iter()
        .map(|(seq, _, payload)| {
            let id = serde_json::from_slice::<Id>(payload);
            id.map(|t| t.task_id).map_err(|source| HistoryError::Malformed { seq: *seq, source })
        })
        .collect()
}

fn is_abandon(body: &[u8]) -> bool {
    serde_json::from_slice::<Command>(body).is_ok_and(|c| c.kind == CommandType::Abandon)
}

/// Messages of a stream whose subject matches: by batched direct get, which any copy of the stream
/// answers and one that lags answers with less; so the rest is asked from its leader.
async fn read_subject(link: &Link, stream: &str, subject: &str) -> Result<Vec<(u64, String, Bytes)>, HistoryError> {
    read_subject_from(link, stream, subject, 1).await
}

async fn read_subject_from(link: &Link, stream: &str, subject: &str, mut from: u64) -> Result<Vec<(u64, String, Bytes)>, HistoryError> {
    let mut out = Vec::new();
    loop {
        let (last, more) = read_batch(link, stream, subject, from, &mut out).await?;
        if !out.is_empty() {
            from = last + 1;
        }
        if !more {
            break;
        }
    }
    let leader = link.js.get_stream_no_info(stream).await.map_err(|e| HistoryError::Silent(e.to_string()))?;
    loop {
        match leader.get_first_raw_message_by_subject(subject, from).await {
            Ok(m) => {
                from = m.sequence + 1;
                out.push((m.sequence, m.subject.to_string(), m.payload));
            }
            Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => return Ok(out),
            Err(e) => return Err(HistoryError::Silent(e.to_string())),
        }
    }
}

async fn read_batch(
    link: &Link,
    stream: &str,
    subject: &str,
    from: u64,
    out: &mut Vec<(u64, String, Bytes)>,
) -> Result<(u64, bool), HistoryError> {
    let silent = |e: String| HistoryError::Silent(e);
    let inbox = link.client.new_inbox();
    let mut sub = link.client.subscribe(inbox.clone()).await.map_err(|e| silent(e.to_string()))?;
    let ask = object!({ "seq": from, "batch": BATCH, "next_by_subj": subject }).to_string();
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
        let subject = header("Nats-Subject").ok_or_else(|| silent("answer without subject".into()))?;
        last = seq;
        got += 1;
        out.push((seq, subject, message.payload));
    }
}
