//! `haltline halt`.

use std::time::Duration;

use haltline_client::{Listening, Report, Standing, WorkerReport};
use haltline_common::types::{
    Millis,
    control::{Level, OpenEffect, Scope},
};
use serde_json::json;

use super::Context;
use crate::{output, read};

/// What is missing when it is not known that everything has stopped.
const NOT_CONFIRMED: u8 = 3;
/// How often `--watch` looks.
const LOOK: Duration = Duration::from_millis(250);
/// The longest `--wait`.
const WAIT_MAX: Millis = Millis::secs(3600);

/// Stop side effects: nothing that the level refuses starts in the scope from now on
#[derive(Debug, clap::Args)]
#[command(after_help = "Needs only the nats-server: no coordinator or gateway has to answer.\n\n\
                  Exit code 0: nothing that is covered can start any more, and nothing of it is in flight.\n\
                  Exit code 3: stored, but that is not known yet; what is missing is named. `haltline halt --watch` goes on looking.\n\
                  Any other: it is not known to be stored.\n\n\
                  Levels: alert (everything runs), reducing (nothing that opens risk), hold (everything waits), halt (only what is \
                  neutral, observes or is allowed while halted), shutdown (nothing). A graver level that is there already stays.")]
pub struct Args {
    /// What to stop: global, or as bot:b1, strategy:s1, workflow:w1, venue:v1, node_type:http
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    scope: Scope,
    /// Why, for whoever finds everything stopped [required, except with --watch alone]
    #[arg(long, value_name = "TEXT", required_unless_present = "watch")]
    reason: Option<String>,
    /// How grave: alert, reducing, hold, halt or shutdown
    #[arg(long, value_name = "LEVEL", default_value = "halt")]
    level: Level,
    /// How long to wait for the workers
    #[arg(long, value_name = "TIME", default_value = "2s")]
    wait: Millis,
    /// Go on until everything is confirmed. Without --reason nothing is changed: the stored flag is looked at
    #[arg(long)]
    watch: bool,
    /// Who [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Raises the flag and waits for the workers.
///
/// # Errors
/// When nats-server does not confirm it: then it is not known to be set.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    if args.wait > WAIT_MAX {
        return Err(haltline_client::ApiError::invalid("--wait", format!("is at most {WAIT_MAX}")).into());
    }
    let client = context.client().await?;
    let (flag, mut confirming) = match &args.reason {
        Some(reason) => {
            let listening = Listening::start(client.link()).await;
            let stored = client.raise(&args.scope, args.level, read::by(args.by), reason).await?;
            (stored.flag(), listening.to(&stored))
        }
        None => {
            let flag = client.flag_of(&args.scope).await?;
            let confirming = client.confirming(&flag);
            (flag, confirming)
        }
    };
    if !context.json {
        output::line(format_args!("{} (revision {})", flag.sentence(), flag.revision));
    }
    if flag.state.runs() {
        // Nothing is stopped: there is nothing to wait for.
        if context.json {
            output::json(&json!({ "flag": flag }));
        }
        return Ok(0);
    }
    let mut report = confirming.wait(args.wait.duration()).await;
    if args.watch && !report.complete {
        let mut shown = String::new();
        while !report.complete {
            let told = in_words(&report);
            if !context.json && told != shown {
                output::line(&told);
                shown = told;
            }
            report = confirming.next(LOOK).await;
        }
    }
    if context.json {
        output::json(&json!({ "flag": flag, "confirmation": report }));
    } else {
        output::line(in_words(&report));
        if report.complete {
            output::line(match flag.state {
                Level::Hold => "Everything waits.",
                Level::Reducing => "Nothing that opens risk starts any more.",
                Level::Shutdown => "Nothing starts any more.",
                _ => "Nothing that touches risk starts any more, and nothing of it is in flight.",
            });
        } else {
            output::line(
                "Not confirmed. What is named above may still happen; `haltline halt --watch` goes on looking, the runbook says what to do.",
            );
        }
    }
    Ok(if report.complete { 0 } else { NOT_CONFIRMED })
}

/// A report for people.
fn in_words(report: &Report) -> String {
    let ms = report.elapsed_ms;
    let mut lines = vec![format!("{} of {} workers confirmed after {ms:.0} ms", report.confirmed, report.workers)];
    for worker in report.each.iter().filter(|w| !w.is_clear() || w.standing != Standing::Confirmed) {
        lines.push(format!("  {}", of_worker(worker)));
        lines.extend(worker.open.iter().map(|o| format!("    {}", of_effect(o))));
    }
    lines.join("\n")
}

fn of_worker(w: &WorkerReport) -> String {
    let lease = match w.lease_age_ms {
        Some(age) => format!("its last lease was written {:.1} s ago", age as f64 / 1000.0),
        None => "it has never held a lease".to_owned(),
    };
    let standing = match w.standing {
        Standing::Confirmed => "confirmed".to_owned(),
        Standing::Silent => format!("silent; {lease} and may hold still"),
        Standing::LeaseOver => format!("silent; {lease} and cannot hold any more"),
    };
    let gone = if w.present { "" } else { ", gone without a goodbye" };
    let open = match (&w.unknown, w.open.len()) {
        (Some(why), _) => format!("; what it has in flight is not known: {why}"),
        (None, 0) => String::new(),
        (None, n) => format!("; {n} in flight:"),
    };
    format!("{}{gone}: {standing}{open}", w.worker_id)
}

fn of_effect(o: &OpenEffect) -> String {
    format!("{} node {} since {} (key {})", o.execution_id, o.node_id, o.since, o.key)
}
