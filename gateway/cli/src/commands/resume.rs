//! `haltline resume`.

use haltline_common::types::control::Level;

use super::Context;
use crate::{output, read};

/// Allow nodes to run again after a halt
#[derive(Debug, clap::Args)]
#[command(after_help = "Executions that ended as halted stay ended; submit them anew.")]
pub struct Args {
    /// Why it is safe to go on
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Sets the flag.
///
/// # Errors
/// When nats-server does not confirm it.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let flag = context.client().await?.set_flag(Level::Normal, &args.reason, &read::by(args.by)).await?;
    if context.json {
        output::json(&flag);
    } else {
        output::line(format_args!("{} (revision {})", flag.sentence(), flag.revision));
    }
    Ok(0)
}
