//! The worker's entry in the workers bucket: renewed while it lives, removed when it leaves.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use haltline_common::{
    clock, kv,
    types::{Timestamp, control::Gate, ids::token, worker::Presence},
};

use crate::flight::Flight;

/// A third of the time after which the bucket forgets an entry.
const EVERY: Duration = Duration::from_secs(3);

/// Keeps the entry until the worker drains, and then says that it does. A task of its own: where the bucket has no
/// leader for some seconds, so long does a write take.
pub async fn keep(flight: Arc<Flight>, slots: BTreeMap<String, usize>, started_at: Timestamp) {
    let mut renew = tokio::time::interval(EVERY);
    while flight.draining.run_until_cancelled(renew.tick()).await.is_some() {
        write(&flight, &slots, started_at).await;
    }
    write(&flight, &slots, started_at).await;
}

/// Writes the entry.
async fn write(flight: &Arc<Flight>, slots: &BTreeMap<String, usize>, started_at: Timestamp) {
    let (gate, control_revision) = match flight.control.gate() {
        Gate::Open => ("open", flight.control.flag().map_or(0, |f| f.revision)),
        Gate::Halted(flag) => ("halted", flag.revision),
        Gate::Unsure(_) => ("unsure", 0),
    };
    let presence = Presence {
        worker_id: flight.worker_id.clone(),
        instance: flight.control.holder().map(|holder| holder.instance().to_owned()),
        host: host(),
        pid: std::process::id(),
        slots: slots.clone(),
        in_flight: flight.len(),
        gate: gate.into(),
        control_revision,
        tasks_done: flight.done.load(Ordering::Relaxed),
        started_at,
        seen_at: clock::now(),
        version: env!("CARGO_PKG_VERSION").into(),
        draining: flight.draining.is_cancelled(),
    };
    let Ok(json) = serde_json::to_vec(&presence) else { return };
    let bucket = flight.link.names.workers_bucket();
    let key = token(&flight.worker_id);
    let put = kv::put(&flight.publisher, &bucket, &key, json);
    // Not waited for long: a late entry is worth nothing.
    if let Ok(Err(e)) = tokio::time::timeout(EVERY, put).await {
        tracing::warn!(error = %e, "cannot renew the worker's presence");
    }
}

/// Removes it.
pub async fn remove(flight: &Arc<Flight>) {
    let bucket = flight.link.names.workers_bucket();
    let key = token(&flight.worker_id);
    let gone = kv::delete(&flight.publisher, &bucket, &key);
    let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
}

/// The machine's name; empty where it cannot be had.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}
