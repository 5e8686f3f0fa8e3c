//! Writes to streams, pipelined and repeated until the server has answered each one.
//!
//! One subscription of our own takes all acknowledgements; the reply subject says which write it
//! answers. A time-out or a reconnect means "unknown": the write is sent again, so every write must
//! carry a `Nats-Msg-Id` or a compare-and-swap that makes the repeat harmless.
//!
//! Where the server syncs every write ([`crate::sync`]), what waits for the same stream leaves as one
//! atomic batch (`lanes`).

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Subject, Subscriber, client::traits::Publisher, connection::State, header, message::OutboundMessage};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;

use crate::{
    Link,
    js::ErrorBody,
    lanes::{FEW, Lanes, Leaving, Place, Refusal},
    metrics,
    planted::{Bug, planted},
    sync::{self, Sync},
};

/// An unanswered write is sent again after this long; a healthy server answers within milliseconds.
const RESEND_AFTER: Duration = Duration::from_secs(2);
/// One that nobody was there to take, or about which the leader cannot say yet, after this long: one of several servers that
/// ends hands its streams over within 0.1 s.
const LEADER_WITHIN: Duration = Duration::from_millis(200);
/// How often unanswered writes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Writes sent again at most per look, so that a slow server is not flooded.
const RESEND_BATCH: usize = 2048;
/// What the server answers to a write that it would not take at another time either.
const BAD_REQUEST: u16 = 400;
/// Room for headers in what the server takes at most.
const HEADERS_MAX: usize = 1024;

/// What keeps a write from being stored twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Once {
    /// Nothing: storing it twice is harmless.
    Harmless,
    /// An id by which the server drops repeats.
    Id(String),
    /// The same, and there must be nothing on its subject yet: a repeat of what was stored is a conflict.
    First(String),
    /// A compare-and-swap: the subject's last sequence must be this; 0 means there must be none.
    Swap(u64),
}

/// Header of a write that was sent before: there may be two of it if the server no longer knows its id.
pub const AGAIN: &str = "Haltline-Again";

/// A write.
#[derive(Clone, Debug)]
pub struct Write {
    /// The subject: of a stream, or `$KV.<bucket>.<key>`.
    pub subject: Subject,
    /// What keeps it from being stored twice.
    pub once: Once,
    /// Further headers.
    pub headers: HeaderMap,
    /// The body.
    pub payload: Bytes,
}

impl Write {
    /// A message with an id by which the server drops repeats.
    pub fn with_id(subject: String, id: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), once: Once::Id(id.into()), headers: HeaderMap::new(), payload: payload.into() }
    }
    /// A message with an id, which must be the first on its subject.
    pub fn first(subject: String, id: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { once: Once::First(id.into()), ..Self::with_id(subject, String::new(), payload) }
    }
    /// A compare-and-swap of a subject: `revision` 0 means there must be none.
    pub fn swap(subject: String, revision: u64, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), once: Once::Swap(revision), headers: HeaderMap::new(), payload: payload.into() }
    }
    /// A message that may be stored twice, with headers.
    pub fn repeatable(subject: String, headers: HeaderMap, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), once: Once::Harmless, headers, payload: payload.into() }
    }

    /// The first two tokens of its subject: those of our subjects name the stream.
    fn stream(&self) -> &str {
        let mut dots = self.subject.match_indices('.').map(|(i, _)| i);
        dots.nth(1).map_or(self.subject.as_str(), |end| &self.subject[..end])
    }
}

/// Where a write was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream: a KV entry's revision.
    pub seq: u64,
    /// True if the server already had this message id; nothing was stored now.
    pub duplicate: bool,
    /// It was sent more than once.
    pub again: bool,
}

