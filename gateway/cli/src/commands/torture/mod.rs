//! `haltline torture`: a system of real processes under load, faults at random from a plan that the
//! seed determines, and a checker that reads what is left.

mod check;
mod fleet;
mod halts;
mod inject;
mod load;
mod machine;
mod owners;
mod plan;
mod planted;
mod process;
mod proxy;
mod report;
mod rng;
mod rounds;
mod shapes;
mod whole;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use haltline_common::{definitions, planted::Bug, shutdown, types::Millis};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    check::{Asked, Findings},
    fleet::{Fleet, Size},
    inject::Counts,
    load::Load,
    plan::{Fault, Targets},
    report::Report,
    rng::Rng,
};
use super::Context;
use crate::{fail, output};

/// After everything is healed, executions get this long to end: longer than any of them sleeps, waits
/// between attempts and is redelivered.
const SETTLES_WITHIN: Duration = Duration::from_secs(90);
/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// After everything was killed somebody has to be acknowledged within this.
const WORKS_AGAIN_WITHIN: Duration = Duration::from_secs(60);
/// Purpose of the numbers of `--kill-all`.
const PURPOSE: u64 = 3;
/// Exit code where the system could not be set up.
const NOT_SET_UP: u8 = 2;

/// Torture a system of real processes under load, then check that nothing was lost or done twice
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Starts nats-server, coordinators, workers, a gateway and the market as processes of their own on a temporary folder, each behind\nproxies, and kills, stops, cuts off and slows down at random; only the market is never killed. Afterwards everything that is stored, and\nthe market's ledger, is read and checked. The folder is kept if something does not hold.\nExit codes: 0 all holds, 1 something does not, 2 it could not be set up."
)]
pub struct Args {
    /// How long faults are injected, in minutes
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,
    /// Determines faults and load [default: drawn]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// nats-servers: 1, or 3 as a cluster with three copies of everything
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = servers)]
    cluster: usize,
    /// nats-server's sync_interval: always, or an interval as 1s [default: the server's, 2 minutes]
    #[arg(long, value_name = "WHEN")]
    sync: Option<String>,
    /// Time between two faults, on average
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    every: Millis,
    /// Submissions a second
    #[arg(long, value_name = "N", default_value_t = 8.0)]
    rate: f64,
    /// Workers
    #[arg(long, value_name = "N", default_value_t = 3)]
    workers: usize,
    /// Coordinators
    #[arg(long, value_name = "N", default_value_t = 2)]
    coordinators: usize,
    /// Instead of a plan: kill everything at once, so many times
    #[arg(long, value_name = "TIMES", conflicts_with = "rolling")]
    kill_all: Option<u32>,
    /// Instead of a plan: restart every service in turn, so many times; no client may see an error
    #[arg(long, value_name = "TIMES")]
    rolling: Option<u32>,
    /// Instead of a plan: so many halts at random moments, scopes and levels, with faults around each, while orders are attempted;
    /// nothing that a confirmed halt covers may arrive at the market
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "500", conflicts_with_all = ["kill_all", "rolling", "until_violation", "plan"])]
    halts: Option<u32>,
    /// Look at everything every 20 s and stop once something does not hold
    #[arg(long, conflicts_with_all = ["kill_all", "rolling"])]
    until_violation: bool,
    /// Let the services make a bug, to prove that it is caught; `list` names them. Only in a build with the feature `planted`
    #[arg(long, value_name = "NAME", conflicts_with_all = ["kill_all", "rolling"])]
    planted: Option<String>,
    /// Print the plan and exit
    #[arg(long, conflicts_with_all = ["kill_all", "rolling"])]
    plan: bool,
    /// Folder for everything, kept [default: a temporary one, kept only if something does not hold]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

fn servers(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("must be 1 or 3".into()),
    }
}

impl Args {
    fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.minutes.clamp(0.0, 24.0 * 60.0) * 60.0)
    }

    fn size(&self) -> Size {
        Size {
            servers: self.cluster,
            workers: self.workers.clamp(1, 32),
            coordinators: self.coordinators.clamp(1, 16),
            sync: self.sync.clone(),
            // Only a plan fills them; what lasts longer would.
            small_disks: self.halts.is_none() && self.kill_all.is_none() && self.rolling.is_none(),
            planted: self.planted.as_deref().and_then(Bug::find),
        }
    }

    fn plan(&self, seed: u64, targets: &Targets) -> Vec<Fault> {
        plan::plan(seed, self.lasts(), self.every.duration().max(Duration::from_millis(100)), targets)
    }
}

