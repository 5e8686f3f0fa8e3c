//! Reserving before an action and settling after it, from one process: by compare-and-swap on the record of
//! each scope, so that all processes together never exceed a limit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use haltline_risk::{Book, Denied, Open};
use haltline_types::{
    control::{Place, Scope},
    error::Code,
    risk::{Breach, Fill, Order},
};

use super::{RiskRules, Rules, ServerTime, reserved_key, store};
use crate::{
    Link, kv,
    planted::{Bug, planted},
    publisher::Publisher,
};

/// How often one reservation is tried against others.
const TRIES_MAX: u32 = 200;
/// Longest pause between two tries; grows up to it.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// An action that is about to happen.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Its key: the same again is the same action.
    pub key: &'a str,
    /// Its execution.
    pub execution_id: &'a str,
    /// Its node.
    pub node_id: &'a str,
    /// The order that it is, if it is one.
    pub order: Option<Order>,
    /// Whether limits can refuse it; what only takes risk away is counted alone.
    pub bound: bool,
}

/// What was reserved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reserved {
    /// From which scopes.
    pub scopes: Vec<Scope>,
    /// Limits that it came near.
    pub near: Vec<Breach>,
}

/// Why nothing was reserved. Nothing of it is left behind, as far as the server could be reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// A limit.
    Limit(Box<Breach>),
    /// It cannot be counted: why.
    Uncountable(String),
    /// A limit on money applies and nothing bounds the order's price: which.
    NoPrice(String),
    /// It is not certain now which limits apply: later again.
    Unsure(String),
    /// The record could not be changed: later again.
    Unavailable(String),
}

/// A record as this process saw it last.
#[derive(Default)]
struct Cached {
    known: Option<(Book, u64)>,
}

/// The way through which actions of this process reserve. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    link: Link,
    publisher: Publisher,
    rules: RiskRules,
    time: ServerTime,
    /// One lock a scope: tasks of one process need not race each other on the server.
    cached: Arc<Mutex<HashMap<Scope, Arc<tokio::sync::Mutex<Cached>>>>>,
}

impl Door {
    /// A door that goes by `rules`.
    pub fn new(link: &Link, publisher: &Publisher, rules: RiskRules) -> Self {
        Self { link: link.clone(), publisher: publisher.clone(), rules, time: ServerTime::new(link), cached: Arc::default() }
    }

    /// Reserves what an action at `place` needs, from every scope that has limits there. The same key again
    /// reserves nothing more.
    ///
    /// # Errors
    /// The first refusal; what was reserved for it from other scopes is given back.
    pub async fn reserve(&self, place: &Place<'_>, wanted: &Wanted<'_>) -> Result<Reserved, Refusal> {
        let rules = self.rules.now().map_err(Refusal::Unsure)?;
        let mut reserved = Reserved::default();
        for scope in rules.scopes_at(place) {
            match self.reserve_from(&rules, &scope, wanted).await {
                Ok(near) => {
                    reserved.near.extend(near);
                    reserved.scopes.push(scope);
                }
                Err(refusal) => {
                    self.release(&reserved.scopes, wanted.key).await;
                    return Err(refusal);
                }
            }
        }
        Ok(reserved)
    }

    async fn reserve_from(&self, rules: &Rules, scope: &Scope, wanted: &Wanted<'_>) -> Result<Vec<Breach>, Refusal> {
        let all = rules;
        let rules = rules.reserving(scope).map_err(Refusal::Uncountable)?;
        let window = rules.iter().map(|r| r.window().0).max().unwrap_or_default();
        let at = self.time.now().await.map_err(|e| Refusal::Unavailable(e.message))?;
        let change = |book: &mut Book| {
            if !all.include(book.rules) {
                return Err(Denied::Behind);
            }
            book.prune(window, at);
            let (execution_id, node_id) = (wanted.execution_id.to_owned(), wanted.node_id.to_owned());
            book.reserve(&rules, wanted.key, Open { at, execution_id, node_id, order: wanted.order.clone() }, wanted.bound)
        };
        self.change(scope, change).await?.map_err(|denied| match denied {
            Denied::Limit(breach) => Refusal::Limit(breach),
            Denied::Behind => Refusal::Unsure(format!("the risk rules of {scope} have changed and are not here yet")),
            Denied::NoPrice(which) => Refusal::NoPrice(which),
            Denied::Full(why) => Refusal::Uncountable(format!("{scope}: {why}")),
        })
    }

