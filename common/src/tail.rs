//! Reads a stream from a position on, for ever, in order, without gaps: what ordered consumers
//! promise, without their trap (recreated before anything was delivered, they start again at the
//! first message). Always recreated by sequence; a recreated stream is told, not papered over.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use haltline_types::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Link,
    js::{self, ApiFailure},
    link::ANSWERED_WITHIN,
    planted::{Bug, planted},
    retry::Reconnect,
};

/// How often a silent tail looks whether its connection is still the one it began on.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this sequence, or the first one after it.
    Seq(u64),
    /// After what is stored when the tail starts.
    New,
    /// With the last message of each subject, and what follows.
    LastPerSubject,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stream.
    pub stream: String,
    /// Subject filter; empty for everything. Several, none of which may cover another, are separated by a
    /// space.
    pub filter: String,
    /// Where to start.
    pub start: Start,
    /// The server's sign of life on a quiet stream; three missed ones count as lost.
    pub heartbeat: Duration,
    /// Items buffered between the connection and the reader.
    pub buffer: usize,
    /// For people: who reads.
    pub reader: String,
    /// Leave out the bodies.
    pub headers_only: bool,
}

/// A message of the stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its subject.
    pub subject: Subject,
    /// Its body.
    pub payload: Bytes,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its sequence.
    pub seq: u64,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// Matching messages stored after it and not delivered yet.
    pub pending: u64,
}

/// What a tail tells its reader.
#[derive(Debug)]
pub enum Item {
    /// The next message.
    Message(Message),
    /// Everything stored before the tail (re)started has been delivered. Comes after every
    /// (re)start, also when there was nothing to deliver.
    CaughtUp {
        /// The last sequence of the stream at that (re)start.
        last_seq: u64,
    },
    /// The tail was interrupted and is being restarted where it stopped.
    Lost {
        /// Why.
        reason: String,
        /// The stream does not exist.
        missing: bool,
    },
    /// The stream is not the one the tail was reading: it was recreated or restored. Reading starts
    /// over at its first message.
    Reset {
        /// When this one was created, as the server writes it.
        created: String,
    },
}

/// A tail's sign of life, readable from anywhere.
#[derive(Debug)]
pub struct Health {
    epoch: Instant,
    heard_ms: AtomicU64,
    live: AtomicBool,
    last_seq: AtomicU64,
    created: Mutex<String>,
}

impl Health {
    /// How long ago the server was last heard on this tail; `None` while the tail is interrupted.
    pub fn age(&self) -> Option<Duration> {
        if !self.live.load(Ordering::Acquire) {
            return None;
        }
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Acquire));
        Some(self.epoch.elapsed().saturating_sub(heard))
    }
    /// How long ago the server was last heard on this tail, interrupted or not; since its start if never.
    pub fn silence(&self) -> Duration {
        self.epoch.elapsed().saturating_sub(Duration::from_millis(self.heard_ms.load(Ordering::Acquire)))
    }
    /// When the stream that is read was created, as the server writes it; empty before it was found.
    pub fn created(&self) -> String {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// The last sequence delivered.
    pub fn last_seq(&self) -> u64 {
        self.last_seq.load(Ordering::Acquire)
    }
    fn hear(&self) {
        self.heard_ms.store(self.epoch.elapsed().as_millis() as u64, Ordering::Release);
    }
}

/// A running tail. Dropping it ends it.
pub struct Tail {
    items: mpsc::Receiver<Item>,
    health: Arc<Health>,
    _task: AbortOnDropHandle<()>,
}

impl Tail {
    /// Starts reading.
    pub fn start(link: &Link, options: Options) -> Self {
        Self::start_on(link, options, None)
    }

    /// The same of the stream that was created at `created`: another one is told as [`Item::Reset`].
    pub fn start_on(link: &Link, mut options: Options, created: Option<String>) -> Self {
        if options.start == Start::LastPerSubject && options.filter.is_empty() {
            // The server wants a filter for this policy.
            options.filter = ">".into();
        }
        let (tx, items) = mpsc::channel(options.buffer.max(1));
        let health = Arc::new(Health {
            epoch: Instant::now(),
            heard_ms: AtomicU64::new(0),
            live: AtomicBool::new(false),
            last_seq: AtomicU64::new(0),
            created: Mutex::default(),
        });
        let reader =
            Reader { link: link.clone(), options, out: tx, health: health.clone(), last: None, created, patience: ANSWERED_WITHIN };
        let task = AbortOnDropHandle::new(tokio::spawn(reader.run()));
        Self { items, health, _task: task }
    }

    /// The next item. Cancel safe. `None` never comes while the tail lives.
    pub async fn next(&mut self) -> Option<Item> {
        self.items.recv().await
    }
    /// Up to `max` items at once, at least one.
    pub async fn next_many(&mut self, into: &mut Vec<Item>, max: usize) -> usize {
        self.items.recv_many(into, max).await
    }
    /// The same for a reader of several tails.
    pub fn poll_many(&mut self, cx: &mut std::task::Context<'_>, into: &mut Vec<Item>, max: usize) -> std::task::Poll<usize> {
        self.items.poll_recv_many(cx, into, max)
    }
    /// Its sign of life.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }
}

