//! Reading older parts of the log from the stream, a page at a time, by batched direct get. Any copy
//! of the stream answers, and one that lags answers with less: so what seems to be missing is looked
//! for at the stream's leader before it is called missing.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;
use haltline_common::{
    Link,
    types::{
        Names, Timestamp,
        feed::{Epoch, Reason, Tag},
    },
};
use serde_json::{Value, json};

use super::{Chunk, Entry, Gap, LogEvent};

/// Bytes of a page at most, so that one of large events stays bounded; at least one message comes.
const PAGE_BYTES: usize = 512 << 10;
/// The server answers a page within this time, or the read has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message of the log: its events, if it is no command.
#[derive(Debug)]
pub(crate) struct Stored {
    pub seq: u64,
    pub tag: Tag,
    pub events: Vec<LogEvent>,
}

impl Stored {
    fn read(epoch: Epoch, seq: u64, subject: &str, payload: &[u8]) -> Self {
        Self { seq, tag: Tag::of(payload), events: if Names::is_command(subject) { Vec::new() } else { read(epoch, seq, payload) } }
    }
}

/// Messages of the stream in order.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The messages.
    pub messages: Vec<Stored>,
    /// Whether the stream has no more that match.
    pub end: bool,
}

/// Reads up to `batch` messages that match `subject`, from sequence `from` on.
///
/// # Errors
/// When the server does not answer completely.
pub(crate) async fn page(link: &Link, epoch: Epoch, subject: &str, from: u64, batch: usize) -> Result<Page, String> {
    let ask = json!({ "seq": from.max(1), "batch": batch, "max_bytes": PAGE_BYTES, "next_by_subj": subject });
    ask_page(link, epoch, &ask).await
}

/// The sequence of the first message that was stored at or after a time; `None` if there is none.
///
/// # Errors
/// When the server does not answer completely.
pub(super) async fn since(link: &Link, time: Timestamp) -> Result<Option<u64>, String> {
    let ask = json!({ "start_time": time.to_string(), "batch": 1, "next_by_subj": link.names.events_all() });
    let page = ask_page(link, Epoch::default(), &ask).await?;
    Ok(page.messages.first().map(|m| m.seq))
}

async fn ask_page(link: &Link, epoch: Epoch, ask: &Value) -> Result<Page, String> {
    let inbox = link.client.new_inbox();
    let mut answers = link.client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
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
        page.messages.push(Stored::read(epoch, seq, header("Nats-Subject").unwrap_or_default(), &message.payload));
    }
}