    /// The action happened; `fill` is what it came to, if it was an order. Counted in the scopes that it was reserved from, and in
    /// those that have limits at `place` now. What cannot be written now is settled by a coordinator later.
    pub async fn settle(&self, place: &Place<'_>, reserved: &[Scope], key: &str, fill: Option<&Fill>) {
        let now = self.rules.last().map(|rules| rules.scopes_at(place)).unwrap_or_default();
        let mut scopes: Vec<Scope> = reserved.iter().cloned().chain(now).collect();
        scopes.sort();
        scopes.dedup();
        if scopes.is_empty() {
            return;
        }
        let at = match self.time.now().await {
            Ok(at) => at,
            Err(e) => {
                tracing::warn!(key, error = e.message, "what an action came to could not be counted now; a coordinator does it later");
                return;
            }
        };
        for scope in scopes {
            let settle = |book: &mut Book| -> Result<(), Denied> {
                book.settle(key, fill, at);
                Ok(())
            };
            if let Err(e) = self.change(&scope, settle).await {
                tracing::warn!(%scope, key, error = ?e, "what an action came to could not be counted now; a coordinator does it later");
            }
        }
    }

    /// The action certainly did not happen.
    pub async fn release(&self, scopes: &[Scope], key: &str) {
        for scope in scopes {
            let release = |book: &mut Book| -> Result<(), Denied> {
                book.release(key);
                Ok(())
            };
            if let Err(e) = self.change(scope, release).await {
                tracing::warn!(%scope, key, error = ?e, "what an action had reserved could not be given back now; a coordinator does it later");
            }
        }
    }

    fn slot(&self, scope: &Scope) -> Arc<tokio::sync::Mutex<Cached>> {
        let mut all = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(scope.clone()).or_default().clone()
    }

    /// Changes a scope's record by compare-and-swap. What is refused by the copy of it is asked for anew first.
    async fn change<T>(&self, scope: &Scope, mut change: impl FnMut(&mut Book) -> Result<T, Denied>) -> Result<Result<T, Denied>, Refusal> {
        let slot = self.slot(scope);
        let mut cached = slot.lock().await;
        let mut pause = Duration::from_micros(500);
        for _ in 0..TRIES_MAX {
            let fresh = cached.known.is_none();
            let (book, revision) = match cached.known.take() {
                Some(known) => known,
                None => match store::book(&self.link, scope).await {
                    Ok(Some(known)) => known,
                    // Each rule that is stored makes one: without it nobody knows what was spent.
                    Ok(None) => {
                        return Err(Refusal::Uncountable(format!(
                            "{} is missing; `haltline risk reset --scope {scope}` begins anew",
                            reserved_key(scope)
                        )));
                    }
                    Err(e) if e.code == Code::Internal => return Err(Refusal::Uncountable(e.message)),
                    Err(e) => return Err(Refusal::Unavailable(e.message)),
                },
            };
            let mut next = book.clone();
            let outcome = match change(&mut next) {
                Err(_) if !fresh => continue,
                outcome => outcome,
            };
            if next == book || outcome.is_err() {
                cached.known = Some((book, revision));
                return Ok(outcome);
            }
            let json = serde_json::to_vec(&next).map_err(|e| Refusal::Uncountable(e.to_string()))?;
            let (bucket, key) = (self.link.names.risk_bucket(), reserved_key(scope));
            // Planted: over whatever another worker has stored since.
            let revision = if planted(Bug::ReservationPut) { latest(&self.link, scope).await.unwrap_or(revision) } else { revision };
            match kv::swap(&self.publisher, &bucket, &key, revision, json).await {
                Ok(revision) => {
                    cached.known = Some((next, revision));
                    return Ok(outcome);
                }
                Err(e) if e.code == Code::Conflict => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(e) => return Err(Refusal::Unavailable(e.message)),
            }
        }
        Err(Refusal::Unavailable(format!("what {scope} has reserved is being changed by others all the time")))
    }
}

/// The record's revision now.
async fn latest(link: &Link, scope: &Scope) -> Option<u64> {
    Some(store::book(link, scope).await.ok()??.1)
}
