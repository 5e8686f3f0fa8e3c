//! A coordinator: one loop that owns an engine for each of its shards and feeds them requests, the
//! log, answers to writes, the flag and loads, and performs what comes out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_nats::Subscriber;
use futures_util::{FutureExt, StreamExt};
use haltline_common::{
    Link, clock,
    config::CoordinatorSettings,
    control_watch::ControlWatch,
    fault, js, metrics,
    outbox::{Outbox, Stored, Write, WriteError},
    planted::{Bug, planted},
    tail::{self, Item, Start, Tail},
    topology,
    types::{Names, SmolStr, error::Code},
};
use haltline_core::{Engine, Guard, Known, Limits, Loaded, WriteId};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::{self, Taken},
    duty::Duty,
    held::Held,
    inputs::{self, Shared},
    keeper,
    members::{BEAT_EVERY, Beat, Members},
    perform,
    plans::Plans,
    requests::Requests,
    risk,
    shard::{Leaving, Shard},
    sweep::Sweep,
};

/// Writes in flight above which no further submission is read.
const WRITES_MAX: usize = 8192;
/// Messages of one kind taken in one turn of the loop; more would keep the others waiting.
const BATCH: usize = 256;
/// How often checkpoints are written while they move.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// How often the gate and deadlines are looked at: a gate also closes by getting old.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often executions of which nothing was heard are counted.
const STUCK_EVERY: Duration = Duration::from_secs(5);
/// Checkpoints in a row for which records of someone else must be unread before they are read.
const LOOKS: u32 = 2;
/// A worker that lives answers a cancel within a fifth of a second, and the task of one that died is with
/// another one within two.
const ABANDON_AFTER_MS: u64 = 4_000;
/// An execution whose only task no worker takes shows that it waits after so long: what is queued under load is taken
/// sooner, and costs a message less.
const START_WITHIN_MS: u64 = 1_000;
/// How long a stopping coordinator waits for its shards to be given up.
const DRAIN: Duration = Duration::from_secs(5);

/// Whose write an answer is about.
pub(crate) enum Tag {
    /// An engine's: of which shard, in which epoch; whether it is a record.
    Engine {
        shard: u32,
        epoch: u64,
        id: WriteId,
        record: bool,
    },
    Checkpoint {
        shard: u32,
        epoch: u64,
    },
}

/// A coordinator.
pub struct Service {
    pub(crate) link: Link,
    pub(crate) id: String,
    pub(crate) limits: Limits,
    pub(crate) executions_max: usize,
    /// How long a final record is kept.
    pub(crate) keep: Option<Duration>,
    pub(crate) shards: BTreeMap<u32, Shard>,
    pub(crate) shared: Option<Shared>,
    pub(crate) plans: Plans,
    pub(crate) outbox: Outbox<Tag>,
    pub(crate) control: ControlWatch,
    pub(crate) requests: Requests,
    pub(crate) held: Held,
    pub(crate) loads: JoinSet<(u32, u64, SmolStr, Loaded)>,
    pub(crate) loads_waiting: Vec<(u32, u64, SmolStr, Option<SmolStr>)>,
    pointers: Tail,
    guard: Guard,
    members: Members,
    beats: Subscriber,
    pings: Subscriber,
    /// Shards whose checkpoint is being taken.
    takes: JoinSet<(u32, Taken)>,
    taking: Vec<u32>,
    /// Shards taken of which the records are still to be read, with their epochs; and from where.
    to_sweep: Vec<(u32, u64)>,
    sweep_from: u64,
    epoch: u64,
    /// Records that were written by this coordinator or read; the rest is by others.
    known: Known,
    sweeps: Vec<Sweep>,
    unread: Option<u64>,
    looks: u32,
    reach: JoinSet<Option<u64>>,
    /// Risk limits, which whoever has shard 0 watches.
    risk: Duty,
    /// The record of control flags, which whoever has shard 0 keeps.
    keeper: Duty,
    /// The shard whose inputs were read last.
    turn: u32,
    pub(crate) leaving: bool,
}

