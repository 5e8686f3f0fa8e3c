//! `haltline halt`.

use clap::ValueEnum;
use haltline_common::types::control::Level;

use super::Context;
use crate::{output, read};

/// Stop everything: no node starts from now on, running executions end as halted
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Needs only the nats-server: no coordinator, worker or gateway has to answer. Nodes that have begun a side effect finish it; nothing new begins."
)]
pub struct Args {
    /// Why, for whoever finds everything stopped
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How grave: hold (nothing starts, what runs waits), halt, or shutdown, meant for good
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LevelArg::Halt)]
    level: LevelArg,
    /// Who [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Levels that stop.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelArg {
    Hold,
    Halt,
    Shutdown,
}

/// Sets the flag.
///
/// # Errors
/// When nats-server does not confirm it: then it is not known to be set.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let level = match args.level {
        LevelArg::Hold => Level::Hold,
        LevelArg::Halt => Level::Halt,
        LevelArg::Shutdown => Level::Shutdown,
    };
    let flag = context.client().await?.set_flag(level, &args.reason, &read::by(args.by)).await?;
    if context.json {
        output::json(&flag);
    } else {
        output::line(format_args!("{} (revision {})", flag.sentence(), flag.revision));
        output::line("No node starts any more. `haltline resume --reason ...` allows new executions again.");
    }
    Ok(0)
}
