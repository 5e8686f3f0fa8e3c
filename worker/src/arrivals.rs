//! Deliveries that may not be the first although the server says so: a nats-server that was killed
//! forgets how often it has delivered a task, and a new leader of a cluster may as well; and what reached
//! a process that stood still was given to another one meanwhile. Another worker may have such a task
//! still, so it is claimed before it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use haltline_common::{Link, clock, js};

/// In a cluster leaders change without a word to clients: what waited longer than a healthy task does
/// may have been delivered before.
const DOUBT_AFTER_MS: u64 = 250;

/// A process that did nothing for so long stood still, whatever the reason. Its loop turns more than twice in
/// that time, and a task is its own for half as long again.
const STOOD_STILL_MS: u64 = 1000;

/// What this worker's connection knows about deliveries.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// When it last did anything, in milliseconds since the machine was started.
    active_at: AtomicU64,
    /// How often it stood still.
    stops: AtomicU64,
    /// How often the connection had been made, or it had stood still, when it was last looked.
    looked_at: AtomicU64,
    /// Tasks up to this sequence were stored before that.
    before: AtomicU64,
    /// The streams have more than one copy.
    replicated: AtomicBool,
}

impl Arrivals {
    /// Whether the connection was made anew, or it stood still, since it was last looked: then every task is in
    /// doubt. To be called more often than once a second.
    pub fn is_outdated(&self, link: &Link) -> bool {
        let now = u64::try_from(clock::boot().as_millis()).unwrap_or(u64::MAX);
        let before = self.active_at.swap(now, Ordering::AcqRel);
        if before > 0 && now.saturating_sub(before) >= STOOD_STILL_MS {
            tracing::info!(ms = now - before, "stood still; tasks that came meanwhile may be with others");
            self.stops.fetch_add(1, Ordering::AcqRel);
        }
        self.breaks(link) != self.looked_at.load(Ordering::Acquire)
    }

    fn breaks(&self, link: &Link) -> u64 {
        link.reconnects() + self.stops.load(Ordering::Acquire)
    }

    /// Looks. To be called before anything is pulled, and whenever it is outdated.
    pub async fn look(&self, link: &Link) {
        let breaks = self.breaks(link);
        match js::stream_info(link, &link.names.tasks_stream()).await {
            Ok(info) => {
                self.before.store(info.state.last_seq, Ordering::Release);
                self.replicated.store(info.config["num_replicas"].as_u64().is_some_and(|n| n > 1), Ordering::Release);
                self.looked_at.store(breaks, Ordering::Release);
            }
            Err(e) => tracing::debug!(error = %e, "cannot ask for the stream of tasks; every task is in doubt for now"),
        }
    }

    /// Whether a task with this sequence, which waited so long, may have been delivered before.
    pub fn doubts(&self, link: &Link, stream_seq: u64, waited_ms: u64) -> bool {
        self.is_outdated(link) || stream_seq <= self.before.load(Ordering::Acquire) || (self.is_replicated() && waited_ms > DOUBT_AFTER_MS)
    }

    /// Whether writes may be lost singly, one of many on a healthy connection: then nothing may be sent
    /// before what it follows from is stored.
    pub fn is_replicated(&self) -> bool {
        self.replicated.load(Ordering::Acquire)
    }
}
