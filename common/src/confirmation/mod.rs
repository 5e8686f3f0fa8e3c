//! The halting side: who has confirmed a flag, who is silent, and what is still in flight.
//!
//! Complete means: nothing that the flag keeps from starting can start any more, and nothing of it that started
//! before is open. A worker that confirmed obeys the flag. A silent one cannot start an effect once the longest
//! lease and a margin have passed since the flag's answer was here: a lease that is renewed after the flag was
//! stored comes back behind the flag. What such a worker had in flight is told by its last lease and the log.

mod listening;
mod open;
mod retire;

use std::{collections::HashSet, time::Duration};

use haltline_types::control::{Level, OpenEffect, Scope};
use serde::Serialize;
use tokio::task::{JoinError, JoinSet};

use crate::{Link, clock, control::Stored};

pub use listening::Listening;
pub use retire::retire;

/// The longest lease of workers of which none is known.
const LEASE: Duration = Duration::from_secs(1);
/// What clocks of different rates and late timers can make of a lease.
const MARGIN: Duration = Duration::from_millis(100);
/// How often it is looked what became of open effects.
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

/// Follows who confirms one flag.
pub struct Confirming {
    heard: Listening,
    scope: Scope,
    level: Level,
    revision: u64,
    answered: Duration,
    /// When the log was asked last, by [`clock::boot`].
    asked: Option<Duration>,
    /// What it is being asked about lives of workers.
    asking: JoinSet<Vec<Answer>>,
    /// Of which ones.
    asked_about: HashSet<(String, String)>,
}

/// What the log says is open: of which worker and life, and of which version of its lease.
type Answer = ((String, String), u64, Result<Vec<OpenEffect>, String>);

impl Listening {
    /// Follows who confirms a flag that was stored since.
    pub fn to(self, stored: &Stored) -> Confirming {
        let (scope, level) = (stored.scope.clone(), stored.value.state);
        Confirming::of(self, scope, level, stored.revision, stored.answered)
    }
}

impl Confirming {
    /// Of a flag that has been stored at `revision` by `answered` at the latest, by [`clock::boot`].
    pub fn start(link: &Link, scope: Scope, level: Level, revision: u64, answered: Duration) -> Self {
        Self::of(Listening::new(link), scope, level, revision, answered)
    }

    fn of(mut heard: Listening, scope: Scope, level: Level, revision: u64, answered: Duration) -> Self {
        heard.read(&scope);
        Self { heard, scope, level, revision, answered, asked: None, asking: JoinSet::new(), asked_about: HashSet::new() }
    }

    /// Waits until it is complete, up to `limit`; what is known then.
    pub async fn wait(&mut self, limit: Duration) -> Report {
        let until = clock::boot() + limit;
        loop {
            self.look().await;
            let (now, end) = (clock::boot(), self.lease_end());
            // A hundred workers answer one after the other: what they all say is put together when they all have.
            if now >= until || now >= end || self.heard.lives.values().all(|l| l.lease.seen >= self.revision) {
                let report = self.report();
                if report.complete || now >= until {
                    return report;
                }
            }
            let step = LOOK.min(until - now).min(end.saturating_sub(now).max(Duration::from_millis(5)));
            let _ = tokio::time::timeout(step, self.hear()).await;
        }
    }

    /// Waits until something has changed, or for a moment; what is known then.
    pub async fn next(&mut self, at_most: Duration) -> Report {
        let _ = tokio::time::timeout(at_most, self.hear()).await;
        self.look().await;
        self.report()
    }

    /// Waits for the next thing that a worker or the log says. Cancel safe.
    async fn hear(&mut self) {
        tokio::select! {
            () = self.heard.next() => {}
            Some(answer) = self.asking.join_next() => self.answered(answer),
        }
    }

    /// Takes in what the log says.
    fn answered(&mut self, answers: Result<Vec<Answer>, JoinError>) {
        let Ok(answers) = answers else {
            // Whoever they were of is asked about again.
            return self.asked_about.clear();
        };
        for (id, n, open) in answers {
            self.asked_about.remove(&id);
            // What was asked of an earlier lease says nothing of a later one.
            if let Some(life) = self.heard.lives.get_mut(&id).filter(|life| life.lease.n == n) {
                life.asked = Some(open);
            }
        }
    }