impl Service {
    /// Joins the coordinators; shards are taken in [`Service::run`].
    pub async fn start(link: Link, settings: CoordinatorSettings, id: String) -> anyhow::Result<Self> {
        let names = &link.names;
        let pings = link.client.subscribe(names.coordinator()).await?;
        let beats = link.client.subscribe(names.coordinators()).await?;
        let records = Names::bucket_stream(&names.executions_bucket());
        // What is there now is read when shards are taken, as far as it is theirs.
        let reach = js::stream_info(&link, &records).await?.state.last_seq;
        let events = js::stream_info(&link, &names.events_stream()).await?;
        let limits = Limits {
            executions_max: settings.executions_max,
            segments: !settings.per_node_tasks,
            shards: names.shards(),
            abandon_after_ms: ABANDON_AFTER_MS,
            start_within_ms: START_WITHIN_MS,
            one_by_one: events.config["num_replicas"].as_u64().is_some_and(|n| n > 1),
        };
        let pointers = Tail::start(
            &link,
            tail::Options {
                stream: Names::bucket_stream(&names.definitions_bucket()),
                filter: names.latest_all(),
                start: Start::LastPerSubject,
                heartbeat: inputs::BEAT,
                buffer: 4096,
                reader: "coordinator_definitions".into(),
                headers_only: false,
            },
        );
        Ok(Self {
            limits,
            executions_max: settings.executions_max,
            keep: topology::record_keep(&link).await?,
            shards: BTreeMap::new(),
            shared: None,
            plans: Plans::default(),
            outbox: Outbox::open(&link).await?,
            control: ControlWatch::start(&link, "coordinator"),
            requests: Requests::new(&link),
            held: Held::default(),
            loads: JoinSet::new(),
            loads_waiting: Vec::new(),
            pointers,
            guard: Guard::default(),
            members: Members::new(&id),
            beats,
            pings,
            takes: JoinSet::new(),
            taking: Vec::new(),
            to_sweep: Vec::new(),
            sweep_from: u64::MAX,
            epoch: 0,
            known: Known::new(reach),
            sweeps: Vec::new(),
            unread: None,
            looks: 0,
            reach: JoinSet::new(),
            risk: Duty::default(),
            keeper: Duty::default(),
            turn: 0,
            leaving: false,
            link,
            id,
        })
    }

