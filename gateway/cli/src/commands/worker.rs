//! `haltline worker`.

use haltline_common::{config::Settings, shutdown, types::Millis};

use super::Context;
use crate::{connect, listener, services, settings::set};

/// Run a worker: runs nodes, each only while the control flag allows
#[derive(Debug, clap::Args)]
#[command(after_help = "Any number may run. SIGTERM lets running nodes end (up to --drain), a second one exits at once.")]
pub struct Args {
    /// Its id [default: drawn]
    #[arg(long, value_name = "ID", env = "HALTLINE_WORKER_ID", hide_env_values = true)]
    id: Option<String>,
    /// Node types to run, repeated or separated by commas [default: all it has]
    #[arg(long = "types", value_name = "TYPE", value_delimiter = ',', env = "HALTLINE_WORKER_TYPES", hide_env_values = true)]
    types: Vec<String>,
    /// Tasks of one type at once [default: 64]
    #[arg(long, value_name = "N", env = "HALTLINE_WORKER_SLOTS", hide_env_values = true)]
    slots: Option<usize>,
    /// Tasks of a single type at once, as http=8; repeated
    #[arg(long = "slots-for", value_name = "TYPE=N", value_parser = slots_for)]
    slots_for: Vec<(String, usize)>,
    /// How long running nodes may go on after SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION", env = "HALTLINE_WORKER_DRAIN", hide_env_values = true)]
    drain: Option<Millis>,
    /// Serve /metrics and /livez there, as 127.0.0.1:9464; port 0 draws one [default: nowhere]
    #[arg(long, value_name = "ADDRESS", env = "HALTLINE_METRICS", hide_env_values = true)]
    metrics: Option<String>,
    /// Keep a lease, and tell when the guard first refuses at each flag; for `bench --halt`
    #[arg(long, hide = true)]
    probe_guard: bool,
}

fn slots_for(text: &str) -> Result<(String, usize), String> {
    let (kind, n) = text.split_once('=').ok_or("write TYPE=N, as http=8")?;
    Ok((kind.to_owned(), n.parse().map_err(|_| format!("`{n}` is not a number"))?))
}

impl Args {
    /// Puts flags into the settings.
    pub fn apply(&self, settings: &mut Settings) {
        let worker = &mut settings.worker;
        set(&mut worker.id, &self.id);
        set(&mut worker.slots, &self.slots);
        set(&mut worker.drain, &self.drain);
        set(&mut settings.metrics.listen, &self.metrics);
        if !self.types.is_empty() {
            worker.types.clone_from(&self.types);
        }
        worker.slots_by_type.extend(self.slots_for.iter().cloned());
    }
}

/// Runs it until a signal.
///
/// # Errors
/// When nats-server is out of reach, there is no installation, or the worker cannot go on.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    if args.probe_guard {
        haltline_worker::probe::arm();
    }
    let stop = shutdown::listen()?;
    let _metrics = listener::open(&context.settings.metrics).await?;
    let link = context.link("worker").await?;
    connect::installed(&link).await?;
    services::worker(link, context.settings.worker, stop).await?;
    Ok(0)
}
