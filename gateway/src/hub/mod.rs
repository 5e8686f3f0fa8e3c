//! The events hub: one tail over the whole log for all clients, and the newest events in memory.
//!
//! Clients have no queue of their own: each reads the ring at its own pace, and the stream where it
//! has fallen behind the ring. So a slow client holds no memory but its socket's, and loses nothing
//! that the stream still has.

mod event;
mod filter;
mod ring;
mod stored;
mod tail;

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use haltline_common::{Link, tail::Health};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use event::LogEvent;
pub(crate) use filter::Filter;
pub(crate) use ring::{Entry, Gap, Reason};
pub(crate) use stored::page;

/// Reads of the stream at once, for all clients that are behind: the server and the tail come first.
const READS_MAX: usize = 8;
/// Events handed to a client at once: bounds how long it keeps others from running.
const CHUNK: usize = 256;
/// Bytes of them.
const CHUNK_BYTES: usize = 1 << 20;

/// Where the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Counts how often the stream was replaced by another one.
    pub epoch: u64,
    /// The last sequence seen.
    pub seq: u64,
}

/// A run of the log.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Which log it belongs to.
    pub epoch: u64,
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
    ready: AtomicBool,
    health: OnceCell<Arc<Health>>,
    reads: Semaphore,
}

impl Hub {
    /// Starts the tail; it ends when the handle is dropped.
    pub fn start(link: &Link) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let hub = Arc::new(Self {
            link: link.clone(),
            ring: RwLock::new(ring::Ring::default()),
            head: watch::Sender::new(Head::default()),
            ready: AtomicBool::new(false),
            health: OnceCell::new(),
            reads: Semaphore::new(READS_MAX),
        });
        let task = tokio::spawn(tail::follow(hub.clone()));
        (hub, AbortOnDropHandle::new(task))
    }

    /// Where the log stands; changes wake readers.
    pub fn head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// Whether the ring has been filled at the start.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Milliseconds since the server was last heard; `None` while the tail is interrupted.
    pub fn age_ms(&self) -> Option<u64> {
        self.health.get().and_then(|h| h.age()).map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// The first sequence in memory.
    pub fn ring_from(&self) -> u64 {
        self.read_ring().floor() + 1
    }

    /// What follows `pos`, from memory or from the stream.
    ///
    /// # Errors
    /// When the stream cannot be read now.
    pub async fn after(&self, pos: u64) -> Result<Chunk, String> {
        let floor = {
            let ring = self.read_ring();
            if let Some(chunk) = ring.after(pos, CHUNK, CHUNK_BYTES) {
                return Ok(chunk);
            }
            (ring.epoch(), ring.floor())
        };
        let _permit = self.reads.acquire().await.map_err(|e| e.to_string())?;
        let page = page(&self.link, &self.link.names.events_all(), pos + 1, CHUNK).await?;
        Ok(stored::chunk(page, pos, floor.1, floor.0))
    }

    /// The position before the `n`-th newest matching event, as far as memory and the last `n`
    /// messages of the log reach.
    pub async fn before_last(&self, n: usize, filter: &Filter) -> Result<u64, String> {
        let (floor, head) = {
            let ring = self.read_ring();
            match ring.before_last(n, filter) {
                Ok(pos) => return Ok(pos),
                Err(_) => (ring.floor(), ring.head()),
            }
        };
        let mut pos = floor.min(head.saturating_sub(n as u64));
        let mut found = std::collections::VecDeque::new();
        loop {
            let chunk = self.after(pos).await?;
            for entry in &chunk.entries {
                if let Entry::Event(e) = &**entry
                    && filter.matches(e)
                {
                    found.push_back(e.seq);
                    if found.len() > n {
                        found.pop_front();
                    }
                }
            }
            if chunk.upto >= head || chunk.upto <= pos {
                return Ok(found.front().map_or(head, |seq| seq - 1));
            }
            pos = chunk.upto;
        }
    }

    fn read_ring(&self) -> std::sync::RwLockReadGuard<'_, ring::Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }
}
