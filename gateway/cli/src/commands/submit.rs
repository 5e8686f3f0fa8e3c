//! `haltline submit`.

use haltline_client::Submit;
use haltline_common::types::SmolStr;

use super::Context;
use crate::{output, read};

/// Start an execution of a stored workflow and return at once
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The workflow
    #[arg(value_name = "WORKFLOW_ID")]
    workflow_id: String,
    /// Its version [default: the latest]
    #[arg(long, value_name = "VERSION")]
    version: Option<SmolStr>,
    /// The execution's input: a JSON object, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    input: Option<String>,
    /// Makes a repeat a repeat: the same key gives the same execution [default: drawn]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Bot it belongs to, instead of the workflow's
    #[arg(long, value_name = "ID")]
    bot: Option<SmolStr>,
    /// Strategy it belongs to, instead of the workflow's
    #[arg(long, value_name = "ID")]
    strategy: Option<SmolStr>,
}

/// Submits.
///
/// # Errors
/// What the coordinator refuses it for, or that none answers.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let submit = Submit {
        workflow_id: args.workflow_id.into(),
        version: args.version,
        input: read::input(args.input.as_deref())?,
        bot_id: args.bot,
        strategy_id: args.strategy,
        key: args.key.unwrap_or_else(drawn_key).into(),
        notify: None,
    };
    let accepted = context.client().await?.submit(submit).await?;
    if context.json {
        output::json(&accepted);
    } else {
        let repeated = if accepted.repeated { " (the key was known: this is that execution)" } else { "" };
        output::line(format_args!("{} {}{repeated}", accepted.execution_id, accepted.status.as_str()));
    }
    Ok(0)
}

/// A key that no other submission has.
pub fn drawn_key() -> String {
    uuid::Uuid::new_v4().to_string()
}
