//! Feeds the index from the records' stream.

use std::{sync::Arc, time::Duration};

use haltline_common::{
    Link, js, kv,
    retry::Reconnect,
    tail::{self, Item, Start, Tail},
    types::{Names, ids::untoken},
};
use tokio_util::task::AbortOnDropHandle;

use crate::index::{SUMMARIES_MAX, SharedIndex, Summary};

/// Sequences read back at the start for each summary wanted: an execution's record is written about
/// three times and only the last write is kept.
const SEQS_PER_SUMMARY: u64 = 3;

/// Starts the tail; it ends when the handle is dropped.
pub(crate) fn start(link: &Link) -> (Arc<SharedIndex>, AbortOnDropHandle<()>) {
    let index = Arc::new(SharedIndex::default());
    let task = tokio::spawn(follow(link.clone(), index.clone()));
    (index, AbortOnDropHandle::new(task))
}

async fn follow(link: Link, index: Arc<SharedIndex>) {
    let bucket = link.names.executions_bucket();
    let stream = Names::bucket_stream(&bucket);
    let prefix = Names::kv_subject(&bucket, "");
    let back = SUMMARIES_MAX as u64 * SEQS_PER_SUMMARY;
    let from = last_seq(&link, &stream).await.saturating_sub(back) + 1;
    let options = tail::Options {
        stream,
        filter: String::new(),
        start: Start::Seq(from),
        heartbeat: Duration::from_secs(2),
        buffer: 1024,
        reader: "gateway_records".into(),
        headers_only: false,
    };
    let mut tail = Tail::start(&link, options);
    let mut items = Vec::new();
    while tail.next_many(&mut items, 512).await > 0 {
        // Parsed outside the lock: lists must not wait for large records.
        let mut changes = Vec::new();
        for item in items.drain(..) {
            match item {
                Item::Message(m) => {
                    let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
                    match serde_json::from_slice::<Summary>(&m.payload) {
                        _ if gone => {
                            changes.push(Change::Gone(m.subject.strip_prefix(prefix.as_str()).and_then(untoken).unwrap_or_default()))
                        }
                        Ok(summary) => changes.push(Change::Put(m.seq, Box::new(summary))),
                        Err(e) => tracing::warn!(seq = m.seq, error = %e, "a record is malformed; not listed"),
                    }
                }
                Item::CaughtUp { .. } => changes.push(Change::Ready),
                Item::Reset { .. } => changes.push(Change::Clear),
                Item::Lost { reason, .. } => {
                    tracing::warn!(reason, "the tail of the records is interrupted; lists are old until it is back")
                }
            }
        }
        let mut inner = index.write();
        for change in changes {
            match change {
                Change::Put(seq, summary) => inner.put(seq, *summary),
                Change::Gone(id) => inner.remove(&id),
                Change::Clear => inner.clear(),
                Change::Ready => index.set_ready(),
            }
        }
    }
}

enum Change {
    Put(u64, Box<Summary>),
    Gone(String),
    Clear,
    Ready,
}

/// The stream's last sequence, asked for until there is an answer.
async fn last_seq(link: &Link, stream: &str) -> u64 {
    let mut delays = Reconnect::new(Duration::from_secs(1));
    loop {
        match js::stream_info(link, stream).await {
            Ok(info) => return info.state.last_seq,
            Err(e) => tracing::warn!(stream, error = %e, "cannot read the stream's state yet"),
        }
        tokio::time::sleep(delays.next_delay()).await;
    }
}
