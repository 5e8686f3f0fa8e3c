//! Whether nats-server syncs each write to its disk before it acknowledges it (`sync_interval: always`).
//! Clients are not told, so it is measured: writes sent at once cost a sync each then, and otherwise
//! hardly more than one alone. On a busy machine, many of anything cost more than one; so they are compared as well
//! with as many repeats of a write, which the server answers without writing. Of several rounds the fastest are
//! compared, since load makes any of them slow, as does another process that measures at the same time, whose synced
//! writes all others wait for; and the middle ones, since the fastest may all be from before a load began.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, header};
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
/// Writes one after the other, in each round.
const ALONE: usize = 4;
/// A burst that takes more than so many single writes may have been synced message by message. On an idle
/// machine a burst takes 3 to 6 without syncs and 30 to 50 with them.
const SYNCED_FROM: f64 = 14.0;
/// And it takes more than so many times what as many repeats take: the fastest ones 0.6 to 2.4 without syncs, 24 to 76
/// with them, on two cores with 400 executions in flight, alone and beside four loops that take what they get. The
/// middle ones alone would not do: they have been 4.2 without syncs.
const OVER_REPEATS: f64 = 4.0;
/// In most rounds beside such a load something is slow; in so many something of everything is not.
const ROUNDS: u32 = 8;
/// Fewer on a disk so slow that they take longer than [`LIMIT`].
const ROUNDS_MIN: u32 = 3;
/// No further round after this.
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
    /// The fastest so many repeats of one write, which are answered and not stored.
    pub repeats: Duration,
    /// How many writes, and repeats, were sent at once.
    pub burst_of: usize,
    /// What follows from it.
    pub sync: Sync,
}

impl Measured {
    /// What follows from the times of each, of which there are some.
    fn of(mut alone: Vec<Duration>, mut bursts: Vec<Duration>, mut repeats: Vec<Duration>) -> Self {
        let [(alone, _), (burst, usual_burst), (repeats, usual_repeats)] = [&mut alone, &mut bursts, &mut repeats].map(|times| {
            times.sort_unstable();
            (times.first().copied().unwrap_or_default(), times.get(times.len() / 2).copied().unwrap_or_default())
        });
        let over = |many: Duration, one: Duration, times| many > one.mul_f64(times);
        let synced =
            over(burst, alone, SYNCED_FROM) && over(burst, repeats, OVER_REPEATS) && over(usual_burst, usual_repeats, OVER_REPEATS);
        let sync = if synced { Sync::Always } else { Sync::Later };
        Self { alone, burst, repeats, burst_of: BURST, sync }
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let Self { alone, burst, repeats, burst_of, .. } = *self;
        write!(f, "one write took {:.2} ms, {burst_of} at once {:.2} ms, repeats of one {:.2} ms", ms(alone), ms(burst), ms(repeats))
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
    let mut probe = Probe::start(link).await?;
    let begun = Instant::now();
    // What is repeated has to be there.
    probe.send(true, 1).await?;
    let (mut alone, mut repeats, mut bursts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        if round >= ROUNDS_MIN && begun.elapsed() >= LIMIT {
            break;
        }
        for _ in 0..ALONE {
            alone.push(probe.send(false, 1).await?);
        }
        repeats.push(probe.send(true, BURST).await?);
        bursts.push(probe.send(false, BURST).await?);
        repeats.push(probe.send(true, BURST).await?);
    }
    Ok(Measured::of(alone, bursts, repeats))
}

#[derive(Deserialize)]
struct Ack {
    error: Option<ErrorBody>,
}

struct Probe<'l> {
    link: &'l Link,
    subject: String,
    inbox: String,
    answers: async_nats::Subscriber,
}

impl<'l> Probe<'l> {
    async fn start(link: &'l Link) -> Result<Self, ApiFailure> {
        let inbox = link.client.new_inbox();
        let answers = link.client.subscribe(inbox.clone()).await.map_err(silent)?;
        Ok(Self { link, subject: link.names.sync_probe(), inbox, answers })
    }

    /// How long `n` writes take, sent at once, up to the last answer; if they are all one, only the first one ever is
    /// stored.
    async fn send(&mut self, repeated: bool, n: usize) -> Result<Duration, ApiFailure> {
        let begun = Instant::now();
        for _ in 0..n {
            let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
            let sent = if repeated {
                // An id that nobody else uses: two who measure at once would be in each other's way.
                let mut headers = HeaderMap::new();
                headers.insert(header::NATS_MESSAGE_ID, inbox.as_str());
                self.link.client.publish_with_reply_and_headers(subject, inbox, headers, Bytes::new()).await
            } else {
                self.link.client.publish_with_reply(subject, inbox, Bytes::new()).await
            };
            sent.map_err(silent)?;
        }
        for _ in 0..n {
            let answer = tokio::time::timeout(PATIENCE, self.answers.next()).await.map_err(silent)?;
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
}

fn silent(e: impl std::fmt::Display) -> ApiFailure {
    ApiFailure::Silent(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds as `alone burst before after`, each in milliseconds; as they were measured, where nothing else is said.
    fn told(rounds: &[[f64; 4]]) -> Sync {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let of = |n: usize| rounds.iter().map(|round| ms(round[n])).collect::<Vec<_>>();
        Measured::of(of(0), of(1), [of(2), of(3)].concat()).sync
    }

    #[test]
    fn synced_writes_are_told_where_others_measure_as_well() {
        let quiet = [[0.34, 14.79, 0.32, 0.37], [0.24, 17.29, 0.46, 0.50], [0.37, 11.76, 0.35, 2.02]];
        assert_eq!(told(&quiet), Sync::Always);
        let two = [
            [0.19, 21.22, 0.42, 0.50],
            [0.35, 18.36, 36.37, 0.83],
            [0.61, 46.89, 0.62, 25.08],
            [0.52, 38.87, 41.42, 0.76],
            [0.37, 41.59, 0.81, 0.59],
            [0.50, 53.92, 14.54, 0.69],
        ];
        assert_eq!(told(&two), Sync::Always);
    }

    #[test]
    fn a_load_is_not_taken_for_syncs() {
        let busy = [
            [0.12, 0.61, 0.70, 1.62],
            [0.05, 6.85, 0.44, 0.93],
            [0.49, 0.57, 0.63, 0.50],
            [0.25, 1.16, 4.71, 9.23],
            [0.05, 2.97, 0.29, 0.63],
            [0.42, 6.23, 0.70, 6.39],
        ];
        assert_eq!(told(&busy), Sync::Later);
        // It begins after the first repeats, and goes on: ten thousand tasks that leave before what is measured. Only
        // the fastest of each were logged (0.33, 122.27 and 1.34); the others are made up.
        let begins = [[0.33, 122.27, 1.34, 410.0], [390.0, 520.0, 480.0, 610.0], [150.0, 470.0, 530.0, 440.0]];
        assert_eq!(told(&begins), Sync::Later);
    }
}
