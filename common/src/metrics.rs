//! Counters and gauges of a process, each with its unit and description, shown as Prometheus text.
//!
//! The list below is everything that Haltline exports. What nobody is paged for and nobody needs to
//! find a cause has no place in it: the tests compare it with the rules and the board in `deploy`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
};

use crate::{clock, control_watch};

/// Series of one [`Family`] at most: a label's values come from the server, and each one is kept by
/// whoever scrapes. More than any installation has node types, shards or streams.
pub const SERIES_MAX: usize = 128;

/// Whose metric it is; a process shows those of the services that run in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every process's.
    Process,
    /// A coordinator's.
    Coordinator,
    /// A worker's.
    Worker,
    /// A gateway's; it also asks the server about the whole installation.
    Gateway,
}

impl Role {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The roles of this process.
static ROLES: AtomicU8 = AtomicU8::new(Role::Process.bit());

/// Shows the metrics of `role` from now on: a service of that kind starts in this process.
pub fn show(role: Role) {
    ROLES.fetch_or(role.bit(), Ordering::Relaxed);
    if START_TIME.get() == 0 {
        START_TIME.set(u64::try_from(clock::now().0 / 1000).unwrap_or(0));
    }
}

/// What is known of a metric without its value.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name.
    pub name: &'static str,
    /// What it says, for people.
    pub help: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// Whose it is.
    pub role: Role,
    /// Its label, if it has one.
    pub label: Option<&'static str>,
}

impl About {
    fn head(&self, out: &mut String) {
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}", self.name, self.help, self.name, self.kind);
    }
}

/// A number that a process counts or measures.
pub struct Metric {
    about: About,
    /// Shown only once it was set: until then its value would be a guess.
    known: AtomicBool,
    value: AtomicU64,
}

impl Metric {
    const fn new(name: &'static str, help: &'static str, kind: &'static str, role: Role, known: bool) -> Self {
        Self { about: About { name, help, kind, role, label: None }, known: AtomicBool::new(known), value: AtomicU64::new(0) }
    }
    const fn counter(name: &'static str, help: &'static str, role: Role) -> Self {
        Self::new(name, help, "counter", role, true)
    }
    const fn gauge(name: &'static str, help: &'static str, role: Role) -> Self {
        Self::new(name, help, "gauge", role, true)
    }
    const fn finding(name: &'static str, help: &'static str, role: Role) -> Self {
        Self::new(name, help, "gauge", role, false)
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
        self.known.store(true, Ordering::Relaxed);
    }
    /// Makes it absent: its value is not known now.
    pub fn forget(&self) {
        self.known.store(false, Ordering::Relaxed);
    }
    /// Reads it.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
    fn render(&self, out: &mut String) {
        if self.known.load(Ordering::Relaxed) {
            self.about.head(out);
            let _ = writeln!(out, "{} {}", self.about.name, self.get());
        }
    }
}

/// Gauges of one name that a label tells apart, or a single one that is no whole number.
pub struct Family {
    about: About,
    series: Mutex<BTreeMap<String, f64>>,
}

