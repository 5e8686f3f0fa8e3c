//! Whether nats-server syncs each write to its disk before it acknowledges it (`sync_interval: always`).
//! Clients are not told, so it is measured: writes sent at once cost a sync each then, and otherwise
//! hardly more than one alone.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;

use crate::{
    Link,
    js::{ApiFailure, ErrorBody},
    metrics,
};

/// Writes sent at once.
const BURST: usize = 64;
/// Writes one after the other, in each round; the fastest counts.
const ALONE: usize = 4;
/// A burst that takes more than so many single writes was synced message by message. On an idle
/// machine a burst takes 3 to 6 without syncs and 30 to 50 with them.
const SYNCED_FROM: f64 = 14.0;
/// Rounds before a slow burst is believed: the load of the machine makes single ones slow.
const ROUNDS: usize = 8;
/// No further round after this: a disk so slow leaves no doubt.
const LIMIT: Duration = Duration::from_secs(2);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Measured again under load after this long: a server can be configured anew without a reconnect.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// When the server syncs writes, as far as measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Not measured (yet).
    Unknown,
    /// After it acknowledged them.
    Later,
    /// Before it acknowledges each.
    Always,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The fastest single write.
    pub alone: Duration,
    /// The fastest [`Measured::burst_of`] writes sent at once.
    pub burst: Duration,
    /// How many these are.
    pub burst_of: usize,
    /// What follows from it.
    pub sync: Sync,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        write!(f, "one write took {:.2} ms, {} at once {:.2} ms", ms(self.alone), self.burst_of, ms(self.burst))
    }
}

/// What a connection knows about its server.
#[derive(Debug, Default)]
pub struct SyncState {
    mode: AtomicU8,
    measuring: AtomicBool,
    /// When, and on which connection, it was measured last.
    measured: Mutex<Option<(Instant, u64)>>,
}

impl SyncState {
    /// When the server syncs writes.
    pub fn get(&self) -> Sync {
        match self.mode.load(Ordering::Relaxed) {
            1 => Sync::Later,
            2 => Sync::Always,
            _ => Sync::Unknown,
        }
    }

    /// Takes `sync` for measured now, on this connection ([`Link::reconnects`]).
    pub fn set(&self, sync: Sync, connection: u64) {
        let mode = match sync {
            Sync::Unknown => 0,
            Sync::Later => 1,
            Sync::Always => 2,
        };
        self.mode.store(mode, Ordering::Relaxed);
        metrics::SYNC_MODE.set(mode.into());
        *self.measured.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((Instant::now(), connection));
    }

    fn due(&self, connection: u64) -> bool {
        let measured = self.measured.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        measured.is_none_or(|(at, on)| on != connection || at.elapsed() >= AGAIN_AFTER)
    }
}

/// Measures in the background if that is due: called where writes pile up, so that a process that
/// writes little does not measure at all.
pub fn measure_if_due(link: &Link) {
    let connection = link.reconnects();
    if !link.sync.due(connection) || link.sync.measuring.swap(true, Ordering::AcqRel) {
        return;
    }
    let link = link.clone();
    tokio::spawn(async move {
        let sync = match measure(&link).await {
            Ok(measured) => {
                if link.sync.get() != measured.sync {
                    let synced = measured.sync == Sync::Always;
                    tracing::info!(
                        synced,
                        "nats-server {}; {measured}",
                        if synced { "syncs every write: writes are grouped" } else { "syncs later" }
                    );
                }
                measured.sync
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot measure anew when nats-server syncs writes");
                link.sync.get()
            }
        };
        link.sync.set(sync, connection);
        link.sync.measuring.store(false, Ordering::Release);
    });
}

/// Measures, by writes to a stream of its own that `ensure` makes.
///
/// # Errors
/// When the stream is missing, refuses them, or does not answer.
pub async fn measure(link: &Link) -> Result<Measured, ApiFailure> {
    let subject = link.names.sync_probe();
    let inbox = link.client.new_inbox();
    let mut answers = link.client.subscribe(inbox.clone()).await.map_err(silent)?;
    let begun = Instant::now();
    let mut measured = Measured { alone: Duration::MAX, burst: Duration::MAX, burst_of: BURST, sync: Sync::Unknown };
    for round in 1.. {
        for _ in 0..ALONE {
            measured.alone = measured.alone.min(writes(link, &subject, &inbox, &mut answers, 1).await?);
        }
        measured.burst = measured.burst.min(writes(link, &subject, &inbox, &mut answers, BURST).await?);
        if measured.burst.as_secs_f64() < measured.alone.as_secs_f64() * SYNCED_FROM {
            measured.sync = Sync::Later;
            break;
        }
        if round >= ROUNDS || begun.elapsed() > LIMIT {
            measured.sync = Sync::Always;
            break;
        }
    }
    Ok(measured)
}

#[derive(Deserialize)]
struct Ack {
    error: Option<ErrorBody>,
}

/// How long `n` writes take, sent at once, up to the last answer.
async fn writes(link: &Link, subject: &str, inbox: &str, answers: &mut async_nats::Subscriber, n: usize) -> Result<Duration, ApiFailure> {
    let begun = Instant::now();
    for _ in 0..n {
        link.client.publish_with_reply(subject.to_owned(), inbox.to_owned(), Bytes::new()).await.map_err(silent)?;
    }
    for _ in 0..n {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.map_err(silent)?;
        let answer = answer.ok_or_else(|| silent("the connection was closed"))?;
        if answer.status.is_some() {
            return Err(silent("there is no stream to measure with; `haltline ensure` makes it"));
        }
        if let Some(e) = serde_json::from_slice::<Ack>(&answer.payload).map_err(silent)?.error {
            return Err(ApiFailure::Answered { code: e.code, err_code: e.err_code, description: e.description });
        }
    }
    Ok(begun.elapsed())
}

fn silent(e: impl std::fmt::Display) -> ApiFailure {
    ApiFailure::Silent(e.to_string())
}