/// Runs it; 1 if something does not hold, 2 if it could not be set up.
///
/// # Errors
/// None: what goes wrong is told here.
pub async fn run(args: Args, context: Context) -> anyhow::Result<u8> {
    if args.planted.as_deref() == Some("list") {
        Bug::ALL.iter().map(|b| b.told()).for_each(|(name, what)| output::line(format_args!("{name:<20} {what}")));
        return Ok(0);
    }
    args.planted.as_deref().map(planted::find).transpose()?;
    let seed = args.seed.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    if args.plan {
        let targets = targets(&args);
        args.plan(seed, &targets).iter().for_each(output::line);
        return Ok(0);
    }
    let named = args.folder.is_some();
    let folder =
        args.folder.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("haltline-torture-{seed}-{}", std::process::id())));
    let json = context.json;
    if let Some(halts) = args.halts {
        let outcome = halts::run(&args, halts, seed, &folder, context).await;
        return Ok(halted(outcome, seed, &folder, named, json));
    }
    match torture(&args, seed, &folder, context).await {
        Ok(report) => {
            let holds = report.violations.is_empty();
            if holds && !named {
                // What remains is a temporary folder.
                let _ = std::fs::remove_dir_all(&folder);
            } else {
                eprintln!("everything is kept in {}", folder.display());
            }
            if json {
                output::json(&report);
            } else {
                report.print();
            }
            Ok(u8::from(!holds))
        }
        Err(e) => {
            eprintln!("error: {}; what there is is kept in {}", fail::chain(&e), folder.display());
            if json {
                output::json(&json!({ "seed": seed, "error": fail::chain(&e) }));
            }
            Ok(NOT_SET_UP)
        }
    }
}

/// The exit code of a campaign of halts; what is of use is kept.
fn halted(outcome: anyhow::Result<bool>, seed: u64, folder: &Path, named: bool, json: bool) -> u8 {
    match outcome {
        Ok(true) if !named => {
            // What remains is a temporary folder.
            let _ = std::fs::remove_dir_all(folder);
            0
        }
        Ok(holds) => {
            eprintln!("everything is kept in {}", folder.display());
            u8::from(!holds)
        }
        Err(e) => {
            eprintln!("error: {}; what there is is kept in {}", fail::chain(&e), folder.display());
            if json {
                output::json(&json!({ "seed": seed, "error": fail::chain(&e) }));
            }
            NOT_SET_UP
        }
    }
}

/// What this machine allows, without starting anything.
fn targets(args: &Args) -> Targets {
    let names = |role: &str, n: usize| (1..=n).map(|i| format!("{role}-{i}")).collect();
    let try_out = std::env::temp_dir().join(format!("haltline-torture-{}", std::process::id()));
    let size = args.size();
    let targets = Targets {
        workers: names("worker", size.workers),
        coordinators: names("coordinator", size.coordinators),
        gateways: names("gateway", 1),
        servers: names("nats", size.servers),
        disk: machine::Disk::mount(&try_out.join("disk")).is_ok(),
        clock: machine::Clocks::find(&try_out).is_some(),
        weights: size.planted.map(planted::weights),
    };
    // It may not be there.
    let _ = std::fs::remove_dir_all(&try_out);
    targets
}

async fn torture(args: &Args, seed: u64, folder: &Path, context: Context) -> anyhow::Result<Report> {
    let stop = shutdown::listen()?;
    let began = Instant::now();
    eprintln!("seed {seed}; everything is in {}", folder.display());
    let fleet = Fleet::start(folder, context.names, seed, &args.size()).await?;
    fleet.skipped.iter().for_each(|why| eprintln!("left out: {why}"));
    let client = fleet.client().await?;
    let shapes = Arc::new(shapes::all(&fleet.market_url));
    for shape in shapes.iter() {
        let definition = definitions::from_value(shape.workflow.definition.clone())?;
        client.put_workflow(&definition).await.with_context(|| format!("the workflow {}", definition.id))?;
    }
    let load = Load::new(client, &fleet.gateway_url, seed, shapes.clone(), args.rate)?;
    let stop_load = CancellationToken::new();
    let in_rounds = args.until_violation || args.planted.is_some();
    let loading = (!in_rounds).then(|| tokio::spawn(load.clone().run(stop_load.clone())));
    eprintln!("ready after {:.1} s", began.elapsed().as_secs_f64());

    let fleet = Arc::new(fleet);
    let began = Instant::now();
    let telling = tokio::spawn(tell(load.clone(), fleet.clone(), began));
    let mut found = Findings::default();
    let mut caught = None;
    let faults = match (args.kill_all, args.rolling) {
        (Some(times), _) => kill_all(times, seed, &fleet, &load, &stop, &mut found).await,
        (_, Some(times)) => rolling(times, args.cluster > 1, &fleet, &stop).await?,
        _ if in_rounds => {
            let plan = args.plan(seed, &fleet.targets());
            let (faults, seen) = rounds::run(&plan, args.lasts(), &fleet, &load, &shapes, &stop).await?;
            caught = seen;
            faults
        }
        _ => {
            let plan = args.plan(seed, &fleet.targets());
            eprintln!("{} faults are planned", plan.len());
            let faults = inject::run(fleet.clone(), &plan, &stop, |fault| eprintln!("{fault}")).await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep_until(began + args.lasts()) => {}
            }
            faults
        }
    };
    let lasted = began.elapsed();
    stop_load.cancel();
    fleet.heal();
    eprintln!("healed after {:.0} s; waiting for the end of what runs", lasted.as_secs_f64());
    if let Some(loading) = loading {
        // A panic in it would have been told.
        let _ = loading.await;
    }
    let settled = if caught.is_some() { Duration::ZERO } else { settle(&fleet).await? };
    for what in owners::disputed(&fleet.link().await?).await? {
        found.add("two_owners", "", what);
    }
    telling.abort();
    // Its share of the fleet goes with it.
    let _ = telling.await;

    let mut fleet = Arc::into_inner(fleet).context("a fault is still going on")?;
    fleet.end_services().await;
    let remains = fleet.remains().await?;
    let told = std::mem::take(&mut *load.told());
    let asked = Asked::of(&shapes, told.submissions.clone());
    let checked = check::judge(&asked, &remains);
    found.violations.extend(checked.violations.iter().cloned());
    let mut found = Findings { violations: found.violations, ..checked };
    let checked_kinds: std::collections::BTreeSet<_> = found.violations.iter().map(|v| v.kind).collect();
    for (kind, line) in fleet.told_against() {
        found.add(kind, "", line);
    }
    if let Some(caught) = &caught {
        let healed = caught.violations.iter().filter(|v| !checked_kinds.contains(v.kind));
        found.violations.extend(healed.cloned());
    }
    let mut report = Report::new(args, seed, lasted, faults, &told, &found, settled);
    report.caught_after_s = caught.map(|c| c.after.as_secs());
    report.exits = fleet.exits().into_iter().map(|e| format!("{}: {}", e.name, e.status)).collect();
    report.skipped.clone_from(&fleet.skipped);
    check::save(folder, &asked, &remains, &found)?;
    fleet.stop().await;
    Ok(report)
}

