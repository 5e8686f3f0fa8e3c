//! `haltline bench --halt`: how soon a halt holds in every worker of a fleet, and how soon that is known.

use std::{
    collections::HashMap,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use async_nats::{Request, Subscriber, jetstream};
use futures_util::StreamExt;
use haltline_client::{Client, Listening};
use haltline_common::{
    clock,
    types::{
        Names,
        control::{Level, Scope},
    },
};
use haltline_worker::probe::{PLACE, Timed, Told};
use serde_json::{Value, json};

use super::{Args, Context, process, report};
use crate::{commands::dev::folder::Folder, output, system::System};

/// Worker processes, if not said otherwise.
const WORKERS: usize = 100;
/// More processes than this on one machine measure the machine.
const WORKERS_MAX: usize = 1000;
/// Guard checks that are timed.
const CHECKS: u64 = 1_000_000;
/// One halt of so many is made by the command, in a process of its own.
const BY_COMMAND: usize = 20;
/// How long workers may take to start; each of them costs some CPU.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How long a guard may take to open again after a resume, and a request to be answered.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// How long a halt is waited for.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);
/// A halt meets a fleet that is at rest: what a resume makes workers write has been written.
const REST: Duration = Duration::from_millis(50);
/// Errors kept for the report.
const ERRORS_MAX: usize = 20;
const BY: &str = "bench";

/// What was measured.
#[derive(Default)]
struct Measured {
    /// Milliseconds, a sample for each worker and halt.
    store_to_guard: Vec<f64>,
    /// The same from when the halt was asked for; not of halts by the command, whose process begins first.
    asked_to_guard: Vec<f64>,
    /// Milliseconds, of each halt the worker that came last.
    last_guard: Vec<f64>,
    /// Milliseconds of each halt.
    halt_wait: Vec<f64>,
    /// Milliseconds of each halt by the command.
    command: Vec<f64>,
    errors: Vec<String>,
}

impl Measured {
    fn error(&mut self, what: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(what);
        }
    }
}

/// The fleet as it tells of itself.
struct Fleet {
    client: Client,
    url: String,
    workers: usize,
    told: Subscriber,
}

/// Runs it; 1 if a halt was not confirmed or a worker did not refuse.
///
/// # Errors
/// When the system cannot be started or stops working.
pub async fn run(args: &Args, context: Context) -> anyhow::Result<u8> {
    let workers = args.workers.unwrap_or(WORKERS).clamp(1, WORKERS_MAX);
    let folder = Folder::open(None)?;
    let mut system = System::start(folder.path(), context.names.clone(), args.sync.clone()).await?;
    let client = system.client().await?;
    let told = client.link().client.subscribe(client.link().names.guard_told()).await?;
    client.link().client.flush().await?;
    let began = Instant::now();
    for i in 1..=workers {
        system.spawn(&name(i), &["worker", "--id", &name(i), "--types", PLACE.node_type, "--probe-guard", "--log", "warn"])?;
    }
    let mut fleet = Fleet { client, url: system.url().to_owned(), workers, told };
    // Each tells once that its guard is open: it has read the flags and holds a lease.
    let first = fleet.reports(0, READY_WITHIN).await.context("the workers did not start")?;
    eprintln!("{} workers hold leases after {:.1} s", first.len(), began.elapsed().as_secs_f64());
    fleet.give_every_scope_a_flag().await?;
    let meter = process::Meter::new(&system);
    let before = meter.read();
    let mut measured = Measured::default();
    for n in 0..args.halts.max(1) {
        fleet.halt(n, &mut measured).await.with_context(|| format!("halt {}", n + 1))?;
    }
    let after = meter.read();
    let timed = fleet.time_checks().await?;
    if timed.open != timed.calls {
        measured.error(format!("{} of {} timed checks refused", timed.calls - timed.open, timed.calls));
    }
    let report = json!({
        "workers": workers,
        "halts": args.halts.max(1),
        "store_to_guard_ms": with_max(&measured.store_to_guard),
        "asked_to_guard_ms": with_max(&measured.asked_to_guard),
        "store_to_last_guard_ms": with_max(&measured.last_guard),
        "halt_wait_ms": with_max(&measured.halt_wait),
        "command_ms": with_max(&measured.command),
        "guard_check_ns": report::round(timed.nanos as f64 / timed.calls.max(1) as f64),
        "guard_checks": timed.calls,
        "processes": sums(&process::used(&before, &after)),
        "durability": { "sync": args.sync.clone().unwrap_or_else(|| "2m (nats-server's default)".into()), "replicas": 1, "storage": "file" },
        "errors": measured.errors,
    });
    system.stop().await?;
    if context.json {
        output::json(&report)
    } else {
        print(&report)
    }
    Ok(u8::from(!measured.errors.is_empty()))
}