struct Reader {
    link: Link,
    options: Options,
    out: mpsc::Sender<Item>,
    health: Arc<Health>,
    /// Last sequence handed on (or, for `New`, the stream's last when the tail started).
    last: Option<u64>,
    /// Creation time of the stream being read.
    created: Option<String>,
    /// How long an answer is waited for while it opens: longer each time that it does not, as a large stream may take its time.
    patience: Duration,
}

/// Why one consumer ended.
enum End {
    Failed(String),
    Missing(String),
    /// The reader has gone.
    Closed,
}

impl From<ApiFailure> for End {
    fn from(e: ApiFailure) -> Self {
        if e.is_missing() { End::Missing(e.to_string()) } else { End::Failed(e.to_string()) }
    }
}

#[derive(Deserialize)]
struct Created {
    #[serde(default)]
    num_pending: u64,
    name: String,
}

impl Reader {
    async fn run(mut self) {
        let mut delays = Reconnect::new(Duration::from_secs(1));
        loop {
            let started = Instant::now();
            let end = self.read().await;
            self.health.live.store(false, Ordering::Release);
            let (reason, missing) = match end {
                End::Closed => return,
                End::Failed(reason) => (reason, false),
                End::Missing(reason) => (reason, true),
            };
            tracing::debug!(stream = self.options.stream, reader = self.options.reader, reason, "tail interrupted");
            if self.out.send(Item::Lost { reason, missing }).await.is_err() {
                return;
            }
            if started.elapsed() > Duration::from_secs(5) {
                delays.reset();
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
    }

    /// Reads with one consumer until it fails.
    async fn read(&mut self) -> End {
        match self.open().await {
            Ok((sub, pending, last_seq, name)) => {
                self.patience = ANSWERED_WITHIN;
                let end = self.deliver(sub, pending, last_seq).await;
                // Best effort: the server removes an unused consumer by itself after a while.
                let subject = format!("$JS.API.CONSUMER.DELETE.{}.{name}", self.options.stream);
                let _ = self.link.client.publish(subject, Bytes::new()).await;
                end
            }
            Err(end) => {
                self.patience = (self.patience * 2).min(js::PATIENCE);
                end
            }
        }
    }

    async fn open(&mut self) -> Result<(Subscriber, u64, u64, String), End> {
        let info = js::stream_info_within(&self.link, &self.options.stream, self.patience).await?;
        if self.created.as_ref().is_some_and(|c| *c != info.created) || self.last.is_some_and(|l| l > info.state.last_seq) {
            self.last = Some(0);
            if self.out.send(Item::Reset { created: info.created.clone() }).await.is_err() {
                return Err(End::Closed);
            }
        }
        self.health.created.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&info.created);
        let again = self.created.replace(info.created).is_some();
        let policy = match (self.last, self.options.start) {
            _ if again && planted(Bug::TailAll) => json!({ "deliver_policy": "all" }),
            (_, Start::LastPerSubject) => json!({ "deliver_policy": "last_per_subject" }),
            (Some(last), _) => json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": last + 1 }),
            (None, Start::Seq(seq)) => json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": seq.max(1) }),
            (None, Start::New) => {
                self.last = Some(info.state.last_seq);
                json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": info.state.last_seq + 1 })
            }
        };
        let filters: Vec<&str> = self.options.filter.split_ascii_whitespace().collect();
        let inbox = self.link.client.new_inbox();
        let sub = self.link.client.subscribe(inbox.clone()).await.map_err(|e| End::Failed(e.to_string()))?;
        let unique = inbox.rsplit('.').next().unwrap_or("tail");
        let name = format!("{}_{unique}", self.options.reader);
        let mut config = json!({
            "name": name,
            "description": format!("Haltline tail: {}", self.options.reader),
            "deliver_subject": inbox,
            "ack_policy": "none",
            "replay_policy": "instant",
            "flow_control": true,
            "idle_heartbeat": self.options.heartbeat.as_nanos() as u64,
            "inactive_threshold": 30_000_000_000u64,
            "mem_storage": true,
            "num_replicas": 1,
        });
        if let (Some(to), Some(from)) = (config.as_object_mut(), policy.as_object()) {
            to.extend(from.clone());
            match filters[..] {
                [] => {}
                [one] => {
                    to.insert("filter_subject".into(), one.into());
                }
                _ => {
                    to.insert("filter_subjects".into(), json!(filters));
                }
            }
        }
        if self.options.headers_only {
            config["headers_only"] = true.into();
        }
        let mut subject = format!("CONSUMER.CREATE.{}.{name}", self.options.stream);
        if let [one] = filters[..] {
            subject = format!("{subject}.{one}");
        }
        let request = json!({ "stream_name": self.options.stream, "config": config, "action": "create" });
        let created: Created = js::api_within(&self.link, &subject, &request, self.patience).await?;
        // Between the question and the consumer the stream may have been replaced: what the consumer delivers
        // would be taken for messages of the old one.
        let now = js::stream_info_within(&self.link, &self.options.stream, self.patience).await?.created;
        if self.created.as_ref() != Some(&now) {
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.options.stream, created.name);
            let _ = self.link.client.publish(subject, Bytes::new()).await;
            return Err(End::Failed("the stream was replaced while the tail began".into()));
        }
        Ok((sub, created.num_pending, info.state.last_seq, created.name))
    }

