//! `haltline audit`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use haltline_common::audit;
use serde_json::{Value, json};

use super::Context;
use crate::{output, read};

/// The chain does not hold.
const BROKEN: u8 = 1;

/// Read and check the record of every change of a control flag and every confirmed halt
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each entry names the SHA-256 of the one before it. A changed, removed or inserted entry breaks the chain. What the chain \
                  alone does not show: entries cut off at the end, and a broker's administrator who rewrites all of it. Keep the head that \
                  `verify` prints somewhere else, and give it back with --head."
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check the chain; exit code 1 if it does not hold
    Verify {
        /// A head that an earlier check printed: it must be in the chain
        #[arg(long, value_name = "SHA256")]
        head: Option<String>,
        /// Check an exported file instead of the installation
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Write all entries, a line each, as they are stored
    Export {
        /// Where to [default: standard output]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Show the latest entries
    Show {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
}

/// Runs it.
///
/// # Errors
/// When nats-server does not answer or a file cannot be used.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    match args.what {
        What::Verify { head, file } => {
            let bodies: Vec<Vec<u8>> = match file {
                Some(path) => read::file(&path)?.lines().map(|line| line.as_bytes().to_vec()).collect(),
                None => entries(&context).await?,
            };
            let found = audit::verify(bodies.iter().map(Vec::as_slice), head.as_deref());
            if context.json {
                output::json(&found);
            } else {
                for problem in found.problems.iter().take(20) {
                    output::line(format_args!("BROKEN  {problem}"));
                }
                let word = if found.problems.is_empty() { "holds" } else { "is broken" };
                output::line(format_args!("the chain of {} entries {word}; head {}", found.entries, found.head));
            }
            Ok(if found.problems.is_empty() { 0 } else { BROKEN })
        }
        What::Export { to } => {
            let mut text = Vec::new();
            for body in entries(&context).await? {
                text.extend(body);
                text.push(b'\n');
            }
            match to {
                Some(path) => std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?,
                None => output::text(String::from_utf8_lossy(&text)),
            }
            Ok(0)
        }
        What::Show { limit } => {
            let all = entries(&context).await?;
            let last = all.iter().skip(all.len().saturating_sub(limit)).map(|b| serde_json::from_slice::<Value>(b).unwrap_or_default());
            for entry in last {
                if context.json { output::json(&entry) } else { output::line(in_words(&entry)) }
            }
            Ok(0)
        }
    }
}

async fn entries(context: &Context) -> anyhow::Result<Vec<Vec<u8>>> {
    let client = context.client().await?;
    Ok(audit::read(client.link()).await?.into_iter().map(|e| e.body).collect())
}

fn in_words(e: &Value) -> String {
    let text = |key: &str| e[key].as_str().unwrap_or("?").to_owned();
    let head = format!("{:>6}  {}  {} revision {}", e["n"], text("at"), text("scope"), e["revision"]);
    if e["happened"] == json!("confirmed") {
        return format!("{head}: {} confirmed by {} of {} workers after {} ms", text("state"), e["confirmed"], e["workers"], e["took_ms"]);
    }
    let verified = if e["verified"] == json!(true) { "" } else { " (unverified)" };
    format!("{head}: {} -> {} by {}{verified}: {}", text("previous"), text("state"), text("by"), text("reason"))
}
