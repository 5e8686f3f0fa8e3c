//! `haltline status`.

use std::time::Duration;

use haltline_client::{Client, Status};
use haltline_common::{
    control_watch::ControlWatch,
    js,
    types::{
        control::{Flag, Level, Scope},
        error::ApiError,
        worker::Presence,
    },
};
use serde_json::json;

use super::Context;
use crate::{output, probe};

/// How long reading the flags may take.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// Executions looked at to count what runs.
const RECENT: usize = 1000;

/// Show the control flag, coordinators, workers and what is waiting
#[derive(Debug, clap::Args)]
pub struct Args {}

struct Seen {
    flag: Flag,
    /// Of parts, those that are not normal.
    parts: Vec<Flag>,
    coordinator: Option<serde_json::Value>,
    workers: Result<Vec<Presence>, ApiError>,
    tasks: u64,
    events: u64,
    running: usize,
}

/// Shows it; exit code 3 during a halt.
///
/// # Errors
/// When nats-server is out of reach or there is no installation.
pub async fn run(_: Args, context: Context) -> anyhow::Result<u8> {
    let client = context.client().await?;
    // The flag first and by itself: it matters most when the rest is broken.
    let stored = client.flag().await?;
    // As workers see it: the bucket may not be the one it was.
    let mut watch = ControlWatch::start(client.link(), "status");
    watch.ready(READ_WITHIN).await;
    let flags = watch.flags();
    let flag = flags.as_ref().and_then(|f| f.get(&Scope::Global).cloned()).unwrap_or(stored);
    let parts = flags.iter().flat_map(|f| f.iter()).map(|(_, f)| f.clone()).filter(|f| !f.scope.is_global() && f.state != Level::Normal);
    let seen = look(&client, flag, parts.collect()).await?;
    if context.json {
        output::json(&json!({
            "flag": seen.flag,
            "scopes": seen.parts,
            "coordinator": seen.coordinator,
            "workers": seen.workers.as_ref().ok(),
            "workers_error": seen.workers.as_ref().err(),
            "tasks_waiting": seen.tasks,
            "events_stored": seen.events,
            "running_among_recent": seen.running,
        }));
    } else {
        show(&seen);
    }
    Ok(if seen.flag.state.runs() { 0 } else { 3 })
}

async fn look(client: &Client, flag: Flag, parts: Vec<Flag>) -> anyhow::Result<Seen> {
    let link = client.link();
    let messages = async |stream: String| js::stream_info(link, &stream).await.map(|info| info.state.messages);
    Ok(Seen {
        flag,
        parts,
        coordinator: probe::coordinator(link).await,
        workers: client.workers().await,
        tasks: messages(link.names.tasks_stream()).await?,
        events: messages(link.names.events_stream()).await?,
        running: client.executions(RECENT).await?.iter().filter(|r| r.status == Status::Running).count(),
    })
}

fn show(seen: &Seen) {
    let unverified = |f: &Flag| if f.verified || f.state.runs() { "" } else { " (who is not verified)" };
    output::line(format_args!("flag         {}{}", seen.flag.sentence(), unverified(&seen.flag)));
    for part in &seen.parts {
        output::line(format_args!("             {}{}", part.sentence(), unverified(part)));
    }
    let coordinator = match &seen.coordinator {
        Some(active) => format!("{} is active", active["coordinator_id"].as_str().unwrap_or("one")),
        None => "none answers: submissions are refused; start one by `haltline coordinator`".into(),
    };
    output::line(format_args!("coordinator  {coordinator}"));
    output::line(format_args!("executions   {} running among the {RECENT} most recent", seen.running));
    output::line(format_args!("tasks        {} stored and not finished", seen.tasks));
    output::line(format_args!("log          {} messages", seen.events));
    let workers = match &seen.workers {
        Err(e) => return output::line(format_args!("workers      cannot be listed: {}", e.message)),
        Ok(list) if list.is_empty() => return output::line("workers      none: tasks wait; start one by `haltline worker`"),
        Ok(list) => list,
    };
    output::line(format_args!("workers      {}", workers.len()));
    let rows: Vec<[String; 6]> = workers
        .iter()
        .map(|w| {
            [
                format!("  {}", w.worker_id),
                format!("{} pid {}", w.host, w.pid).trim().to_owned(),
                if w.draining { "draining".into() } else { w.gate.clone() },
                w.in_flight.to_string(),
                w.tasks_done.to_string(),
                w.slots.keys().cloned().collect::<Vec<_>>().join(" "),
            ]
        })
        .collect();
    output::table(["  ID", "WHERE", "GATE", "HOLDS", "DONE", "TYPES"], &rows);
}