fn name(i: usize) -> String {
    format!("worker-{i}")
}

impl Fleet {
    /// What each worker tells of `revision`.
    async fn reports(&mut self, revision: u64, within: Duration) -> anyhow::Result<HashMap<String, Told>> {
        let mut reports = HashMap::new();
        let until = tokio::time::Instant::now() + within;
        while reports.len() < self.workers {
            let Ok(next) = tokio::time::timeout_at(until, self.told.next()).await else {
                bail!("{} of {} workers told of revision {revision} within {within:?}", reports.len(), self.workers);
            };
            let told: Told = serde_json::from_slice(&next.context("the connection ended")?.payload)?;
            if told.revision == revision {
                reports.insert(told.worker_id.clone(), told);
            }
        }
        Ok(reports)
    }

    /// A check looks into every scope: each has a flag, as in an installation that is in use.
    async fn give_every_scope_a_flag(&self) -> anyhow::Result<()> {
        let ids = [PLACE.strategy_id, PLACE.bot_id, PLACE.workflow_id, PLACE.venue, PLACE.node_type];
        for (kind, id) in Scope::KINDS.iter().zip(ids) {
            let scope = Scope::of(kind, id).map_err(anyhow::Error::msg)?;
            self.client.raise(&scope, Level::Alert, BY, "watched by the bench").await?;
        }
        Ok(())
    }

    /// A halt and its resume; every worker has refused in between, and holds a lease again afterwards.
    async fn halt(&mut self, n: usize, measured: &mut Measured) -> anyhow::Result<()> {
        tokio::time::sleep(REST).await;
        let reason = format!("halt {} of the bench", n + 1);
        let (began, asked_at) = (Instant::now(), clock::now_nanos());
        let by_command = (n + 1).is_multiple_of(BY_COMMAND);
        let revision = if by_command {
            let (revision, confirmed) = self.by_command(&reason).await?;
            measured.command.push(millis(began.elapsed()));
            if !confirmed {
                measured.error(format!("the command did not see {reason} confirmed"));
            }
            revision
        } else {
            let listening = Listening::start(self.client.link()).await;
            let stored = self.client.raise(&Scope::Global, Level::Halt, BY, &reason).await?;
            let report = listening.to(&stored).wait(CONFIRMED_WITHIN).await;
            measured.halt_wait.push(millis(began.elapsed()));
            if !report.complete || report.confirmed != self.workers {
                measured.error(format!("{} of {} workers confirmed {reason}", report.confirmed, report.workers));
            }
            stored.revision
        };
        let stored_at = self.stored_at(revision).await?;
        self.client.lower(&Scope::Global, Level::Normal, BY, "next halt of the bench", revision, None).await?;
        let reports = self.reports(revision, OPEN_WITHIN).await?;
        let each = reports.values().map(|told| (told.refused_at - stored_at) as f64 / 1e6);
        if !by_command {
            measured.asked_to_guard.extend(reports.values().map(|told| (told.refused_at - asked_at) as f64 / 1e6));
        }
        measured.last_guard.push(each.clone().fold(f64::MIN, f64::max));
        measured.store_to_guard.extend(each);
        Ok(())
    }