/// Why a write was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The expected revision is not the current one.
    #[error("the entry was changed by someone else: {0}")]
    Conflict(String),
    /// The server refuses it and would again.
    #[error("nats-server refuses the write: {0}")]
    Refused(String),
    /// The outbox was closed before the server answered; whether it was stored is unknown.
    #[error("shut down before nats-server answered; the write may have been stored")]
    Closed,
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    /// How many messages a batch has.
    #[serde(default)]
    count: u64,
    error: Option<ErrorBody>,
}

/// How a write leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By itself, past the lanes.
    Direct,
    /// It waits in its stream's lane, or left it in a batch.
    Lane(usize),
    /// By itself, from its lane.
    Single(usize),
}

struct Pending<T> {
    tag: T,
    write: Write,
    /// When it leaves again, unless it was answered.
    due: Instant,
    way: Way,
    /// It was handed to the connection before.
    tried: bool,
}

type Answer<T> = (T, Result<Stored, WriteError>);

/// Unanswered writes, each with a tag of the caller's.
pub struct Outbox<T> {
    link: Link,
    prefix: String,
    acks: Subscriber,
    /// Boxed: a tree moves its entries as it grows and shrinks.
    pending: BTreeMap<u64, Box<Pending<T>>>,
    lanes: Lanes,
    /// To be handed to the connection, in order.
    leaving: VecDeque<Leaving>,
    /// Answers to be given.
    answers: VecDeque<Answer<T>>,
    next: u64,
    /// Most unanswered writes since the last look.
    most: usize,
    reconnects: u64,
    look: tokio::time::Interval,
}

