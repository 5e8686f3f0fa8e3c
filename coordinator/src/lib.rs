//! The coordinator: the thin shell around the core. Reads requests and the log, performs what the
//! core's engines want written, and keeps checkpoints. Any number may run: the shards are spread over
//! them, and move when one joins, leaves or dies.

mod checkpoint;
mod duty;
mod keeper;
mod loads;
mod members;
mod perform;
mod plans;
mod requests;
mod resolve;
mod risk;
mod service;
mod shard;
mod sweep;

use haltline_common::{Link, config::CoordinatorSettings};
use tokio_util::sync::CancellationToken;

/// Runs a coordinator until `stop`, then gives its shards to others.
///
/// # Errors
/// When the server refuses what a coordinator needs. Lost connections are waited out.
pub async fn run(link: Link, settings: CoordinatorSettings, stop: CancellationToken) -> anyhow::Result<()> {
    let id = format!("coordinator-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    service::Service::start(link, settings, id).await?.run(&stop).await;
    Ok(())
}