    /// The same by `haltline halt`; the revision, and whether it was confirmed.
    async fn by_command(&self, reason: &str) -> anyhow::Result<(u64, bool)> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let namespace = self.client.link().names.namespace();
        let told = tokio::process::Command::new(program)
            .args(["halt", "--json", "--by", BY, "--reason", reason, "--nats", &self.url, "--namespace", namespace])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let answer: Value = serde_json::from_slice(&told.stdout).with_context(|| String::from_utf8_lossy(&told.stderr).into_owned())?;
        let revision = answer["flag"]["revision"].as_u64().with_context(|| format!("halt says {answer}"))?;
        Ok((revision, told.status.success()))
    }

    /// When the server stored a flag, in nanoseconds since 1970.
    async fn stored_at(&self, revision: u64) -> anyhow::Result<i64> {
        let link = self.client.link();
        let mut js = jetstream::new(link.client.clone());
        js.set_timeout(OPEN_WITHIN);
        let stream = js.get_stream_no_info(Names::bucket_stream(&link.names.control_bucket())).await?;
        let message = stream.get_raw_message(revision).await?;
        Ok(i64::try_from(message.time.unix_timestamp_nanos())?)
    }

    /// Lets one worker time its guard.
    async fn time_checks(&self) -> anyhow::Result<Timed> {
        let link = self.client.link();
        let ask = Request::new().payload(CHECKS.to_string().into()).timeout(Some(OPEN_WITHIN));
        let answer = link.client.send_request(link.names.guard_timed(&name(1)), ask).await.context("timing the checks")?;
        Ok(serde_json::from_slice(&answer.payload)?)
    }
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// Quantiles, the greatest, and how many there are.
fn with_max(samples: &[f64]) -> Value {
    let mut all = report::quantiles(samples);
    if let Some(all) = all.as_object_mut() {
        all.insert("max".into(), json!(report::round(samples.iter().copied().fold(f64::MIN, f64::max))));
        all.insert("samples".into(), json!(samples.len()));
    }
    all
}

/// A hundred workers in one line: memory of the median one, CPU of all.
fn sums(used: &Value) -> Value {
    let all = used.as_array().map(Vec::as_slice).unwrap_or_default();
    let (workers, others): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|p| p["name"].as_str().is_some_and(|n| n.starts_with("worker-")));
    let of = |field: &str| workers.iter().filter_map(|p| p[field].as_f64()).collect::<Vec<_>>();
    let mut lines: Vec<Value> = others.into_iter().cloned().collect();
    lines.push(json!({
        "name": "workers",
        "rss_mb_each": report::median(&of("rss_mb")),
        "cpu_s": report::round(of("cpu_s").iter().sum()),
    }));
    Value::Array(lines)
}

fn print(r: &Value) {
    let q = |name: &str| match &r[name] {
        Value::Null => "not measured".to_owned(),
        v => format!("p50 {}  p99 {}  max {}  ({} samples)", v["p50"], v["p99"], v["max"], v["samples"]),
    };
    output::line(format!("{} workers, {} halts", r["workers"], r["halts"]));
    output::line(format!("stored to guard, each     ms  {}", q("store_to_guard_ms")));
    output::line(format!("asked to guard, each      ms  {}", q("asked_to_guard_ms")));
    output::line(format!("stored to guard, the last ms  {}", q("store_to_last_guard_ms")));
    output::line(format!("halt --wait               ms  {}", q("halt_wait_ms")));
    output::line(format!("haltline halt, a process  ms  {}", q("command_ms")));
    output::line(format!("a check of the guard      ns  {}", r["guard_check_ns"]));
    for p in r["processes"].as_array().into_iter().flatten() {
        let rss = if p["rss_mb"].is_null() { format!("{} MB each", p["rss_mb_each"]) } else { format!("{} MB", p["rss_mb"]) };
        output::line(format!("  {:<12}  {rss}, {} s CPU", p["name"].as_str().unwrap_or_default(), p["cpu_s"]));
    }
    match r["errors"].as_array() {
        Some(errors) if !errors.is_empty() => errors.iter().for_each(|e| output::line(format!("ERROR {}", e.as_str().unwrap_or_default()))),
        _ => output::line("every halt was confirmed by every worker, and every guard refused"),
    }
}
