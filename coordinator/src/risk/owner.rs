//! The loop: log, rules, heartbeats and time in; words about rules out; the state stored by compare-and-swap.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::FutureExt;
use haltline_common::{
    Link, clock, fault, js, kv,
    publisher::Publisher,
    risk::{RiskRules, Rules, WATCHED_KEY},
    tail::{self, Item, Message, Start, Tail},
    types::{
        Timestamp,
        error::{ApiError, Code},
        event::Event,
        json,
    },
};
use haltline_risk::{Input, Rule, Watched, Word};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{dead_man::DeadMan, settle, tell::Teller};

/// How often time is looked at: windows, feeds, days, heartbeats.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the state is stored while it moves.
const STORE_EVERY: Duration = Duration::from_millis(500);
/// How often reservations are looked at that nobody settled.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// Messages of the log taken in one turn.
const BATCH: usize = 256;
/// Events that say nothing about risk and are many; not read at all. Events begin with their type.
const SKIPPED: [&[u8]; 3] = [br#"{"type":"node_started""#, br#"{"type":"effect_intended""#, br#"{"type":"effect_settled""#];

/// What is stored.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Who follows the log.
    pub coordinator_id: String,
    /// When it was stored.
    pub at: Timestamp,
    /// What outcomes show, with the position in the log.
    pub state: Watched,
    /// Heartbeats that were missed and told, by the scope, with the revision of the last that came.
    pub missed: BTreeMap<String, u64>,
}

/// Follows the log until `stop`, or until another coordinator does.
pub async fn run(link: Link, coordinator_id: String, stop: CancellationToken) {
    match Owner::take(link, coordinator_id).await {
        Ok(mut owner) => {
            owner.follow(&stop).await;
            tracing::info!(log = owner.record.state.log, "no longer watching risk limits");
        }
        Err(e) => tracing::warn!(error = %e, "cannot begin to watch risk limits; trying again"),
    }
}

struct Owner {
    link: Link,
    rules: RiskRules,
    /// As they were when they were last certain.
    known: Arc<Rules>,
    record: Record,
    revision: u64,
    /// The state is not what is stored.
    moved: bool,
    /// Another coordinator has the record.
    lost: bool,
    teller: Teller,
    dead_man: DeadMan,
    log: Option<Tail>,
}

impl Owner {
    /// Reads the state and writes it with one's own name.
    async fn take(link: Link, coordinator_id: String) -> Result<Self, ApiError> {
        let entry = kv::get(&link, &link.names.risk_bucket(), WATCHED_KEY).await?;
        let revision = entry.as_ref().map_or(0, |e| e.revision);
        let record = entry.and_then(|e| e.value).map(|v| serde_json::from_slice::<Record>(&v)).transpose().unwrap_or_else(|e| {
            tracing::error!(error = %e, "what risk limits have counted is malformed: counting again from the beginning of the log");
            None
        });
        let mut record = record.unwrap_or_default();
        // A log that was restored ends earlier than what had been counted of it: what comes now is new.
        let events =
            js::stream_info(&link, &link.names.events_stream()).await.map_err(|e| ApiError::new(Code::Unavailable, e.to_string()))?;
        record.state.log = record.state.log.min(events.state.last_seq);
        let publisher = Publisher::start(&link).await.map_err(|e| ApiError::new(Code::Unavailable, e.to_string()))?;
        let mut owner = Self {
            rules: RiskRules::start(&link, "coordinator"),
            known: Arc::default(),
            record: Record { coordinator_id, ..record },
            revision,
            moved: true,
            lost: false,
            teller: Teller::new(&link, publisher),
            dead_man: DeadMan::start(&link),
            log: None,
            link,
        };
        owner.store().await?;
        tracing::info!(coordinator_id = owner.record.coordinator_id, log = owner.record.state.log, "watching risk limits");
        Ok(owner)
    }

