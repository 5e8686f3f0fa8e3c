//! `haltline coordinator`.

use haltline_common::{config::Settings, shutdown, topology};

use super::Context;
use crate::{listener, services, settings::set};

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
        for change in topology::ensure(&link, &context.settings.storage).await? {
            tracing::info!(?change, "installation");
        }
    }
    services::coordinator(link, context.settings.coordinator, stop).await?;
    Ok(0)
}
