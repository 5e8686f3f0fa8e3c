//! `haltline status`.

use haltline_client::{Client, Status};
use haltline_common::{
    js,
    types::{control::Flag, error::ApiError, worker::Presence},
};
use serde_json::json;

use super::Context;
use crate::{output, probe};

/// Executions looked at to count what runs.
const RECENT: usize = 1000;

/// Show the control flag, coordinators, workers and what is waiting
#[derive(Debug, clap::Args)]
pub struct Args {}

struct Seen {
    flag: Flag,
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
    let flag = client.flag().await?;
    let seen = look(&client, flag).await?;
    if context.json {
        output::json(&json!({
            "flag": seen.flag,
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

async fn look(client: &Client, flag: Flag) -> anyhow::Result<Seen> {
    let link = client.link();
    let messages = async |stream: String| js::stream_info(link, &stream).await.map(|info| info.state.messages);
    Ok(Seen {
        flag,
        coordinator: probe::coordinator(link).await,
        workers: client.workers().await,
        tasks: messages(link.names.tasks_stream()).await?,
        events: messages(link.names.events_stream()).await?,
        running: client.executions(RECENT).await?.iter().filter(|r| r.status == Status::Running).count(),
    })
}

fn show(seen: &Seen) {
    output::line(format_args!("flag         {}", seen.flag.sentence()));
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