    async fn deliver(&mut self, mut sub: Subscriber, pending: u64, last_seq: u64) -> End {
        let patience = self.options.heartbeat * 3;
        let mut delivered: u64 = 0;
        let mut caught_up = pending == 0;
        let (connects, mut heard) = (self.link.reconnects(), Instant::now());
        self.health.hear();
        if caught_up && self.out.send(Item::CaughtUp { last_seq }).await.is_err() {
            return End::Closed;
        }
        self.health.live.store(true, Ordering::Release);
        // One timer, not one for each message.
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                biased;
                message = sub.next() => match message {
                    Some(message) => message,
                    None => return End::Failed("subscription closed".into()),
                },
                _ = look.tick() => {
                    let silent = heard.elapsed();
                    // A server that was started again knows nothing of this consumer, and says nothing.
                    if silent >= LOOK_EVERY / 2 && self.link.reconnects() != connects {
                        return End::Failed("the connection was made anew".into());
                    }
                    if silent > patience {
                        return End::Failed(format!("nothing heard for {patience:?}"));
                    }
                    continue;
                }
            };
            heard = Instant::now();
            self.health.hear();
            if let Some(status) = message.status {
                if let Some(reply) = &message.reply {
                    // Flow control: say that everything before it was taken.
                    if self.link.client.publish(reply.clone(), Bytes::new()).await.is_err() {
                        return End::Failed("connection closed".into());
                    }
                } else if status.as_u16() == 100 {
                    let sent = header(&message, "Nats-Last-Consumer").and_then(|v| v.parse::<u64>().ok());
                    if sent.is_some_and(|sent| sent != delivered) {
                        return End::Failed(format!("missed messages: server sent {sent:?}, got {delivered}"));
                    }
                    if let Some(stalled) = header(&message, "Nats-Consumer-Stalled") {
                        let _ = self.link.client.publish(stalled.to_owned(), Bytes::new()).await;
                    }
                } else {
                    return End::Failed(format!("consumer ended: {status} {}", message.description.unwrap_or_default()));
                }
                continue;
            }
            let Some(meta) = message.reply.as_deref().and_then(Meta::parse) else {
                return End::Failed("message without metadata".into());
            };
            delivered += 1;
            if meta.consumer_seq != delivered {
                return End::Failed(format!("missed messages: expected {delivered}, got {}", meta.consumer_seq));
            }
            if self.options.start != Start::LastPerSubject || caught_up {
                self.last = Some(meta.stream_seq);
            }
            self.health.last_seq.store(meta.stream_seq, Ordering::Release);
            let item = Item::Message(Message {
                subject: message.subject,
                payload: message.payload,
                headers: message.headers,
                seq: meta.stream_seq,
                stored_at: meta.stored_at,
                pending: meta.pending,
            });
            if self.out.send(item).await.is_err() {
                return End::Closed;
            }
            if !caught_up && (meta.pending == 0 || meta.stream_seq >= last_seq || delivered >= pending) {
                caught_up = true;
                if self.out.send(Item::CaughtUp { last_seq }).await.is_err() {
                    return End::Closed;
                }
            }
        }
    }
}

fn header<'m>(message: &'m async_nats::Message, name: &str) -> Option<&'m str> {
    message.headers.as_ref()?.get(name).map(|v| v.as_str())
}

/// What an acknowledgement subject tells of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// Its sequence in the stream.
    pub stream_seq: u64,
    /// Its sequence in the consumer.
    pub consumer_seq: u64,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// Messages waiting behind it.
    pub pending: u64,
}

impl Meta {
    /// Reads `$JS.ACK.<stream>.<consumer>.…` and the longer form with domain and account.
    pub fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let before = match rest.bytes().filter(|b| *b == b'.').count() {
            6 => 2,
            dots if dots >= 8 => 4,
            _ => return None,
        };
        let mut numbers = rest.split('.').skip(before).map(|token| token.parse::<u64>().ok());
        Some(Self {
            deliveries: numbers.next()??,
            stream_seq: numbers.next()??,
            consumer_seq: numbers.next()??,
            stored_at: Timestamp((numbers.next()?? / 1_000_000) as i64),
            pending: numbers.next()??,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_metadata_are_read() {
        let want = Meta { deliveries: 2, stream_seq: 7, consumer_seq: 5, stored_at: Timestamp(1), pending: 9 };
        assert_eq!(Meta::parse("$JS.ACK.s.c.2.7.5.1000000.9"), Some(want));
        assert_eq!(Meta::parse("$JS.ACK.hub.hash.s.c.2.7.5.1000000.9"), Some(want));
        assert_eq!(Meta::parse("$JS.ACK.hub.hash.s.c.2.7.5.1000000.9.rnd"), Some(want));
        assert_eq!(Meta::parse("$JS.ACK.s.c"), None);
    }
}