/// Tells how it goes, until it is aborted.
async fn tell(load: Load, fleet: Arc<Fleet>, began: Instant) {
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let (submitted, acknowledged) = {
            let told = load.told();
            (told.submitted, told.acknowledged)
        };
        eprintln!(
            "{:8.2}s {submitted} submitted, {acknowledged} acknowledged, {} unexpected ends of processes",
            began.elapsed().as_secs_f64(),
            fleet.exits().len()
        );
    }
}

/// Waits until everything has ended, bounded; how long that took.
async fn settle(fleet: &Fleet) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let source = fleet.source().await?;
    loop {
        let left = source.unfinished().await;
        match &left {
            Ok((0, _, 0)) => return Ok(began.elapsed()),
            _ if began.elapsed() > SETTLES_WITHIN => {
                let (open, all, tasks) = left.context("what is left cannot be read")?;
                eprintln!("after {SETTLES_WITHIN:?} {open} of {all} executions have not ended and {tasks} tasks are left");
                return Ok(began.elapsed());
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Kills everything at once, again and again; each time somebody has to be acknowledged afterwards.
async fn kill_all(times: u32, seed: u64, fleet: &Fleet, load: &Load, stop: &CancellationToken, found: &mut Findings) -> Counts {
    let mut rng = Rng::new(seed, PURPOSE);
    let mut counts = Counts::new();
    for n in 1..=times {
        let wait = rng.millis(300, 2000);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
        let starts: Vec<(&str, u64)> = fleet.processes.values().map(|p| (p.name.as_str(), p.starts())).collect();
        inject::kill_all(fleet, rng.millis(0, 300));
        *counts.entry(plan::Kind::KillAll.as_str()).or_default() += 1;
        let until = Instant::now() + WORKS_AGAIN_WITHIN;
        for (name, starts) in starts {
            if let Some(process) = fleet.processes.get(name) {
                process.started_after(starts, until.saturating_duration_since(Instant::now())).await;
            }
        }
        let before = load.told().acknowledged;
        let killed = Instant::now();
        while load.told().acknowledged == before {
            if Instant::now() > until {
                found.add(
                    "no_progress",
                    "",
                    format!("{WORKS_AGAIN_WITHIN:?} after everything was killed for the {n}. time nothing is acknowledged"),
                );
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!("{n} of {times}: everything was killed; works again after {:.2} s", killed.elapsed().as_secs_f64());
    }
    counts
}

/// Restarts every service in turn, again and again; servers only where others go on, as `deploy/README.md` says.
async fn rolling(times: u32, servers: bool, fleet: &Fleet, stop: &CancellationToken) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    let link = fleet.link().await?;
    for n in 1..=times {
        for role in ["workers", "coordinators", "gateways", "servers"].iter().filter(|r| servers || **r != "servers") {
            if stop.is_cancelled() {
                return Ok(counts);
            }
            inject::rolling(fleet, role, Duration::ZERO, Some(&link)).await;
        }
        *counts.entry(plan::Kind::Rolling.as_str()).or_default() += 1;
        eprintln!("{n} of {times}: every service was restarted");
    }
    Ok(counts)
}
