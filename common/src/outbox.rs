//! Writes to streams, pipelined and repeated until the server has answered each one.
//!
//! One subscription of our own takes all acknowledgements; the reply subject says which write it
//! answers. A time-out or a reconnect means "unknown": the write is sent again, so every write must
//! carry a `Nats-Msg-Id` or a compare-and-swap that makes the repeat harmless.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;

use crate::{Link, js::ErrorBody};

/// An unanswered write is sent again after this long; a healthy server answers within milliseconds.
const RESEND_AFTER: Duration = Duration::from_secs(2);
/// How often unanswered writes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Writes sent again at most per look, so that a slow server is not flooded.
const RESEND_BATCH: usize = 2048;

/// Header of a write that was sent before: there may be two of it if the server no longer knows its id.
pub const AGAIN: &str = "Haltline-Again";

/// A write.
#[derive(Clone, Debug)]
pub struct Write {
    /// The subject: of a stream, or `$KV.<bucket>.<key>`.
    pub subject: String,
    /// Headers: the message id, expectations.
    pub headers: HeaderMap,
    /// The body.
    pub payload: Bytes,
}

impl Write {
    /// A message with an id by which the server drops repeats.
    pub fn with_id(subject: String, id: &str, payload: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        Self { subject, headers, payload: payload.into() }
    }
    /// A compare-and-swap of a subject: `revision` 0 means there must be none.
    pub fn swap(subject: String, revision: u64, payload: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
        Self { subject, headers, payload: payload.into() }
    }
}

/// Where a write was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream: a KV entry's revision.
    pub seq: u64,
    /// True if the server already had this message id; nothing was stored now.
    pub duplicate: bool,
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
    error: Option<ErrorBody>,
}

struct Pending<T> {
    tag: T,
    write: Write,
    sent: Instant,
}

/// Unanswered writes, each with a tag of the caller's.
pub struct Outbox<T> {
    link: Link,
    prefix: String,
    acks: Subscriber,
    pending: BTreeMap<u64, Pending<T>>,
    next: u64,
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
        Ok(Self { link: link.clone(), prefix, acks, pending: BTreeMap::new(), next: 0, reconnects: link.reconnects(), look })
    }

    /// Unanswered writes.
    pub fn len(&self) -> usize {
        self.pending.len()
    }
    /// Whether every write was answered.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Sends a write; its answer comes from [`Outbox::next`] with `tag`.
    pub async fn send(&mut self, tag: T, write: Write) {
        if self.link.reconnects() != self.reconnects {
            // What was lost with the old connection goes first: a result must not overtake the event
            // that its node has started.
            self.resend().await;
        }
        self.next += 1;
        let n = self.next;
        publish(&self.link, &self.prefix, n, &write).await;
        self.pending.insert(n, Pending { tag, write, sent: Instant::now() });
    }

    /// The next answer. Cancel safe. Never ends while the connection object lives.
    pub async fn next(&mut self) -> (T, Result<Stored, WriteError>) {
        loop {
            tokio::select! {
                biased;
                message = self.acks.next() => {
                    let Some(message) = message else {
                        // The client was closed: nothing will be answered any more.
                        if let Some((_, p)) = self.pending.pop_first() {
                            return (p.tag, Err(WriteError::Closed));
                        }
                        std::future::pending::<()>().await;
                        continue;
                    };
                    if let Some(answer) = self.take(&message) {
                        return answer;
                    }
                }
                _ = self.look.tick() => self.resend().await,
            }
        }
    }

    fn take(&mut self, message: &async_nats::Message) -> Option<(T, Result<Stored, WriteError>)> {
        let n: u64 = message.subject.as_str().rsplit('.').next()?.parse().ok()?;
        if message.status.is_some() {
            return None; // no responders: the stream has no leader right now; sent again later
        }
        let ack: PubAck = match serde_json::from_slice(&message.payload) {
            Ok(ack) => ack,
            Err(e) => {
                tracing::warn!(error = %e, "malformed acknowledgement; the write will be repeated");
                return None;
            }
        };
        let outcome = match ack.error {
            None => Ok(Stored { seq: ack.seq, duplicate: ack.duplicate }),
            // 10071 wrong last sequence, 10164 the same while another write is in flight
            Some(e) if matches!(e.err_code, 10071 | 10164) => Err(WriteError::Conflict(e.description)),
            Some(e) if e.code == 503 => {
                tracing::warn!(error = e.description, "nats-server cannot store now; the write will be repeated");
                return None;
            }
            Some(e) => Err(WriteError::Refused(format!("{} ({})", e.description, e.err_code))),
        };
        // An answer to a write that was sent twice comes twice: the second finds nothing.
        self.pending.remove(&n).map(|p| (p.tag, outcome))
    }

    async fn resend(&mut self) {
        let reconnected = self.link.reconnects() != self.reconnects;
        self.reconnects = self.link.reconnects();
        let now = Instant::now();
        let mut again = 0;
        for (n, p) in &mut self.pending {
            if again == RESEND_BATCH && !reconnected {
                break;
            }
            if reconnected || now.duration_since(p.sent) >= RESEND_AFTER {
                p.write.headers.insert(AGAIN, "1");
                publish(&self.link, &self.prefix, *n, &p.write).await;
                p.sent = now;
                again += 1;
            }
        }
        if again > 0 {
            tracing::info!(writes = again, reconnected, "repeated writes that nats-server had not answered");
        }
    }
}

async fn publish(link: &Link, prefix: &str, n: u64, write: &Write) {
    let sent = link
        .client
        .publish_with_reply_and_headers(write.subject.clone(), format!("{prefix}.{n}"), write.headers.clone(), write.payload.clone())
        .await;
    if let Err(e) = sent {
        // Too large for the server, or the client is closed; the time-out repeats or the caller ends.
        tracing::warn!(error = %e, subject = write.subject, "cannot hand a write to the connection");
    }
}
