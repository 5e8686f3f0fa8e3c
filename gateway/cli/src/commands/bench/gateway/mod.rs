//! `haltline bench --gateway`: what one gateway delivers, holds and recovers. Gateway, nats-server and
//! the clients are processes of their own.

pub mod clients;
mod crowd;
mod frame;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use haltline_common::Link;
use serde_json::{Value, json};

use super::{process::Meter, report::round};
use crate::{commands::Context, output, system::System};
use crowd::Crowd;

/// The gateway answers within this time.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long after the last event everything may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// A gateway's memory is read when it has not grown for so long.
const SETTLE: Duration = Duration::from_secs(2);
/// Clients that never read, in their scenario.
const STALLED: usize = 20;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Every client gets every event
    Load,
    /// Clients that are connected and get nothing
    Idle,
    /// All clients lose their connections at once and come back
    Storm,
    /// Some clients never read, the others get every event
    Stalled,
}

/// Flags of `--gateway`.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Measure a gateway with many clients instead of workflows
    #[arg(long)]
    pub gateway: bool,
    /// With --gateway: clients
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "gateway")]
    clients: usize,
    /// With --gateway: events a second; each goes to every client
    #[arg(long, value_name = "R", default_value_t = 100.0, requires = "gateway")]
    rate: f64,
    /// With --gateway: seconds of events
    #[arg(long, value_name = "S", default_value_t = 10, requires = "gateway")]
    seconds: u64,
    /// With --gateway: what to measure
    #[arg(long, value_enum, default_value = "load", requires = "gateway")]
    scenario: Scenario,
    /// With --gateway: bytes that every event has more
    #[arg(long, value_name = "BYTES", default_value_t = 0, requires = "gateway")]
    event_bytes: usize,
}

/// Runs it; 1 if anything was missing or went wrong.
///
/// # Errors
/// When the system cannot be started or stops working.
pub async fn run(args: &Args, context: Context, folder: &std::path::Path) -> anyhow::Result<u8> {
    ensure!(args.clients > 0 && args.rate > 0.0 && args.seconds > 0, "--clients, --rate and --seconds must be above 0");
    let mut system = System::start(folder, context.names.clone(), None).await?;
    let port = haltline_server::port::free().to_string();
    let most = (args.clients + STALLED + 16).to_string();
    let gateway = system.spawn("gateway", &["gateway", "--port", &port, "--clients-max", &most])?;
    let url = format!("http://127.0.0.1:{port}");
    ready(&url).await?;
    let link = system.link("bench").await?;
    let report = measure(args, &system, &link, &format!("ws://127.0.0.1:{port}/v1/ws"), gateway).await;
    system.stop().await?;
    let report = report?;
    let fine = report["errors"].as_array().is_none_or(Vec::is_empty);
    if context.json {
        output::json(&report)
    } else {
        print(&report)
    }
    Ok(u8::from(!fine))
}

