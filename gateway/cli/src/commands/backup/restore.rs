//! `haltline restore`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use haltline_common::{
    Link, clock, control, js, kv,
    publisher::Publisher,
    topology,
    types::{
        Names,
        control::{ControlValue, GLOBAL_KEY, Level, Scope},
        error::{ApiError, Code},
        limits::TEXT_BYTES_MAX,
    },
};
use serde_json::{Value, json};

use super::{
    manifest::{self, Manifest},
    pour::pour,
};
use crate::{commands::Context, output, probe, read};

/// The oldest nats-server that takes these archives.
const SERVER_MIN: (u64, u64, u64) = (2, 15, 0);

/// Restore an installation from a backup; everything holds until `haltline resume`
#[derive(Debug, clap::Args)]
#[command(after_help = "Stop coordinators, workers and gateways before. The installation must not exist on the nats-server.")]
pub struct Args {
    /// Folder with a backup
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Who [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Restores it.
///
/// # Errors
/// When the backup is damaged or of another installation, or the installation exists: then nothing was
/// changed. When the server refuses a stream: then what was restored is removed again.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let (dir, names) = (args.from.clone(), context.names.clone());
    let manifest = tokio::task::spawn_blocking(move || Manifest::read(&dir, &names)).await??;
    let link = context.link("command line").await?;
    check(&link).await?;
    let by = read::by(args.by);
    let replicas = context.settings.storage.replicas;
    let mut made = Vec::new();
    if let Err(e) = restore(&link, &args.from, &manifest, replicas, &by, &mut made).await {
        // The flag last: until then nothing may run.
        for name in made.iter().rev() {
            if let Err(e) = js::api::<Value>(&link, &format!("STREAM.DELETE.{name}"), &Value::Null).await
                && !e.is_missing()
            {
                eprintln!("cannot remove {name} again: {e}; remove it before the next try");
            }
        }
        return Err(e.context("nothing was restored"));
    }
    topology::ensure(&link, &context.settings.storage).await?;
    if context.json {
        output::json(&json!({ "restored": manifest, "flag": control::read(&link, &Scope::Global).await? }));
        return Ok(0);
    }
    output::line(format_args!("restored {} as of {}", manifest.namespace, manifest.taken_at));
    output::line("Everything holds: nothing is accepted, dispatched or run. Start the services, look, then");
    output::line("  haltline resume --reason ...    to go on, or");
    output::line("  haltline halt --reason ...      to end what was running.");
    output::line("API tokens are those of the backup: what was revoked since then counts again. Look: haltline tokens list");
    Ok(0)
}

/// What must be so before anything is changed.
async fn check(link: &Link) -> anyhow::Result<()> {
    let version = link.client.server_info().version;
    if topology::parse_version(&version).is_none_or(|v| v < SERVER_MIN) {
        let (a, b, c) = SERVER_MIN;
        return Err(
            ApiError::new(Code::Unavailable, format!("nats-server {version} cannot restore: {a}.{b}.{c} or newer is needed")).into()
        );
    }
    if probe::coordinator(link).await.is_some() {
        return Err(ApiError::new(Code::Conflict, "a coordinator of this installation runs: stop all services before a restore").into());
    }
    let workers = Names::bucket_stream(&link.names.workers_bucket());
    let mut there = Vec::new();
    for name in manifest::streams(&link.names).into_iter().chain([workers]) {
        match js::stream_info(link, &name).await {
            Ok(_) => there.push(name),
            Err(e) if e.is_missing() => {}
            Err(e) => return Err(e.into()),
        }
    }
    if there.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the installation `{}` exists here ({}): restore onto an empty nats-server, or remove these streams first by `nats stream rm`",
        link.names.namespace(),
        there.join(", ")
    );
    Err(ApiError::new(Code::Conflict, message).into())
}

async fn restore(link: &Link, dir: &Path, manifest: &Manifest, replicas: usize, by: &str, made: &mut Vec<String>) -> anyhow::Result<()> {
    for (i, stream) in manifest.streams.iter().enumerate() {
        pour(link, dir, stream, replicas, made).await.with_context(|| format!("stream {}", stream.name))?;
        // The flag came first: nothing else is there yet when it begins to hold.
        if i == 0 {
            hold(link, manifest, by).await?;
        }
    }
    Ok(())
}

/// Makes everything wait, whatever the flag said when the backup was taken.
async fn hold(link: &Link, manifest: &Manifest, by: &str) -> anyhow::Result<()> {
    let stored = control::read(link, &Scope::Global).await?;
    let mut reason = format!(
        "restored from a backup of {}; nothing goes on until `haltline resume --reason ...`; the flag was {}",
        manifest.taken_at,
        stored.sentence()
    );
    reason.truncate(reason.floor_char_boundary(TEXT_BYTES_MAX));
    let value = ControlValue {
        // A stored halt survives a restore.
        state: Level::Hold.max(stored.state),
        reason,
        by: by.into(),
        verified: false,
        at: Some(clock::now()),
        replaces: Some(stored.revision),
    };
    let publisher = Publisher::start(link).await?;
    kv::swap(&publisher, &link.names.control_bucket(), GLOBAL_KEY, stored.revision, serde_json::to_vec(&value)?).await?;
    // It is the bucket of this installation from now on: that it was made again is known, and says the flag.
    topology::remark(link).await?;
    Ok(())
}
