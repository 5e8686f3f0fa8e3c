//! A watched copy of the rules. They are as fresh as the flags must be, or nothing is certain.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use haltline_risk::Rule;
use haltline_types::{
    Names,
    control::{Place, Scope},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{rule_of, store};
use crate::{
    Link, kv,
    tail::{self, Health, Item, Start, Tail},
};

/// Rules that were not confirmed for longer than this are not trusted.
const STALE_AFTER: Duration = Duration::from_secs(2);
/// Four signs of life fit into [`STALE_AFTER`].
const HEARTBEAT: Duration = Duration::from_millis(500);

/// All rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// By key.
    pub by_key: BTreeMap<String, Rule>,
    /// Values that are no rules, by key, and why: what they might limit is refused.
    pub unreadable: BTreeMap<String, String>,
    /// Scopes that have rules which actions reserve, or values that are no rules.
    scopes: Vec<Scope>,
    /// The last revision read.
    revision: u64,
}

impl Rules {
    fn set(&mut self, key: &str, value: Option<&[u8]>, revision: u64) {
        self.revision = revision;
        self.by_key.remove(key);
        self.unreadable.remove(key);
        match value.map(|v| store::read_rule(key, v)) {
            None => {}
            Some(Ok(rule)) => {
                self.by_key.insert(key.to_owned(), rule);
            }
            Some(Err(why)) => {
                tracing::error!(key, why, "a risk rule cannot be read: what its scope does is refused");
                self.unreadable.insert(key.to_owned(), why);
            }
        }
        let reserving = self.by_key.values().filter(|r| r.kind.reserves()).map(|r| r.scope.clone());
        // A key that names no scope might mean any.
        let unreadable = self.unreadable.keys().map(|key| rule_of(key).map_or(Scope::Global, |(scope, _)| scope));
        self.scopes = reserving.chain(unreadable).collect();
        self.scopes.sort();
        self.scopes.dedup();
    }

    /// Scopes with rules that an action at `place` has to reserve from, always in the same order.
    pub fn scopes_at(&self, place: &Place) -> Vec<Scope> {
        let covers = |scope: &&Scope| match scope {
            Scope::Global => true,
            Scope::Strategy(id) => id == place.strategy_id,
            Scope::Bot(id) => id == place.bot_id,
            Scope::Workflow(id) => id == place.workflow_id,
            Scope::Venue(id) => id == place.venue,
            Scope::NodeType(id) => id == place.node_type,
        };
        self.scopes.iter().filter(covers).cloned().collect()
    }

    /// Whether the rules as of a revision of the control bucket are among these: they are read in its order.
    pub fn include(&self, revision: u64) -> bool {
        self.revision >= revision
    }

    /// What the actions of a scope reserve from.
    ///
    /// # Errors
    /// A value of the scope that is no rule, and why.
    pub fn reserving(&self, scope: &Scope) -> Result<Vec<&Rule>, String> {
        if let Some((key, why)) = self.unreadable.iter().find(|(key, _)| rule_of(key).is_none_or(|(s, _)| s == *scope)) {
            return Err(format!("the risk rule {key} cannot be read: {why}"));
        }
        Ok(self.by_key.values().filter(|r| r.scope == *scope && r.kind.reserves()).collect())
    }
}

/// The watched rules. Cheap to clone; the watch ends with the last clone.
#[derive(Clone)]
pub struct RiskRules {
    seen: watch::Receiver<Option<Arc<Rules>>>,
    health: Arc<Health>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl RiskRules {
    /// Starts watching.
    pub fn start(link: &Link, reader: &str) -> Self {
        let tail = Tail::start(
            link,
            tail::Options {
                stream: Names::bucket_stream(&link.names.control_bucket()),
                filter: link.names.risk_rules(),
                start: Start::LastPerSubject,
                heartbeat: HEARTBEAT,
                buffer: 64,
                reader: format!("{reader}_risk"),
                headers_only: false,
            },
        );
        let health = tail.health();
        let (tx, seen) = watch::channel(None);
        let task = AbortOnDropHandle::new(tokio::spawn(follow(tail, link.names.control_bucket(), tx)));
        Self { seen, health, _task: Arc::new(task) }
    }

    /// The rules.
    ///
    /// # Errors
    /// Why they are not certain now.
    pub fn now(&self) -> Result<Arc<Rules>, String> {
        let Some(rules) = self.seen.borrow().clone() else { return Err("the risk rules have not been read yet".into()) };
        match self.health.age() {
            Some(age) if age <= STALE_AFTER => Ok(rules),
            _ => Err("the watch on the risk rules is interrupted".into()),
        }
    }

    /// The rules as last read, certain or not.
    pub fn last(&self) -> Option<Arc<Rules>> {
        self.seen.borrow().clone()
    }

    /// Waits for the rules to be read anew. Cancel safe.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn follow(mut tail: Tail, bucket: String, tx: watch::Sender<Option<Arc<Rules>>>) {
    let mut rules = Rules::default();
    // While the tail starts, what is there is not all that is there.
    let mut whole = false;
    while let Some(item) = tail.next().await {
        match item {
            Item::Message(m) => {
                let Some(key) = Names::key_of(&bucket, &m.subject) else { continue };
                let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
                rules.set(key, (!gone).then_some(&m.payload[..]), m.seq);
            }
            Item::CaughtUp { .. } => whole = true,
            Item::Lost { .. } => continue,
            // Another bucket: what it has not is not there any more.
            Item::Reset { .. } => (rules, whole) = (Rules::default(), false),
        }
        tx.send_replace(whole.then(|| Arc::new(rules.clone())));
    }
}