/// The first message at or after `from`, from the stream's leader; `None` if it has none.
///
/// # Errors
/// When it does not answer.
pub(super) async fn first_from(link: &Link, epoch: Epoch, from: u64) -> Result<Option<Stored>, String> {
    let stream = link.js.get_stream_no_info(link.names.events_stream()).await.map_err(|e| e.to_string())?;
    match stream.get_first_raw_message_by_subject(&link.names.events_all(), from.max(1)).await {
        Ok(m) => Ok(Some(Stored::read(epoch, m.sequence, &m.subject, &m.payload))),
        Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// Events; of one that cannot be read nothing but a line in our log.
fn read(epoch: Epoch, seq: u64, payload: &[u8]) -> Vec<LogEvent> {
    let told = LogEvent::read(epoch, seq, payload).into_iter();
    told.filter_map(|event| event.inspect_err(|error| tracing::warn!(seq, error, "an event of the log is malformed; left out")).ok())
        .collect()
}

/// Reads a message as the tail delivers it.
pub(super) fn delivered(epoch: Epoch, m: &haltline_common::tail::Message) -> Stored {
    Stored::read(epoch, m.seq, &m.subject, &m.payload)
}

/// A run of the log up to `floor`, where memory begins, put together from what was read after `pos`.
pub(super) struct Run {
    epoch: Epoch,
    floor: u64,
    pub chunk: Chunk,
}

impl Run {
    /// Nothing yet.
    pub fn new(epoch: Epoch, generation: u64, pos: u64, floor: u64) -> Self {
        Self { epoch, floor, chunk: Chunk { generation, entries: Vec::new(), upto: pos, stored: true } }
    }

    /// Takes messages as long as none is missing. The first sequence behind what is missing, if
    /// something is.
    pub fn take(&mut self, page: Page) -> Option<u64> {
        let pos = self.chunk.upto;
        for m in page.messages {
            if m.seq > self.floor {
                break;
            }
            if m.seq > self.chunk.upto + 1 {
                return Some(m.seq);
            }
            self.one(m);
        }
        // Nothing more below memory: what is missing up to there may be gone.
        let over = page.end || self.chunk.upto == pos;
        (over && self.chunk.upto < self.floor).then_some(self.floor + 1)
    }

    /// Takes the next message.
    pub fn one(&mut self, m: Stored) {
        self.chunk.upto = m.seq;
        self.chunk.entries.extend(m.events.into_iter().map(|e| Arc::new(Entry::Event(e))));
    }

    /// Nothing is there before `next`; `oldest` is the first sequence that the stream has.
    pub fn hole(&mut self, next: u64, oldest: u64) {
        let next = next.min(self.floor + 1);
        if next <= self.chunk.upto + 1 {
            return;
        }
        let reason = if next <= oldest { Reason::Retention } else { Reason::Purged };
        self.chunk.entries.push(Arc::new(Entry::Gap(Gap::within(self.epoch, self.chunk.upto, next, reason))));
        self.chunk.upto = next - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u64, event: bool) -> Stored {
        let names = haltline_common::types::Names::new("x").expect("a name");
        let subject = if event { names.note("e") } else { names.command("e") };
        Stored::read(Epoch(1), seq, &subject, format!(r#"{{"type":"t","id":"{seq}"}}"#).as_bytes())
    }
    fn page(seqs: &[u64], end: bool) -> Page {
        Page { messages: seqs.iter().map(|s| message(*s, s % 6 != 0)).collect(), end }
    }
    fn gaps(run: &Run) -> Vec<(u64, u64, Reason)> {
        let gap = |e: &Arc<Entry>| if let Entry::Gap(g) = &**e { Some((g.after.seq, g.next.seq, g.reason)) } else { None };
        run.chunk.entries.iter().filter_map(gap).collect()
    }

    #[test]
    fn missing_stretches_are_seen() {
        let mut run = Run::new(Epoch(1), 0, 0, 20);
        // Retention took 1..=4; 6 is a command.
        assert_eq!(run.take(page(&[5, 6, 7], false)), Some(5));
        run.hole(5, 5);
        assert_eq!(run.take(page(&[5, 6, 7, 9], false)), Some(9));
        assert_eq!((gaps(&run), run.chunk.upto, run.chunk.entries.len()), (vec![(0, 5, Reason::Retention)], 7, 3));
        run.hole(9, 5);
        assert_eq!(gaps(&run)[1], (7, 9, Reason::Purged));
    }

    #[test]
    fn nothing_beyond_memory_is_taken_and_the_end_closes_the_hole() {
        let mut run = Run::new(Epoch(1), 0, 4, 5);
        assert_eq!(run.take(page(&[5, 7, 9], true)), None);
        assert_eq!((gaps(&run), run.chunk.upto), (vec![], 5));
        let mut run = Run::new(Epoch(1), 0, 3, 8);
        assert_eq!(run.take(page(&[9], true)), Some(9));
        let mut run = Run::new(Epoch(1), 0, 3, 8);
        assert_eq!(run.take(page(&[], true)), Some(9));
        run.hole(20, 1);
        assert_eq!((gaps(&run), run.chunk.upto), (vec![(3, 9, Reason::Purged)], 8));
        let mut run = Run::new(Epoch(1), 0, 3, 8);
        // A page that was cut short says nothing about the rest.
        assert_eq!(run.take(page(&[4, 5], false)), None);
    }
}
