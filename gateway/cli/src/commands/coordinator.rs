//! `haltline coordinator`.

use std::time::Duration;

use haltline_common::{
    config::Settings,
    retry::Reconnect,
    shutdown,
    topology::{self, EnsureError},
};

use super::Context;
use crate::{listener, services, settings::set};

/// At most so long between two tries to ensure the installation.
const AGAIN_WITHIN: Duration = Duration::from_secs(1);

/// Run a coordinator: accepts submissions and decides which node runs next
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Creates or updates the installation on the nats-server first. Any number may run: the shards are spread over them, and move when one joins, leaves or dies. SIGTERM drains, a second one exits at once."
)]
pub struct Args {
    /// Executions that run at once; more are refused as overloaded [default: 20000]
    #[arg(long, value_name = "N", env = "HALTLINE_EXECUTIONS_MAX", hide_env_values = true)]
    executions_max: Option<usize>,
    /// Dispatch every node as a task of its own instead of linear chains as one
    #[arg(long)]
    per_node_tasks: bool,
    /// Leave streams and consumers as they are
    #[arg(long)]
    no_ensure: bool,
    /// Serve /metrics and /livez there, as 127.0.0.1:9464; port 0 draws one [default: nowhere]
    #[arg(long, value_name = "ADDRESS", env = "HALTLINE_METRICS", hide_env_values = true)]
    metrics: Option<String>,
}

impl Args {
    /// Puts flags into the settings.
    pub fn apply(&self, settings: &mut Settings) {
        set(&mut settings.coordinator.executions_max, &self.executions_max);
        settings.coordinator.per_node_tasks |= self.per_node_tasks;
        set(&mut settings.metrics.listen, &self.metrics);
    }
}

/// Runs it until a signal.
///
/// # Errors
/// When nats-server is out of reach or cannot be used, or the coordinator cannot go on.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let stop = shutdown::listen()?;
    let _metrics = listener::open(&context.settings.metrics).await?;
    let link = context.link("coordinator").await?;
    if !args.no_ensure {
        let mut delays = Reconnect::new(AGAIN_WITHIN);
        loop {
            match topology::ensure(&link, &context.settings.storage).await {
                Ok(changes) => {
                    changes.iter().for_each(|change| tracing::info!(?change, "installation"));
                    break;
                }
                Err(EnsureError::Failed { what, source }) if source.is_passing() => {
                    tracing::warn!(what, error = %source, "cannot be ensured now; trying again");
                }
                Err(e) => return Err(e.into()),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(0),
                () = tokio::time::sleep(delays.next_delay()) => {}
            }
        }
    }
    services::coordinator(link, context.settings.coordinator, stop).await?;
    Ok(0)
}