impl<T> Outbox<T> {
    /// Opens the inbox that acknowledgements come back to.
    pub async fn open(link: &Link) -> Result<Self, async_nats::SubscribeError> {
        let prefix = link.client.new_inbox();
        let acks = link.client.subscribe(format!("{prefix}.*")).await?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self {
            link: link.clone(),
            prefix,
            acks,
            pending: BTreeMap::new(),
            lanes: Lanes::default(),
            leaving: VecDeque::new(),
            answers: VecDeque::new(),
            next: 0,
            most: 0,
            reconnects: link.reconnects(),
            look,
        })
    }

    /// Unanswered writes.
    pub fn len(&self) -> usize {
        self.pending.len() + self.answers.len()
    }
    /// Whether every write was answered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends a write, or lets it wait for [`Outbox::flush`] where writes are grouped; its answer comes
    /// from [`Outbox::next`] with `tag`.
    pub async fn send(&mut self, tag: T, write: Write) {
        if self.link.reconnects() != self.reconnects {
            // What was lost with the old connection goes first: a result must not overtake the event
            // that its node has started.
            self.look_again();
        }
        let (bytes, max) = (write.payload.len() + HEADERS_MAX, self.link.client.max_payload());
        if bytes > max {
            let why = format!("{} bytes are more than nats-server's max_payload of {max} allows", write.payload.len());
            self.answers.push_back((tag, Err(WriteError::Refused(why))));
            return;
        }
        self.next += 1;
        let n = self.next;
        let grouping = self.grouping();
        let way = if grouping || !self.lanes.is_empty() {
            Way::Lane(self.lanes.join(write.stream(), n, bytes))
        } else {
            self.leaving.push_back(Leaving { n, place: None });
            Way::Direct
        };
        self.pending.insert(n, Box::new(Pending { tag, write, due: Instant::now() + RESEND_AFTER, way, tried: false }));
        self.most = self.most.max(self.pending.len());
        if !grouping {
            self.flush().await;
        }
    }

    /// Sends what waits and may leave. [`Outbox::next`] does so as well. Cancel safe.
    pub async fn flush(&mut self) {
        if self.link.client.connection_state() != State::Connected {
            // The client would keep it and send it first on the next connection, before what was lost.
            return;
        }
        if self.link.reconnects() != self.reconnects {
            self.look_again();
        }
        if !self.lanes.is_empty() {
            let now = Instant::now();
            let pending = &self.pending;
            let leaving = self.lanes.leave(self.link.sync.get() == Sync::Always, now, |n| pending.contains_key(&n));
            for l in &leaving {
                if let Some(p) = self.pending.get_mut(&l.n) {
                    p.due = now + RESEND_AFTER;
                    if let (Way::Lane(lane), None) = (p.way, l.place) {
                        p.way = Way::Single(lane);
                    }
                }
            }
            self.leaving.extend(leaving);
        }
        while let Some(next) = self.leaving.front() {
            if let Some(p) = self.pending.get_mut(&next.n) {
                if p.tried {
                    p.write.headers.insert(AGAIN, "1");
                }
                publish(&self.link, &self.prefix, next.n, next.place, &p.write).await;
                // Not before: where this is cancelled here, it was not sent.
                p.tried = true;
            }
            self.leaving.pop_front();
        }
    }

    /// The next answer. Cancel safe. Never ends while the connection object lives.
    pub async fn next(&mut self) -> Answer<T> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            self.flush().await;
            tokio::select! {
                biased;
                message = self.acks.next() => match message {
                    Some(message) => self.take(&message),
                    // The client was closed: nothing will be answered any more.
                    None => match self.pending.pop_first() {
                        Some((_, p)) => return (p.tag, Err(WriteError::Closed)),
                        None => std::future::pending().await,
                    },
                },
                _ = self.look.tick() => {
                    if std::mem::take(&mut self.most) > FEW {
                        sync::measure_if_due(&self.link);
                    }
                    self.look_again();
                }
            }
        }
    }

    fn grouping(&self) -> bool {
        self.link.sync.get() == Sync::Always
    }

    fn take(&mut self, message: &async_nats::Message) {
        let Some(number) = message.subject.as_str().rsplit('.').next() else { return };
        if message.status.is_some() {
            // No responders: the stream has no leader right now. Batches wait for their time.
            return self.again_soon(number.parse().unwrap_or_default());
        }
        let ack: PubAck = match serde_json::from_slice(&message.payload) {
            Ok(ack) => ack,
            Err(e) => {
                tracing::warn!(error = %e, "malformed acknowledgement; the write will be repeated");
                return;
            }
        };
        match number.strip_prefix(GROUP_MARK) {
            Some(group) => self.take_group(group.parse().unwrap_or_default(), ack),
            None => self.take_single(number.parse().unwrap_or_default(), ack),
        }
    }

    fn again_soon(&mut self, n: u64) {
        if let Some(p) = self.pending.get_mut(&n) {
            p.due = Instant::now() + LEADER_WITHIN;
        }
    }

    fn take_single(&mut self, n: u64, ack: PubAck) {
        let outcome = match ack.error {
            None => Ok(Stored { seq: ack.seq, duplicate: ack.duplicate, again: false }),
            // Wrong last sequence.
            Some(e) if e.err_code == 10071 => Err(WriteError::Conflict(e.description)),
            // Another with its id, or on its subject, is with the leader of several servers, and will be stored or get lost:
            // mostly an earlier copy of it.
            Some(e) if matches!(e.err_code, 10158 | 10164) => return self.again_soon(n),
            Some(e) if e.code == BAD_REQUEST => Err(WriteError::Refused(format!("{} ({})", e.description, e.err_code))),
            Some(e) => {
                tracing::warn!(error = e.description, "nats-server cannot store now; the write will be repeated");
                return;
            }
        };
        self.answer(n, outcome);
    }

    fn take_group(&mut self, group: u64, ack: PubAck) {
        match ack.error {
            None => match self.lanes.stored(group, ack.seq, ack.count) {
                Some(stored) => {
                    metrics::WRITES_GROUPED.add(stored.len() as u64);
                    stored.into_iter().for_each(|(n, seq)| self.answer(n, Ok(Stored { seq, duplicate: false, again: false })));
                }
                None => tracing::debug!(group, "an answer to a batch that is not waited for"),
            },
            Some(e) if e.code == 503 => tracing::warn!(error = e.description, "nats-server cannot store now; the batch will be repeated"),
            Some(e) => {
                let why = match e.err_code {
                    // The stream was made without `allow_atomic`, or mirrors another.
                    10174 | 10198 => Refusal::Never,
                    // Too many batches in flight; staging one failed.
                    10210 | 10176 => Refusal::Busy,
                    _ => Refusal::Message,
                };
                tracing::debug!(group, error = e.description, ?why, "a batch was refused; its writes leave again");
                self.lanes.refused(group, why);
            }
        }
    }

    /// An answer to a write that was sent twice comes twice: the second finds nothing.
    fn answer(&mut self, n: u64, outcome: Result<Stored, WriteError>) {
        let Some(p) = self.pending.remove(&n) else { return };
        if let Way::Single(lane) = p.way {
            self.lanes.single_answered(lane);
        }
        let again = p.write.headers.get(AGAIN).is_some();
        self.answers.push_back((p.tag, outcome.map(|stored| Stored { again, ..stored })));
    }

    /// Lets everything leave again that was not answered in time, or was in flight on a connection that
    /// is gone.
    fn look_again(&mut self) {
        let reconnected = self.link.reconnects() != self.reconnects;
        self.reconnects = self.link.reconnects();
        if reconnected {
            // Everything unanswered leaves anew, in its order.
            self.leaving.clear();
        }
        let now = Instant::now();
        let (patience, most) = if reconnected { (Duration::ZERO, usize::MAX) } else { (RESEND_AFTER, RESEND_BATCH) };
        let pending = &self.pending;
        let mut again = self.lanes.give_up(patience, now, |n| pending.contains_key(&n));
        // Each is told of once, though it may leave every 0.2 s while there is no leader.
        let mut told = again;
        for (n, p) in &mut self.pending {
            if again >= most {
                break;
            }
            if !matches!(p.way, Way::Lane(_)) && (reconnected || now >= p.due) {
                self.leaving.push_back(Leaving { n: *n, place: None });
                p.due = now + RESEND_AFTER;
                again += 1;
                told += usize::from(p.write.headers.get(AGAIN).is_none());
            }
        }
        if told > 0 {
            tracing::info!(writes = told, reconnected, "repeated writes that nats-server had not answered");
        }
    }
}

