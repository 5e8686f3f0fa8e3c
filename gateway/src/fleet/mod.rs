//! Metrics of the whole installation, asked from the server when somebody scrapes: one gateway sees
//! queues, shards, workers and streams, also those whose own processes are gone and tell nothing.

mod queues;
mod shards;
mod streams;

use std::time::Duration;

use haltline_common::{
    metrics::{self, Family, Metric},
    types::control::Level,
};

use crate::app::{App, Inner};

/// How long one look may be given again: scrapers and curious people cost one look a second.
pub(crate) const LOOK_TTL: Duration = Duration::from_secs(1);
/// A look takes at most this long; what is not known by then is absent. Prometheus gives up after ten
/// seconds by default.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// What is absent when it is not known: a last value would look like a calm one.
static ASKED: &[&Family] = &[
    &metrics::SHARD_OWNED,
    &metrics::CHECKPOINT_AGE,
    &metrics::SHARD_LAG,
    &metrics::QUEUE_PENDING,
    &metrics::QUEUE_ACK_PENDING,
    &metrics::QUEUE_REDELIVERED,
    &metrics::QUEUE_UNACKED_AGE,
    &metrics::QUEUE_UNDELIVERED_AGE,
    &metrics::WORKERS,
    &metrics::WORKER_SLOTS,
    &metrics::STREAM_BYTES,
    &metrics::STREAM_BYTES_LIMIT,
    &metrics::STREAM_MESSAGES,
    &metrics::STREAM_MESSAGES_LIMIT,
    &metrics::STREAM_REPLICAS,
    &metrics::STREAM_REPLICAS_BEHIND,
];

/// Brings the metrics of the installation up to date, unless that was done a moment ago.
pub(crate) async fn refresh(app: &App) {
    let look = || async {
        let looked = match tokio::time::timeout(LOOK_MAX, look(app)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("nats-server did not answer within {LOOK_MAX:?}")),
        };
        if let Err(reason) = &looked {
            tracing::warn!(reason, "cannot look at the installation for its metrics");
            ASKED.iter().for_each(|family| family.clear());
            [&metrics::TAIL_LAG, &metrics::COORDINATORS, &metrics::WORKERS_DRAINING].into_iter().for_each(Metric::forget);
        }
        metrics::FLEET_UP.set(u64::from(looked.is_ok()));
        Ok::<_, ()>(())
    };
    // Never fails: a failed look is kept for its second too, so that scrapers do not queue behind it.
    let _ = app.fleet.get(look).await;
    if let Some(flag) = &app.halt.borrow().flag {
        metrics::CONTROL_LEVEL.set(match flag.state {
            Level::Normal => 0,
            Level::Alert => 1,
            Level::Halt => 2,
            Level::Shutdown => 3,
            Level::Hold => 4,
            Level::Reducing => 5,
        });
    }
}

async fn look(app: &Inner) -> Result<(), String> {
    tokio::try_join!(streams::look(app), queues::look(&app.link), shards::look(&app.link), workers(app))?;
    Ok(())
}

async fn workers(app: &Inner) -> Result<(), String> {
    let list = app.workers().await.map_err(|e| e.message)?;
    // Those that are not there are told too: a missing series would hide that nobody works.
    let mut gates = std::collections::BTreeMap::from(["open", "halted", "unsure"].map(|gate| (gate.to_owned(), 0.0)));
    let mut slots = std::collections::BTreeMap::<String, f64>::new();
    for worker in list.iter().filter(|w| !w.draining) {
        // A worker of another version may know a gate that this one does not: nothing starts there.
        let gate = if gates.contains_key(&worker.gate) { worker.gate.as_str() } else { "unsure" };
        if let Some(n) = gates.get_mut(gate) {
            *n += 1.0;
        }
        for (kind, n) in &worker.slots {
            *slots.entry(kind.clone()).or_default() += *n as f64;
        }
    }
    metrics::WORKERS.replace(gates);
    metrics::WORKER_SLOTS.replace(slots);
    metrics::WORKERS_DRAINING.set(list.iter().filter(|w| w.draining).count() as u64);
    Ok(())
}
