//! `haltline dev`.

mod fleet;
pub mod folder;
mod ready;

use std::{net::TcpListener, path::PathBuf, time::Instant};

use haltline_common::{config::Settings, shutdown, topology};
use haltline_server::{LOG_FILE, Managed, Options, find_or_fetch};
use tokio_util::sync::CancellationToken;

use self::{fleet::Fleet, folder::Folder};
use super::{Context, gateway};
use crate::settings::set;

/// Run everything on this machine: nats-server, coordinator, worker and gateway
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Fetches nats-server once if it is not installed. With --nats (or HALTLINE_NATS_URL) that server is used instead of one of its own. Ctrl-C drains and ends everything, a second one exits at once."
)]
pub struct Args {
    /// Folder that keeps workflows and executions [default: a temporary one, removed at exit]
    #[arg(long, value_name = "DIR", conflicts_with = "nats")]
    data_dir: Option<PathBuf>,
    /// The gateway's port; 0 draws one [default: 8001]
    #[arg(long, value_name = "PORT", env = "HALTLINE_GATEWAY_PORT", hide_env_values = true)]
    port: Option<u16>,
    /// nats-server's port; 0 draws one
    #[arg(long, value_name = "PORT", default_value_t = 4222, conflicts_with = "nats")]
    nats_port: u16,
    /// When nats-server syncs to disk: always, or an interval as 10s [default: every 2 minutes]
    #[arg(long, value_name = "WHEN", conflicts_with = "nats")]
    sync: Option<String>,
    /// Tasks of one node type at once [default: 64]
    #[arg(long, value_name = "N", env = "HALTLINE_WORKER_SLOTS", hide_env_values = true)]
    slots: Option<usize>,
}

impl Args {
    /// Puts flags into the settings.
    pub fn apply(&self, settings: &mut Settings) {
        set(&mut settings.gateway.port, &self.port);
        set(&mut settings.worker.slots, &self.slots);
    }
}

/// Runs everything until a signal.
///
/// # Errors
/// When something cannot start or ends by itself.
pub async fn run(args: Args, mut context: Context) -> anyhow::Result<u8> {
    let began = Instant::now();
    let stop = shutdown::listen()?;
    let gateway = &context.settings.gateway;
    // Before anything is started: the most common thing to be wrong.
    let listener = gateway::listen(&gateway.host, gateway.port).await?.into_std()?;
    let (mut nats, folder) = match context.nats_given {
        true => (None, None),
        false => start_nats(args).await.map(|(nats, folder)| (Some(nats), Some(folder)))?,
    };
    if let Some(nats) = &nats {
        context.settings.nats.url = nats.url().to_owned();
    }
    let address = listener.local_addr()?;
    let ready = || ready::tell(&context, address, folder.as_ref(), began.elapsed());
    let outcome = tokio::select! {
        outcome = serve(&context, listener, &stop, ready) => outcome,
        lost = lost(&mut nats) => Err(lost),
    };
    if let Some(nats) = nats {
        nats.stop().await;
    }
    outcome.map(|()| 0)
}

/// Starts a nats-server of our own.
async fn start_nats(args: Args) -> anyhow::Result<(Managed, Folder)> {
    let folder = Folder::open(args.data_dir)?;
    let binary = tokio::task::spawn_blocking(|| find_or_fetch(|line| eprintln!("{line}"))).await??;
    let options = Options { port: args.nats_port, sync_interval: args.sync, name: "haltline-dev".into(), ..Options::new(folder.path()) };
    Ok((Managed::start(&binary, options).await?, folder))
}

/// Waits for our nats-server to end by itself; for ever if it is not ours.
async fn lost(nats: &mut Option<Managed>) -> anyhow::Error {
    let Some(nats) = nats else { return std::future::pending().await };
    let log = nats.data_dir().join(LOG_FILE);
    let how = match nats.ended().await {
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    };
    anyhow::anyhow!("nats-server ended by itself ({how}); its log is {}", log.display())
}

/// Runs the services until `stop`, then drains them.
async fn serve(context: &Context, listener: TcpListener, stop: &CancellationToken, ready: impl FnOnce()) -> anyhow::Result<()> {
    let link = context.link("dev").await?;
    for change in topology::ensure(&link, &context.settings.storage).await? {
        tracing::debug!(?change, "installation");
    }
    let mut fleet = Fleet::start(context, listener)?;
    let mut ready = Some(ready);
    let failed = loop {
        tokio::select! {
            () = Fleet::ready(&link), if ready.is_some() => {
                if let Some(tell) = ready.take() {
                    tell();
                }
            }
            why = fleet.ended() => break Some(why),
            () = stop.cancelled() => break None,
        }
    };
    let drained = fleet.drain().await;
    match failed {
        Some(why) => Err(why),
        None => drained,
    }
}
