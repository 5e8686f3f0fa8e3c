//! Removing the keys of workers' lives that are over, so that no halt looks at them again.

use std::{collections::HashSet, time::Duration};

use haltline_types::{Names, control::Lease, error::ApiError};
use serde_json::{Value, json};

use super::{open, presence};
use crate::{
    Link, clock, js, kv,
    tail::{self, Item, Start, Tail},
};

/// A life that has written nothing for so long, and shows no sign of life, is over: six times the longest lease.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// How long reading all keys may take.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Removes the keys of lives that have left, or ended with nothing open; how many.
///
/// # Errors
/// `Unavailable` if nats-server does not answer.
pub async fn retire(link: &Link) -> Result<usize, ApiError> {
    let present: HashSet<String> = presence(link).await?.into_iter().map(|p| p.worker_id).collect();
    let stream = Names::bucket_stream(&link.names.control_bucket());
    let options = tail::Options {
        stream: stream.clone(),
        filter: link.names.leases(),
        start: Start::LastPerSubject,
        heartbeat: Duration::from_secs(1),
        buffer: 1024,
        reader: "retire".into(),
        headers_only: false,
    };
    let mut tail = Tail::start(link, options);
    let mut over = Vec::new();
    let now = clock::now();
    let reading = async {
        while let Some(item) = tail.next().await {
            match item {
                Item::Message(m) if u128::from(now.millis_since(m.stored_at)) > SILENT_FOR.as_millis() => {
                    if let Ok(lease) = serde_json::from_slice::<Lease>(&m.payload) {
                        over.push((m.subject.to_string(), m.seq, lease));
                    }
                }
                Item::Message(_) | Item::Reset { .. } => {}
                Item::CaughtUp { .. } => return Ok(()),
                Item::Lost { reason, .. } => return Err(kv::unavailable(reason)),
            }
        }
        Ok(())
    };
    tokio::time::timeout(READ_WITHIN, reading).await.map_err(kv::unavailable)??;
    drop(tail);
    let mut removed = 0;
    for (subject, seq, lease) in over {
        // One that is idle and alive has written nothing for long, either.
        if !lease.goodbye && (present.contains(&lease.worker_id) || !open::of(link, &lease, true).await?.is_empty()) {
            continue;
        }
        // Up to what was looked at: a worker that came back has written since.
        let request = json!({ "filter": subject, "seq": seq + 1 });
        js::api::<Value>(link, &format!("STREAM.PURGE.{stream}"), &request).await.map_err(kv::unavailable)?;
        removed += 1;
    }
    Ok(removed)
}