    async fn follow(&mut self, stop: &CancellationToken) {
        let interval = |every| {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (mut look, mut store, mut settles) = (interval(LOOK_EVERY), interval(STORE_EVERY), interval(SETTLE_EVERY));
        // Not in this loop: it may read much, and a breach must not wait for it.
        let mut settling = JoinSet::new();
        while !self.lost {
            tokio::select! {
                () = stop.cancelled() => {
                    self.store_or_say().await;
                    return;
                }
                () = self.rules.changed() => {
                    self.begin_or_end();
                    // So that a rule is seen to be watched as soon as it is.
                    self.look().await;
                    self.store_or_say().await;
                }
                item = next(&mut self.log) => self.read(item).await,
                () = self.dead_man.hear() => {}
                _ = look.tick() => self.look().await,
                _ = store.tick() => self.store_or_say().await,
                _ = settles.tick(), if settling.is_empty() && self.has_reserving() => {
                    settling.spawn(settle::settle_left_over(self.link.clone()));
                }
                Some(_) = settling.join_next(), if !settling.is_empty() => {}
            }
        }
    }

    fn has_reserving(&self) -> bool {
        self.known.by_key.values().any(|rule| rule.kind.reserves())
    }

    /// The log is followed while there are rules: without, it costs nothing.
    fn begin_or_end(&mut self) {
        // While they are being read anew, those that were known hold.
        let Some(rules) = self.rules.last() else { return };
        self.known = rules.clone();
        if rules.by_key.is_empty() {
            self.log = None;
            return;
        }
        if self.log.is_some() {
            return;
        }
        // What happened before the first rule was stored counts for none of them.
        let since = rules.by_key.values().map(|r| r.since).min().unwrap_or(0);
        let from = self.record.state.log.max(since) + 1;
        self.log = Some(Tail::start(
            &self.link,
            tail::Options {
                stream: self.link.names.events_stream(),
                filter: self.link.names.events_only(),
                start: Start::Seq(from),
                heartbeat: crate::inputs::BEAT,
                buffer: 4096,
                reader: "coordinator_risk".into(),
                headers_only: false,
            },
        ));
    }

    async fn read(&mut self, item: Option<Item>) {
        let Some(mut item) = item else {
            self.log = None;
            return;
        };
        let rules = self.known.clone();
        for _ in 0..BATCH {
            match item {
                Item::Message(m) => self.take_in(&rules.by_key, m).await,
                Item::Lost { reason, .. } => {
                    tracing::warn!(reason, "reading the log for risk limits was interrupted; going on where it stopped")
                }
                Item::Reset { .. } => {
                    tracing::error!("the events stream was recreated: risk limits go on counting from its beginning");
                    self.record.state.log = 0;
                }
                Item::CaughtUp { .. } => {}
            }
            if self.lost {
                return;
            }
            let Some(Some(next)) = self.log.as_mut().and_then(|log| log.next().now_or_never()) else { return };
            item = next;
        }
    }

    async fn take_in(&mut self, rules: &BTreeMap<String, Rule>, m: Message) {
        self.record.state.log = m.seq;
        self.moved = true;
        let mut breached = false;
        for line in json::lines(&m.payload).filter(|line| !SKIPPED.iter().any(|s| line.starts_with(s))) {
            match serde_json::from_slice::<Event>(line) {
                Ok(event) => breached |= self.apply(rules, Input::Event(&event, m.stored_at)).await,
                Err(e) => tracing::error!(seq = m.seq, error = %e, "malformed event in the log; it counts for no risk limit"),
            }
        }
        // Not before: what is stored says that all events of this message were counted.
        self.breached(breached).await;
    }

    async fn look(&mut self) {
        let now = clock::now();
        let rules = self.known.clone();
        if !rules.by_key.is_empty() {
            let breached = self.apply(&rules.by_key, Input::Tick(now)).await;
            self.breached(breached).await;
        }
        for missed in self.dead_man.missed(&self.record.missed) {
            if self.teller.missed(&missed).await {
                self.record.missed.insert(missed.key, missed.revision);
                self.moved = true;
                // An operator who lowers it again must not be overruled by a successor that does not know.
                self.store_or_say().await;
            }
        }
    }

    /// Moves the state, and acts on what follows before it is stored; whether a limit was breached.
    async fn apply(&mut self, rules: &BTreeMap<String, Rule>, input: Input<'_>) -> bool {
        let mut breached = false;
        for verdict in self.record.state.apply(rules, input) {
            self.moved = true;
            breached |= verdict.word != Word::Warning;
            self.teller.tell(&verdict).await;
        }
        breached
    }

    async fn breached(&mut self, breached: bool) {
        if breached {
            fault::point("coordinator.breached");
            self.store_or_say().await;
        }
    }

    async fn store_or_say(&mut self) {
        match self.store().await {
            Ok(()) => {}
            Err(e) if e.code == Code::Conflict => {
                tracing::warn!("another coordinator watches risk limits: leaving it to that one");
                self.lost = true;
            }
            Err(e) => tracing::warn!(error = %e, "what risk limits have counted could not be stored"),
        }
    }

    async fn store(&mut self) -> Result<(), ApiError> {
        if !self.moved {
            return Ok(());
        }
        self.record.at = clock::now();
        let json = serde_json::to_vec(&self.record).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let bucket = self.link.names.risk_bucket();
        match kv::swap_once(&self.link, &bucket, WATCHED_KEY, self.revision, json).await {
            Ok(revision) => {
                self.revision = revision;
                self.moved = false;
                Ok(())
            }
            // One's own write whose answer was lost, or another's: the name tells.
            Err(e) if e.code == Code::Conflict => {
                let entry = kv::get(&self.link, &bucket, WATCHED_KEY).await?;
                let stored = entry.as_ref().and_then(|e| serde_json::from_slice::<Record>(e.value.as_deref()?).ok());
                match (entry, stored) {
                    (Some(entry), Some(stored)) if stored.coordinator_id == self.record.coordinator_id => {
                        self.revision = entry.revision;
                        Ok(())
                    }
                    _ => Err(e),
                }
            }
            Err(e) => Err(e),
        }
    }
}

/// The next item of the log; for ever nothing while it is not followed.
async fn next(log: &mut Option<Tail>) -> Option<Item> {
    match log {
        Some(log) => log.next().await,
        None => std::future::pending().await,
    }
}
