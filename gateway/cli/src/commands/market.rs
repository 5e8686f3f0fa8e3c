//! `haltline market`.

use anyhow::Context as _;
use haltline_common::shutdown;
use serde_json::json;

use super::{Context, gateway};
use crate::output;

/// Run the paper market: replays real prices over HTTP and takes orders without sending them anywhere
#[derive(Debug, clap::Args)]
#[command(after_help = "For trying things out and for tests. Prints its address once it listens.")]
pub struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 draws one
    #[arg(long, value_name = "PORT", default_value_t = 8002)]
    port: u16,
    #[command(flatten)]
    options: haltline_market::Options,
}

/// Runs it until a signal.
///
/// # Errors
/// When its address is taken, or prices or ledger cannot be read.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let stop = shutdown::listen()?;
    let listener = gateway::listen(&args.host, args.port).await?;
    let address = listener.local_addr().context("address of the listener")?;
    if context.json {
        output::json(&json!({ "ready": true, "market": format!("http://{address}") }));
    } else {
        output::line(format_args!("market listens on http://{address}"));
    }
    haltline_market::run(listener, args.options, stop).await?;
    Ok(0)
}
