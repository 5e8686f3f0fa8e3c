//! `haltline backup`.

mod archive;
mod copy;
mod manifest;
mod pour;
pub mod restore;

use std::{collections::HashSet, hash::BuildHasher, path::PathBuf};

use haltline_common::{
    Link, clock, control, topology,
    types::{Names, control::Scope, error::ApiError},
};

use self::{
    copy::{Upto, copy, copy_queue, end_of},
    manifest::Manifest,
};
use super::Context;
use crate::output;

/// Write a backup of the whole installation, while it runs
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What was acknowledged before it began is in it. `haltline restore` puts it onto an empty nats-server, where everything holds until `haltline resume`."
)]
pub struct Args {
    /// Folder to write to; created, or empty
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Writes it.
///
/// # Errors
/// When the folder is not empty, there is no installation, or a stream cannot be copied.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    let unusable = |e: std::io::Error| ApiError::invalid("to", format!("{}: {e}", args.to.display()));
    std::fs::create_dir_all(&args.to).map_err(unusable)?;
    if std::fs::read_dir(&args.to).map_err(unusable)?.next().is_some() {
        return Err(ApiError::invalid("to", format!("{} is not empty", args.to.display())).into());
    }
    // A client, since it asks whether there is an installation.
    let client = context.client().await?;
    let manifest = take(client.link(), &args).await?;
    manifest.write(&args.to)?;
    if context.json {
        output::json(&manifest);
        return Ok(0);
    }
    let rows: Vec<[String; 4]> = manifest
        .streams
        .iter()
        .map(|s| [s.name.clone(), s.messages.to_string(), format!("{}-{}", s.first_seq, s.last_seq), output::bytes(s.bytes)])
        .collect();
    output::table(["STREAM", "MESSAGES", "SEQUENCES", "SIZE"], &rows);
    output::line(format_args!("complete: {}, as of {}", args.to.display(), manifest.taken_at));
    Ok(0)
}

/// Copies stream after stream. The order makes what is restored a state that a crash could have left:
///
/// 1. checkpoints: what they call done was stored before anything that follows is read;
/// 2. tasks: one that is missing was acknowledged, so its result is in the log that is read later, or
///    it is emitted again, since its input is above the checkpoint;
/// 3. records: every task has one;
/// 4. the log, up to its end then, without executions that began too late for a record;
/// 5. payloads: every event that is read refers to what was stored before it;
/// 6. definitions, types, tokens (digests of them), the flag, the audit, the record of access, on which nothing else depends; what risk limits count: what it has too much is reserved by
///    executions that are not there, and counts as spent.
async fn take(link: &Link, args: &Args) -> anyhow::Result<Manifest> {
    let names = &link.names;
    let taken_at = clock::now();
    let flag = control::read(link, &Scope::Global).await?;
    let bucket = |b: String| Names::bucket_stream(&b);
    let mut done = Vec::new();
    done.push(copy(link, &bucket(names.checkpoints_bucket()), &args.to, Upto::EveryKey, |_| true).await?);
    done.push(copy_queue(link, &names.tasks_stream(), &args.to).await?);

    let before_records = end_of(link, &names.events_stream()).await?;
    let (records, prefix) = (names.executions_bucket(), Names::kv_subject(&names.executions_bucket(), ""));
    // A hash of each id, since there may be millions. Two with one hash keep events without a record.
    let hasher = std::collections::hash_map::RandomState::new();
    let mut known: HashSet<u64> = HashSet::new();
    let add = |m: &haltline_common::tail::Message| {
        known.insert(hasher.hash_one(m.subject.strip_prefix(&prefix).unwrap_or_default()));
        true
    };
    done.push(copy(link, &bucket(records), &args.to, Upto::EveryKey, add).await?);
    // What the log had before the records were read belongs to executions whose records were there.
    let has_record = |m: &haltline_common::tail::Message| {
        m.seq <= before_records || Names::execution_token(&m.subject).is_none_or(|id| known.contains(&hasher.hash_one(id)))
    };
    done.push(copy(link, &names.events_stream(), &args.to, Upto::End, has_record).await?);
    // What an event refers to was stored before it.
    done.push(copy(link, &Names::object_stream(&names.payloads_bucket()), &args.to, Upto::End, |_| true).await?);
    for name in [names.definitions_bucket(), names.types_bucket(), names.tokens_bucket(), names.risk_bucket(), names.control_bucket()] {
        done.push(copy(link, &bucket(name), &args.to, Upto::EveryKey, |_| true).await?);
    }
    for name in [names.audit_stream(), names.access_stream()] {
        done.push(copy(link, &name, &args.to, Upto::End, |_| true).await?);
    }
    let order = manifest::streams(names);
    done.sort_by_key(|s| order.iter().position(|name| *name == s.name));
    Ok(Manifest {
        format: manifest::FORMAT,
        haltline: env!("CARGO_PKG_VERSION").into(),
        layout: topology::LAYOUT.into(),
        namespace: names.namespace().into(),
        taken_at,
        finished_at: clock::now(),
        server: link.client.server_info().version,
        flag,
        streams: done,
    })
}