/// In a reply subject, before the number of a batch.
const GROUP_MARK: char = 'b';

async fn publish(link: &Link, prefix: &str, n: u64, place: Option<Place>, write: &Write) {
    let mut headers = write.headers.clone();
    match &write.once {
        Once::Harmless => {}
        Once::Id(_) | Once::First(_) if planted(Bug::NoMessageId) => {}
        Once::Id(id) => headers.insert(header::NATS_MESSAGE_ID, id.as_str()),
        Once::First(id) => {
            headers.insert(header::NATS_MESSAGE_ID, id.as_str());
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        }
        Once::Swap(revision) => headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string()),
    }
    let mut reply = place.is_none().then(|| format!("{prefix}.{n}"));
    if let Some(place) = place {
        // The inbox is drawn at random: with the batch's number it is an id that nobody else uses.
        let id = prefix.rsplit('.').next().unwrap_or_default();
        headers.insert(header::NATS_BATCH_ID, format!("{id}-{}", place.group));
        headers.insert(header::NATS_BATCH_SEQUENCE, place.index.to_string());
        if place.last {
            headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
            // Only the end of a batch is answered.
            reply = Some(format!("{prefix}.{GROUP_MARK}{}", place.group));
        }
    }
    let message = OutboundMessage {
        subject: write.subject.clone(),
        reply: reply.map(Subject::from),
        payload: write.payload.clone(),
        headers: Some(headers),
    };
    // Unlike `publish_...` this takes the subjects as they are.
    if let Err(e) = link.client.publish_message(message).await {
        // The client is closed: the caller is told.
        tracing::warn!(error = %e, subject = %write.subject, "cannot hand a write to the connection");
    }
}
