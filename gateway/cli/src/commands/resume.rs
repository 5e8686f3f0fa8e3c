//! `haltline resume`.

use haltline_common::types::control::{Level, Scope};

use super::Context;
use crate::{output, read};

/// Allow nodes to run again after a halt
#[derive(Debug, clap::Args)]
#[command(after_help = "Executions that ended as halted stay ended; submit them anew. Those whose workflow says `on_halt: hold` go on.\n\
                  What other scopes say still applies: `haltline status` shows them all.")]
pub struct Args {
    /// What it is about: global, or as bot:b1, strategy:s1, workflow:w1, venue:v1, node_type:http
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    scope: Scope,
    /// The level to lower it to: normal, alert, reducing, hold or halt
    #[arg(long, value_name = "LEVEL", default_value = "normal")]
    level: Level,
    /// Why it is safe to go on
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The revision that was looked at: refused if the flag has changed since [default: the current one]
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// To leave a shutdown: the scope once more
    #[arg(long, value_name = "SCOPE")]
    confirm: Option<String>,
    /// Who [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Lowers the flag.
///
/// # Errors
/// When nats-server does not confirm it, or the flag is not what was looked at.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let client = context.client().await?;
    let revision = match args.revision {
        Some(revision) => revision,
        None => client.flag_of(&args.scope).await?.revision,
    };
    let by = read::by(args.by);
    let stored = client.lower(&args.scope, args.level, by, &args.reason, revision, args.confirm.as_deref()).await?;
    if context.json {
        output::json(&stored.flag());
    } else {
        output::line(format_args!("{} (revision {}); before: {}", stored.flag().sentence(), stored.revision, stored.previous.sentence()));
    }
    Ok(0)
}
