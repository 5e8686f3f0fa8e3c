//! The checkpoint: from where a successor reads. Written by compare-and-swap, so two coordinators
//! that both believe to be active notice.

use haltline_common::{Link, kv, types::Names, types::error::ApiError};
use serde::{Deserialize, Serialize};

/// What is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Inputs of the log up to here are taken care of.
    pub log: u64,
    /// Creations in the records' stream up to here are taken care of.
    pub records: u64,
    /// Who wrote it.
    #[serde(default)]
    pub coordinator_id: String,
}

/// Reads the checkpoint and its revision; the beginning of everything if there is none.
pub async fn read(link: &Link) -> Result<(Checkpoint, u64), ApiError> {
    let entry = kv::get(link, &link.names.checkpoints_bucket(), Names::checkpoint_key()).await?;
    let Some(entry) = entry else { return Ok((Checkpoint::default(), 0)) };
    let checkpoint = entry.value.as_deref().and_then(|v| match serde_json::from_slice(v) {
        Ok(c) => Some(c),
        Err(e) => {
            tracing::error!(error = %e, "the checkpoint is malformed: reading everything from the beginning");
            None
        }
    });
    Ok((checkpoint.unwrap_or_default(), entry.revision))
}
