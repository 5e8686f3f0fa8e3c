//! A shard's checkpoint: who coordinates it, and from where a successor reads. Written by
//! compare-and-swap, so that two that both believe to have a shard notice: whoever takes one writes
//! the checkpoint first, and the other one's next write fails.

use haltline_common::{
    Link, clock, kv,
    types::{
        Names, Timestamp,
        error::{ApiError, Code},
    },
};
use serde::{Deserialize, Serialize};

/// What is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Inputs of the log up to here are taken care of.
    pub log: u64,
    /// Creations in the records' stream up to here are taken care of.
    pub records: u64,
    /// No execution that is running has a record before this.
    #[serde(default)]
    pub oldest: u64,
    /// Who wrote it; empty if it gave the shard up.
    #[serde(default)]
    pub coordinator_id: String,
    /// When.
    #[serde(default)]
    pub at: Timestamp,
}

impl Checkpoint {
    /// Where the reading of records starts.
    pub fn sweep_from(&self) -> u64 {
        (self.records + 1).min(self.oldest.max(1))
    }
}

/// A checkpoint with its revision, or why it could not be had.
pub type Taken = Result<(Checkpoint, u64), ApiError>;

/// Takes a shard: reads its checkpoint (the beginning of everything if there is none) and writes it with
/// one's own name. Gives it with its revision.
///
/// # Errors
/// `Conflict` if someone else wrote it in between; `Unavailable` if the server does not answer.
pub async fn take(link: &Link, shard: u32, coordinator_id: &str) -> Taken {
    let (bucket, key) = (link.names.checkpoints_bucket(), Names::shard_checkpoint_key(shard));
    let entry = kv::get(link, &bucket, &key).await?;
    let revision = entry.as_ref().map_or(0, |e| e.revision);
    let checkpoint = entry.and_then(|e| e.value).and_then(|v| match serde_json::from_slice::<Checkpoint>(&v) {
        Ok(c) => Some(c),
        Err(e) => {
            tracing::error!(shard, error = %e, "the checkpoint is malformed: reading everything from the beginning");
            None
        }
    });
    let checkpoint = Checkpoint { coordinator_id: coordinator_id.to_owned(), at: clock::now(), ..checkpoint.unwrap_or_default() };
    let json = serde_json::to_vec(&checkpoint).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    let revision = kv::swap_once(link, &bucket, &key, revision, json).await?;
    Ok((checkpoint, revision))
}
