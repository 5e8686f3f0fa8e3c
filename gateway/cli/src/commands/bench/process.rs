//! What processes use: resident memory and CPU time, from `/proc` (zeros elsewhere).

use serde_json::{Value, json};

use crate::system::System;

/// Clock ticks a second in `/proc/<pid>/stat`; 100 on every Linux that matters.
const TICKS_PER_S: f64 = 100.0;

/// The processes that are measured.
pub struct Meter {
    processes: Vec<(String, u32)>,
}

/// What one process used up to now.
pub struct Usage {
    /// Which.
    pub name: String,
    /// Megabytes resident.
    pub rss_mb: f64,
    /// Seconds of CPU since it started.
    pub cpu_s: f64,
}

impl Meter {
    /// All of `system`, and this process as its client.
    pub fn new(system: &System) -> Self {
        let mut processes = vec![("nats-server".to_owned(), system.server_pid()), ("client".to_owned(), std::process::id())];
        processes.extend(system.services().iter().map(|s| (s.name.clone(), s.pid())));
        Self { processes }
    }

    /// One more.
    pub fn also(&mut self, name: &str, pid: u32) {
        self.processes.push((name.to_owned(), pid));
    }

    /// Reads all of them.
    pub fn read(&self) -> Vec<Usage> {
        self.processes.iter().map(|(name, pid)| Usage { name: name.clone(), rss_mb: rss_mb(*pid), cpu_s: cpu_s(*pid) }).collect()
    }
}

/// Megabytes that a process has resident.
pub fn rss_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kb = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields after the command, which is in parentheses and may contain anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

/// Memory now and CPU between two readings.
pub fn used(before: &[Usage], after: &[Usage]) -> Value {
    let each = before.iter().zip(after).map(
        |(b, a)| json!({ "name": a.name, "rss_mb": super::report::round(a.rss_mb), "cpu_s": super::report::round(a.cpu_s - b.cpu_s) }),
    );
    Value::Array(each.collect())
}

/// Memory only.
pub fn rss(usage: &[Usage]) -> Value {
    Value::Object(usage.iter().map(|u| (u.name.clone(), json!(super::report::round(u.rss_mb)))).collect())
}
