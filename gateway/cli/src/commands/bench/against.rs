//! CPU a workflow beside few kept executions and beside many, in turn: machines change by the minute, so what is
//! compared has to run in the same minutes.

use anyhow::Context as _;
use haltline_client::Client;
use haltline_common::{topology, types::definition::Definition};
use serde_json::{Value, json};

use super::{Args, check, load, process, report};
use crate::{commands::dev::folder::Folder, output, system::System};

/// Rounds that count; one before them lets heaps and caches become what they are under load.
const ROUNDS: usize = 10;

/// A system with what it keeps.
struct Side {
    kept: usize,
    system: System,
    client: Client,
    meter: process::Meter,
    /// Executions in all.
    ran: usize,
    errors: Vec<String>,
    rounds: Vec<Round>,
    messages: u64,
}

/// Microseconds of CPU a workflow.
#[derive(Clone, Copy)]
struct Round {
    server: f64,
    all: f64,
}

impl Side {
    async fn start(args: &Args, kept: usize, context: &super::Context, folder: &Folder, definition: &Definition) -> anyhow::Result<Self> {
        let folder = folder.path().join(format!("kept-{kept}"));
        let mut system = System::start(&folder, context.names.clone(), args.sync.clone()).await?;
        let client = super::services(&mut system, args).await?;
        client.put_workflow(definition).await.context("the workload's definition")?;
        let meter = process::Meter::new(&system);
        let errors = load::many(&client, definition, kept, args.concurrency).await?.errors;
        Ok(Self { kept, system, client, meter, ran: kept, errors, rounds: Vec::new(), messages: 0 })
    }

    async fn round(&mut self, args: &Args, definition: &Definition) -> anyhow::Result<Round> {
        let n = args.workflows.div_ceil(ROUNDS);
        let stored = check::stored(&self.client).await?;
        let before = self.meter.read();
        let many = load::many(&self.client, definition, n, args.concurrency).await?;
        let after = self.meter.read();
        self.messages += check::stored(&self.client).await? - stored;
        self.ran += n;
        self.errors.extend(many.errors);
        let us = |name: Option<&str>| {
            let used = before.iter().zip(&after).filter(|(b, _)| name.is_none_or(|name| name == b.name)).map(|(b, a)| a.cpu_s - b.cpu_s);
            used.sum::<f64>() * 1e6 / n as f64
        };
        Ok(Round { server: us(Some("nats-server")), all: us(None) })
    }

    fn told(&self) -> Value {
        let of = |what: fn(&Round) -> f64| report::range(&self.rounds.iter().map(what).collect::<Vec<_>>());
        json!({
            "kept": self.kept,
            "kept_at_the_end": self.ran,
            "cpu_us_per_workflow": of(|r| r.all),
            "server_us_per_workflow": of(|r| r.server),
            "messages_per_workflow": report::round(self.messages as f64 / (self.ran - self.kept) as f64),
            "rss_mb": process::rss(&self.meter.read()),
        })
    }
}

/// Measures beside `--kept` executions and beside `--against` of them.
///
/// # Errors
/// When a system cannot be started or stops working.
pub async fn run(args: &Args, against: usize, context: super::Context, folder: &Folder) -> anyhow::Result<u8> {
    anyhow::ensure!(args.workflows > 0, "--workflows: at least 1 is needed with --against");
    anyhow::ensure!(args.kept != against, "--against: {against} is what --kept says already");
    let definition = super::workload::definition(args.shape, args.payload);
    let mut sides = Vec::new();
    for kept in [args.kept, against] {
        sides.push(Side::start(args, kept, &context, folder, &definition).await?);
    }
    eprintln!("{} and {against} executions are kept; measuring once nats-server has forgotten their message ids", args.kept);
    tokio::time::sleep(topology::DUPLICATE_WINDOW + std::time::Duration::from_secs(5)).await;
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let mut used = [Round { server: 0.0, all: 0.0 }; 2];
        // Each begins every other round.
        for i in [round % 2, 1 - round % 2] {
            used[i] = sides[i].round(args, &definition).await?;
        }
        if round > 0 {
            ratios.push(used[1].all / used[0].all);
            for (side, used) in sides.iter_mut().zip(used) {
                side.rounds.push(used);
            }
        }
    }
    let sums: Vec<f64> = sides.iter().map(|side| side.rounds.iter().map(|r| r.all).sum()).collect();
    let mut errors = Vec::new();
    let told: Vec<Value> = sides.iter().map(Side::told).collect();
    for mut side in sides {
        errors.append(&mut side.errors);
        errors.extend(check::read_back(&side.client, side.ran, definition.nodes.len()).await?);
        side.system.stop().await?;
    }
    let report = json!({
        "shape": args.shape.to_string(),
        "workflows": args.workflows,
        "concurrency": args.concurrency,
        "rounds": ROUNDS,
        "kept": told,
        "ratio": report::range(&ratios),
        // A collection of nats-server's memory falls into some rounds only: of the sums, none is left out.
        "ratio_of_sums": report::round(sums[1] / sums[0]),
        "durability": { "sync": args.sync.clone().unwrap_or_else(|| "2m (nats-server's default)".into()), "replicas": 1, "storage": "file" },
        "errors": errors,
    });
    if context.json {
        output::json(&report);
    } else {
        print(&report);
    }
    Ok(u8::from(!errors.is_empty()))
}

fn print(r: &Value) {
    let range = |v: &Value| format!("{} [{}-{}]", v["median"], v["min"], v["max"]);
    for side in r["kept"].as_array().into_iter().flatten() {
        output::line(format!(
            "beside {:<9}  {} us CPU a workflow, of which nats-server {}; {} messages; {} MB of nats-server",
            side["kept"],
            range(&side["cpu_us_per_workflow"]),
            range(&side["server_us_per_workflow"]),
            side["messages_per_workflow"],
            side["rss_mb"]["nats-server"],
        ));
    }
    output::line(format!("ratio            {} in {} rounds; of all their CPU {}", range(&r["ratio"]), r["rounds"], r["ratio_of_sums"]));
    for error in r["errors"].as_array().into_iter().flatten() {
        output::line(format!("ERROR {}", error.as_str().unwrap_or_default()));
    }
}
