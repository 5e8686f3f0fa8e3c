//! `haltline replay`.

use std::{fs, path::PathBuf};

use haltline_common::types::error::ApiError;
use haltline_core::replay::{Effect, History, Replay, Step};
use serde_json::json;

use super::Context;
use crate::output;

/// Bytes of a history file: an execution of the largest workflow, with large outputs, has less.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Step through an execution's history from a file, as a coordinator decided it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`haltline executions history ID --download FILE` writes the file. No server is needed. Exit code 1 if the end in the file is not the one that this version finds."
)]
pub struct Args {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Show also what only tells, as `node_started`
    #[arg(long)]
    all: bool,
    /// The coordinator ran with `--per-node-tasks`
    #[arg(long)]
    per_node_tasks: bool,
}

/// Steps through it; exit code 1 if the ends differ.
///
/// # Errors
/// `Invalid` when the file is not a history.
pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let wrong = |e: String| ApiError::invalid("file", format!("{}: {e}", args.file.display()));
    let size = fs::metadata(&args.file).map_err(|e| wrong(e.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(wrong(format!("has {size} bytes, more than {FILE_BYTES_MAX}")).into());
    }
    let text = fs::read_to_string(&args.file).map_err(|e| wrong(e.to_string()))?;
    let mut replay = Replay::new(History::parse(&text).map_err(wrong)?, !args.per_node_tasks);
    while let Some(step) = replay.step() {
        if args.all || !matches!(step.effect, Effect::Told | Effect::AfterEnd) {
            if context.json { output::json(&step) } else { show(&step) }
        }
    }
    let verdict = replay.verdict();
    let agrees = verdict.differences.is_empty();
    if context.json {
        output::json(&json!({ "verdict": verdict, "agrees": agrees }));
    } else {
        match &verdict.recorded {
            _ if !agrees => verdict.differences.iter().for_each(|d| output::line(format_args!("differs: {d}"))),
            Some(status) => output::line(format_args!("ends {status}, as recorded")),
            None => output::line("has not ended, as recorded"),
        }
    }
    Ok(u8::from(!agrees))
}

fn show(s: &Step) {
    let node = s.node.as_deref().map(|n| format!(" {n}")).unwrap_or_default();
    let ignored = if s.effect == Effect::Ignored { "  (changes nothing)" } else { "" };
    output::line(format_args!("{:>8} {}{node}{ignored}", if s.seq == 0 { String::new() } else { s.seq.to_string() }, s.message));
    for (node, state) in &s.nodes {
        output::line(format_args!("           {node}: {state}"));
    }
    for decided in &s.decided {
        output::line(format_args!("         -> {decided}"));
    }
    if matches!(s.effect, Effect::Changed | Effect::Accepted) {
        output::line(format_args!("           {} completed, {} out", s.completed, output::count(s.outstanding as usize, "task")));
    }
}
