//! `haltline run`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use haltline_client::{ApiError, Client, Outcome, Status, Submit};
use haltline_common::types::{Millis, error::Code, limits::EXECUTION_MS_MAX};
use serde_json::json;

use super::{Context, executions::failed_nodes, submit::drawn_key};
use crate::{follow, output, read};

/// Who waits is told within this time what an execution waits for.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Store a workflow, run it and wait for its end
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C stops waiting, not the execution. A version that was stored with other content is refused: change `version` with every change."
)]
pub struct Args {
    /// Definition, JSON or YAML; - reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The execution's input: a JSON object, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    input: Option<String>,
    /// Show what its nodes do while they do it
    #[arg(long, short)]
    follow: bool,
    /// Makes a repeat a repeat: the same key gives the same execution [default: drawn]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// How long to wait; the execution goes on [default: for its end]
    #[arg(long, value_name = "DURATION")]
    wait: Option<Millis>,
}

/// Runs it; the exit code tells how it ended.
///
/// # Errors
/// When the definition or submission is refused, or nobody answers.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let definition = read::definition(&args.file)?;
    let input = read::input(args.input.as_deref())?;
    let client = context.client().await?;
    client.put_workflow(&definition).await?;
    let submit = Submit {
        workflow_id: definition.id.clone(),
        version: Some(definition.version.clone()),
        input,
        bot_id: None,
        strategy_id: None,
        key: args.key.unwrap_or_else(drawn_key).into(),
        notify: None,
    };
    let limit = args.wait.unwrap_or(Millis(EXECUTION_MS_MAX)).duration();
    let outcome = if args.follow {
        let accepted = client.submit(submit).await?;
        follow::follow(&client, &definition, &accepted.execution_id, limit, context.json).await?
    } else {
        wait(&client, submit, limit).await?
    };
    show(&outcome, context.json);
    Ok(exit_code(outcome.status))
}

/// Submits and waits for the end; says on the way what it waits for, once for each status.
async fn wait(client: &Client, submit: Submit, limit: Duration) -> Result<Outcome, ApiError> {
    let until = Instant::now() + limit;
    let mut outcome = client.run(submit, limit.min(LOOK_EVERY)).await?;
    let mut told = Status::Running;
    while !outcome.status.is_terminal() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if outcome.status != told {
            told = outcome.status;
            match told {
                Status::Unknown => eprintln!(
                    "{id} waits for you: nobody knows whether a side effect happened; haltline executions show {id}",
                    id = outcome.execution_id
                ),
                Status::Waiting => eprintln!("{} waits for a flag to be lowered; haltline status", outcome.execution_id),
                _ => {}
            }
        }
        outcome = client.wait(&outcome.execution_id, left.min(LOOK_EVERY)).await?;
    }
    Ok(outcome)
}

fn exit_code(status: Status) -> u8 {
    match status {
        // What failed was admitted by the definition.
        Status::Completed | Status::CompletedWithErrors => 0,
        Status::Failed | Status::Cancelled | Status::TimedOut => 1,
        Status::Halted => Code::EmergencyHalted.exit_code(),
        Status::Running | Status::Waiting | Status::Unknown => Code::Unavailable.exit_code(),
    }
}

fn show(outcome: &Outcome, json: bool) {
    if json {
        return output::json(outcome);
    }
    let took = outcome.duration_ms.map(|ms| format!(" in {}", output::duration(ms))).unwrap_or_default();
    output::line(format_args!("{} {}{took}", outcome.execution_id, outcome.status.as_str()));
    if let Some(error) = &outcome.error {
        output::line(format_args!("  {}: {error}", outcome.error_type.as_deref().unwrap_or("error")));
    }
    if let Some(reason) = &outcome.reason {
        output::line(format_args!("  {reason}"));
    }
    for line in failed_nodes(&outcome.errors, outcome.nodes_failed) {
        output::line(format_args!("  {line}"));
    }
    for (node, value) in outcome.outputs.iter() {
        output::line(format_args!("  {node}: {}", json!(value)));
    }
    if outcome.outputs_omitted {
        output::line(format_args!("  outputs are too large to list: haltline executions history {} --json", outcome.execution_id));
    }
    for node in &outcome.unknown_nodes {
        output::line(format_args!("  {}: nobody knows whether its side effect happened ({})", node.node_id, node.error));
    }
    if outcome.status == Status::Unknown {
        output::line(format_args!("  it waits for you: haltline executions show {}", outcome.execution_id));
    } else if !outcome.status.is_terminal() {
        output::line(format_args!("  not ended yet: haltline executions show {}", outcome.execution_id));
    }
}
