//! The keeper's loop: control bucket in, events, audit and what is to run out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use haltline_common::{
    Link, clock,
    confirmation::{Confirming, Report},
    kv, metrics,
    publisher::Publisher,
    tail::{self, Item, Message, Start, Tail},
    types::{
        Names,
        control::{Flag, Happened, Level, Scope},
        error::ApiError,
    },
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{belt, chain::Chain, tell};

/// What is to run at a halt is asked for again by the next keeper if the halt is not older than this, in milliseconds.
const ON_HALT_WITHIN_MS: u64 = 60_000;
/// How often leases of workers that are gone are looked for.
const RETIRE_EVERY: Duration = Duration::from_secs(10);
/// When it is tried again to pause consumers, or to let them go on.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a confirmation is waited for before it is begun anew, so that it is told how it goes.
const CONFIRM_FOR: Duration = Duration::from_secs(10);

/// Runs until `stop`, or until another one has written the audit.
pub async fn run(link: Link, id: String, stop: CancellationToken) {
    let work = async {
        match Run::open(&link, &id).await {
            Ok(run) => run.follow().await,
            Err(e) => tracing::warn!(error = e.message, "the record of control flags cannot be kept yet; trying again"),
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

struct Run {
    link: Link,
    publisher: Publisher,
    chain: Chain,
    prefix: String,
    flags: BTreeMap<Scope, Flag>,
    /// Halts that are not confirmed yet.
    confirming: JoinSet<Report>,
    /// When each of them was seen here.
    seen: HashMap<(Scope, u64), Duration>,
    caught_up: bool,
    /// Scopes with a confirmed shutdown, whose consumers are paused.
    paused: BTreeSet<Scope>,
    /// Pausing them, or letting them go on; whether that was done.
    fastening: JoinSet<bool>,
    fasten_again: bool,
}

impl Run {
    async fn open(link: &Link, id: &str) -> Result<Self, ApiError> {
        let publisher =
            Publisher::start(link).await.map_err(|e| ApiError::new(haltline_common::types::error::Code::Unavailable, e.to_string()))?;
        Ok(Self {
            link: link.clone(),
            publisher,
            chain: Chain::open(link, id).await?,
            prefix: Names::kv_subject(&link.names.control_bucket(), ""),
            flags: BTreeMap::new(),
            confirming: JoinSet::new(),
            seen: HashMap::new(),
            caught_up: false,
            paused: BTreeSet::new(),
            fastening: JoinSet::new(),
            fasten_again: false,
        })
    }

    async fn follow(mut self) {
        let options = tail::Options {
            stream: Names::bucket_stream(&self.link.names.control_bucket()),
            filter: self.link.names.flags(),
            // From the first on: what a value replaces has to be known.
            start: Start::Seq(1),
            heartbeat: Duration::from_secs(1),
            buffer: 256,
            reader: "keeper".into(),
            headers_only: false,
        };
        let mut tail = Tail::start(&self.link, options);
        let health = tail.health();
        let mut retire = tokio::time::interval(RETIRE_EVERY);
        retire.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut belt = tokio::time::interval(belt::EVERY);
        belt.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Beside the rest: it reads the log.
        let mut retiring = JoinSet::new();
        loop {
            tokio::select! {
                _ = retire.tick(), if retiring.is_empty() => {
                    let link = self.link.clone();
                    retiring.spawn(async move {
                        match haltline_common::confirmation::retire(&link).await {
                            Ok(0) => {}
                            Ok(n) => tracing::info!(n, "removed leases of workers that are gone"),
                            Err(e) => tracing::debug!(error = e.message, "leases of workers that are gone could not be removed"),
                        }
                    });
                }
                Some(_) = retiring.join_next(), if !retiring.is_empty() => {}
                // Before all flags are known nothing is let go on that a shutdown stops.
                _ = belt.tick(), if self.caught_up => self.fasten(),
                Some(done) = self.fastening.join_next(), if !self.fastening.is_empty() => {
                    let again = std::mem::take(&mut self.fasten_again);
                    if again || !matches!(done, Ok(true)) {
                        self.fasten();
                    }
                }
                item = tail.next() => {
                    let told = match item {
                        Some(Item::Message(m)) => self.changed(&m, &health.created()).await,
                        Some(Item::CaughtUp { .. }) => self.caught_up(&health.created()),
                        Some(Item::Reset { .. }) => {
                            self.flags.clear();
                            Ok(())
                        }
                        Some(Item::Lost { .. }) => Ok(()),
                        None => return,
                    };
                    if let Err(e) = told {
                        tracing::info!(error = %e, "beginning again with the record of control flags");
                        return;
                    }
                }
                Some(Ok(report)) = self.confirming.join_next(), if !self.confirming.is_empty() => {
                    if let Err(e) = self.confirmed(report, &health.created()).await {
                        tracing::info!(error = %e, "beginning again with the record of control flags");
                        return;
                    }
                }
            }
        }
    }

    /// A flag was written: told, and written down, unless it is from before.
    async fn changed(&mut self, m: &Message, stream: &str) -> Result<(), super::chain::Lost> {
        let Some(scope) = m.subject.strip_prefix(&self.prefix).and_then(Scope::from_key) else { return Ok(()) };
        let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
        let value = if gone { None } else { Some(&m.payload[..]) };
        let previous = self.flags.get(&scope).map(|f| (f.state, f.revision));
        let flag = Flag::read(&scope, value, m.seq, Some(m.stored_at), previous.map(|(_, revision)| revision));
        self.flags.insert(scope.clone(), flag.clone());
        let before = previous.map_or(Level::Normal, |(state, _)| state);
        let begins = flag.state >= Level::Halt && before < Level::Halt;
        if flag.state < Level::Shutdown && self.paused.remove(&scope) {
            self.fasten();
        }
        if m.seq < self.chain.from(stream) {
            // Whoever wrote it down may have died before this was accepted; asked for twice, it runs once.
            if begins && clock::now().millis_since(m.stored_at) < ON_HALT_WITHIN_MS {
                tell::run_on_halt(&self.link, &flag).await;
            }
            return Ok(());
        }
        // An installation that begins has not changed.
        if flag.state != Level::Normal || previous.is_some() {
            tell::changed(&self.publisher, &self.link, &flag, before, m.stored_at).await;
        }
        if begins {
            tell::run_on_halt(&self.link, &flag).await;
        }
        let happened = Happened::Changed {
            state: flag.state,
            previous: before,
            by: flag.by.clone(),
            verified: flag.verified,
            reason: flag.reason.clone(),
            value: value.map(|v| String::from_utf8_lossy(v).into_owned()),
        };
        self.chain.append(happened, scope.clone(), m.seq, stream, m.stored_at).await?;
        if self.caught_up {
            self.confirm(&flag, stream);
        }
        Ok(())
    }

    /// All flags as they are now are known: those that stop something are to be confirmed.
    fn caught_up(&mut self, stream: &str) -> Result<(), super::chain::Lost> {
        self.caught_up = true;
        for flag in self.flags.values().cloned().collect::<Vec<_>>() {
            self.confirm(&flag, stream);
        }
        self.fasten();
        Ok(())
    }

    fn confirm(&mut self, flag: &Flag, stream: &str) {
        if flag.state.runs() {
            return;
        }
        if self.chain.is_confirmed(stream, &flag.scope, flag.revision) {
            self.pause(flag);
            return;
        }
        let seen = *self.seen.entry((flag.scope.clone(), flag.revision)).or_insert_with(clock::boot);
        let mut confirming = Confirming::start(&self.link, flag.scope.clone(), flag.state, flag.revision, seen);
        self.confirming.spawn(async move { confirming.wait(CONFIRM_FOR).await });
    }

    async fn confirmed(&mut self, report: Report, stream: &str) -> Result<(), super::chain::Lost> {
        // Another value has taken its place: nobody waits for it any more.
        let Some(flag) = self.flags.get(&report.scope).filter(|f| f.revision == report.revision).cloned() else {
            self.seen.remove(&(report.scope, report.revision));
            return Ok(());
        };
        if !report.complete {
            tracing::warn!(
                scope = %report.scope, revision = report.revision, confirmed = report.confirmed, workers = report.workers,
                "a halt is not confirmed yet; `haltline halt --watch` says what is missing"
            );
            self.confirm(&flag, stream);
            return Ok(());
        }
        self.seen.remove(&(report.scope.clone(), report.revision));
        metrics::HALT_CONFIRMED.set(&report.scope.to_string(), report.elapsed_ms / 1000.0);
        let at = clock::now();
        tell::confirmed(&self.publisher, &self.link, &flag, &report, at).await;
        let happened = Happened::Confirmed {
            state: report.level,
            workers: report.workers as u32,
            confirmed: report.confirmed as u32,
            took_ms: report.elapsed_ms as u64,
        };
        self.pause(&flag);
        self.chain.append(happened, report.scope, report.revision, stream, at).await
    }

    /// What a confirmed flag calls for on the server.
    fn pause(&mut self, flag: &Flag) {
        if flag.state == Level::Shutdown && belt::has(&flag.scope) && self.paused.insert(flag.scope.clone()) {
            self.fasten();
        }
    }

    /// Brings the consumers into line with what is paused, one time after the other.
    fn fasten(&mut self) {
        if !self.fastening.is_empty() {
            self.fasten_again = true;
            return;
        }
        let (link, scopes) = (self.link.clone(), self.paused.clone());
        self.fastening.spawn(async move {
            let Err(e) = belt::fasten(&link, &scopes).await else { return true };
            tracing::warn!(error = %e, "consumers of tasks could not be paused or let go on; trying again");
            tokio::time::sleep(AGAIN_AFTER).await;
            false
        });
    }
}
