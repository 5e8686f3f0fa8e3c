//! `haltline executions`.

use std::{
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Subcommand;
use haltline_client::{Client, Record, Resolution, Resolve, Status};
use haltline_common::{
    clock, definitions, history as log, kv,
    types::{
        error::{ApiError, Code},
        json::lines,
        record::FailedNode,
    },
};
use haltline_core::replay::{HISTORY_VERSION, Line};
use serde_json::{Map, Value, json};

use super::Context;
use crate::{follow, output, read};

/// List, show, cancel and resolve executions
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The most recent executions, newest first
    List {
        /// How many at most, up to 1000
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Only these: running, waiting, unknown, completed, completed_with_errors, failed, timed_out, halted, cancelled
        #[arg(long, value_name = "STATUS", value_delimiter = ',')]
        status: Vec<Status>,
    },
    /// One execution: where it stands, its outputs or error
    Show {
        /// The execution
        #[arg(value_name = "EXECUTION_ID")]
        id: String,
    },
    /// Everything that happened in one execution, in order
    History {
        /// The execution
        #[arg(value_name = "EXECUTION_ID")]
        id: String,
        /// Write record, definition and log to a new file instead, for `haltline replay`
        #[arg(long, value_name = "FILE")]
        download: Option<PathBuf>,
    },
    /// End an execution; nodes that run already end first
    Cancel {
        /// The execution
        #[arg(value_name = "EXECUTION_ID")]
        id: String,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// Who [default: $USER]
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// Say what became of a node whose outcome is unknown, so that its execution goes on
    Resolve {
        /// The execution
        #[arg(value_name = "EXECUTION_ID")]
        id: String,
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        what: Found,
        /// How it was found out
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// Who [default: $USER]
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
}

/// What an operator found out.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Found {
    /// It happened: the node completes with these outputs, a JSON object or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    done: Option<String>,
    /// It did not happen: the node runs again
    #[arg(long)]
    repeat: bool,
    /// Whatever happened, the node counts as failed
    #[arg(long)]
    fail: bool,
}

impl Found {
    fn read(&self) -> Result<(Resolution, Option<Map<String, Value>>), ApiError> {
        let Some(text) = &self.done else {
            return Ok((if self.repeat { Resolution::Repeat } else { Resolution::Fail }, None));
        };
        match read::json("done", text)? {
            Value::Object(outputs) => Ok((Resolution::Done, Some(outputs))),
            _ => Err(ApiError::invalid("done", "must be a JSON object: the node's outputs by name")),
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// When there is no such execution, or nobody answers.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let client = context.client().await?;
    match args.what {
        What::List { limit, status } if status.is_empty() => list(&client.executions(limit).await?, context.json),
        What::List { limit, status } => list(&client.executions_with(limit, &status).await?, context.json),
        What::Show { id } => show(&client.record(&id).await?, context.json),
        What::History { id, download: Some(file) } => download(&client, &id, &file, context.json).await?,
        What::History { id, download: None } => history(&client, &id, context.json).await?,
        What::Cancel { id, reason, by } => {
            let accepted = client.cancel(&id, &reason, &read::by(by)).await?;
            if context.json {
                output::json(&accepted);
            } else if accepted.status.is_terminal() {
                output::line(format_args!("{} had ended before: {}", accepted.execution_id, accepted.status.as_str()));
            } else {
                output::line(format_args!("{} is being cancelled", accepted.execution_id));
            }
        }
        What::Resolve { id, node, what, reason, by } => {
            let (resolution, outputs) = what.read()?;
            let resolve = Resolve {
                execution_id: id.into(),
                node_id: node.into(),
                resolution,
                outputs: outputs.map(Arc::new),
                reason,
                by: read::by(by),
            };
            let accepted = client.resolve(&resolve).await?;
            if context.json {
                output::json(&accepted);
            } else {
                let what = match resolution {
                    Resolution::Done => "counts as completed",
                    Resolution::Repeat => "runs again",
                    Resolution::Fail => "counts as failed",
                };
                output::line(format_args!("node {} of {} {what}", resolve.node_id, accepted.execution_id));
            }
        }
    }
    Ok(0)
}

fn list(records: &[Record], as_json: bool) {
    if as_json {
        return output::json(&json!({ "executions": records }));
    }
    if records.is_empty() {
        return output::line("no executions");
    }
    let rows: Vec<[String; 6]> = records
        .iter()
        .map(|r| {
            [
                r.correlation.execution_id.to_string(),
                r.status.as_str().into(),
                format!("{} {}", r.correlation.workflow_id, r.workflow_version),
                format!("{}/{}", r.nodes_completed, r.node_count),
                r.started_at.to_string(),
                r.duration_ms.map(output::duration).unwrap_or_default(),
            ]
        })
        .collect();
    output::table(["EXECUTION", "STATUS", "WORKFLOW", "NODES", "STARTED", "TOOK"], &rows);
}

fn show(r: &Record, as_json: bool) {
    if as_json {
        return output::json(r);
    }
    let field = |name: &str, value: &str| {
        if !value.is_empty() {
            output::line(format_args!("{name:<10} {value}"));
        }
    };
    field("execution", &r.correlation.execution_id);
    field("status", r.status.as_str());
    field("workflow", &format!("{} version {}", r.correlation.workflow_id, r.workflow_version));
    field("bot", &r.correlation.bot_id);
    field("strategy", &r.correlation.strategy_id);
    let count = |n: u32, word: &str| if n > 0 { format!(", {n} {word}") } else { String::new() };
    let others = count(r.nodes_failed, "failed") + &count(r.nodes_skipped, "skipped");
    field("nodes", &format!("{} of {} completed{others}", r.nodes_completed, r.node_count));
    field("started", &r.started_at.to_string());
    field("ended", &r.finished_at.map(|t| t.to_string()).unwrap_or_default());
    field("took", &r.duration_ms.map(output::duration).unwrap_or_default());
    field("error", &error(r));
    for line in failed_nodes(&r.errors, r.nodes_failed) {
        field("failed", &line);
    }
    field("reason", r.reason.as_deref().unwrap_or_default());
    unknown(r);
    if !r.input.is_null() {
        field("input", &r.input.to_string());
    }
    for (node, outputs) in r.results.iter() {
        field("output", &format!("{node}: {}", json!(outputs)));
    }
    if r.results_omitted {
        field("output", "too large for the record; see the history");
    }
}

/// Nodes in doubt, and what can be done about them.
fn unknown(r: &Record) {
    for node in &r.unknown_nodes {
        output::line(format_args!(
            "{:<10} node {}, attempt {}: nobody knows whether its side effect happened ({})",
            "unknown", node.node_id, node.attempt, node.error
        ));
        if !r.status.is_terminal() {
            let call = format!("haltline executions resolve {} {}", r.correlation.execution_id, node.node_id);
            output::line(format_args!(
                "           ask the receiver for the key {}/{}, then one of",
                r.correlation.execution_id, node.node_id
            ));
            output::line(format_args!("             {call} --done '{{\"output\": \"value\"}}'   it happened, and gave this"));
            output::line(format_args!("             {call} --repeat   it did not happen: run the node again"));
            output::line(format_args!("             {call} --fail     give the node up"));
        }
    }
}

/// Failures that `on_error` admitted, a line each.
pub(super) fn failed_nodes(errors: &[FailedNode], all: u32) -> Vec<String> {
    let line = |f: &FailedNode| format!("{} ({}): {}: {}", f.node_id, f.on_error, f.error_type, f.error);
    let more = (all as usize).saturating_sub(errors.len());
    errors.iter().map(line).chain((more > 0).then(|| format!("and {more} more; see the history"))).collect()
}

fn error(r: &Record) -> String {
    let Some(error) = &r.error else { return String::new() };
    let node = r.failed_node.as_deref().map(|n| format!(" at node {n}")).unwrap_or_default();
    format!("{}{node}: {error}", r.error_type.as_deref().unwrap_or("error"))
}

async fn history(client: &Client, id: &str, as_json: bool) -> anyhow::Result<()> {
    let events = client.events(id).await?;
    if events.is_empty() {
        return Err(ApiError::new(Code::UnknownExecution, format!("there are no events of an execution `{id}`")).into());
    }
    for (seq, event) in events {
        if as_json {
            let mut value = json!(event);
            if let Value::Object(map) = &mut value {
                map.insert("seq".into(), seq.into());
            }
            output::json(&value);
        } else {
            let node = event.node_id.as_deref().map(|n| format!(" {n}")).unwrap_or_default();
            output::line(format_args!("{} {}{node}{}", event.timestamp, event.kind.as_str(), follow::details(&event)));
        }
    }
    Ok(())
}

/// Writes what `haltline replay` reads, one line of JSON each: a head, record, definition, the log.
async fn download(client: &Client, id: &str, file: &Path, as_json: bool) -> anyhow::Result<()> {
    let link = client.link();
    let unknown = || ApiError::new(Code::UnknownExecution, format!("there is no execution `{id}`"));
    let stored = log::raw(link, id).await?;
    let (record, revision) = kv::record(link, id).await?.ok_or_else(unknown)?;
    let (workflow, version) = (&record.correlation.workflow_id, &record.workflow_version);
    let definition = definitions::get(link, workflow, version)
        .await?
        .ok_or_else(|| ApiError::new(Code::UnknownWorkflow, format!("version `{version}` of workflow `{workflow}` is gone")))?;
    let types = definitions::known_types(link).await?;
    let cannot = |e: std::io::Error| ApiError::invalid("download", format!("{}: {e}", file.display()));
    let mut out = BufWriter::new(std::fs::File::create_new(file).map_err(cannot)?);
    let count = stored.len();
    let head = Line::History { v: HISTORY_VERSION, execution_id: id.into(), haltline: env!("CARGO_PKG_VERSION").into(), at: clock::now() };
    let mut write = |line: &Line| -> anyhow::Result<()> {
        serde_json::to_writer(&mut out, line)?;
        Ok(out.write_all(b"\n")?)
    };
    write(&head)?;
    write(&Line::Record { revision, record: Box::new(record) })?;
    write(&Line::Definition { definition: Box::new(definition), types })?;
    for (seq, subject, body) in stored {
        for line in lines(&body) {
            write(&Line::Log { seq, subject: subject.clone(), message: serde_json::from_slice(line)? })?;
        }
    }
    out.flush()?;
    if as_json {
        output::json(&json!({ "file": file, "messages": count }));
    } else {
        output::line(format_args!("{}: {} of the log", file.display(), output::count(count, "message")));
    }
    Ok(())
}
