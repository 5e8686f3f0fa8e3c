//! The halting side: who has confirmed a flag, who is silent, and what is still in flight.
//!
//! Complete means: nothing that the flag keeps from starting can start any more, and nothing of it that started
//! before is open. A worker that confirmed obeys the flag. A silent one cannot start an effect once the longest
//! lease and a margin have passed since the flag's answer was here: a lease that is renewed after the flag was
//! stored comes back behind the flag. What such a worker had in flight is told by its last lease and the log.

mod open;
mod retire;

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures_util::FutureExt;
use haltline_types::{
    Names,
    control::{Lease, Level, OpenEffect, Scope},
    error::ApiError,
    worker::Presence,
};
use serde::Serialize;

use crate::{
    Link, clock,
    control::Stored,
    kv,
    tail::{self, Item, Start, Tail},
};

pub use retire::retire;

/// The longest lease of workers of which none is known.
const LEASE: Duration = Duration::from_secs(1);
/// What clocks of different rates and late timers can make of a lease.
const MARGIN: Duration = Duration::from_millis(100);
/// How often it is looked who is present, and what became of open effects.
const LOOK: Duration = Duration::from_millis(250);
/// Silent or not, what a worker named as open is looked for in the log after this.
const ASK_LOG_AFTER: Duration = Duration::from_millis(500);

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has seen the flag and obeys it.
    Confirmed,
    /// It has not answered, and may hold a lease still.
    Silent,
    /// It has not answered, and cannot hold a lease any more.
    LeaseOver,
}

/// What is known of one life of a worker.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerReport {
    /// The worker.
    pub worker_id: String,
    /// Its life; empty if it has never held a lease.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Where it stands.
    pub standing: Standing,
    /// Milliseconds since it last wrote its lease, by the clocks of server and halting side; absent if it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_age_ms: Option<u64>,
    /// It shows signs of life.
    pub present: bool,
    /// What it has in flight that the flag covers, or may have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenEffect>,
    /// Why it is not known yet what it has in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl WorkerReport {
    /// Whether nothing of it is missing.
    pub fn is_clear(&self) -> bool {
        self.standing != Standing::Silent && self.open.is_empty() && self.unknown.is_none()
    }
}

/// What is known of a flag's effect.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the flag covers.
    pub scope: Scope,
    /// Its level.
    pub level: Level,
    /// Its revision.
    pub revision: u64,
    /// Nothing that it covers can start, and nothing of it is in flight.
    pub complete: bool,
    /// Workers that confirmed.
    pub confirmed: usize,
    /// Workers that count: present, or gone without a goodbye and with something open.
    pub workers: usize,
    /// Milliseconds since the flag's answer was here.
    pub elapsed_ms: f64,
    /// Each worker.
    pub each: Vec<WorkerReport>,
}

struct Life {
    lease: Lease,
    /// When the server stored it.
    stored_at: haltline_types::Timestamp,
    /// When it was heard here, by [`clock::boot`].
    heard: Duration,
    /// What the log says is open, once it was asked, of which version of the lease.
    asked: Option<(u64, Result<Vec<OpenEffect>, String>)>,
}

/// Follows who confirms one flag.
pub struct Confirming {
    link: Link,
    scope: Scope,
    level: Level,
    revision: u64,
    answered: Duration,
    tail: Tail,
    read: bool,
    lives: BTreeMap<(String, String), Life>,
    present: BTreeMap<String, Presence>,
    looked: Option<Duration>,
}

impl Confirming {
    /// Of a flag that was just stored.
    pub fn of(link: &Link, stored: &Stored) -> Self {
        Self::start(link, stored.scope.clone(), stored.value.state, stored.revision, stored.answered)
    }