impl Family {
    const fn new(name: &'static str, help: &'static str, label: &'static str, role: Role) -> Self {
        let label = if label.is_empty() { None } else { Some(label) };
        // Those that count say so by their name's end.
        let kind = if matches!(name.as_bytes(), [.., b'_', b't', b'o', b't', b'a', b'l']) { "counter" } else { "gauge" };
        Self { about: About { name, help, kind, role, label }, series: Mutex::new(BTreeMap::new()) }
    }
    /// Sets the series with this label value (any, where there is no label). A new one above
    /// [`SERIES_MAX`] is left out.
    pub fn set(&self, label: &str, value: f64) {
        let mut series = self.lock();
        if let Some(old) = series.get_mut(label) {
            *old = value;
        } else if series.len() < SERIES_MAX {
            series.insert(label.to_owned(), value);
        }
    }
    /// Counts one up.
    pub fn count(&self, label: &str) {
        let now = self.lock().get(label).copied().unwrap_or(0.0);
        self.set(label, now + 1.0);
    }
    /// Sets all series at once: what is not among them is gone.
    pub fn replace(&self, new: impl IntoIterator<Item = (String, f64)>) {
        *self.lock() = new.into_iter().take(SERIES_MAX).collect();
    }
    /// Removes all series: their values are not known now.
    pub fn clear(&self) {
        self.lock().clear();
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, f64>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn render(&self, out: &mut String) {
        let series = self.lock();
        if series.is_empty() {
            return;
        }
        self.about.head(out);
        for (value, number) in &*series {
            let _ = match self.about.label {
                Some(label) => writeln!(out, "{}{{{label}=\"{}\"}} {number}", self.about.name, escaped(value)),
                None => writeln!(out, "{} {number}", self.about.name),
            };
        }
    }
}

/// A label's value as the text format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

macro_rules! metrics {
    ($($role:ident $kind:ident $id:ident $name:literal $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Metric = Metric::$kind($name, $help, Role::$role);)*
        static METRICS: &[&Metric] = &[$(&$id),*];
    };
}

macro_rules! families {
    ($($role:ident $id:ident $name:literal $label:literal $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Family = Family::new($name, $help, $label, Role::$role);)*
        static FAMILIES: &[&Family] = &[$(&$id),*];
    };
}

// `finding`: a gauge that is absent until its owner has found it out.
metrics! {
    Process gauge START_TIME "process_start_time_seconds" "When this process started, in seconds since 1970";
    Process finding MEMORY "process_resident_memory_bytes" "Memory that this process has resident";
    Process finding SYNC_MODE "haltline_sync_mode" "When nats-server syncs writes, as measured: 0 unknown, 1 after it confirmed them, 2 before";
    Process counter WRITES_GROUPED "haltline_writes_grouped_total" "Writes that left as part of an atomic batch";
    Coordinator counter EXECUTIONS_ACCEPTED "haltline_executions_accepted_total" "Executions that the coordinator in this process accepted";
    Coordinator counter EXECUTIONS_ENDED "haltline_executions_ended_total" "Executions that the coordinator in this process brought to their end";
    Coordinator counter SUBMISSIONS_REFUSED "haltline_submissions_refused_total" "Submissions refused: halted, invalid, overloaded";
    Coordinator gauge EXECUTIONS_RUNNING "haltline_executions_running" "Executions that the coordinator in this process holds in memory";
    Coordinator finding EXECUTIONS_WAITING "haltline_executions_waiting" "Executions of this coordinator whose next nodes wait until the control flag lets them start";
    Coordinator finding EXECUTIONS_UNKNOWN "haltline_executions_unknown" "Executions of this coordinator with an effect of unknown outcome, which an operator has to resolve";
    Coordinator finding EXECUTIONS_STUCK "haltline_executions_stuck" "Executions of this coordinator of which nothing was heard since their lost tasks were emitted again, or that wait for a write that was refused";
    Coordinator gauge INPUT_LAG "haltline_coordinator_input_lag_messages" "Inputs stored in the log that the coordinator has not read yet";
    Coordinator counter RISK_BREACHES "haltline_risk_breaches_total" "Risk limits that the coordinator in this process found breached, refused actions included";
    Coordinator counter RISK_WARNINGS "haltline_risk_warnings_total" "Risk limits that the coordinator in this process found near";
    Worker counter TASKS_RUN "haltline_worker_tasks_total" "Tasks that the worker in this process finished";
    Worker counter TASKS_REDELIVERED "haltline_worker_tasks_redelivered_total" "Tasks that arrived for at least the second time";
    Worker gauge TASKS_IN_FLIGHT "haltline_worker_tasks_in_flight" "Tasks that the worker in this process holds";
    Gateway gauge WS_CLIENTS "haltline_gateway_ws_clients" "WebSocket clients connected to this gateway";
    Gateway counter WS_DELIVERIES "haltline_gateway_deliveries_total" "Events delivered to WebSocket clients";
    Gateway counter WS_GAPS "haltline_gateway_gaps_total" "Gaps declared to WebSocket clients";
    Gateway counter HTTP_REQUESTS "haltline_gateway_http_requests_total" "HTTP requests answered";
    Gateway counter ACCESS_REFUSED "haltline_gateway_access_refused_total" "Requests and connections refused for their token, role, origin or rate";
    Gateway counter ACCESS_UNRECORDED "haltline_gateway_access_unrecorded_total" "Refusals and changes that could not be put on record; the log has them";
    Gateway gauge TAIL_SEQ "haltline_gateway_tail_seq" "Last sequence of the log that this gateway has read";
    Gateway finding TAIL_LAG "haltline_gateway_tail_lag_messages" "Messages stored in the log that this gateway has not read yet";
    Gateway gauge FLEET_UP "haltline_fleet_up" "1 if this gateway could ask nats-server about the installation, else 0 and what it would tell is absent";
    Gateway finding COORDINATORS "haltline_coordinators" "Coordinators that answer";
    Gateway finding WORKERS_DRAINING "haltline_workers_draining" "Workers that finish what they hold and take nothing new";
    Gateway finding CONTROL_LEVEL "haltline_control_level" "The control flag: 0 normal, 1 alert, 2 halt, 3 shutdown, 4 hold; 2 as well if it cannot be read as an allowance";
}

families! {
    Process BUILD "haltline_build_info" "version" "Always 1; which build this is";
    Process CONTROL_WATCH_AGE "haltline_control_watch_age_seconds" "" "Time since nats-server last confirmed this process's copy of the control flag; above 2 nothing starts here";
    Worker LEASE_LEFT "haltline_worker_lease_left_seconds" "" "How much longer effects may start in this process without another renewal; 0 if it holds no lease, as while idle";
    Coordinator HALT_CONFIRMED "haltline_halt_confirmed_seconds" "scope" "How long it took from the last halt of a scope until nothing of it could start or was in flight, as seen by this coordinator; 0: none yet";
    Worker GUARD_REFUSED "haltline_worker_guard_refused_total" "reason" "Times that the guard refused something, by why: the level, hold, lease, watch";
    Gateway SHARD_OWNED "haltline_shard_owned" "shard" "1 if the coordinator that the shard's checkpoint names answers, else 0";
    Gateway CHECKPOINT_AGE "haltline_shard_checkpoint_age_seconds" "shard" "Time since the shard's checkpoint was written";
    Gateway SHARD_LAG "haltline_shard_input_lag_seconds" "shard" "Age of the oldest input of the shard that its checkpoint does not cover; 0 if there is none";
    Gateway QUEUE_PENDING "haltline_tasks_pending" "type" "Tasks that no worker was given yet";
    Gateway QUEUE_ACK_PENDING "haltline_tasks_ack_pending" "type" "Tasks given to a worker and not acknowledged";
    Gateway QUEUE_REDELIVERED "haltline_tasks_redelivered" "type" "Tasks of those that were given out more than once, not acknowledged either";
    Gateway QUEUE_UNACKED_AGE "haltline_tasks_oldest_unacked_age_seconds" "type" "Age of the oldest task that is not acknowledged; 0 if there is none";
    Gateway QUEUE_UNDELIVERED_AGE "haltline_tasks_oldest_undelivered_age_seconds" "type" "Age of the oldest task that no worker was given yet; 0 if there is none";
    Gateway WORKERS "haltline_workers" "gate" "Workers that gave a sign of life within ten seconds, by what the control flag is to them";
    Gateway WORKER_SLOTS "haltline_workers_slots" "type" "Tasks of a node type that all workers together take at once";
    Gateway STREAM_BYTES "haltline_stream_bytes" "stream" "Bytes that a stream or bucket holds";
    Gateway STREAM_BYTES_LIMIT "haltline_stream_limit_bytes" "stream" "Bytes that it may hold; absent if unlimited";
    Gateway STREAM_MESSAGES "haltline_stream_messages" "stream" "Messages that a stream or bucket holds";
    Gateway STREAM_MESSAGES_LIMIT "haltline_stream_limit_messages" "stream" "Messages that it may hold; absent if unlimited";
    Gateway STREAM_REPLICAS "haltline_stream_replicas" "stream" "Copies that a stream or bucket should have";
    Gateway STREAM_REPLICAS_BEHIND "haltline_stream_replicas_behind" "stream" "Copies that are offline or not up to date";
}

/// Everything that can be exported, whether shown now or not.
pub fn catalogue() -> impl Iterator<Item = &'static About> {
    METRICS.iter().map(|m| &m.about).chain(FAMILIES.iter().map(|f| &f.about))
}

