//! Reading records: after a shard was taken, from its checkpoint on, and later wherever other
//! coordinators wrote some. Bodies are not needed: the subject names the execution, and the
//! headers tell whether it has ended.

use std::{collections::BTreeMap, time::Duration};

use async_nats::HeaderMap;
use haltline_common::{
    Link, kv,
    tail::{self, Item, Start, Tail},
    types::Names,
};

use crate::{perform::OPEN, shard::Shard};

/// A read of records up to what was there when it began.
pub struct Sweep {
    tail: Tail,
    /// Shards that it reads for, with their epochs; empty: for all.
    shards: Vec<(u32, u64)>,
}

impl Sweep {
    /// Reads from `from`, for `shards` or, if empty, for all.
    pub fn start(link: &Link, from: u64, shards: Vec<(u32, u64)>) -> Self {
        let options = tail::Options {
            stream: Names::bucket_stream(&link.names.executions_bucket()),
            filter: String::new(),
            start: Start::Seq(from),
            heartbeat: Duration::from_secs(2),
            buffer: 4096,
            reader: "coordinator_sweep".into(),
            headers_only: true,
        };
        Self { tail: Tail::start(link, options), shards }
    }

    /// The next item. Cancel safe.
    pub async fn next(&mut self) -> Option<Item> {
        self.tail.next().await
    }

    /// Gives what was read to its shard. `Some(last)` once everything up to there was read.
    pub fn take_in(&self, item: Item, names: &Names, shards: &mut BTreeMap<u32, Shard>) -> Option<u64> {
        match item {
            Item::Message(m) => {
                let id = Names::record_of(&m.subject)?;
                let shard = shards.get_mut(&names.shard(&id)).filter(|s| !s.is_leaving())?;
                if self.shards.is_empty() || self.shards.contains(&(shard.number, shard.epoch)) {
                    shard.engine.found_record(&id, m.seq, has_ended(m.headers.as_ref()));
                }
                None
            }
            Item::CaughtUp { last_seq } => {
                for (number, epoch) in &self.shards {
                    if let Some(shard) = shards.get_mut(number).filter(|s| s.epoch == *epoch) {
                        shard.read_all();
                    }
                }
                Some(last_seq)
            }
            Item::Lost { .. } | Item::Reset { .. } => None,
        }
    }

    /// Whether it reads for all shards.
    pub fn is_for_all(&self) -> bool {
        self.shards.is_empty()
    }
}

/// Whether a record with these headers is final: a create expects that there was none, and what is
/// rewritten before the end says so. What cannot be told counts as not ended: it is then read.
fn has_ended(headers: Option<&HeaderMap>) -> bool {
    let Some(headers) = headers else { return false };
    if kv::is_deletion(headers) {
        return true;
    }
    let created = headers.get("Nats-Expected-Last-Subject-Sequence").is_none_or(|v| v.as_str() == "0");
    !created && headers.get(OPEN).is_none()
}