    /// Of a flag that has been stored at `revision` by `answered` at the latest, by [`clock::boot`].
    pub fn start(link: &Link, scope: Scope, level: Level, revision: u64, answered: Duration) -> Self {
        let options = tail::Options {
            stream: Names::bucket_stream(&link.names.control_bucket()),
            filter: link.names.leases(),
            start: Start::LastPerSubject,
            heartbeat: Duration::from_millis(500),
            buffer: 1024,
            reader: "confirming".into(),
            headers_only: false,
        };
        Self {
            link: link.clone(),
            scope,
            level,
            revision,
            answered,
            tail: Tail::start(link, options),
            read: false,
            lives: BTreeMap::new(),
            present: BTreeMap::new(),
            looked: None,
        }
    }

    /// Waits until it is complete, up to `limit`; what is known then.
    pub async fn wait(&mut self, limit: Duration) -> Report {
        let until = clock::boot() + limit;
        loop {
            self.look().await;
            let report = self.report();
            let now = clock::boot();
            if report.complete || now >= until {
                return report;
            }
            let step = LOOK.min(until - now).min(self.lease_end().saturating_sub(now).max(Duration::from_millis(5)));
            if let Ok(Some(item)) = tokio::time::timeout(step, self.tail.next()).await {
                self.item(item);
            }
        }
    }

    /// Waits until something has changed, or for a moment; what is known then.
    pub async fn next(&mut self, at_most: Duration) -> Report {
        if let Ok(Some(item)) = tokio::time::timeout(at_most, self.tail.next()).await {
            self.item(item);
        }
        self.look().await;
        self.report()
    }

    fn item(&mut self, item: Item) {
        match item {
            Item::Message(m) => {
                let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
                let Some(lease) =
                    Some(m).filter(|_| !gone).and_then(|m| Some((serde_json::from_slice::<Lease>(&m.payload).ok()?, m.stored_at)))
                else {
                    return;
                };
                let (lease, stored_at) = lease;
                let id = (lease.worker_id.clone(), lease.instance.clone());
                if lease.goodbye {
                    self.lives.remove(&id);
                    self.present.remove(&lease.worker_id);
                } else {
                    // It writes under two keys, which may come in any order.
                    match self.lives.get_mut(&id) {
                        Some(known) if known.lease.n > lease.n => known.lease = known.lease.clone().with(lease),
                        known => {
                            let lease = known.map_or(lease.clone(), |known| lease.with(known.lease.clone()));
                            self.lives.insert(id, Life { lease, stored_at, heard: clock::boot(), asked: None });
                        }
                    }
                }
            }
            Item::CaughtUp { .. } => self.read = true,
            Item::Lost { .. } | Item::Reset { .. } => {}
        }
    }

    /// From when on nobody that is silent holds a lease.
    fn lease_end(&self) -> Duration {
        let longest = self.lives.values().map(|l| Duration::from_millis(l.lease.lease_ms)).max().unwrap_or(LEASE).max(LEASE);
        self.answered + longest + longest / 10 + MARGIN
    }

    /// Takes in what has come, who is present, and what the log says of what is open.
    async fn look(&mut self) {
        while let Some(Some(item)) = self.tail.next().now_or_never() {
            self.item(item);
        }
        let now = clock::boot();
        if self.looked.is_some_and(|l| now.saturating_sub(l) < LOOK) {
            return;
        }
        match presence(&self.link).await {
            Ok(present) => {
                self.present = present.into_iter().map(|p| (p.worker_id.clone(), p)).collect();
                self.looked = Some(now);
            }
            Err(e) => tracing::debug!(error = %e, "cannot ask who is present"),
        }
        if !self.read {
            return;
        }
        let over = now >= self.lease_end();
        let mut ask = Vec::new();
        for (id, life) in &self.lives {
            let confirmed = life.lease.seen >= self.revision;
            let listed = life.lease.more > 0 || life.lease.open.iter().any(|o| o.is_covered(&self.scope, self.level));
            let waited = now.saturating_sub(life.heard) >= ASK_LOG_AFTER;
            if (confirmed && listed && waited) || (!confirmed && over) {
                ask.push(id.clone());
            }
        }
        for id in ask {
            let Some(life) = self.lives.get(&id) else { continue };
            let confirmed = life.lease.seen >= self.revision;
            let was = life.asked.as_ref().and_then(|(_, found)| found.as_ref().ok()).cloned();
            let found = match was {
                // No more than what was found before: nothing can have begun since.
                Some(open) if open.is_empty() => continue,
                Some(open) => open::still(&self.link, open).await,
                None => open::of(&self.link, &life.lease, life.stored_at, !confirmed || life.lease.more > 0).await,
            };
            if let Some(life) = self.lives.get_mut(&id) {
                life.asked = Some((life.lease.n, found.map_err(|e| e.message)));
            }
        }
    }

