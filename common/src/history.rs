//! Everything the log has of one execution, read by subject.

use std::{collections::HashSet, time::Duration};

use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all};
use haltline_types::{
    Names,
    event::{Claims, Command, Event},
    json,
};
use serde_json::json as object;

use crate::{Link, js, link::twice};

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
/// Bytes asked for at once: what comes is kept until it is read.
const BATCH_BYTES: usize = 4 << 20;

/// A message as it is stored: sequence, subject, body.
type Raw = (u64, String, Bytes);

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

impl HistoryError {
    fn is_silent(&self) -> bool {
        matches!(self, Self::Silent(_))
    }
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

/// The same as it is stored. What is there when it is asked for, and nothing of what follows: no entry is read without one that was stored before it.
pub async fn raw(link: &Link, execution_id: &str) -> Result<Vec<Raw>, HistoryError> {
    let mut raw = read_all(link, link.names.events_stream(), &link.names.log_of(execution_id)).await?;
    raw.sort_unstable_by_key(|(seq, ..)| *seq);
    Ok(raw)
}

/// Commands only, in stream order, each with its sequence: few, whatever the execution has become.
pub async fn commands(link: &Link, execution_id: &str) -> Result<Vec<(u64, Command)>, HistoryError> {
    let raw = read_all(link, link.names.events_stream(), &[link.names.command(execution_id)]).await?;
    let parse = |(seq, _, payload): Raw| {
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

/// Messages with events of an execution.
#[derive(Debug)]
pub struct Page {
    /// Sequence and body of each, in stream order.
    pub messages: Vec<(u64, Bytes)>,
    /// Whether the log has no more of them.
    pub end: bool,
}

/// What follows `after`: `messages` of them or, where these have more than `bytes`, fewer.
pub async fn page(link: &Link, execution_id: &str, after: u64, messages: usize, bytes: usize) -> Result<Page, HistoryError> {
    let most = &Most { messages, bytes };
    let subjects = &[link.names.note(execution_id), link.names.input(execution_id)];
    let stream = &link.names.events_stream();
    let ask = |within| async move {
        let log = Log::of(link, stream, within).await?;
        let parts = try_join_all(subjects.iter().map(|subject| log.subject(subject, after.saturating_add(1), most))).await?;
        Ok((log.upto, parts))
    };
    let (upto_log, parts) = twice(HistoryError::is_silent, ask).await?;
    let end = parts.iter().all(|(_, more)| !more);
    // Where one subject has more, what the other one has behind it comes later.
    let upto = parts.iter().filter(|(_, more)| *more).filter_map(|(raw, _)| raw.last()).map(|(seq, ..)| *seq).min();
    let upto = upto.unwrap_or(upto_log).min(upto_log);
    let mut found: Vec<_> = parts.into_iter().flat_map(|(raw, _)| raw).filter(|(seq, ..)| *seq <= upto).collect();
    found.sort_unstable_by_key(|(seq, ..)| *seq);
    Ok(Page { messages: found.into_iter().map(|(seq, _, body)| (seq, body)).collect(), end })
}

/// Ids of an execution's tasks that are in the queue: waiting, or with a worker that has not
/// acknowledged them.
pub async fn queued(link: &Link, execution_id: &str) -> Result<Vec<String>, HistoryError> {
    #[derive(serde::Deserialize)]
    struct Id {
        task_id: String,
    }
    let raw = read_all(link, link.names.tasks_stream(), &[link.names.tasks_of(execution_id)]).await?;
    raw.iter()
        .map(|(seq, _, payload)| {
            let id = serde_json::from_slice::<Id>(payload);
            id.map(|t| t.task_id).map_err(|source| HistoryError::Malformed { seq: *seq, source })
        })
        .collect()
}

/// All that a stream has of these subjects.
async fn read_all(link: &Link, stream: String, subjects: &[String]) -> Result<Vec<Raw>, HistoryError> {
    let stream = &stream;
    twice(HistoryError::is_silent, |within| async move { Log::of(link, stream, within).await?.read(subjects).await }).await
}

/// A stream as it was at one moment.
struct Log<'l> {
    link: &'l Link,
    /// How long an answer is waited for.
    within: Duration,
    stream: &'l str,
    /// Sequence of its last message.
    upto: u64,
    /// Copies of it, one of which may answer a direct get with less than all.
    copies: u64,
}

impl<'l> Log<'l> {
    /// As it is now, which its leader says.
    async fn of(link: &'l Link, stream: &'l str, within: Duration) -> Result<Self, HistoryError> {
        let info = js::stream_info_within(link, stream, within).await.map_err(|e| HistoryError::Silent(e.to_string()))?;
        // Whoever does not say how many copies there are is taken to have several.
        let copies = info.config["num_replicas"].as_u64().unwrap_or(u64::MAX);
        Ok(Self { link, within, stream, upto: info.state.last_seq, copies })
    }

    /// All messages of these subjects, those of one subject in stream order. Each is asked for by itself: for a
    /// pattern, nats-server looks at every message of a block that it has in memory, and at every block after it.
    async fn read(&self, subjects: &[String]) -> Result<Vec<Raw>, HistoryError> {
        let all = Most { messages: usize::MAX, bytes: usize::MAX };
        let parts = try_join_all(subjects.iter().map(|subject| self.subject(subject, 1, &all))).await?;
        Ok(parts.into_iter().flat_map(|(raw, _)| raw).filter(|(seq, ..)| *seq <= self.upto).collect())
    }

    /// Messages of a subject from `from` on, and whether there are more than were asked for. By batched direct get,
    /// which any copy of the stream answers and one that lags answers with less; so the rest is asked from the leader.
    async fn subject(&self, subject: &str, mut from: u64, most: &Most) -> Result<(Vec<Raw>, bool), HistoryError> {
        let (mut out, mut more) = (Vec::new(), true);
        while more && from <= self.upto {
            if most.are_in(&out) {
                return Ok((out, true));
            }
            let batch = BATCH.min(most.messages - out.len());
            let last;
            (last, more) = self.batch(subject, from, batch, &mut out).await?;
            if !out.is_empty() {
                from = last + 1;
            }
        }
        if self.copies == 1 {
            return Ok((out, false));
        }
        let leader =
            self.link.js_within(self.within).get_stream_no_info(self.stream).await.map_err(|e| HistoryError::Silent(e.to_string()))?;
        while from <= self.upto {
            match leader.get_first_raw_message_by_subject(subject, from).await {
                Ok(_) if most.are_in(&out) => return Ok((out, true)),
                Ok(m) => {
                    from = m.sequence + 1;
                    out.push((m.sequence, m.subject.to_string(), m.payload));
                }
                Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => break,
                Err(e) => return Err(HistoryError::Silent(e.to_string())),
            }
        }
        Ok((out, false))
    }

    /// Reads one batch; says the sequence of its last message, and whether there are more.
    async fn batch(&self, subject: &str, from: u64, batch: usize, out: &mut Vec<Raw>) -> Result<(u64, bool), HistoryError> {
        let Self { link, within, stream, .. } = self;
        let silent = |e: String| HistoryError::Silent(e);
        let inbox = link.client.new_inbox();
        let mut sub = link.client.subscribe(inbox.clone()).await.map_err(|e| silent(e.to_string()))?;
        let ask = object!({ "seq": from, "batch": batch, "max_bytes": BATCH_BYTES, "next_by_subj": subject }).to_string();
        link.client
            .publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, Bytes::from(ask))
            .await
            .map_err(|e| silent(e.to_string()))?;
        let mut last = from;
        let mut got = 0;
        loop {
            let message = tokio::time::timeout(*within, sub.next())
                .await
                .map_err(|_| silent(format!("no answer within {within:?}")))?
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
}

/// How much is read at most: a little more, as the messages are.
struct Most {
    messages: usize,
    bytes: usize,
}

impl Most {
    fn are_in(&self, out: &[Raw]) -> bool {
        out.len() >= self.messages || out.iter().map(|(.., body)| body.len()).sum::<usize>() >= self.bytes
    }
}
