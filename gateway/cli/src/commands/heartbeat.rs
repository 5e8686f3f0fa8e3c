//! `haltline heartbeat`.

use std::time::Duration;

use haltline_common::{
    risk, shutdown,
    types::{
        Millis, Timestamp,
        control::{Level, Scope},
    },
};
use haltline_risk::Heartbeat;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::Context;
use crate::{output, read};

/// Say that whoever watches over a scope lives; a missing heartbeat raises a level
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The first heartbeat arms the scope's dead-man switch: if none follows within --every, a coordinator raises --level. A later heartbeat arms it again and lowers nothing. With --keep-on this sends one three times as often as promised, until a signal; then the switch stays armed, unless --off takes it back."
)]
pub struct Args {
    /// Whose: global, or a kind and an id, as bot:b1
    #[arg(long, value_name = "SCOPE")]
    scope: Scope,
    /// How long this heartbeat is good for, 1s to 24h
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    every: Millis,
    /// What a missing one raises: alert, reducing or halt
    #[arg(long, value_name = "LEVEL", default_value = "halt")]
    level: Level,
    /// Send on until a signal
    #[arg(long)]
    keep_on: bool,
    /// Take the switch back: nobody has to send any more
    #[arg(long, conflicts_with_all = ["every", "level", "keep_on"])]
    off: bool,
    /// Who [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Sends it.
///
/// # Errors
/// When nats-server does not confirm it: then it is not known whether it counts.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let client = context.client().await?;
    let link = client.link();
    if args.off {
        let was = risk::disarm(link, &args.scope).await?;
        if context.json {
            output::json(&json!({ "scope": args.scope, "armed": false, "was_armed": was }));
        } else {
            output::line(format_args!("the dead-man switch of {} {}", args.scope, if was { "is taken back" } else { "was not armed" }));
        }
        return Ok(0);
    }
    let beat = Heartbeat { scope: args.scope, every: args.every, level: args.level, by: read::by(args.by), at: Timestamp::default() };
    let revision = risk::heartbeat(link, &beat).await?;
    if context.json {
        output::json(&json!({ "scope": beat.scope, "armed": true, "every": beat.every, "level": beat.level, "revision": revision }));
    } else {
        output::line(format_args!("{} of {} is raised if no heartbeat follows within {}", beat.level, beat.scope, beat.every));
    }
    if !args.keep_on {
        return Ok(0);
    }
    let stop = shutdown::listen()?;
    let mut due = tokio::time::interval(Duration::from_millis(beat.every.0 / 3));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(0),
            _ = due.tick() => {
                if let Err(e) = risk::heartbeat(link, &beat).await {
                    tracing::warn!(error = %e, "a heartbeat may not have arrived; sending on");
                }
            }
        }
    }
}