    /// What is known now.
    pub fn report(&self) -> Report {
        let now = clock::boot();
        let over = now >= self.lease_end();
        let mut each: Vec<WorkerReport> = Vec::new();
        for ((worker_id, instance), life) in &self.lives {
            let standing = match life.lease.seen >= self.revision {
                true => Standing::Confirmed,
                false if over => Standing::LeaseOver,
                false => Standing::Silent,
            };
            let listed = || life.lease.open.clone();
            let (open, unknown) = match (&life.asked, standing) {
                (Some((_, Ok(open))), _) => (open.clone(), None),
                (Some((_, Err(e))), _) => (listed(), Some(format!("the log could not be read: {e}"))),
                (None, Standing::LeaseOver) => (listed(), Some("the log is being read".into())),
                (None, _) if life.lease.more > 0 => (listed(), Some(format!("{} more are open", life.lease.more))),
                (None, _) => (listed(), None),
            };
            let open: Vec<_> = open.into_iter().filter(|o| o.is_covered(&self.scope, self.level)).collect();
            let present = self.present.get(worker_id).is_some_and(|p| p.is_of(instance));
            // It left without a goodbye, and what it had begun is settled.
            if !present && standing == Standing::LeaseOver && open.is_empty() && unknown.is_none() {
                continue;
            }
            each.push(WorkerReport {
                worker_id: worker_id.clone(),
                instance: instance.clone(),
                standing,
                lease_age_ms: Some(clock::now().millis_since(life.stored_at)),
                present,
                open,
                unknown,
            });
        }
        let living: HashSet<&str> = self.lives.keys().map(|(id, _)| id.as_str()).collect();
        for worker_id in self.present.keys().filter(|w| !living.contains(w.as_str())) {
            // It never held a lease: what it takes one for comes behind the flag.
            let standing = if over { Standing::LeaseOver } else { Standing::Silent };
            each.push(WorkerReport {
                worker_id: worker_id.clone(),
                instance: String::new(),
                standing,
                lease_age_ms: None,
                present: true,
                open: Vec::new(),
                unknown: None,
            });
        }
        let known = self.read && self.looked.is_some();
        Report {
            scope: self.scope.clone(),
            level: self.level,
            revision: self.revision,
            complete: known && each.iter().all(WorkerReport::is_clear),
            confirmed: each.iter().filter(|w| w.standing == Standing::Confirmed).count(),
            workers: each.len(),
            elapsed_ms: clock::millis(now.saturating_sub(self.answered)),
            each,
        }
    }
}

/// Who shows signs of life.
async fn presence(link: &Link) -> Result<Vec<Presence>, ApiError> {
    let filter = Names::kv_subject(&link.names.workers_bucket(), ">");
    let mut tail = Tail::start(
        link,
        tail::Options {
            stream: Names::bucket_stream(&link.names.workers_bucket()),
            filter,
            start: Start::LastPerSubject,
            heartbeat: Duration::from_secs(1),
            buffer: 1024,
            reader: "present".into(),
            headers_only: false,
        },
    );
    let mut present = Vec::new();
    let reading = async {
        while let Some(item) = tail.next().await {
            match item {
                Item::Message(m) if !m.headers.as_ref().is_some_and(kv::is_deletion) => present.extend(serde_json::from_slice(&m.payload)),
                Item::Message(_) | Item::Reset { .. } => {}
                Item::CaughtUp { .. } => return Ok(()),
                Item::Lost { reason, .. } => return Err(kv::unavailable(reason)),
            }
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(2), reading).await.map_err(kv::unavailable)??;
    Ok(present)
}