    /// From when on nobody that is silent holds a lease.
    fn lease_end(&self) -> Duration {
        let longest = self.heard.lives.values().map(|l| Duration::from_millis(l.lease.lease_ms)).max().unwrap_or(LEASE).max(LEASE);
        self.answered + longest + longest / 10 + MARGIN
    }

    /// Takes in what has come, who is present, and what the log says of what is open.
    async fn look(&mut self) {
        self.heard.all_there_is();
        while let Some(answer) = self.asking.try_join_next() {
            self.answered(answer);
        }
        let now = clock::boot();
        if !self.heard.has_read(self.revision) {
            self.heard.hurry(&self.scope, now);
        }
        self.heard.look(now).await;
        let end = self.lease_end();
        let over = now >= end;
        // Again after a while, and as soon as nobody who is silent holds a lease.
        let asked = self.asked.is_some_and(|at| now.saturating_sub(at) < LOOK && (at >= end || !over));
        if asked || !self.heard.has_read(self.revision) {
            return;
        }
        self.asked = Some(now);
        let (mut lives, mut asks) = (Vec::new(), Vec::new());
        for (id, life) in &self.heard.lives {
            let confirmed = life.lease.seen >= self.revision;
            let listed = life.lease.more > 0 || life.lease.open.iter().any(|o| o.is_covered(&self.scope, self.level));
            let waited = now.saturating_sub(life.heard) >= ASK_LOG_AFTER;
            let due = (confirmed && listed && waited) || (!confirmed && over);
            let was = life.asked.as_ref().and_then(|found| found.as_ref().ok());
            // No more than what was found before: nothing can have begun since.
            let nothing_is_open = was.is_some_and(Vec::is_empty);
            if !due || nothing_is_open || !self.asked_about.insert(id.clone()) {
                continue;
            }
            let later = life.lease.seen < self.revision || life.lease.more > 0;
            lives.push((id.clone(), life.lease.n));
            asks.push(open::Ask { lease: life.lease.clone(), stored_at: life.stored_at, later, was: was.cloned() });
        }
        if asks.is_empty() {
            return;
        }
        let link = self.heard.link.clone();
        self.asking.spawn(async move {
            let found = match open::of(&link, &asks).await {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(e) => vec![Err(e.message); lives.len()],
            };
            lives.into_iter().zip(found).map(|((id, n), open)| (id, n, open)).collect()
        });
    }

    /// What is known now.
    pub fn report(&self) -> Report {
        let now = clock::boot();
        let over = now >= self.lease_end();
        let mut each: Vec<WorkerReport> = Vec::new();
        for ((worker_id, instance), life) in &self.heard.lives {
            let standing = match life.lease.seen >= self.revision {
                true => Standing::Confirmed,
                false if over => Standing::LeaseOver,
                false => Standing::Silent,
            };
            let listed = || life.lease.open.clone();
            let (open, unknown) = match (&life.asked, standing) {
                (Some(Ok(open)), _) => (open.clone(), None),
                (Some(Err(e)), _) => (listed(), Some(format!("the log could not be read: {e}"))),
                (None, Standing::LeaseOver) => (listed(), Some("the log is being read".into())),
                (None, _) if life.lease.more > 0 => (listed(), Some(format!("{} more are open", life.lease.more))),
                (None, _) => (listed(), None),
            };
            let open: Vec<_> = open.into_iter().filter(|o| o.is_covered(&self.scope, self.level)).collect();
            let present = self.heard.present.get(worker_id).is_some_and(|p| p.is_of(instance));
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
        let living: HashSet<&str> = self.heard.lives.keys().map(|(id, _)| id.as_str()).collect();
        for worker_id in self.heard.present.keys().filter(|w| !living.contains(w.as_str())) {
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
        let known = self.heard.has_read(self.revision) && self.heard.looked;
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
