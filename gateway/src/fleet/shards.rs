//! Shards: who owns them, and how far their owners have come. From what is stored and who answers,
//! so that it is right when no coordinator runs at all.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind};
use futures_util::{StreamExt, future::try_join_all};
use haltline_common::{
    Link, kv, metrics,
    types::{Names, Timestamp},
};
use serde::Deserialize;

use super::streams;

/// How long coordinators are listened for: a healthy one answers within milliseconds.
const LISTEN: Duration = Duration::from_millis(300);

/// A coordinator's answer.
#[derive(Deserialize)]
struct Answer {
    coordinator_id: String,
}

/// What of a checkpoint is of interest here.
#[derive(Debug, Default, Deserialize, PartialEq)]
struct Checkpoint {
    #[serde(default)]
    coordinator_id: String,
    /// Inputs up to here are taken care of; not known for a shape that this gateway does not know.
    log: Option<u64>,
    #[serde(skip)]
    stored_at: Option<Timestamp>,
}

/// Looks at all of them.
pub(super) async fn look(link: &Link) -> Result<(), String> {
    let names = &link.names;
    let bucket = names.checkpoints_bucket();
    let stream = Names::bucket_stream(&bucket);
    let keys = (0..names.shards()).map(Names::shard_checkpoint_key);
    let reads = keys.map(|key| checkpoint(link, &stream, Names::kv_subject(&bucket, &key)));
    let (alive, found, info) = tokio::try_join!(answering(link), try_join_all(reads), streams::info(link, &stream))?;
    let owned = owned(&alive, &found);
    let lags = try_join_all(found.iter().zip(0..).map(|(checkpoint, shard)| async move {
        let Some(log) = checkpoint.as_ref().map_or(Some(0), |c| c.log) else { return Ok(None) };
        let oldest = first_from(link, &names.events_stream(), &names.inputs_of_shard(shard), log + 1, info.ts).await?;
        Ok::<_, String>(Some(oldest.unwrap_or(0.0)))
    }))
    .await?;

    let shards = || (0..names.shards()).map(|shard| shard.to_string());
    metrics::COORDINATORS.set(alive.len() as u64);
    metrics::SHARD_OWNED.replace(shards().zip(owned.iter().map(|owned| f64::from(u8::from(*owned)))));
    let age = |c: &Option<Checkpoint>| c.as_ref().and_then(|c| c.stored_at).map(|at| seconds(at, info.ts));
    metrics::CHECKPOINT_AGE.replace(shards().zip(found.iter().map(age)).filter_map(|(shard, age)| Some((shard, age?))));
    metrics::SHARD_LAG.replace(shards().zip(lags).filter_map(|(shard, lag)| Some((shard, lag?))));
    Ok(())
}

/// Whether each shard is owned: the coordinator that its checkpoint names answers.
fn owned(alive: &BTreeSet<String>, found: &[Option<Checkpoint>]) -> Vec<bool> {
    found.iter().map(|c| c.as_ref().is_some_and(|c| alive.contains(&c.coordinator_id))).collect()
}

/// The ids of coordinators that answer.
async fn answering(link: &Link) -> Result<BTreeSet<String>, String> {
    let inbox = link.client.new_inbox();
    let mut answers = link.client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
    link.client.publish_with_reply(link.names.coordinator(), inbox, "".into()).await.map_err(|e| e.to_string())?;
    let mut ids = BTreeSet::new();
    let listen = async {
        while let Some(message) = answers.next().await {
            if message.status.is_some() {
                return; // nobody listens there
            }
            match serde_json::from_slice::<Answer>(&message.payload) {
                Ok(answer) => _ = ids.insert(answer.coordinator_id),
                Err(error) => tracing::warn!(%error, "a coordinator's answer is malformed; not counted"),
            }
        }
    };
    // That time is over is how it ends: nobody knows how many there are.
    let _ = tokio::time::timeout(LISTEN, listen).await;
    Ok(ids)
}

async fn checkpoint(link: &Link, stream: &str, subject: String) -> Result<Option<Checkpoint>, String> {
    let handle = link.js.get_stream_no_info(stream).await.map_err(|e| e.to_string())?;
    match handle.get_last_raw_message_by_subject(&subject).await {
        Ok(m) if kv::is_deletion(&m.headers) => Ok(None),
        Ok(m) => {
            let read = serde_json::from_slice(&m.payload).unwrap_or_else(|error| {
                tracing::warn!(subject, %error, "a checkpoint is malformed");
                Checkpoint::default()
            });
            Ok(Some(Checkpoint { stored_at: Some(stored_at(&m)), ..read }))
        }
        Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(e) => Err(format!("checkpoint {subject}: {e}")),
    }
}

/// Age in seconds of the first message on `subject` from sequence `from` on; `None` if there is none.
pub(super) async fn first_from(link: &Link, stream: &str, subject: &str, from: u64, now: Timestamp) -> Result<Option<f64>, String> {
    let handle = link.js.get_stream_no_info(stream).await.map_err(|e| e.to_string())?;
    match handle.get_first_raw_message_by_subject(subject, from).await {
        Ok(m) => Ok(Some(seconds(stored_at(&m), now))),
        Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(e) => Err(format!("first message on {subject}: {e}")),
    }
}

fn stored_at(m: &async_nats::jetstream::message::StreamMessage) -> Timestamp {
    Timestamp((m.time.unix_timestamp_nanos() / 1_000_000) as i64)
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.millis_since(from) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_owned_if_whom_it_names_answers() {
        let alive = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let by = |id: &str| Some(Checkpoint { coordinator_id: id.into(), ..Checkpoint::default() });
        assert_eq!(owned(&alive, &[by("a"), by("gone"), by(""), None]), [true, false, false, false]);
    }

    #[test]
    fn checkpoints_are_read() {
        let read = |text: &str| serde_json::from_str::<Checkpoint>(text).ok();
        let some = read(r#"{"log":7,"records":3,"oldest":2,"coordinator_id":"c","at":"2026-11-23T07:34:38.930Z"}"#);
        assert_eq!(some, Some(Checkpoint { coordinator_id: "c".into(), log: Some(7), stored_at: None }));
        assert_eq!(read("{}"), Some(Checkpoint::default()));
    }
}
