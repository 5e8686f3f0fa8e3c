//! Reading what is left, raw, over a connection of the checker's own.

use std::{fs, io::Write, path::Path, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::{self, consumer::pull::OrderedConfig, stream::RawMessageErrorKind};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{Asked, Findings, Message, Remains, is_acknowledged};

/// A message that is there arrives sooner, also on a machine that is busy.
const NEXT_WITHIN: Duration = Duration::from_secs(20);

fn millis(nanos: i128) -> i64 {
    i64::try_from(nanos / 1_000_000).unwrap_or_default()
}

/// Where to read.
pub struct Source {
    js: jetstream::Context,
    /// Stream of the log.
    pub log: String,
    /// Stream of records.
    pub records: String,
    /// Stream of tasks.
    pub tasks: String,
}

impl Source {
    /// Connects.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn connect(url: &[String], log: String, records: String, tasks: String) -> anyhow::Result<Self> {
        let client = async_nats::ConnectOptions::new().name("haltline checker").connect(url).await.context("the checker's connection")?;
        Ok(Self { js: jetstream::new(client), log, records, tasks })
    }

    /// All messages of a stream.
    ///
    /// # Errors
    /// When it cannot be read to its end.
    async fn stream(&self, name: &str) -> anyhow::Result<Vec<Message>> {
        let mut stream = self.js.get_stream(name).await.with_context(|| format!("stream {name}"))?;
        let mut left = stream.info().await.with_context(|| format!("stream {name}"))?.state.messages;
        let mut found = Vec::new();
        if left == 0 {
            return Ok(found);
        }
        let consumer = stream.create_consumer(OrderedConfig::default()).await.with_context(|| format!("reading {name}"))?;
        let mut messages = consumer.messages().await.with_context(|| format!("reading {name}"))?;
        while left > 0 {
            let next = tokio::time::timeout(NEXT_WITHIN, messages.next()).await;
            let message = next.with_context(|| format!("{name} ended too early"))?.with_context(|| format!("{name} ended"))?;
            let message = message.with_context(|| format!("reading {name}"))?;
            let info = message.info().map_err(|e| anyhow::anyhow!("reading {name}: {e}"))?;
            left = info.pending;
            let time_ms = millis(info.published.unix_timestamp_nanos());
            found.push(Message {
                seq: info.stream_sequence,
                time_ms,
                subject: message.subject.to_string(),
                id: message.headers.as_ref().and_then(|h| h.get("Nats-Msg-Id")).map(|v| v.as_str().to_owned()),
                body: message.payload.to_vec(),
            });
        }
        Ok(found)
    }

    /// What is left of a queue. It allows no second reader beside those that take from it, so its
    /// messages are fetched one by one; few, if all is well.
    ///
    /// # Errors
    /// When it cannot be read to its end.
    async fn queue(&self, name: &str) -> anyhow::Result<Vec<Message>> {
        let stream = self.js.get_stream(name).await.with_context(|| format!("stream {name}"))?;
        let mut found: Vec<Message> = Vec::new();
        loop {
            let after = found.last().map_or(1, |m| m.seq + 1);
            let message = match stream.get_first_raw_message_by_subject(">", after).await {
                Ok(message) => message,
                Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => return Ok(found),
                Err(e) => return Err(anyhow::Error::new(e).context(format!("reading {name}"))),
            };
            found.push(Message {
                seq: message.sequence,
                subject: message.subject.to_string(),
                id: message.headers.get("Nats-Msg-Id").map(|v| v.as_str().to_owned()),
                time_ms: millis(message.time.unix_timestamp_nanos()),
                body: message.payload.to_vec(),
            });
        }
    }

    /// Up to which sequence tasks were acknowledged, by the beginning of their subjects.
    async fn floors(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let stream = self.js.get_stream(&self.tasks).await.context("stream of tasks")?;
        let mut consumers = stream.consumers();
        let mut floors = Vec::new();
        while let Some(info) = consumers.next().await {
            let info = info.context("consumers of tasks")?;
            floors.push((info.config.filter_subject.trim_end_matches('>').to_owned(), info.ack_floor.stream_sequence));
        }
        Ok(floors)
    }

    /// How many records have not ended, how many there are, and how many tasks wait.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn unfinished(&self) -> anyhow::Result<(usize, usize, usize)> {
        let records = self.stream(&self.records).await?;
        let ended = |m: &Message| serde_json::from_slice::<Value>(&m.body).is_ok_and(|r| super::is_end(super::text(&r, "status")));
        let open = records.iter().filter(|m| !ended(m)).count();
        let (tasks, floors) = (self.queue(&self.tasks).await?, self.floors().await?);
        let tasks = tasks.iter().filter(|t| !is_acknowledged(t, &floors)).count();
        Ok((open, records.len(), tasks))
    }

    /// Everything.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn all(&self, ledger: &Path) -> anyhow::Result<Remains> {
        let text = fs::read_to_string(ledger).with_context(|| format!("ledger {}", ledger.display()))?;
        let ledger: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        Ok(Remains {
            log: self.stream(&self.log).await?,
            records: self.stream(&self.records).await?,
            tasks: self.queue(&self.tasks).await?,
            floors: self.floors().await?,
            ledger: ledger.context("a line of the ledger")?,
            server_starts: None,
            lost_tasks: Vec::new(),
        })
    }
}

/// Writes what was read and found into `folder`, a line of JSON each, for people to look into.
///
/// # Errors
/// When it cannot be written.
pub fn save(folder: &Path, asked: &Asked, remains: &Remains, found: &Findings) -> anyhow::Result<()> {
    let write = |name: &str, lines: &mut dyn Iterator<Item = Value>| {
        let mut file = std::io::BufWriter::new(fs::File::create(folder.join(name)).with_context(|| name.to_owned())?);
        for line in lines {
            writeln!(file, "{line}").with_context(|| name.to_owned())?;
        }
        file.flush().with_context(|| name.to_owned())
    };
    let message = |m: &Message| {
        let mut body: Vec<Value> = m.body.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let body = if body.len() == 1 { body.remove(0) } else { Value::Array(body) };
        json!({ "seq": m.seq, "subject": m.subject, "msg_id": m.id, "time_ms": m.time_ms, "body": body })
    };
    write("log.jsonl", &mut remains.log.iter().map(message))?;
    write("records.jsonl", &mut remains.records.iter().map(message))?;
    write("tasks.jsonl", &mut remains.tasks.iter().map(message))?;
    write("submissions.jsonl", &mut asked.submissions.iter().map(super::Submission::to_json))?;
    write("violations.jsonl", &mut found.violations.iter().map(|v| json!(v)))
}
