//! Halts at random moments, scopes and levels, each with faults around it, each followed by a resume.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use haltline_client::{Client, Code, Confirming, Listening, Report};
use haltline_common::{
    Link, clock, js,
    types::{
        Names,
        control::{Level, Scope},
        error::ApiError,
    },
};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{check::Halt, shapes};
use crate::commands::torture::{
    fleet::Fleet,
    inject::{self, Counts},
    plan::{self, Fault, Kind, Targets, Weight},
    rng::Rng,
};

/// Purpose of the campaign's numbers.
const PURPOSE: u64 = 11;
/// How long `haltline halt` waits by itself.
const WAIT: Duration = Duration::from_secs(2);
/// A worker's lease, as the fleet's settings have it.
const LEASE: Duration = Duration::from_secs(1);
/// A halt must be confirmed so long after it was stored and the last fault around it was over: a lease and 2 s.
pub const CONFIRMED_WITHIN: Duration = Duration::from_millis(LEASE.as_millis() as u64 + 2000);
/// What is not confirmed so long after everything was healed never will be.
const GIVE_UP: Duration = Duration::from_secs(15);
/// How long a flag's change may take, with the server's failures.
const CHANGED_WITHIN: Duration = Duration::from_secs(60);
/// The longest fault: a halt waits for its faults to be over.
const FAULT_MAX: Duration = Duration::from_millis(3500);
/// How long a killed process may take to be started again.
const STARTED_WITHIN: Duration = Duration::from_secs(60);
/// A leader answers within this time.
const LED_WITHIN: Duration = Duration::from_millis(500);
const BY: &str = "torture";

/// Levels that are set, halt most often.
const LEVELS: [Level; 8] =
    [Level::Halt, Level::Halt, Level::Halt, Level::Halt, Level::Reducing, Level::Reducing, Level::Hold, Level::Shutdown];

/// What happens around halts: SIGSTOP, `kill -9`, partitions, late and lost answers, servers that fail.
const FAULTS: [Weight; 11] = {
    use Kind::*;
    [
        (Stall, "worker", 6),
        (Kill, "worker", 4),
        (Hold, "worker", 4),
        (Cut, "worker", 2),
        (Delay, "worker", 2),
        (Delay, "market", 4),
        (LoseReplies, "market", 1),
        (Kill, "nats", 1),
        (Kill, "coordinator", 1),
        (Stall, "coordinator", 1),
        (Isolate, "nats", 2),
    ]
};

/// A campaign.
pub struct Campaign {
    fleet: Arc<Fleet>,
    client: Client,
    targets: Targets,
    rng: Rng,
    scopes: Vec<Scope>,
    /// Faults so far.
    pub counts: Counts,
}

