//! `haltline doctor`.

mod checks;
mod durability;
mod installation;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::output;

/// Check nats-server, durability and installation, and say in plain words what is wrong
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Changes nothing; to measure writes it stores some empty messages in a stream made for that. Exit code 1 if something is wrong, 0 if there are only warnings."
)]
pub struct Args {
    /// The nats-server's monitoring address, as http://127.0.0.1:8222: tells when it syncs to disk
    #[arg(long, value_name = "URL")]
    monitor: Option<String>,
    /// Folder of a nats-server that `haltline dev` started: tells the same
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    about: &'static str,
    text: String,
}

impl Finding {
    fn new(level: Level, about: &'static str, text: impl Into<String>) -> Self {
        Self { level, about, text: text.into() }
    }
}

/// Checks everything.
///
/// # Errors
/// When nats-server is out of reach.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let link = context.link("command line").await?;
    let mut findings = checks::server(&link, &context.settings.nats.url);
    let has_jetstream = checks::jetstream(&link, &mut findings).await;
    if has_jetstream {
        let streams = installation::streams(&link, &context.settings.storage, &mut findings).await;
        let sync = durability::sync(args.monitor.as_deref(), args.data_dir.as_deref()).await;
        findings.extend(durability::findings(&streams, &sync));
        // Without any stream the rest would only say so again and again.
        if !streams.is_empty() {
            findings.push(durability::measured(&link).await);
            installation::consumers(&link, &mut findings).await;
            checks::services(&link, &mut findings).await;
        }
    }
    let failed = findings.iter().any(|f| f.level == Level::Fail);
    if context.json {
        output::json(&json!({ "ok": !failed, "findings": findings }));
    } else {
        for f in &findings {
            let mark = match f.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            output::line(format_args!("{mark}  {:<12}  {}", f.about, f.text));
        }
    }
    Ok(u8::from(failed))
}