/// All metrics of this process as Prometheus text.
pub fn render() -> String {
    measure();
    let roles = ROLES.load(Ordering::Relaxed);
    let mut out = String::new();
    METRICS.iter().filter(|m| roles & m.about.role.bit() != 0).for_each(|m| m.render(&mut out));
    FAMILIES.iter().filter(|f| roles & f.about.role.bit() != 0).for_each(|f| f.render(&mut out));
    out
}

/// Looks at what nobody tells.
fn measure() {
    BUILD.set(env!("CARGO_PKG_VERSION"), 1.0);
    if let Some(bytes) = resident() {
        MEMORY.set(bytes);
    }
    match control_watch::silence() {
        Some(age) => CONTROL_WATCH_AGE.set("", age.as_secs_f64()),
        None => CONTROL_WATCH_AGE.clear(),
    }
}

/// Bytes resident, where the system tells: Linux.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = std::collections::BTreeSet::new();
        for m in catalogue() {
            assert!(seen.insert(m.name), "{} is there twice", m.name);
            assert_eq!(m.kind == "counter", m.name.ends_with("_total"), "{}", m.name);
            assert!(m.name.starts_with("haltline_") || m.name.starts_with("process_"), "{}", m.name);
            assert!(!m.help.is_empty() && !m.help.contains(['\n', '\\']), "{}", m.name);
        }
    }

    #[test]
    fn series_are_bounded_escaped_and_go() {
        static F: Family = Family::new("haltline_test", "Test", "type", Role::Process);
        let text = || {
            let mut out = String::new();
            F.render(&mut out);
            out
        };
        assert_eq!(text(), "");
        F.set("a\"\\\n", 1.5);
        assert_eq!(text(), "# HELP haltline_test Test\n# TYPE haltline_test gauge\nhaltline_test{type=\"a\\\"\\\\\\n\"} 1.5\n");
        for n in 0..2 * SERIES_MAX {
            F.set(&n.to_string(), 0.0);
        }
        assert_eq!(text().lines().count(), 2 + SERIES_MAX);
        F.replace([("b".to_owned(), 2.0)]);
        assert_eq!(text().lines().last(), Some("haltline_test{type=\"b\"} 2"));
    }

    #[test]
    fn a_process_shows_its_own_roles() {
        assert!(!render().contains("haltline_gateway_ws_clients"));
        show(Role::Gateway);
        let text = render();
        assert!(text.contains("haltline_gateway_ws_clients 0") && text.contains("haltline_build_info{version="));
        assert!(!text.contains("haltline_worker_tasks_total"));
        // Nobody has found out.
        assert!(!text.contains("haltline_sync_mode"));
    }
}
