//! `haltline bench`: what this machine does, measured on processes of its own, and read back
//! afterwards to see that nothing is missing.

mod against;
mod check;
mod gateway;
mod halt;
mod listings;
mod load;
mod process;
mod raw;
mod report;
mod workload;

use anyhow::Context as _;
use haltline_client::Client;
use haltline_common::topology;
use serde_json::json;

use super::Context;
use crate::{commands::dev::folder::Folder, output, system::System};

/// Workflows whose bytes are added up.
const WEIGHED: usize = 2;

/// Measure this machine: workflows per second and latency, with everything read back
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Client, coordinator, worker and nats-server run in processes of their own on a temporary folder.\nFigures depend on the machine and its load: compare only what ran in turn.\n\n\
                  With --halt, all by the one clock of this machine:\n  \
                  store_to_guard_ms  from the time that nats-server gives the stored flag to the first instant at which a worker's guard was\n                     \
                  seen to refuse at that revision: looked at by a task of the worker that wakes up as the flag is taken in, so\n                     \
                  the true instant is not later. A sample for each worker and halt\n  \
                  halt_wait_ms       all that `halt --wait` does on an open connection: reads the flag, swaps it, waits until every worker has\n                     \
                  confirmed and nothing is in flight\n  \
                  command_ms         the same as a command: a process, its connection, and its end\n  \
                  guard_check_ns     one check of flags and lease, of a million in a worker"
)]
pub struct Args {
    /// Workflows to run at --concurrency
    #[arg(long, value_name = "N", default_value_t = 5000)]
    workflows: usize,
    /// Workflows in flight at once
    #[arg(long, value_name = "N", default_value_t = 200)]
    concurrency: usize,
    /// Workflows to run one at a time, for latencies
    #[arg(long, value_name = "N", default_value_t = 200)]
    latency: usize,
    /// chain:N (N nodes in sequence), fan:N (one, N in parallel, one), or dag
    #[arg(long, value_name = "SHAPE", default_value = "chain:3")]
    shape: workload::Shape,
    /// Bytes of output that every node adds
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    payload: usize,
    /// nats-server's sync_interval: always, or an interval as 1s [default: the server's, 2 minutes]
    #[arg(long, value_name = "WHEN")]
    sync: Option<String>,
    /// A task per node instead of chains as one task
    #[arg(long)]
    per_node_tasks: bool,
    /// Executions that have ended and are kept before the measured ones begin, two minutes later
    #[arg(long, value_name = "N", default_value_t = 0)]
    kept: usize,
    /// Measure CPU a workflow beside --kept executions and beside N of them, in turn, each on a system of its own
    #[arg(long, value_name = "N", requires = "kept", conflicts_with_all = ["listings", "halt"])]
    against: Option<usize>,
    /// Worker processes [default: 1, with --halt 100]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Slots per node type of each worker
    #[arg(long, value_name = "N", default_value_t = 256)]
    slots: usize,
    /// Skip the figures of the bare nats-server
    #[arg(long)]
    no_raw: bool,
    /// Measure instead how fast a gateway lists so many executions
    #[arg(long, value_name = "N")]
    listings: Option<usize>,
    #[command(flatten)]
    gateway: gateway::Args,
    #[command(flatten)]
    clients: gateway::clients::Args,
    /// Measure the emergency halt instead of workflows: halts and resumes in turn, every worker a process of its own with
    /// a lease
    #[arg(long, conflicts_with = "listings")]
    halt: bool,
    /// With --halt: how many halts
    #[arg(long, value_name = "N", default_value_t = 200, requires = "halt")]
    halts: usize,
}

