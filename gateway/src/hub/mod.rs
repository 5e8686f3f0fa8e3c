//! The events hub: one tail over the whole log for all clients, and the newest events in memory.
//!
//! Clients have no queue of their own: each reads the ring at its own pace, and the stream where it
//! has fallen behind the ring. So a slow client holds no memory but its socket's, and loses nothing
//! that the stream still has.

mod event;
mod place;
mod ring;
mod stored;
mod tail;
mod turns;

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use haltline_common::{
    Link,
    js::{self, StreamInfo},
    tail::Health,
    types::feed::{Cursor, Epoch},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::cached::Cached;

pub(crate) use event::LogEvent;
pub(crate) use ring::{Entry, Gap, Start};

/// Reads of the stream at once, for all clients that are behind: the server and the tail come first.
const READS_MAX: usize = 8;
/// Events handed to a client at once: bounds how long it keeps others from running.
const CHUNK: usize = 256;
/// Bytes of them: what a client that does not read keeps in memory, besides one frame.
const CHUNK_BYTES: usize = 256 << 10;
/// The stream's state is asked for at most this often for all clients together.
const STATE_TTL: Duration = Duration::from_millis(500);

/// Where the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Counts how often the stream was replaced by another one.
    pub generation: u64,
    /// Which stream.
    pub epoch: Epoch,
    /// The last sequence seen.
    pub seq: u64,
}

/// A run of the log.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Which stream it belongs to.
    pub generation: u64,
    /// Events and gaps in order.
    pub entries: Vec<Arc<Entry>>,
    /// Everything up to here is covered.
    pub upto: u64,
    /// Read from the stream: events that were stored twice are in it twice.
    pub stored: bool,
}

/// The hub.
pub(crate) struct Hub {
    link: Link,
    ring: RwLock<ring::Ring>,
    head: watch::Sender<Head>,
    groups: turns::Groups,
    ready: AtomicBool,
    health: RwLock<Option<Arc<Health>>>,
    reads: Semaphore,
    state: Cached<StreamInfo>,
}

