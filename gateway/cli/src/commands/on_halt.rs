//! `haltline on-halt`.

use haltline_common::{
    control::{self, OnHaltRun},
    types::{
        control::Scope,
        error::{ApiError, Code},
    },
};
use serde_json::{Value, json};

use super::Context;
use crate::{output, read};

/// Say which workflow runs when a scope is halted, as one that cancels working orders
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --run or --clear it shows what is set. The workflow runs once for each halt of that very scope, with the input \
                  given and `halt`: scope, state, reason, revision. Its nodes must be neutral, observe, or be marked \
                  `allowed_while_halted`; otherwise the halt refuses them too. During a shutdown nothing runs."
)]
pub struct Args {
    /// Which scope: global, or as bot:b1, strategy:s1, workflow:w1, venue:v1, node_type:http
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    scope: Scope,
    /// The workflow to run
    #[arg(long, value_name = "WORKFLOW_ID", conflicts_with = "clear")]
    run: Option<String>,
    /// Its input, a JSON object
    #[arg(long, value_name = "JSON", requires = "run")]
    input: Option<String>,
    /// Nothing is to run
    #[arg(long)]
    clear: bool,
}

/// Sets or shows it.
///
/// # Errors
/// When there is no such workflow, or nats-server does not answer.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let client = context.client().await?;
    let link = client.link();
    if let Some(workflow) = args.run {
        if haltline_common::definitions::latest_version(link, &workflow).await?.is_none() {
            return Err(ApiError::new(Code::UnknownWorkflow, format!("there is no workflow `{workflow}`")).into());
        }
        let input = match read::input(args.input.as_deref())? {
            Value::Object(input) => input,
            Value::Null => serde_json::Map::new(),
            _ => return Err(ApiError::invalid("--input", "must be an object").into()),
        };
        control::set_on_halt_run(link, &args.scope, Some(&OnHaltRun { workflow, input })).await?;
    } else if args.clear {
        control::set_on_halt_run(link, &args.scope, None).await?;
    }
    let set = control::on_halt_run(link, &args.scope).await?;
    match (&set, context.json) {
        (_, true) => output::json(&json!({ "scope": args.scope, "on_halt_run": set })),
        (Some(set), _) => output::line(format_args!("a halt of {} runs {}", args.scope, set.workflow)),
        (None, _) => output::line(format_args!("a halt of {} runs nothing", args.scope)),
    }
    Ok(0)
}
