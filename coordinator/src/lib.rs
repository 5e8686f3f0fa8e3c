//! The coordinator: the thin shell around the core. Reads requests and the log, performs what the
//! core's engine wants written, and keeps a checkpoint. Any number may run; one is active, the
//! others stand by and take over within a second when it stops answering.

mod active;
mod checkpoint;
mod loads;
mod perform;
mod plans;
mod resolve;

use std::time::Duration;

use haltline_common::{Link, config::CoordinatorSettings};
use tokio_util::sync::CancellationToken;

/// How often a coordinator that stands by asks whether another is active.
const ASK_EVERY: Duration = Duration::from_millis(300);

/// Runs a coordinator until `stop`: stands by while another is active, then takes over.
///
/// # Errors
/// When the server refuses what a coordinator needs. Lost connections are waited out.
pub async fn run(link: Link, settings: CoordinatorSettings, stop: CancellationToken) -> anyhow::Result<()> {
    let id = format!("coordinator-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let mut announced = false;
    while !stop.is_cancelled() {
        if another_is_active(&link).await {
            if !announced {
                tracing::info!(coordinator_id = id, "another coordinator is active: standing by");
                announced = true;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
            continue;
        }
        announced = false;
        match active::Active::start(link.clone(), settings.clone(), id.clone()).await?.run(&stop).await {
            active::Ended::Stopped => break,
            active::Ended::Superseded => {
                tracing::warn!(coordinator_id = id, "another coordinator wrote the checkpoint: stepping down");
            }
        }
    }
    Ok(())
}

async fn another_is_active(link: &Link) -> bool {
    let ask = link.client.request(link.names.coordinator(), "".into());
    matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(_)))
}