/// Runs it; 1 if anything was missing or went wrong.
///
/// # Errors
/// When the system cannot be started or stops working.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    if let Some(executions) = args.listings {
        return listings::run(executions, context).await;
    }
    if let Some(url) = args.clients.crowd.clone() {
        return gateway::clients::run(url, &args.clients).await;
    }
    if args.halt {
        return halt::run(&args, context).await;
    }
    let folder = Folder::open(None)?;
    if args.gateway.gateway {
        return gateway::run(&args.gateway, context, folder.path()).await;
    }
    if let Some(against) = args.against {
        return against::run(&args, against, context, &folder).await;
    }
    let mut system = System::start(folder.path(), context.names.clone(), args.sync.clone()).await?;
    let client = services(&mut system, &args).await?;

    let definition = workload::definition(args.shape, args.payload);
    client.put_workflow(&definition).await.context("the workload's definition")?;
    let meter = process::Meter::new(&system);
    let idle = meter.read();
    load::many(&client, &definition, args.workflows.clamp(1, 300), args.concurrency.min(20)).await?;
    let weight = load::weigh(&client, &definition, WEIGHED).await?;
    let one = load::many(&client, &definition, args.latency, 1).await?;
    let watched = load::watched(&client, &definition, args.latency).await?;
    let kept = load::many(&client, &definition, args.kept, args.concurrency).await?;
    if args.kept > 0 {
        // What nats-server knows of message ids is of those just run, not of those kept.
        eprintln!("{} executions are kept; measuring once nats-server has forgotten their message ids", args.kept);
        tokio::time::sleep(topology::DUPLICATE_WINDOW + std::time::Duration::from_secs(5)).await;
    }
    let before = check::stored(&client).await?;
    let cpu_before = meter.read();
    let many = load::many(&client, &definition, args.workflows, args.concurrency).await?;
    let cpu_after = meter.read();
    let after = check::stored(&client).await?;
    let ran = args.kept + args.workflows + 2 * args.latency + WEIGHED + args.workflows.clamp(1, 300);
    let mut errors = kept.errors;
    errors.extend(one.errors.iter().chain(&watched.errors).cloned());
    errors.extend(many.errors.clone());
    errors.extend(check::read_back(&client, ran, definition.nodes.len()).await?);
    let raw = if args.no_raw { None } else { Some(raw::measure(&client).await?) };

    let report = json!({
        "shape": args.shape.to_string(),
        "workflows": args.workflows,
        "kept": args.kept,
        "concurrency": args.concurrency,
        "per_node_tasks": args.per_node_tasks,
        "payload_bytes": args.payload,
        "workflows_per_s": report::round(args.workflows as f64 / many.seconds),
        "loaded_latency_ms": report::quantiles(&many.latency_ms),
        "latency_ms": report::quantiles(&one.latency_ms),
        "time_to_first_node_ms": report::quantiles(&watched.first_node_ms),
        "step_to_step_ms": report::quantiles(&watched.step_ms),
        "messages_per_workflow": report::round((after - before) as f64 / args.workflows.max(1) as f64),
        "bytes_per_workflow": report::round(weight.bytes),
        "bytes_per_node": report::round(weight.bytes / definition.nodes.len() as f64),
        "nodes_per_s": report::round((args.workflows * definition.nodes.len()) as f64 / many.seconds),
        "processes": process::used(&cpu_before, &cpu_after),
        "idle_rss_mb": process::rss(&idle),
        "raw": raw,
        "durability": {
            "sync": args.sync.clone().unwrap_or_else(|| "2m (nats-server's default)".into()),
            "replicas": 1,
            "storage": "file",
        },
        "errors": errors,
    });
    system.stop().await?;
    if context.json {
        output::json(&report);
    } else {
        report::print(&report);
    }
    Ok(u8::from(!errors.is_empty()))
}

/// Starts what runs workflows, and a client of it.
async fn services(system: &mut System, args: &Args) -> anyhow::Result<Client> {
    let workers = args.workers.unwrap_or(1).max(1);
    let coordinator: &[&str] = if args.per_node_tasks { &["coordinator", "--per-node-tasks"] } else { &["coordinator"] };
    system.spawn("coordinator", coordinator)?;
    let slots = args.slots.to_string();
    for i in 1..=workers {
        system.spawn(&format!("worker-{i}"), &["worker", "--slots", &slots])?;
    }
    let client = system.client().await?;
    system.ready(&client, workers).await?;
    Ok(client)
}
