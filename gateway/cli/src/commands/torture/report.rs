//! What is told at the end.

use std::time::Duration;

use serde::Serialize;

use super::{
    Args,
    check::{Findings, Violation},
    inject::Counts,
    load::Told,
};
use crate::output;

/// While services are restarted in turn, no run may be later than this.
const DELAY_MAX_MS: f64 = 5000.0;
/// Violations printed for people; the rest is in the folder.
const PRINTED_MAX: usize = 20;

/// The report; its names are an interface.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    seed: u64,
    minutes: f64,
    cluster: usize,
    sync: String,
    faults: Counts,
    faults_total: u64,
    submitted: u64,
    acknowledged: u64,
    completed: u64,
    statuses: std::collections::BTreeMap<String, u64>,
    effects: u64,
    /// Messages stored again with the same id and content; no violation.
    repeats: u64,
    /// Events that a claim or the end made void; no violation.
    void_events: u64,
    /// Tasks that were acknowledged and that the server forgot to remove; no violation.
    orphaned_tasks: u64,
    /// Submissions that nobody answered within 10 s; they were repeated.
    client_errors: u64,
    longest_answer_ms: f64,
    longest_run_ms: f64,
    /// From the first request to the end, without what the workflow itself sleeps and waits.
    longest_delay_ms: f64,
    settled_ms: f64,
    /// The bug that the services made.
    #[serde(skip_serializing_if = "Option::is_none")]
    planted: Option<String>,
    /// With `--until-violation`: how long it took until a look found something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caught_after_s: Option<u64>,
    /// What this machine does not allow.
    pub skipped: Vec<String>,
    /// Ends of processes that nobody ordered, as when a service finds no server at its start.
    pub exits: Vec<String>,
    /// What does not hold.
    pub violations: Vec<Violation>,
}

fn round(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

impl Report {
    /// From what was counted and found.
    pub fn new(args: &Args, seed: u64, lasted: Duration, faults: Counts, told: &Told, found: &Findings, settled: Duration) -> Self {
        let mut found = found.clone();
        let of_run = |id: &str| found.durations.get(id).copied().unwrap_or(0.0);
        let delays = told.answers.iter().map(|(id, (answer, least))| (id, answer + of_run(id) - *least as f64));
        let (latest, longest_delay) = delays.fold(("", 0.0), |max, (id, ms)| if ms > max.1 { (id.as_str(), ms) } else { max });
        let (latest, longest_delay_ms) = (latest.to_owned(), round(longest_delay));
        if args.rolling.is_some() {
            if longest_delay > DELAY_MAX_MS {
                found.add("delayed", &latest, format!("it was {longest_delay_ms} ms late, more than {DELAY_MAX_MS} ms"));
            }
            for error in &told.errors {
                found.add("client_error", "", error.clone());
            }
        }
        Self {
            seed,
            minutes: (lasted.as_secs_f64() / 6.0).round() / 10.0,
            cluster: args.cluster,
            sync: args.sync.clone().unwrap_or_else(|| "2m (nats-server's default)".into()),
            faults_total: faults.values().sum(),
            faults,
            submitted: told.submitted,
            acknowledged: told.acknowledged,
            completed: found.statuses.get("completed").copied().unwrap_or(0),
            statuses: found.statuses.clone(),
            effects: found.effects,
            repeats: found.repeats,
            void_events: found.void,
            orphaned_tasks: found.orphans,
            client_errors: told.errors.len() as u64,
            longest_answer_ms: round(told.answers.values().map(|(ms, _)| *ms).fold(0.0, f64::max)),
            longest_run_ms: round(found.durations.values().copied().fold(0.0, f64::max)),
            longest_delay_ms,
            settled_ms: round(settled.as_secs_f64() * 1e3),
            planted: args.planted.clone(),
            caught_after_s: None,
            skipped: Vec::new(),
            exits: Vec::new(),
            violations: found.violations,
        }
    }

    /// Prints it for people.
    pub fn print(&self) {
        let faults: Vec<String> = self.faults.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let statuses: Vec<String> = self.statuses.iter().map(|(status, n)| format!("{n} {status}")).collect();
        output::line(format_args!("seed {}, {} minutes, {} nats-server, sync {}", self.seed, self.minutes, self.cluster, self.sync));
        output::line(format_args!("{} faults: {}", self.faults_total, faults.join(", ")));
        output::line(format_args!("{} submitted, {} acknowledged; {}", self.submitted, self.acknowledged, statuses.join(", ")));
        output::line(format_args!("{} orders filled; {} messages repeated, {} void", self.effects, self.repeats, self.void_events));
        let [answer, run, delay] = [self.longest_answer_ms, self.longest_run_ms, self.longest_delay_ms].map(output::duration);
        output::line(format_args!("longest answer {answer}, longest run {run}, longest delay {delay}"));
        if let Some(s) = self.caught_after_s {
            let planted = self.planted.as_deref().map(|name| format!("{name}: ")).unwrap_or_default();
            output::line(format_args!("{planted}caught after {s} s"));
        }
        for v in self.violations.iter().take(PRINTED_MAX) {
            output::line(format_args!("VIOLATION {} {}: {}", v.kind, v.execution_id, v.what));
        }
        output::line(match self.violations.len() {
            0 => "everything holds".to_owned(),
            n => output::count(n, "violation"),
        });
    }
}
