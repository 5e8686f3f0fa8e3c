//! `haltline torture --halts`: halts under faults while orders are attempted, and what the market's ledger
//! says about each confirmation.

mod campaign;
mod check;
#[cfg(test)]
mod check_tests;
mod load;
mod shapes;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use haltline_common::{definitions, shutdown};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    campaign::{CONFIRMED_WITHIN, Campaign},
    check::Halt,
    load::Told,
    shapes::ORDERS,
};
use super::{Args, Context, check::Violation, fleet::Fleet};
use crate::output;

/// Orders a second that are asked for. Halts refuse about half of the executions, and at least 50 a second are to reach
/// the market.
const RATE: f64 = 130.0;
/// Before the first halt, so that orders are on their way.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long the faults of an interrupted campaign may take to be over.
const FAULTS_END_WITHIN: Duration = Duration::from_secs(60);
/// Violations printed for people.
const PRINTED_MAX: usize = 20;

/// Runs it; whether everything holds.
///
/// # Errors
/// When the system cannot be set up.
pub async fn run(args: &Args, halts: u32, seed: u64, folder: &Path, context: Context) -> anyhow::Result<bool> {
    let stop = shutdown::listen()?;
    let json = context.json;
    eprintln!("seed {seed}; everything is in {}", folder.display());
    let fleet = Arc::new(Fleet::start(folder, context.names, seed, &args.size()).await?);
    let client = fleet.client().await?;
    let workflows = shapes::definitions(&fleet.market_url);
    for workflow in &workflows {
        let definition = definitions::from_value(workflow.clone())?;
        client.put_workflow(&definition).await.with_context(|| format!("the workflow {}", definition.id))?;
    }
    let (told, stop_load) = (Arc::new(Told::default()), CancellationToken::new());
    let loading = tokio::spawn(load::run(client, seed, RATE, told.clone(), stop_load.clone()));
    let began = Instant::now();
    tokio::time::sleep(WARM_UP).await;

    let mut campaign = Campaign::new(fleet.clone(), seed).await?;
    let mut all: Vec<Halt> = Vec::new();
    for n in 1..=halts {
        let halt = tokio::select! {
            () = stop.cancelled() => break,
            halt = campaign.halt(n) => halt?,
        };
        let how = match (halt.in_time, halt.confirmed_ms) {
            (true, Some(at)) => format!("confirmed after {} ms", at - halt.stored_ms),
            (false, Some(at)) => format!("refused, confirmed after {} ms", at - halt.stored_ms),
            _ => "refused, and never confirmed".to_owned(),
        };
        eprintln!("{:8.2}s halt {n} of {halts}: {} of {}, {how}", began.elapsed().as_secs_f64(), halt.level, halt.scope);
        all.push(halt);
    }
    stop_load.cancel();
    // A panic in it would have been told.
    let _ = loading.await;
    let lasted = began.elapsed();
    let faults = std::mem::take(&mut campaign.counts);
    drop(campaign);
    fleet.heal();
    // One that was interrupted leaves faults that end by themselves.
    let until = Instant::now() + FAULTS_END_WITHIN;
    while Arc::strong_count(&fleet) > 1 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut fleet = Arc::into_inner(fleet).context("a fault is still going on")?;
    fleet.end_services().await;
    let ledger = fleet.remains().await?.ledger;
    let within = i64::try_from(CONFIRMED_WITHIN.as_millis())?;
    let mut found = check::judge(&all, &shapes::orders(&workflows), &ledger, within);
    for (kind, line) in fleet.told_against() {
        found.add(kind, "", line);
    }
    let lines: Vec<String> = all.iter().filter_map(|h| serde_json::to_string(h).ok()).collect();
    std::fs::write(folder.join("halts.jsonl"), lines.join("\n") + "\n")?;
    let confirmed = all.iter().filter(|h| h.in_time).count();
    let later = all.iter().filter(|h| !h.in_time && h.confirmed_ms.is_some()).count();
    let attempted = told.accepted.load(Ordering::Relaxed) * ORDERS;
    let report = json!({
        "seed": seed,
        "cluster": args.cluster,
        "seconds": lasted.as_secs(),
        "halts": { "confirmed": confirmed, "refused": all.len() - confirmed, "refused_then_confirmed": later },
        "confirmed_ms": confirmed_after(&all),
        "faults": faults,
        "load": &*told,
        "orders": { "of_accepted": attempted, "arrived": found.effects, "arrived_per_s": (found.effects as f64 / lasted.as_secs_f64()).round() },
        "planted": args.planted,
        "skipped": fleet.skipped.clone(),
        "violations": found.violations,
    });
    fleet.stop().await;
    if json {
        output::json(&report)
    } else {
        print(&report, &found.violations)
    }
    Ok(found.violations.is_empty())
}

/// How long after they were stored halts were confirmed: median and longest, in milliseconds.
fn confirmed_after(halts: &[Halt]) -> Value {
    let mut all: Vec<i64> = halts.iter().filter_map(|h| Some(h.confirmed_ms? - h.stored_ms)).collect();
    all.sort_unstable();
    json!({ "p50": all.get(all.len() / 2), "max": all.last() })
}

fn print(r: &Value, violations: &[Violation]) {
    output::line(format_args!("seed {}, {} nats-server, {} s, faults {}", r["seed"], r["cluster"], r["seconds"], r["faults"]));
    let h = &r["halts"];
    let (confirmed, refused, later) = (&h["confirmed"], &h["refused"], &h["refused_then_confirmed"]);
    output::line(format_args!("{confirmed} halts confirmed in time, {refused} refused, {later} of these confirmed later"));
    output::line(format_args!("confirmed after p50 {} ms, at most {} ms", r["confirmed_ms"]["p50"], r["confirmed_ms"]["max"]));
    output::line(format_args!("{} orders arrived, {} a second", r["orders"]["arrived"], r["orders"]["arrived_per_s"]));
    for v in violations.iter().take(PRINTED_MAX) {
        output::line(format_args!("VIOLATION {} {}: {}", v.kind, v.execution_id, v.what));
    }
    output::line(match violations.len() {
        0 => "everything holds".to_owned(),
        n => output::count(n, "violation"),
    });
}