impl Hub {
    /// Starts the tail; it ends when the handle is dropped.
    pub fn start(link: &Link) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let hub = Arc::new(Self {
            link: link.clone(),
            ring: RwLock::new(ring::Ring::default()),
            head: watch::Sender::new(Head::default()),
            groups: turns::Groups::new(),
            ready: AtomicBool::new(false),
            health: RwLock::new(None),
            reads: Semaphore::new(READS_MAX),
            state: Cached::new(STATE_TTL),
        });
        let task = tokio::spawn(tail::follow(hub.clone()));
        (hub, AbortOnDropHandle::new(task))
    }

    /// Where the log stands.
    pub fn head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// Where the log stands, for one of many that want everything: told in turns.
    pub fn in_turn(&self) -> watch::Receiver<Head> {
        self.groups.join()
    }

    /// Whether the ring has been filled at the start.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Milliseconds since the server was last heard; `None` while the tail is interrupted.
    pub fn age_ms(&self) -> Option<u64> {
        let health = self.health.read().unwrap_or_else(PoisonError::into_inner).clone();
        health.and_then(|h| h.age()).map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// Tells how far the ring reaches; again at the start, when it is `ready`.
    fn tell(&self, head: Head, ready: bool) {
        self.head.send_if_modified(|old| std::mem::replace(old, head) != head || ready);
    }

    fn watch(&self, health: Arc<Health>) {
        *self.health.write().unwrap_or_else(PoisonError::into_inner) = Some(health);
    }

    /// The first sequence in memory.
    pub fn ring_from(&self) -> u64 {
        self.read_ring().floor() + 1
    }

    /// The cursor of a place of the stream that is followed now.
    pub fn cursor(&self, seq: u64) -> Cursor {
        self.read_ring().cursor(seq)
    }

    /// The first sequence that the stream has, at most half a second old.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn oldest(&self) -> Result<u64, String> {
        let epoch = self.read_ring().epoch();
        let stream = self.link.names.events_stream();
        let info = self.state.get(|| self.info()).await?;
        // What was asked before the stream was replaced says nothing about this one.
        let fresh = if Epoch::of(&stream, &info.created) == epoch { info } else { self.info().await? };
        Ok(fresh.state.first_seq)
    }

    /// What the server says about the stream now.
    async fn info(&self) -> Result<StreamInfo, String> {
        js::stream_info(&self.link, &self.link.names.events_stream()).await.map_err(|e| e.to_string())
    }

    /// What follows `pos`, from memory or from the stream; `wide` for who takes only the newest of it.
    ///
    /// # Errors
    /// When the stream cannot be read now.
    pub async fn after(&self, pos: u64, wide: bool) -> Result<Chunk, String> {
        let (floor, generation, epoch) = {
            let ring = self.read_ring();
            let most = if wide { 16 * CHUNK } else { CHUNK };
            if let Some(chunk) = ring.after(pos, most, CHUNK_BYTES) {
                return Ok(chunk);
            }
            (ring.floor(), ring.generation(), ring.epoch())
        };
        let _permit = self.reads.acquire().await.map_err(|e| e.to_string())?;
        let page = stored::page(&self.link, epoch, &self.link.names.events_all(), pos + 1, CHUNK).await?;
        let mut run = stored::Run::new(epoch, generation, pos, floor);
        let missing = run.take(page);
        // Looked at once more where it counts, then told.
        let there = match missing {
            Some(_) => stored::first_from(&self.link, epoch, run.chunk.upto + 1).await?,
            None => None,
        };
        // Asked last: all that was read is of this stream, or of none.
        let info = self.info().await?;
        if Epoch::of(&self.link.names.events_stream(), &info.created) != epoch {
            return Err("the log was replaced".into());
        }
        match (missing, there) {
            (Some(next), Some(m)) if m.seq < next => {
                run.hole(m.seq, info.state.first_seq);
                run.one(m);
            }
            (Some(next), _) => run.hole(next, info.state.first_seq),
            (None, _) => {}
        }
        Ok(run.chunk)
    }

    /// Where the `n` newest wanted events up to `upto` begin, as far as memory and the last `n` messages of the log reach.
    ///
    /// # Errors
    /// When the stream cannot be read now.
    pub async fn before_last(&self, n: usize, upto: u64, wants: &(dyn Fn(&LogEvent) -> bool + Sync)) -> Result<Start, String> {
        let (floor, head) = {
            let ring = self.read_ring();
            match ring.before_last(n, upto, wants) {
                Ok(start) => return Ok(start),
                Err(_) => (ring.floor(), ring.head().min(upto)),
            }
        };
        let mut pos = floor.min(head.saturating_sub(n as u64));
        let (mut found, mut left) = (VecDeque::new(), Start { pos: 0, extra: 0 });
        loop {
            let chunk = self.after(pos, false).await?;
            for entry in &chunk.entries {
                if let Entry::Event(e) = &**entry
                    && e.seq() <= head
                    && wants(e)
                {
                    found.push_back(e.seq());
                    if found.len() > n
                        && let Some(seq) = found.pop_front()
                    {
                        // How many of one message were left out, the last one that was.
                        left = Start { pos: seq, extra: if left.pos == seq { left.extra + 1 } else { 1 } };
                    }
                }
            }
            if chunk.upto >= head || chunk.upto <= pos {
                let first = found.front().copied();
                let extra = if first == Some(left.pos) { left.extra } else { 0 };
                return Ok(Start { pos: first.map_or(head, |seq| seq - 1), extra });
            }
            pos = chunk.upto;
        }
    }

    /// Events in memory up to `pos` that end one of these executions.
    pub fn ends(&self, executions: &HashSet<String>, pos: u64) -> Vec<Arc<Entry>> {
        let ends = |e: &Arc<Entry>| matches!(&**e, Entry::Event(e) if e.seq() <= pos && executions.contains(&*e.execution) && e.ends());
        self.read_ring().entries().filter(|e| ends(e)).cloned().collect()
    }

    fn read_ring(&self) -> std::sync::RwLockReadGuard<'_, ring::Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }
}
