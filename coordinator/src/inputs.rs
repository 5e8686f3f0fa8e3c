//! What shards read of the log: each by a consumer of its own, or all by one. A consumer costs the server
//! for each time that it is woken: while one coordinator has all shards, one consumer is enough.

use std::{
    collections::BTreeMap,
    task::{Context, Poll},
    time::Duration,
};

use haltline_common::{
    Link,
    tail::{self, Item, Start, Tail},
    types::Names,
};

use crate::{service::Service, shard::Shard};

/// So far behind the others a shard may be for all to go on together: what these have, they read twice.
const BEHIND_MAX: u64 = 10_000;

/// The one consumer of all shards.
pub struct Shared {
    tail: Tail,
    /// Up to where everything was handed to the shards.
    read: u64,
}

/// How often nats-server says that it still reads for us. Where three are missing, as when the one of several servers that
/// did so ends, another one is asked: as long does what runs wait.
pub const BEAT: Duration = Duration::from_millis(500);

/// Reads the log from `seq` on.
pub fn tail(link: &Link, filter: String, seq: u64, reader: String) -> Tail {
    let stream = link.names.events_stream();
    let options = tail::Options { stream, filter, start: Start::Seq(seq), heartbeat: BEAT, buffer: 4096, reader, headers_only: false };
    Tail::start(link, options)
}

/// The next items: fills `batch` with up to `max` of one shard and gives its number, or of all shards.
pub async fn next(
    shards: &mut BTreeMap<u32, Shard>,
    shared: &mut Option<Shared>,
    from: &mut u32,
    batch: &mut Vec<Item>,
    max: usize,
) -> Option<u32> {
    std::future::poll_fn(|cx| match shared.as_mut().map(|s| s.tail.poll_many(cx, batch, max)) {
        Some(Poll::Ready(n)) if n > 0 => Poll::Ready(None),
        _ => poll_own(shards, from, batch, max, cx).map(Some),
    })
    .await
}

/// Begins after the shard that had its turn last, so that none keeps the others waiting.
fn poll_own(shards: &mut BTreeMap<u32, Shard>, from: &mut u32, batch: &mut Vec<Item>, max: usize, cx: &mut Context) -> Poll<u32> {
    let numbers: [u32; 2] = [*from + 1, 0];
    for start in numbers {
        for (number, shard) in shards.range_mut(start..) {
            if !shard.is_leaving()
                && let Some(inputs) = &mut shard.inputs
                && let Poll::Ready(n) = inputs.poll_many(cx, batch, max)
                && n > 0
            {
                *from = *number;
                return Poll::Ready(*number);
            }
        }
    }
    Poll::Pending
}

impl Service {
    /// Hands on what [`next`] gave.
    pub(crate) fn take_in(&mut self, of: Option<u32>, batch: &mut Vec<Item>) {
        match (of, &mut self.shared) {
            (Some(number), _) => {
                if let Some(shard) = self.shards.get_mut(&number) {
                    batch.drain(..).for_each(|item| shard.input(item));
                }
            }
            (None, Some(shared)) => batch.drain(..).for_each(|item| hand_on(shared, &mut self.shards, item)),
            (None, None) => {}
        }
        batch.clear();
    }

    /// Lets all shards read together, if this coordinator has all of them, or each for itself again.
    ///
    /// Not in a cluster: that a shard has everything up to a point is told by the server that runs the
    /// consumer, and its copy of the log can be behind.
    pub(crate) fn share_inputs(&mut self) {
        let all = self.shards.len() == self.link.names.shards() as usize && self.shards.values().all(|s| s.swept && !s.is_leaving());
        match &self.shared {
            None if all && !self.limits.one_by_one => {
                let reached = |s: &Shard| s.reached();
                let newest = self.shards.values().map(reached).max().unwrap_or(0);
                let oldest = self.shards.values().map(reached).min().unwrap_or(0);
                if newest - oldest > BEHIND_MAX {
                    // Where nothing happens, nothing tells how far it was read: begun anew, the consumer does.
                    let behind = self.shards.values_mut().filter(|s| newest - s.reached() > BEHIND_MAX);
                    behind.for_each(|s| s.read_alone(&self.link, 0));
                    return;
                }
                tracing::debug!(from = oldest, "all shards read by one consumer");
                self.shards.values_mut().for_each(|s| s.inputs = None);
                let tail = tail(&self.link, self.link.names.inputs(), oldest + 1, "coordinator_inputs".into());
                self.shared = Some(Shared { tail, read: oldest });
            }
            Some(shared) if !all || self.shards.values().any(|s| s.inputs.is_some()) => {
                tracing::debug!(from = shared.read, "each shard read by a consumer of its own");
                let read = shared.read;
                let together = self.shards.values_mut().filter(|s| s.inputs.is_none() && !s.is_leaving());
                together.for_each(|s| s.read_alone(&self.link, read));
                self.shared = None;
            }
            _ => {}
        }
    }
}

/// To the shard that it is for, if that has not read it by itself.
fn hand_on(shared: &mut Shared, shards: &mut BTreeMap<u32, Shard>, item: Item) {
    match item {
        Item::Message(m) => {
            shared.read = m.seq;
            let shard = Names::shard_of_subject(&m.subject).and_then(|n| shards.get_mut(&n));
            if let Some(shard) = shard.filter(|s| s.inputs.is_none() && !s.is_leaving() && m.seq > s.reached()) {
                shard.input(Item::Message(m));
            }
        }
        Item::Lost { reason, .. } => tracing::warn!(reason, "reading the log was interrupted; going on where it stopped"),
        Item::Reset { created } => {
            shared.read = 0;
            shards.values_mut().filter(|s| s.inputs.is_none()).for_each(|s| s.input(Item::Reset { created: created.clone() }));
        }
        Item::CaughtUp { .. } => {}
    }
}
