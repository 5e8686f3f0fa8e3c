//! Removing the keys of workers' lives that are over, so that no halt looks at them again.

use std::{collections::HashMap, time::Duration};

use haltline_types::{Names, Timestamp, control::Lease, error::ApiError, worker::Presence};
use serde_json::{Value, json};

use super::{listening::presence, open};
use crate::{
    Link, clock, js, kv,
    tail::{self, Item, Start, Tail},
};

/// A life that has written nothing for six of its leases, and at least for so long, and shows no sign of life, is over: intents of
/// it may be stored for 10 s after its lease, and every halt looks at it until then.
const SILENT_FOR: Duration = Duration::from_secs(20);
/// How long reading all keys may take.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What one life of a worker wrote last under its keys, oldest first.
#[derive(Default)]
struct Life {
    /// Subjects and sequences.
    keys: Vec<(String, u64)>,
    /// When the server stored the last of them.
    stored_at: Timestamp,
    last: Option<Lease>,
}

/// Removes the keys of lives that have left, or ended with nothing open; how many.
///
/// # Errors
/// `Unavailable` if nats-server does not answer.
pub async fn retire(link: &Link) -> Result<usize, ApiError> {
    let present: HashMap<String, Presence> = presence(link).await?.into_iter().map(|p| (p.worker_id.clone(), p)).collect();
    let stream = Names::bucket_stream(&link.names.control_bucket());
    let options = tail::Options {
        stream: stream.clone(),
        filter: link.names.leases(),
        start: Start::Seq(1),
        heartbeat: Duration::from_secs(1),
        buffer: 1024,
        reader: "retire".into(),
        headers_only: false,
    };
    let mut tail = Tail::start(link, options);
    let mut lives: HashMap<(String, String), Life> = HashMap::new();
    let now = clock::now();
    let reading = async {
        while let Some(item) = tail.next().await {
            match item {
                Item::Message(m) => {
                    if let Ok(lease) = serde_json::from_slice::<Lease>(&m.payload) {
                        let life = lives.entry((lease.worker_id.clone(), lease.instance.clone())).or_default();
                        life.keys.push((m.subject.to_string(), m.seq));
                        life.stored_at = m.stored_at;
                        life.last = Some(life.last.take().map_or(lease.clone(), |known| known.with(lease)));
                    }
                }
                Item::Reset { .. } => {}
                Item::CaughtUp { .. } => return Ok(()),
                Item::Lost { reason, .. } => return Err(kv::unavailable(reason)),
            }
        }
        Ok(())
    };
    tokio::time::timeout(READ_WITHIN, reading).await.map_err(kv::unavailable)??;
    drop(tail);
    let (mut over, mut silent, mut asks) = (Vec::new(), Vec::new(), Vec::new());
    for Life { keys, stored_at, last } in lives.into_values() {
        let silence = Duration::from_millis(now.millis_since(stored_at));
        let Some(lease) = last.filter(|l| silence > SILENT_FOR.max(6 * Duration::from_millis(l.lease_ms))) else { continue };
        // One that is idle and alive has written nothing for long, either.
        let lives = present.get(&lease.worker_id).is_some_and(|p| p.is_of(&lease.instance));
        if lease.goodbye {
            over.push(keys);
        } else if !lives {
            silent.push(keys);
            asks.push(open::Ask { lease, stored_at, later: true, was: None });
        }
    }
    let open = open::of(link, &asks).await?;
    over.extend(silent.into_iter().zip(open).filter(|(_, open)| open.is_empty()).map(|(keys, _)| keys));
    for (subject, seq) in over.iter().flatten() {
        // Up to what was looked at: a worker that came back has written since.
        let request = json!({ "filter": subject, "seq": seq + 1 });
        js::api::<Value>(link, &format!("STREAM.PURGE.{stream}"), &request).await.map_err(kv::unavailable)?;
    }
    Ok(over.len())
}
