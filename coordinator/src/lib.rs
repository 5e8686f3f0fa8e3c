//! The coordinator: the thin shell around the core. Reads requests and the log, performs what the
//! core's engines want written, and keeps checkpoints. Any number may run: the shards are spread over
//! them, and move when one joins, leaves or dies.

mod checkpoint;
mod duty;
mod held;
mod inputs;
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

use std::time::Duration;

use haltline_common::{Link, config::CoordinatorSettings, js::ApiFailure, retry::Reconnect};
use tokio_util::sync::CancellationToken;

/// Runs a coordinator until `stop`, then gives its shards to others.
///
/// # Errors
/// When the server refuses what a coordinator needs. Lost connections and leaders are waited out.
pub async fn run(link: Link, settings: CoordinatorSettings, stop: CancellationToken) -> anyhow::Result<()> {
    let id = format!("coordinator-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let mut delays = Reconnect::new(AGAIN_WITHIN);
    loop {
        match service::Service::start(link.clone(), settings.clone(), id.clone()).await {
            Ok(service) => {
                service.run(&stop).await;
                return Ok(());
            }
            Err(e) if e.downcast_ref::<ApiFailure>().is_some_and(ApiFailure::is_passing) => {
                tracing::warn!(error = %e, "nats-server does not tell what a coordinator needs to know; asking again");
            }
            Err(e) => return Err(e),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(delays.next_delay()) => {}
        }
    }
}

/// At most so long between two tries to start.
const AGAIN_WITHIN: Duration = Duration::from_secs(1);