impl Campaign {
    /// Ready to begin. The halting side has a way of its own past the proxies: whether it can reach the server
    /// is not what is tried here.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn new(fleet: Arc<Fleet>, seed: u64) -> anyhow::Result<Self> {
        let client = Client::from_link(fleet.link().await?).await?;
        let scopes = shapes::scopes().iter().map(|s| s.parse().map_err(anyhow::Error::msg)).collect::<anyhow::Result<_>>()?;
        let targets = fleet.targets();
        Ok(Self { fleet, client, targets, rng: Rng::new(seed, PURPOSE), scopes, counts: Counts::new() })
    }

    /// One halt: faults begin, the flag is raised, confirmed, looked at for a while, and lowered.
    ///
    /// # Errors
    /// When the flag cannot be changed.
    pub async fn halt(&mut self, n: u32) -> anyhow::Result<Halt> {
        tokio::time::sleep(self.rng.millis(200, 1200)).await;
        let scope = self.rng.pick(&self.scopes).cloned().unwrap_or_default();
        let level = self.rng.pick(&LEVELS).copied().unwrap_or(Level::Halt);
        let faults = self.faults();
        for fault in &faults {
            *self.counts.entry(fault.kind.as_str()).or_default() += 1;
        }
        let injecting = tokio::spawn(inject_all(self.fleet.clone(), self.client.link().clone(), faults));
        tokio::time::sleep(self.rng.millis(0, 1500)).await;

        let listening = Listening::start(self.client.link()).await;
        let stored = self.raise(&scope, level, &format!("halt {n} of the torture")).await?;
        let stored_ms = clock::now().0;
        let mut confirming = listening.to(&stored);
        let mut report = confirming.wait(WAIT).await;
        // Read after it was known: what arrives in between is not held against it.
        let mut confirmed_ms = report.complete.then(|| clock::now().0);
        let in_time = report.complete;
        let healed_ms = loop {
            if injecting.is_finished() {
                break injecting.await.context("a fault")?;
            }
            self.follow(&mut confirming, &mut report, &mut confirmed_ms).await;
        };
        let until = Instant::now() + GIVE_UP;
        let mut due = Some(stored_ms.max(healed_ms) + CONFIRMED_WITHIN.as_millis() as i64);
        while confirmed_ms.is_none() && Instant::now() < until {
            self.follow(&mut confirming, &mut report, &mut confirmed_ms).await;
            if confirmed_ms.is_none() && due.take_if(|due| clock::now().0 > *due).is_some() {
                eprintln!("halt {n} of {scope}, {level}, is late: {}", waits_for(&report));
            }
        }
        if confirmed_ms.is_none() {
            eprintln!("halt {n} of {scope}, {level}, is not confirmed: {}", waits_for(&report));
        }
        let declared = report.each.iter().flat_map(|w| &w.open).map(|o| o.key.clone()).collect();
        // What is attempted now is attempted in vain.
        tokio::time::sleep(self.rng.millis(200, 800)).await;
        let lowered_ms = clock::now().0;
        self.lower(&scope).await?;
        Ok(Halt {
            scope: scope.to_string(),
            level: level.to_string(),
            revision: stored.revision,
            stored_ms,
            confirmed_ms,
            in_time,
            declared,
            healed_ms,
            lowered_ms,
        })
    }

    async fn follow(&self, confirming: &mut Confirming, report: &mut Report, confirmed_ms: &mut Option<i64>) {
        if confirmed_ms.is_some() {
            return tokio::time::sleep(Duration::from_millis(20)).await;
        }
        *report = confirming.next(Duration::from_millis(20)).await;
        if report.complete {
            *confirmed_ms = Some(clock::now().0);
        }
    }

    /// None, one or two faults that begin around the halt.
    fn faults(&mut self) -> Vec<Fault> {
        let mut deck: Vec<(Kind, &str)> = FAULTS.iter().flat_map(|(kind, role, n)| (0..*n).map(|_| (*kind, *role))).collect();
        if self.targets.servers.len() == 1 {
            deck.retain(|(kind, _)| *kind != Kind::Isolate);
        }
        let mut faults = Vec::new();
        for _ in 0..self.rng.range(0, 2) {
            let Some((kind, role)) = self.rng.pick(&deck).copied() else { break };
            let at = self.rng.millis(0, 1500);
            let mut fault = plan::fault(&mut self.rng, at, kind, role, &self.targets);
            fault.lasts = fault.lasts.min(FAULT_MAX);
            if fault.target == "market" && kind == Kind::Delay {
                // Orders that are on their way for longer than a lease.
                fault.amount = self.rng.range(200, 2500) as i64;
            }
            faults.push(fault);
        }
        faults.sort_by_key(|f| f.at);
        faults
    }

    async fn raise(&self, scope: &Scope, level: Level, reason: &str) -> anyhow::Result<haltline_common::control::Stored> {
        patiently(async || self.client.raise(scope, level, BY, reason).await).await.with_context(|| format!("raising {scope}"))
    }

    /// Lowers a scope to normal.
    ///
    /// # Errors
    /// When it cannot be done for a minute.
    async fn lower(&self, scope: &Scope) -> anyhow::Result<()> {
        let confirm = scope.to_string();
        let lower = async || {
            let flag = self.client.flag_of(scope).await?;
            if flag.state == Level::Normal {
                return Ok(());
            }
            self.client.lower(scope, Level::Normal, BY, "the next halt", flag.revision, Some(&confirm)).await.map(|_| ())
        };
        patiently(lower).await.with_context(|| format!("lowering {scope}"))
    }
}

/// What keeps a halt from being confirmed.
fn waits_for(report: &Report) -> String {
    let unclear: Vec<_> = report.each.iter().filter(|w| !w.is_clear()).collect();
    serde_json::to_string(&unclear).unwrap_or_default()
}

/// Repeats what the server did not answer.
async fn patiently<T>(mut change: impl AsyncFnMut() -> Result<T, ApiError>) -> anyhow::Result<T> {
    let until = Instant::now() + CHANGED_WITHIN;
    loop {
        match change().await {
            Ok(done) => return Ok(done),
            Err(e) if Instant::now() > until => bail!(e),
            Err(e) if matches!(e.code, Code::Unavailable | Code::Conflict | Code::Internal) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(e) => bail!(e),
        }
    }
}

/// Injects them; when the last one was over, in milliseconds of the wall clock. One of a server of a cluster is over when
/// what it led has a leader again.
async fn inject_all(fleet: Arc<Fleet>, link: Link, faults: Vec<Fault>) -> i64 {
    let began = Instant::now();
    let starts = |fault: &Fault| fleet.processes.get(&fault.target).map_or(0, |p| p.starts());
    let before: Vec<u64> = faults.iter().map(starts).collect();
    inject::run(fleet.clone(), &faults, &CancellationToken::new(), |fault| eprintln!("{fault}")).await;
    for (fault, before) in faults.iter().zip(before) {
        tokio::time::sleep_until(began + fault.at + fault.lasts).await;
        if let Some(process) = fleet.processes.get(&fault.target).filter(|_| fault.kind == Kind::Kill) {
            process.started_after(before, STARTED_WITHIN).await;
        }
    }
    if faults.iter().any(|f| f.target.starts_with("nats")) {
        let until = Instant::now() + STARTED_WITHIN;
        while Instant::now() < until && !is_led(&link).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    clock::now().0
}

/// Whether JetStream and the streams that a confirmation reads have leaders: nobody else answers.
async fn is_led(link: &Link) -> bool {
    let names = &link.names;
    let streams = [Names::bucket_stream(&names.control_bucket()), Names::bucket_stream(&names.workers_bucket()), names.events_stream()];
    let asked = async {
        js::api::<Value>(link, "INFO", &Value::Null).await?;
        for stream in &streams {
            js::stream_info(link, stream).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LED_WITHIN, asked).await.is_ok_and(|answer| answer.is_ok())
}
