//! Doing what the plan says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use haltline_common::Link;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    fleet::Fleet,
    plan::{Fault, Kind},
    process::Order,
    proxy::Mode,
    whole,
};

/// How long a process of a rolling restart may take to be started again, drained first, or what it leads handed over.
const STARTED_WITHIN: Duration = Duration::from_secs(45);
/// A started process gets this long to work before the next one is restarted.
const SETTLES: Duration = Duration::from_millis(1000);
/// A server whose disk was full is started again: it does not go on by itself.
const AFTER_FULL: Duration = Duration::from_millis(200);

/// How many of each kind were injected.
pub type Counts = BTreeMap<&'static str, u64>;

/// Injects until the plan is over or `stop`. `told` is given each fault when it begins.
pub async fn run(fleet: Arc<Fleet>, plan: &[Fault], stop: &CancellationToken, mut told: impl FnMut(&Fault)) -> Counts {
    let began = Instant::now();
    let mut counts = Counts::new();
    let mut running = tokio::task::JoinSet::new();
    for fault in plan {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(began + fault.at) => {}
        }
        told(fault);
        *counts.entry(fault.kind.as_str()).or_default() += 1;
        running.spawn(inject(fleet.clone(), fault.clone()));
        while running.try_join_next().is_some() {}
    }
    // What is still going on ends within seconds.
    while running.join_next().await.is_some() {}
    counts
}

async fn inject(fleet: Arc<Fleet>, fault: Fault) {
    let Fault { kind, target, lasts, amount, .. } = &fault;
    let order = |order| {
        if let Some(process) = fleet.processes.get(target) {
            process.order(order);
        }
    };
    match kind {
        Kind::Kill => order(Order::Kill(*lasts)),
        Kind::Stall => order(Order::Stall(*lasts)),
        Kind::Restart => order(Order::Restart(*lasts)),
        Kind::Rolling => rolling(&fleet, target, *lasts, None).await,
        Kind::KillAll => kill_all(&fleet, *lasts),
        Kind::Cut => way(&fleet, target, Mode::Cut, *lasts).await,
        Kind::Hold => way(&fleet, target, Mode::Hold, *lasts).await,
        Kind::Delay => way(&fleet, target, Mode::Delay(amount.unsigned_abs()), *lasts).await,
        Kind::Throttle => way(&fleet, target, Mode::Throttle(amount.unsigned_abs()), *lasts).await,
        Kind::LoseReplies => way(&fleet, target, Mode::LoseReplies, *lasts).await,
        Kind::Duplicate => way(&fleet, target, Mode::Duplicate, *lasts).await,
        Kind::Late => way(&fleet, target, Mode::Late, *lasts).await,
        Kind::Reset => {
            if let Some(gate) = fleet.gates.get(target) {
                gate.reset();
            }
        }
        Kind::Isolate => isolate(&fleet, target, *lasts).await,
        Kind::DiskFull => disk_full(&fleet, target, *lasts).await,
        Kind::ClockJump => {
            if let Some(clocks) = &fleet.clocks {
                clocks.set(target, *amount);
                tokio::time::sleep(*lasts).await;
                clocks.set(target, 0);
            }
        }
    }
}

/// Kills everything but the market at once; each is started again after the pause.
pub fn kill_all(fleet: &Fleet, pause: Duration) {
    fleet.processes.values().for_each(|p| p.order(Order::Kill(pause)));
}

/// Restarts a role's processes (`workers`, `servers`) one after the other; with `careful` a server hands
/// over first, and the next one follows once the cluster is whole again: what operators do, and a fault does not.
pub async fn rolling(fleet: &Fleet, role: &str, pause: Duration, careful: Option<&Link>) {
    let role = if role == "servers" { "nats" } else { role.trim_end_matches('s') };
    for name in fleet.role(role) {
        let Some(process) = fleet.processes.get(&name) else { continue };
        let starts = process.starts();
        process.order(if careful.is_some() { Order::Replace(pause) } else { Order::Restart(pause) });
        if !process.started_after(starts, STARTED_WITHIN).await {
            tracing::warn!(name, "was not started again in time");
        }
        if let Some(link) = careful.filter(|_| role == "nats")
            && !whole::wait(link, STARTED_WITHIN).await
        {
            tracing::warn!(name, "the cluster was not whole again in time");
        }
        tokio::time::sleep(SETTLES).await;
    }
}

async fn way(fleet: &Fleet, target: &str, mode: Mode, lasts: Duration) {
    let Some(gate) = fleet.gates.get(target) else { return };
    let change = gate.set(mode);
    tokio::time::sleep(lasts).await;
    gate.end(change);
}

async fn isolate(fleet: &Fleet, target: &str, lasts: Duration) {
    // A network that is silent, or one that refuses: both happen.
    let mode = if lasts.as_millis().is_multiple_of(2) { Mode::Cut } else { Mode::Hold };
    let between = fleet.routes.iter().filter(|((a, b), _)| a == target || b == target);
    let changes: Vec<_> = between.map(|(_, gate)| (gate.clone(), gate.set(mode))).collect();
    tokio::time::sleep(lasts).await;
    changes.into_iter().for_each(|(gate, change)| gate.end(change));
}

async fn disk_full(fleet: &Fleet, target: &str, lasts: Duration) {
    let (Some(disk), Some(process)) = (fleet.disks.get(target), fleet.processes.get(target)) else { return };
    if let Err(error) = disk.fill().await {
        tracing::warn!(target, %error, "the disk could not be filled");
    }
    tokio::time::sleep(lasts).await;
    disk.clear();
    process.order(Order::Restart(AFTER_FULL));
}