async fn ready(url: &str) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let until = Instant::now() + READY_WITHIN;
    loop {
        match http.get(format!("{url}/readyz")).send().await {
            Ok(r) if r.status().is_success() => return Ok(()),
            _ => ensure!(Instant::now() < until, "the gateway was not ready within {READY_WITHIN:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn measure(args: &Args, system: &System, link: &Link, ws: &str, gateway: u32) -> anyhow::Result<Value> {
    let empty_rss = settled(gateway).await;
    let mut crowd = Crowd::start(ws, args.clients, false).await?;
    let connected_rss = settled(gateway).await;
    let mut meter = Meter::new(system);
    meter.also("clients", crowd.pid());
    let mut report = json!({
        "scenario": format!("{:?}", args.scenario).to_lowercase(),
        "clients": args.clients,
        "connected_in_ms": round(crowd.connected_ms),
        "empty_rss_mb": round(empty_rss),
        "idle_rss_mb": round(connected_rss),
        "idle_kb_per_client": round((connected_rss - empty_rss) * 1024.0 / args.clients as f64),
    });
    let mut errors: Vec<String> = Vec::new();
    if args.scenario != Scenario::Idle {
        let stalled = if args.scenario == Scenario::Stalled { Some(Crowd::start(ws, STALLED, true).await?) } else { None };
        let before = meter.read();
        let began = Instant::now();
        let storm = args.scenario == Scenario::Storm;
        let (published, recovery) = tokio::join!(publish(link, args), async {
            if !storm {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_secs(args.seconds) / 2).await;
            crowd.drop_all().await.map(Some)
        });
        let (published, recovery) = (published?, recovery?);
        let publishing = began.elapsed();
        let told = crowd.end(published, PATIENCE).await?;
        let after = meter.read();
        let used = |name: &str| after.iter().zip(&before).find(|(a, _)| a.name == name).map_or(0.0, |(a, b)| a.cpu_s - b.cpu_s);
        let rss = after.iter().find(|u| u.name == "gateway").map_or(0.0, |u| u.rss_mb);
        let offered = published as f64 / publishing.as_secs_f64() * args.clients as f64;
        let dropped = (published * args.clients as u64).saturating_sub(told.delivered);
        errors.extend(told.errors.clone());
        if dropped > 0 {
            errors.push(format!("{dropped} deliveries are missing"));
        }
        let more = json!({
            "published": published,
            "offered_per_s": round(offered),
            "deliveries_per_s": round(told.delivered as f64 / told.seconds.max(1e-3)),
            "delivered": told.delivered,
            "dropped": dropped,
            "latency_ms": { "p50": told.p50_ms, "p99": told.p99_ms, "max": told.max_ms },
            "rss_mb": round(rss),
            "cpu_s": round(used("gateway")),
            "clients_cpu_s": round(used("clients")),
            "nats_server_cpu_s": round(used("nats-server")),
            "seconds": round(publishing.as_secs_f64()),
        });
        extend(&mut report, more);
        if let Some(r) = recovery {
            errors.extend(r.errors.clone());
            extend(
                &mut report,
                json!({ "recovered": r.recovered, "recovered_in_ms": { "p50": r.p50_ms, "p99": r.p99_ms, "max": r.max_ms } }),
            );
        }
        if let Some(stalled) = stalled {
            extend(&mut report, json!({ "stalled": STALLED, "stalled_mb_each": round((rss - connected_rss) / STALLED as f64) }));
            drop(stalled);
        }
    } else {
        extend(&mut report, json!({ "rss_mb": round(connected_rss) }));
    }
    extend(&mut report, json!({ "errors": errors }));
    Ok(report)
}

fn extend(report: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(from)) = (report, more) {
        to.extend(from);
    }
}

/// A process's memory in megabytes once it does not grow any more.
async fn settled(pid: u32) -> f64 {
    let (mut last, mut since) = (super::process::rss_mb(pid), Instant::now());
    let until = Instant::now() + 10 * SETTLE;
    while since.elapsed() < SETTLE && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = super::process::rss_mb(pid);
        if (now - last).abs() > 0.2 {
            (last, since) = (now, Instant::now());
        }
    }
    super::process::rss_mb(pid)
}

/// Publishes events at the rate; how many are stored.
async fn publish(link: &Link, args: &Args) -> anyhow::Result<u64> {
    let total = (args.rate * args.seconds as f64) as u64;
    let pad = "x".repeat(args.event_bytes);
    let began = Instant::now();
    let mut acks = Vec::new();
    for n in 0..total {
        let due = began + Duration::from_secs_f64(n as f64 / args.rate);
        tokio::time::sleep_until(due.into()).await;
        let execution = format!("exec_wf_bench_{n:08x}");
        let event = frame::event(&execution, n, &pad);
        acks.push(link.js.publish(link.names.note(&execution), event.into()).await.context("an event")?);
        if acks.len() >= 64 {
            confirm(&mut acks).await?;
        }
    }
    confirm(&mut acks).await?;
    Ok(total)
}

async fn confirm(acks: &mut Vec<async_nats::jetstream::context::PublishAckFuture>) -> anyhow::Result<()> {
    for ack in acks.drain(..) {
        ack.await.context("an event was not stored")?;
    }
    Ok(())
}

fn print(r: &Value) {
    let line = |name: &str, value: String| output::line(format_args!("{name:<22}{value}"));
    line(
        "scenario",
        format!("{} with {} clients, connected in {} ms", r["scenario"].as_str().unwrap_or(""), r["clients"], r["connected_in_ms"]),
    );
    line("idle", format!("{} MB, {} KB a client", r["idle_rss_mb"], r["idle_kb_per_client"]));
    if r.get("deliveries_per_s").is_some() {
        line("deliveries", format!("{} a second of {} offered, {} dropped", r["deliveries_per_s"], r["offered_per_s"], r["dropped"]));
        line(
            "latency",
            format!("p50 {} ms, p99 {} ms, at most {} ms", r["latency_ms"]["p50"], r["latency_ms"]["p99"], r["latency_ms"]["max"]),
        );
        line("gateway", format!("{} MB, {} s CPU in {} s", r["rss_mb"], r["cpu_s"], r["seconds"]));
        line("besides", format!("clients {} s CPU, nats-server {} s CPU", r["clients_cpu_s"], r["nats_server_cpu_s"]));
    }
    if r.get("recovered").is_some() {
        line(
            "recovered",
            format!("{} clients, p99 {} ms, all within {} ms", r["recovered"], r["recovered_in_ms"]["p99"], r["recovered_in_ms"]["max"]),
        );
    }
    if r.get("stalled").is_some() {
        line("never reading", format!("{} clients, {} MB each", r["stalled"], r["stalled_mb_each"]));
    }
    for e in r["errors"].as_array().into_iter().flatten() {
        line("ERROR", e.as_str().unwrap_or("").to_owned());
    }
}

/// The workflow that the events say they are of.
const WORKFLOW: &str = "wf_bench";
