//! A worker's life: start, work, drain.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::StreamExt;
use haltline_common::{
    Link, clock,
    config::WorkerSettings,
    control_watch::{self, ControlWatch, LeaseTimes},
    kv,
    publisher::Publisher,
    risk::{Door, RiskRules},
    topology,
    types::{
        catalog::built_in_types,
        event::{Command, CommandType},
        ids,
    },
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{flight::Flight, presence, probe, puller, registry::Registry};

/// How often signs of progress are sent: three fit into the time after which a task is given away.
const PROGRESS_EVERY: Duration = Duration::from_millis(450);

/// How long the last words to the server may take.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs a worker until `stop`, then drains: unstarted work goes back at once, running nodes may go on
/// for the configured time.
///
/// # Errors
/// When the settings name types that `registry` does not have, or the server refuses what a worker
/// needs. Lost connections are waited out.
pub async fn run(link: Link, settings: WorkerSettings, registry: Registry, stop: CancellationToken) -> anyhow::Result<()> {
    let slots = slots(&settings, &registry)?;
    let worker_id = if settings.id.is_empty() {
        format!("worker-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
    } else {
        ids::check_id(&settings.id).map_err(|e| anyhow::anyhow!("worker.id {e}"))?;
        settings.id.clone()
    };
    let publisher = Publisher::start(&link).await?;
    announce_types(&link, &publisher, &registry, &slots).await?;
    let times = LeaseTimes { hold: settings.lease.duration(), renew: settings.lease_renew.duration() };
    let mut control = ControlWatch::start_holding(&link, &worker_id, times);
    control.ready(Duration::from_secs(5)).await;
    let semaphores: HashMap<_, _> = slots.iter().map(|(kind, n)| (kind.clone(), Arc::new(Semaphore::new(*n)))).collect();
    let door = Door::new(&link, &publisher, RiskRules::start(&link, "worker"));
    let flight = Arc::new(Flight::new(link.clone(), worker_id.clone(), publisher, control, registry, door, semaphores, stop.clone()));
    control_watch::prepare_metrics();
    let mut stops = link.client.subscribe(link.names.stop_all()).await?;
    let keeping = AbortOnDropHandle::new(tokio::spawn(presence::keep(flight.clone(), slots.clone(), clock::now())));

    let _probe = probe::start(&link, &worker_id, &flight.control);
    flight.arrivals.look(&link).await;
    let (pullers, tasks) = (TaskTracker::new(), TaskTracker::new());
    for (kind, n) in &slots {
        pullers.spawn(puller::pull(flight.clone(), kind.clone(), *n, tasks.clone()));
    }
    tracing::info!(worker_id, types = ?slots.keys().collect::<Vec<_>>(), "working");

    let mut progress = tokio::time::interval(PROGRESS_EVERY);
    // Nothing in this loop waits for an answer: the tasks need their signs of progress, and hear of stops.
    let mut looks = JoinSet::new();
    let mut give_up = None;
    loop {
        tokio::select! {
            () = stop.cancelled(), if give_up.is_none() => {
                pullers.close();
                tasks.close();
                give_up = Some(tokio::time::Instant::now() + settings.drain.duration());
                tracing::info!(worker_id, in_flight = flight.len(), "draining");
            }
            () = async { pullers.wait().await; tasks.wait().await }, if give_up.is_some() => break,
            () = tokio::time::sleep_until(give_up.unwrap_or_else(tokio::time::Instant::now)), if give_up.is_some() && !flight.abandon.is_cancelled() => {
                tracing::warn!(worker_id, in_flight = flight.len(), "still running after the drain time: giving up");
                flight.abandon.cancel();
            }
            _ = progress.tick() => {
                flight.report_progress().await;
                if flight.arrivals.is_outdated(&link) && looks.is_empty() {
                    let (flight, link) = (flight.clone(), link.clone());
                    looks.spawn(async move { flight.arrivals.look(&link).await });
                }
            }
            () = flight.acks.due() => flight.acks.send(&link.client).await,
            Some(_) = looks.join_next(), if !looks.is_empty() => {}
            Some(message) = stops.next() => match serde_json::from_slice::<Command>(&message.payload) {
                Ok(command) if matches!(command.kind, CommandType::Cancel | CommandType::Timeout) => flight.hear_stop(command),
                Ok(_) => {}
                Err(e) => tracing::warn!(error = %e, "malformed stop hint; ignored"),
            },
        }
    }
    flight.acks.send(&link.client).await;
    if let Some(holder) = flight.control.holder() {
        holder.leave(flight.control.revision()).await;
    }
    // Ended first, or it might write the entry once more.
    keeping.abort();
    let _ = keeping.await;
    presence::remove(&flight).await;
    let _ = tokio::time::timeout(FLUSH, link.client.flush()).await;
    tracing::info!(worker_id, "drained");
    Ok(())
}

/// Slots by type, of the types this worker is to run.
fn slots(settings: &WorkerSettings, registry: &Registry) -> anyhow::Result<BTreeMap<String, usize>> {
    let known: Vec<&str> = registry.iter().map(|(name, _)| name).collect();
    for name in settings.types.iter().chain(settings.slots_by_type.keys()) {
        if !known.contains(&name.as_str()) {
            bail!("worker.types: this worker has no node type `{name}`; it has {}", known.join(", "));
        }
    }
    let chosen = |name: &str| settings.types.is_empty() || settings.types.iter().any(|t| t == name);
    let slots: BTreeMap<_, _> = known
        .into_iter()
        .filter(|name| chosen(name))
        .map(|name| (name.to_owned(), settings.slots_by_type.get(name).copied().unwrap_or(settings.slots)))
        .collect();
    if slots.is_empty() {
        bail!("this worker has no node types to run");
    }
    Ok(slots)
}

/// Types of one's own become known to those who validate definitions, and get their consumer.
async fn announce_types(link: &Link, publisher: &Publisher, registry: &Registry, slots: &BTreeMap<String, usize>) -> anyhow::Result<()> {
    let built_in = built_in_types();
    for (name, node) in registry.iter().filter(|(name, _)| slots.contains_key(*name)) {
        if built_in.iter().any(|t| t.name == name) {
            continue;
        }
        topology::ensure_task_consumer(link, name, None).await.with_context(|| format!("node type {name}"))?;
        let json = serde_json::to_vec(&node.describe())?;
        kv::put(publisher, &link.names.types_bucket(), name, json).await?;
    }
    Ok(())
}