    /// Coordinates until told to stop, then gives its shards up.
    pub async fn run(mut self, stop: &CancellationToken) {
        // None yet.
        metrics::HALT_CONFIRMED.set("global", 0.0);
        let interval = |every| {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (mut look, mut beat) = (interval(LOOK_EVERY), interval(BEAT_EVERY));
        let (mut checkpoints, mut stuck) = (interval(CHECKPOINT_EVERY), interval(STUCK_EVERY));
        let mut batch = Vec::with_capacity(BATCH);
        let mut give_up = None;
        self.beat(true).await;
        loop {
            self.perform().await;
            if self.leaving && (self.shards.is_empty() || give_up.is_some_and(|at| Instant::now() > at)) {
                break;
            }
            let room = self.outbox.len() < WRITES_MAX;
            tokio::select! {
                () = stop.cancelled(), if !self.leaving => {
                    self.leaving = true;
                    give_up = Some(Instant::now() + DRAIN);
                    self.takes.abort_all();
                    self.tell_held(true).await;
                    self.shards.values_mut().for_each(|s| s.leave(Leaving::Given));
                    self.write_checkpoints().await;
                    self.beat(false).await;
                }
                (tag, outcome) = self.outbox.next(), if !self.outbox.is_empty() => {
                    self.answered(tag, outcome);
                    // What came with it is taken at once: a turn of the loop costs more than an answer.
                    for _ in 0..BATCH {
                        let Some((tag, outcome)) = self.outbox.next().now_or_never() else { break };
                        self.answered(tag, outcome);
                    }
                    self.let_go().await;
                }
                of = inputs::next(&mut self.shards, &mut self.shared, &mut self.turn, &mut batch, BATCH), if room => {
                    self.take_in(of, &mut batch);
                }
                next = self.requests.next(room) => {
                    self.requested(next);
                    for _ in 0..BATCH {
                        let Some(next) = self.requests.next(room).now_or_never() else { break };
                        self.requested(next);
                    }
                }
                Some(message) = self.pings.next() => self.pong(message).await,
                Some(message) = self.beats.next() => self.heard(&message.payload).await,
                Some(item) = self.pointers.next() => {
                    if let Item::Message(m) = item {
                        self.plans.learn_latest(&m.subject, &m.payload);
                    }
                }
                (n, item) = next_swept(&mut self.sweeps), if !self.sweeps.is_empty() => self.swept(n, item),
                Some(Ok((shard, epoch, id, loaded))) = self.loads.join_next(), if !self.loads.is_empty() => {
                    if let Some(plan) = &loaded.plan {
                        self.plans.keep(plan);
                    }
                    if let Some(shard) = self.shards.get_mut(&shard).filter(|s| s.epoch == epoch) {
                        shard.engine.loaded(&id, loaded);
                    }
                }
                Some(Ok((shard, taken))) = self.takes.join_next(), if !self.takes.is_empty() => self.taken(shard, taken).await,
                Some(Ok(reach)) = self.reach.join_next(), if !self.reach.is_empty() => self.known.reaches(reach.unwrap_or(0)),
                () = self.control.changed() => self.look_at_gate(),
                _ = look.tick() => {
                    self.look_at_gate();
                    self.tell_held(false).await;
                    let watches = self.shards.get(&0).is_some_and(|s| !s.is_leaving());
                    self.risk.tend(watches, |stop| risk::run(self.link.clone(), self.id.clone(), stop));
                    self.keeper.tend(watches, |stop| keeper::run(self.link.clone(), self.id.clone(), stop));
                    let now = clock::now();
                    self.shards.values_mut().for_each(|s| s.engine.tick(now));
                    self.let_go().await;
                }
                _ = beat.tick() => {
                    self.beat(false).await;
                    self.move_shards();
                }
                _ = stuck.tick() => self.look_for_stuck(),
                _ = checkpoints.tick() => {
                    self.share_inputs();
                    self.sweep_again();
                    self.write_checkpoints().await;
                }
            }
        }
        self.keeper.stop();
        self.risk.drain().await;
        self.beat(false).await;
        if !self.shards.is_empty() {
            tracing::warn!(shards = self.shards.len(), "stopped with unanswered writes; a successor finds them");
        }
        let _ = tokio::time::timeout(DRAIN, self.link.client.flush()).await;
    }

    /// Tells the engines what the guard says now.
    pub(crate) fn look_at_gate(&mut self) {
        let guard = match self.control.flags() {
            // Not in the words of the watch, which change all the time.
            Some(flags) => Guard::new(flags, self.control.doubt().map(|_| "the control flags cannot be read for certain now".into())),
            None => Guard::default(),
        };
        if guard != self.guard {
            self.guard = guard;
            self.shards.values_mut().for_each(|s| s.engine.set_guard(self.guard.clone()));
        }
    }

    fn answered(&mut self, tag: Tag, outcome: Result<Stored, WriteError>) {
        match (tag, outcome) {
            (Tag::Engine { shard, epoch, id, record }, outcome) => {
                if let (true, Ok(stored)) = (record, &outcome) {
                    self.known.add(stored.seq);
                }
                let Some(shard) = self.shards.get_mut(&shard).filter(|s| s.epoch == epoch) else { return };
                if outcome.as_ref().is_ok_and(|stored| stored.again) {
                    shard.engine.sent_again(id);
                }
                match outcome {
                    Ok(stored) if stored.duplicate => shard.engine.stored_before(id, stored.seq),
                    Ok(stored) => shard.engine.stored(id, stored.seq),
                    Err(WriteError::Conflict(_)) => shard.engine.conflicted(id),
                    Err(e) => {
                        tracing::error!(error = %e, "a write was refused");
                        shard.engine.refused(id, &e.to_string());
                    }
                }
            }
            (Tag::Checkpoint { shard, epoch }, outcome) => {
                let Some(shard) = self.shards.get_mut(&shard).filter(|s| s.epoch == epoch) else { return };
                shard.checkpoint_in_flight = false;
                match outcome {
                    Ok(stored) => shard.revision = stored.seq,
                    Err(WriteError::Conflict(_)) if planted(Bug::TwoOwners) => {}
                    Err(WriteError::Conflict(_)) => {
                        tracing::warn!(shard = shard.number, "another coordinator wrote the checkpoint: giving the shard up");
                        shard.leave(Leaving::Lost);
                    }
                    Err(e) => tracing::warn!(error = %e, "the checkpoint could not be written"),
                }
            }
        }
    }

    /// Tells the others which shards this one has.
    async fn beat(&mut self, hello: bool) {
        let shards = self.shards.values().map(|s| (s.number, s.revision)).chain(self.taking.iter().map(|s| (*s, 0))).collect();
        let beat = Beat { coordinator_id: self.id.clone(), shards, leaving: self.leaving, hello };
        let _ = self.link.client.publish(self.link.names.coordinators(), perform::json(&beat).into()).await;
    }

    async fn heard(&mut self, payload: &[u8]) {
        let beat: Beat = match serde_json::from_slice(payload) {
            Ok(beat) => beat,
            Err(e) => {
                tracing::warn!(error = %e, "malformed sign of life of a coordinator; ignored");
                return;
            }
        };
        let answer = beat.hello && beat.coordinator_id != self.id;
        self.members.hear(beat, Instant::now());
        if answer {
            self.beat(false).await;
        }
        self.move_shards();
    }

    /// Takes shards that nobody has, gives up what is too much.
    fn move_shards(&mut self) {
        if self.leaving {
            return;
        }
        let mine = self.shards.values().map(|s| (s.number, s.revision)).chain(self.taking.iter().map(|s| (*s, u64::MAX))).collect();
        let moves = self.members.moves(&mine, self.link.names.shards(), Instant::now());
        for (numbers, why) in [(moves.lost, Leaving::Lost), (moves.give, Leaving::Given)] {
            for number in numbers {
                if planted(Bug::TwoOwners) && why == Leaving::Lost {
                    continue;
                }
                if let Some(shard) = self.shards.get_mut(&number).filter(|s| !s.is_leaving()) {
                    tracing::info!(shard = number, ?why, "giving up a shard");
                    shard.leave(why);
                }
            }
        }
        for number in moves.take {
            self.taking.push(number);
            let (link, id) = (self.link.clone(), self.id.clone());
            self.takes.spawn(async move { (number, checkpoint::take(&link, number, &id).await) });
        }
    }

    async fn taken(&mut self, number: u32, taken: Taken) {
        self.taking.retain(|s| *s != number);
        match taken {
            Ok((checkpoint, revision)) if !self.leaving => {
                tracing::info!(coordinator_id = self.id, shard = number, log = checkpoint.log, records = checkpoint.records, "shard taken");
                self.epoch += 1;
                self.sweep_from = self.sweep_from.min(checkpoint.sweep_from());
                self.to_sweep.push((number, self.epoch));
                let mut shard = Shard::new(self.limits, number, self.epoch, checkpoint, revision);
                shard.read_alone(&self.link, 0);
                shard.engine.set_guard(self.guard.clone());
                self.requests.listen(number, self.epoch, &shard.requests).await;
                self.shards.insert(number, shard);
                self.beat(false).await;
            }
            Ok(_) => {}
            // Someone else was quicker, or the server does not answer: looked at again with the next sign of life.
            Err(e) if e.code == Code::Conflict => tracing::info!(shard = number, "another coordinator took the shard"),
            Err(e) => tracing::warn!(shard = number, error = %e, "cannot take a shard"),
        }
        // Shards that are taken together are swept together: the records are read once.
        if self.takes.is_empty() && !self.to_sweep.is_empty() {
            let from = std::mem::replace(&mut self.sweep_from, u64::MAX);
            self.sweeps.push(Sweep::start(&self.link, from, std::mem::take(&mut self.to_sweep)));
        }
    }

    /// Drops shards that were given up and have left.
    async fn let_go(&mut self) {
        let before = self.shards.len();
        if self.shards.values().any(Shard::is_leaving) {
            self.write_checkpoints().await;
            self.shards.retain(|_, s| !s.has_left());
        }
        if self.shards.len() != before {
            self.beat(false).await;
        }
    }

    async fn write_checkpoints(&mut self) {
        let known = self.known.up_to();
        for shard in self.shards.values_mut() {
            let Some(checkpoint) = shard.checkpoint_due(known, &self.id) else { continue };
            fault::point("coordinator.checkpoint");
            let key = Names::shard_checkpoint_key(shard.number);
            let subject = Names::kv_subject(&self.link.names.checkpoints_bucket(), &key);
            let write = Write::swap(subject, shard.revision, perform::json(&checkpoint));
            self.outbox.send(Tag::Checkpoint { shard: shard.number, epoch: shard.epoch }, write).await;
        }
    }

    /// Reads records that other coordinators wrote: a shard may have been theirs when they did.
    fn sweep_again(&mut self) {
        let unread = self.known.unknown_from().filter(|_| !self.sweeps.iter().any(Sweep::is_for_all));
        self.looks = if unread.is_some() && unread == self.unread { self.looks + 1 } else { 0 };
        // What is merely in flight has been answered by then, and what another one still runs, ended.
        if let Some(from) = unread.filter(|_| self.looks >= LOOKS) {
            self.looks = 0;
            self.sweeps.push(Sweep::start(&self.link, from, Vec::new()));
        }
        self.unread = unread;
        let (link, stream) = (self.link.clone(), Names::bucket_stream(&self.link.names.executions_bucket()));
        self.reach.spawn(async move { js::stream_info(&link, &stream).await.ok().map(|i| i.state.last_seq) });
    }

    fn swept(&mut self, n: usize, item: Option<Item>) {
        let Some(item) = item else { return };
        let Some(last_seq) = self.sweeps[n].take_in(item, &self.link.names, &mut self.shards) else { return };
        if self.sweeps.swap_remove(n).is_for_all() {
            self.known.add_up_to(last_seq);
        }
    }

    fn look_for_stuck(&mut self) {
        for shard in self.shards.values_mut() {
            shard.engine.look_for_stuck();
            for what in shard.engine.take_repairs() {
                tracing::error!(what, "a task got lost; emitted again");
            }
        }
        let sum = |of: fn(&Engine) -> u64| self.shards.values().map(|s| of(&s.engine)).sum();
        metrics::EXECUTIONS_STUCK.set(sum(Engine::stuck));
        metrics::EXECUTIONS_UNKNOWN.set(sum(Engine::unknown));
        metrics::EXECUTIONS_WAITING.set(sum(Engine::waiting));
    }

    async fn pong(&mut self, message: async_nats::Message) {
        let Some(reply) = message.reply else { return };
        let owners = self.members.owners(Instant::now());
        let ready = self.shards.values().filter(|s| s.swept && !s.is_leaving()).count();
        let body = serde_json::json!({
            "coordinator_id": self.id,
            "shards": self.shards.keys().collect::<Vec<_>>(),
            "shards_without_owner": self.link.names.shards() as usize - owners.len(),
            "running": self.shards.values().map(|s| s.engine.running()).sum::<usize>(),
            "ended": self.shards.values().map(|s| s.engine.ended()).sum::<u64>(),
            "unanswered_writes": self.outbox.len(),
            "swept": ready == self.shards.len(),
        });
        let _ = self.link.client.publish(reply, body.to_string().into()).await;
    }
}

/// The next item of any sweep, with the sweep's place.
async fn next_swept(sweeps: &mut [Sweep]) -> (usize, Option<Item>) {
    let next = sweeps.iter_mut().enumerate().map(|(n, s)| Box::pin(async move { (n, s.next().await) }));
    futures_util::future::select_all(next).await.0
}
