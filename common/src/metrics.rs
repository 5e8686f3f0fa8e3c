//! Counters and gauges of a process, each with its unit and description, shown as Prometheus text.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// A number that a process counts or measures.
pub struct Metric {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    value: AtomicU64,
}

impl Metric {
    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "counter", value: AtomicU64::new(0) }
    }
    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "gauge", value: AtomicU64::new(0) }
    }
    /// Adds one.
    pub fn inc(&self) {
        self.value.fetch_add(1, Ordering::Relaxed);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
    }
    /// Sets a gauge.
    pub fn set(&self, v: u64) {
        self.value.store(v, Ordering::Relaxed);
    }
    /// Reads it.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($kind:ident $id:ident $name:literal $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Metric = Metric::$kind($name, $help);)*
        static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    counter EXECUTIONS_ACCEPTED "haltline_executions_accepted_total" "Executions that the coordinator in this process accepted";
    counter EXECUTIONS_ENDED "haltline_executions_ended_total" "Executions that the coordinator in this process brought to their end";
    counter SUBMISSIONS_REFUSED "haltline_submissions_refused_total" "Submissions refused: halted, invalid, overloaded";
    gauge EXECUTIONS_RUNNING "haltline_executions_running" "Executions that the coordinator in this process holds in memory";
    gauge INPUT_LAG "haltline_coordinator_input_lag_messages" "Inputs stored in the log that the coordinator has not read yet";
    counter TASKS_RUN "haltline_worker_tasks_total" "Tasks that the worker in this process finished";
    counter TASKS_REDELIVERED "haltline_worker_tasks_redelivered_total" "Tasks that arrived for at least the second time";
    counter GUARD_REFUSALS "haltline_worker_guard_refusals_total" "Nodes that the control flag kept from starting";
    gauge TASKS_IN_FLIGHT "haltline_worker_tasks_in_flight" "Tasks that the worker in this process holds";
    gauge SYNC_MODE "haltline_sync_mode" "When nats-server syncs writes, as measured: 0 unknown, 1 after it acknowledged them, 2 before";
    counter WRITES_GROUPED "haltline_writes_grouped_total" "Writes that left as part of an atomic batch";
    gauge WS_CLIENTS "haltline_gateway_ws_clients" "WebSocket clients connected to this gateway";
    counter WS_DELIVERIES "haltline_gateway_deliveries_total" "Events delivered to WebSocket clients";
    counter WS_GAPS "haltline_gateway_gaps_total" "Gaps declared to WebSocket clients";
    counter HTTP_REQUESTS "haltline_gateway_http_requests_total" "HTTP requests answered";
    gauge TAIL_SEQ "haltline_gateway_tail_seq" "Last sequence of the log that this gateway has read";
}

/// All metrics of this process as Prometheus text.
pub fn render() -> String {
    let mut out = String::new();
    for m in ALL {
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}\n{} {}", m.name, m.help, m.name, m.kind, m.name, m.get());
    }
    out
}
