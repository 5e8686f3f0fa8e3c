//! Dead-man switches: the heartbeats that came, and those that did not.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use haltline_common::{
    Link, clock, kv, risk,
    tail::{self, Item, Start, Tail},
    types::{
        Names, Timestamp,
        control::{Level, Scope},
    },
};
use haltline_risk::Heartbeat;

/// A heartbeat that was missed.
pub struct Missed {
    /// Its key.
    pub key: String,
    /// Revision of the last that came.
    pub revision: u64,
    /// Whose level is raised.
    pub scope: Scope,
    /// To what.
    pub level: Level,
    /// Why.
    pub reason: String,
}

struct Heard {
    beat: Result<Heartbeat, String>,
    scope: Scope,
    revision: u64,
    /// By the clock of this machine, so that no other's counts.
    at: Instant,
}

/// All switches that are armed.
pub struct DeadMan {
    tail: Tail,
    bucket: String,
    heard: BTreeMap<String, Heard>,
    /// What was there when the reading began is all known: before that nothing is missed.
    whole: bool,
}

impl DeadMan {
    /// Begins to listen.
    pub fn start(link: &Link) -> Self {
        let bucket = link.names.risk_bucket();
        let options = tail::Options {
            stream: Names::bucket_stream(&bucket),
            filter: Names::kv_subject(&bucket, "heartbeat.>"),
            start: Start::LastPerSubject,
            heartbeat: Duration::from_millis(500),
            buffer: 256,
            reader: "coordinator_heartbeats".into(),
            headers_only: false,
        };
        Self { tail: Tail::start(link, options), bucket, heard: BTreeMap::new(), whole: false }
    }

    /// Takes in what comes next. Cancel safe.
    pub async fn hear(&mut self) {
        match self.tail.next().await {
            Some(Item::Message(m)) => {
                let Some(key) = Names::key_of(&self.bucket, &m.subject) else { return };
                if m.headers.as_ref().is_some_and(kv::is_deletion) {
                    self.heard.remove(key);
                    return;
                }
                let beat = serde_json::from_slice::<Heartbeat>(&m.payload).map_err(|e| e.to_string());
                let beat = beat.and_then(|b| b.check().map(|()| b).map_err(|e| e.message));
                let Some(scope) = risk::heartbeat_scope(key) else {
                    tracing::error!(key, "a heartbeat of no scope; ignored");
                    return;
                };
                // One that comes late, as after a start, was not sent just now.
                let late = Duration::from_millis(clock::now().millis_since(m.stored_at));
                let now = Instant::now();
                let at = if self.whole { now } else { now.checked_sub(late).unwrap_or(now) };
                self.heard.insert(key.to_owned(), Heard { beat, scope, revision: m.seq, at });
            }
            Some(Item::CaughtUp { .. }) => self.whole = true,
            // While nothing can be heard nobody can tell who is silent: what comes after it counts from there.
            Some(Item::Lost { .. }) => self.whole = false,
            Some(Item::Reset { .. }) => {
                self.heard.clear();
                self.whole = false;
            }
            None => std::future::pending().await,
        }
    }

    /// Switches whose heartbeat is missed and was not told yet.
    pub fn missed(&self, told: &BTreeMap<String, u64>) -> Vec<Missed> {
        if !self.whole {
            return Vec::new();
        }
        let untold = self.heard.iter().filter(|(key, heard)| told.get(*key) != Some(&heard.revision));
        untold.filter_map(|(key, heard)| heard.missed(key)).collect()
    }
}

impl Heard {
    fn missed(&self, key: &str) -> Option<Missed> {
        let (level, reason) = match &self.beat {
            Ok(beat) => {
                let (now, silent) = (clock::now(), self.at.elapsed().as_millis() as i64);
                let heard = Timestamp(now.0 - silent);
                if !beat.is_missed(heard, now) {
                    return None;
                }
                (beat.level, beat.reason(now, heard))
            }
            // What cannot be read promises nothing.
            Err(why) => (Level::Halt, format!("dead-man switch: the heartbeat {key} cannot be read: {why}")),
        };
        Some(Missed { key: key.to_owned(), revision: self.revision, scope: self.scope.clone(), level, reason })
    }
}
