//! The active coordinator: one loop that owns the engine and feeds it requests, the log, answers to
//! writes, the flag and loads, and performs what comes out.

use std::{collections::HashMap, time::Duration};

use async_nats::{Message, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use haltline_common::{
    Link, clock,
    config::CoordinatorSettings,
    control_watch::ControlWatch,
    fault, js, kv, metrics,
    outbox::{Outbox, Stored, Write, WriteError},
    tail::{self, Item, Start, Tail},
    types::{
        Names,
        control::{Flag, GLOBAL_KEY},
        error::{ApiError, Code},
        event::{Correlation, Event, EventType, event_id},
        record::Status,
        submit::{Accepted, Cancel, Reply, Submit},
    },
};
use haltline_core::{Engine, Limits, Loaded, LogMessage, Out, Plan, WriteId};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::{self, Checkpoint},
    loads, perform,
    plans::{self, Plans},
};

/// Writes in flight above which no further submission is read.
const WRITES_MAX: usize = 8192;
/// Executions read back at once.
const LOADS_MAX: usize = 64;
/// Messages of one kind taken in one turn of the loop; more would keep the others waiting.
const BATCH: usize = 256;
/// How often the checkpoint is written while it moves.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Checkpoints in a row for which records of someone else must be unread before they are read.
const LOOKS: u32 = 4;
/// How long a stopping coordinator waits for answers to its writes.
const DRAIN: Duration = Duration::from_secs(5);

/// Why an active coordinator ended.
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Another one is active.
    Superseded,
}

/// Whose write an answer is about.
enum Tag {
    Engine(WriteId),
    Checkpoint,
    FlagEvent,
}

/// What was asked of the server for a request.
enum Fetched {
    Plan(u64, Submit, Result<std::sync::Arc<Plan>, ApiError>),
    Cancel(u64, Cancel, Result<Option<Status>, ApiError>),
    /// The last sequence of the records' stream.
    RecordsReach(Option<u64>),
}

/// An active coordinator.
pub struct Active {
    link: Link,
    id: String,
    engine: Engine,
    plans: Plans,
    outbox: Outbox<Tag>,
    inputs: Tail,
    pointers: Tail,
    /// Reads records until it has caught up.
    sweeping: Option<Tail>,
    unread: Option<u64>,
    looks: u32,
    control: ControlWatch,
    flag: Option<Flag>,
    submits: Subscriber,
    cancels: Subscriber,
    pings: Subscriber,
    tickets: HashMap<u64, Subject>,
    next_ticket: u64,
    loads: JoinSet<(String, Loaded)>,
    loads_waiting: Vec<String>,
    fetches: JoinSet<Fetched>,
    checkpoint: Checkpoint,
    checkpoint_revision: u64,
    checkpoint_in_flight: bool,
    superseded: bool,
}

impl Active {
    /// Takes over from the checkpoint on.
    pub async fn start(link: Link, settings: CoordinatorSettings, id: String) -> anyhow::Result<Self> {
        let names = &link.names;
        let pings = link.client.subscribe(names.coordinator()).await?;
        let submits = link.client.queue_subscribe(names.submit_all(), "coordinators".into()).await?;
        let cancels = link.client.queue_subscribe(names.cancel_all(), "coordinators".into()).await?;
        let (checkpoint, checkpoint_revision) = checkpoint::read(&link).await?;
        let limits = Limits { executions_max: settings.executions_max, segments: !settings.per_node_tasks, shards: names.shards() };
        let options = |stream: String, filter: String, start: Start, reader: &str| tail::Options {
            stream,
            filter,
            start,
            heartbeat: Duration::from_secs(2),
            buffer: 4096,
            reader: format!("coordinator_{reader}"),
        };
        let inputs = Tail::start(&link, options(names.events_stream(), names.inputs_all(), Start::Seq(checkpoint.log + 1), "inputs"));
        let definitions = Names::bucket_stream(&names.definitions_bucket());
        let pointers = Tail::start(&link, options(definitions, names.latest_all(), Start::LastPerSubject, "definitions"));
        let records = sweep_from(&link, checkpoint.records + 1);
        tracing::info!(coordinator_id = id, log = checkpoint.log, records = checkpoint.records, "active");
        Ok(Self {
            engine: Engine::new(limits, checkpoint.log, checkpoint.records),
            plans: Plans::default(),
            outbox: Outbox::open(&link).await?,
            inputs,
            pointers,
            sweeping: Some(records),
            unread: None,
            looks: 0,
            control: ControlWatch::start(&link, "coordinator"),
            flag: None,
            submits,
            cancels,
            pings,
            tickets: HashMap::new(),
            next_ticket: 0,
            loads: JoinSet::new(),
            loads_waiting: Vec::new(),
            fetches: JoinSet::new(),
            checkpoint,
            checkpoint_revision,
            checkpoint_in_flight: false,
            superseded: false,
            link,
            id,
        })
    }

    /// Coordinates until told to stop or superseded.
    pub async fn run(mut self, stop: &CancellationToken) -> Ended {
        let mut tick = tokio::time::interval(CHECKPOINT_EVERY);
        let mut look = tokio::time::interval(Duration::from_millis(100));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.engine.set_gate(self.control.gate());
            self.perform().await;
            if self.superseded {
                return Ended::Superseded;
            }
            let room = self.engine.unanswered() < WRITES_MAX;
            tokio::select! {
                () = stop.cancelled() => break,
                (tag, outcome) = self.outbox.next(), if !self.outbox.is_empty() => {
                    self.answered(tag, outcome);
                    // What came with it is taken at once: a turn of the loop costs more than an answer.
                    for _ in 0..BATCH {
                        let Some((tag, outcome)) = self.outbox.next().now_or_never() else { break };
                        self.answered(tag, outcome);
                    }
                }
                n = self.inputs.next_many(&mut batch, BATCH), if room => {
                    if n == 0 { break }
                    batch.drain(..).for_each(|item| self.input(item));
                }
                Some(message) = self.submits.next(), if room => {
                    self.submit(message);
                    for _ in 0..BATCH {
                        let Some(Some(message)) = self.submits.next().now_or_never() else { break };
                        self.submit(message);
                    }
                }
                Some(message) = self.cancels.next(), if room => self.cancel(message),
                Some(message) = self.pings.next() => self.pong(message).await,
                Some(item) = self.pointers.next() => {
                    if let Item::Message(m) = item {
                        self.plans.learn_latest(&m.subject, &m.payload);
                    }
                }
                Some(item) = next_of(&mut self.sweeping), if self.sweeping.is_some() => self.sweep(item),
                Some(Ok((id, loaded))) = self.loads.join_next(), if !self.loads.is_empty() => {
                    if let Some(plan) = &loaded.plan {
                        self.plans.keep(plan);
                    }
                    self.engine.loaded(&id, loaded);
                }
                Some(Ok(fetched)) = self.fetches.join_next(), if !self.fetches.is_empty() => self.fetched(fetched),
                () = self.control.changed() => self.flag_changed().await,
                // The gate also closes by getting old: looked at in between.
                _ = look.tick() => self.engine.tick(clock::now()),
                _ = tick.tick() => {
                    self.sweep_again();
                    self.write_checkpoint().await;
                }
            }
        }
        self.drain().await;
        Ended::Stopped
    }

    /// Performs what the engine wants, in order.
    async fn perform(&mut self) {
        while let Some(out) = self.engine.take() {
            match out {
                Out::Write(id, body) => {
                    let write = perform::message(&self.link.names, &body);
                    if let haltline_core::Body::Command(c) = &body {
                        // A hint for workers that run it right now; the log is what counts.
                        let _ = self.link.client.publish(self.link.names.stop(&c.execution_id), perform::json(c).into()).await;
                    }
                    self.outbox.send(Tag::Engine(id), write).await;
                }
                Out::Load(id) => self.loads_waiting.push(id),
                Out::Reply(ticket, reply) => {
                    fault::point("coordinator.reply");
                    match &reply {
                        Reply::Ok(a) => metrics::EXECUTIONS_ACCEPTED.add(u64::from(!a.repeated)),
                        Reply::Error(e) => {
                            metrics::SUBMISSIONS_REFUSED.inc();
                            tracing::info!(code = ?e.code, message = e.message, "refused");
                        }
                    }
                    if let Some(subject) = self.tickets.remove(&ticket) {
                        let _ = self.link.client.publish(subject, perform::json(&reply).into()).await;
                    }
                }
                Out::Notify(subject, outcome) => {
                    fault::point("coordinator.notify");
                    tracing::debug!(execution_id = outcome.execution_id, status = outcome.status.as_str(), "execution ended");
                    let _ = self.link.client.publish(subject, perform::json(&outcome).into()).await;
                }
            }
        }
        self.outbox.flush().await;
        while self.loads.len() < LOADS_MAX
            && let Some(id) = self.loads_waiting.pop()
        {
            let plans = self.plans.snapshot();
            self.loads.spawn(loads::load(self.link.clone(), id, plans));
        }
        metrics::EXECUTIONS_RUNNING.set(self.engine.running() as u64);
        metrics::EXECUTIONS_ENDED.set(self.engine.ended());
    }

    fn answered(&mut self, tag: Tag, outcome: Result<Stored, WriteError>) {
        match (tag, outcome) {
            (Tag::Engine(id), Ok(stored)) => self.engine.stored(id, stored.seq),
            (Tag::Engine(id), Err(WriteError::Conflict(_))) => self.engine.conflicted(id),
            (Tag::Engine(id), Err(e)) => {
                tracing::error!(error = %e, "a write was refused");
                self.engine.refused(id, &e.to_string());
            }
            (Tag::Checkpoint, Ok(stored)) => {
                self.checkpoint_in_flight = false;
                self.checkpoint_revision = stored.seq;
            }
            (Tag::Checkpoint, Err(WriteError::Conflict(_))) => self.superseded = true,
            (Tag::Checkpoint, Err(e)) => {
                self.checkpoint_in_flight = false;
                tracing::warn!(error = %e, "the checkpoint could not be written");
            }
            (Tag::FlagEvent, Ok(_)) => {}
            (Tag::FlagEvent, Err(e)) => tracing::warn!(error = %e, "the event of a flag change could not be written"),
        }
    }

    fn input(&mut self, item: Item) {
        match item {
            Item::Message(m) => {
                metrics::INPUT_LAG.set(m.pending);
                let message = if Names::is_command(&m.subject) {
                    serde_json::from_slice(&m.payload).map(LogMessage::Command)
                } else {
                    serde_json::from_slice(&m.payload).map(|e| LogMessage::Event(Box::new(e)))
                };
                match message {
                    Ok(message) => self.engine.log_message(m.seq, message),
                    // Not written by us: it can change nothing.
                    Err(e) => tracing::error!(seq = m.seq, subject = %m.subject, error = %e, "malformed message in the log; ignored"),
                }
            }
            Item::Lost { reason, .. } => tracing::warn!(reason, "reading the log was interrupted; going on where it stopped"),
            Item::Reset => tracing::error!("the events stream was recreated: executions without events in it start over their reading"),
            Item::CaughtUp { .. } => {}
        }
    }

    fn sweep(&mut self, item: Item) {
        match item {
            Item::Message(m) => {
                let record = serde_json::from_slice::<haltline_common::types::record::Record>(&m.payload);
                match record {
                    Ok(r) => self.engine.found_record(&r.correlation.execution_id, m.seq, r.status.is_terminal()),
                    Err(e) if !m.payload.is_empty() => tracing::error!(seq = m.seq, error = %e, "malformed record; ignored"),
                    Err(_) => {}
                }
            }
            Item::CaughtUp { last_seq } => {
                self.engine.read_records_up_to(last_seq);
                self.sweeping = None;
            }
            Item::Lost { .. } | Item::Reset => {}
        }
    }

    fn ticket(&mut self, message: &Message) -> Option<u64> {
        let reply = message.reply.clone()?;
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, reply);
        Some(self.next_ticket)
    }

    fn submit(&mut self, message: Message) {
        let Some(ticket) = self.ticket(&message) else { return };
        let submit: Submit = match serde_json::from_slice(&message.payload) {
            Ok(s) => s,
            Err(e) => return self.refuse(ticket, ApiError::invalid("submission", e.to_string())),
        };
        match self.plans.get(&submit.workflow_id, submit.version.as_deref()) {
            Some(plan) => self.accept(ticket, submit, plan),
            None => {
                let link = self.link.clone();
                self.fetches.spawn(async move {
                    let plan = plans::fetch(&link, &submit.workflow_id, submit.version.as_deref()).await;
                    Fetched::Plan(ticket, submit, plan)
                });
            }
        }
    }

    fn fetched(&mut self, fetched: Fetched) {
        match fetched {
            Fetched::Plan(ticket, submit, Ok(plan)) => {
                self.plans.keep(&plan);
                self.accept(ticket, submit, plan);
            }
            Fetched::Cancel(ticket, c, Ok(None)) => {
                let message = format!("there is no execution `{}`", c.execution_id);
                self.refuse(ticket, ApiError::new(Code::UnknownExecution, message));
            }
            Fetched::RecordsReach(seq) => self.engine.records_reach(seq.unwrap_or(0)),
            // Ended already: it stays as it is.
            Fetched::Cancel(ticket, c, Ok(Some(status))) if status.is_terminal() => {
                self.engine.reply(ticket, Accepted { execution_id: c.execution_id, status, repeated: true });
            }
            Fetched::Cancel(ticket, c, Ok(Some(_))) => self.engine.cancel(ticket, c, clock::now()),
            Fetched::Plan(ticket, _, Err(e)) | Fetched::Cancel(ticket, _, Err(e)) => self.refuse(ticket, e),
        }
    }

    fn accept(&mut self, ticket: u64, submit: Submit, plan: std::sync::Arc<Plan>) {
        self.engine.set_gate(self.control.gate());
        self.engine.submit(ticket, submit, plan, clock::now());
    }

    fn cancel(&mut self, message: Message) {
        let Some(ticket) = self.ticket(&message) else { return };
        match serde_json::from_slice::<Cancel>(&message.payload) {
            Ok(c) => {
                let link = self.link.clone();
                self.fetches.spawn(async move {
                    let status = kv::record(&link, &c.execution_id).await.map(|r| r.map(|(r, _)| r.status));
                    Fetched::Cancel(ticket, c, status)
                });
            }
            Err(e) => self.refuse(ticket, ApiError::invalid("cancel", e.to_string())),
        }
    }

    fn refuse(&mut self, ticket: u64, e: ApiError) {
        self.engine.refuse(ticket, e);
    }

    async fn pong(&mut self, message: Message) {
        if let Some(reply) = message.reply {
            let body = json!({
                "coordinator_id": self.id,
                "running": self.engine.running(),
                "ended": self.engine.ended(),
                "unanswered_writes": self.engine.unanswered(),
                "swept": self.sweeping.is_none(),
                "log_floor": self.engine.floors().0,
                "log_read": self.inputs.health().last_seq(),
            });
            let _ = self.link.client.publish(reply, body.to_string().into()).await;
        }
    }

    /// Makes a change of the flag an event.
    async fn flag_changed(&mut self) {
        let Some(flag) = self.control.flag() else { return };
        let previous = self.flag.replace(flag.clone());
        let Some(previous) = previous.filter(|p| p.revision != flag.revision && flag.revision > 0) else { return };
        let nobody =
            Correlation { execution_id: String::new(), workflow_id: String::new(), bot_id: String::new(), strategy_id: String::new() };
        let id = event_id::control(GLOBAL_KEY, flag.revision);
        let mut event = Event::new(EventType::EmergencyStateChanged, id, &nobody, flag.at.unwrap_or_else(clock::now));
        event.previous_state = Some(previous.state.as_str().into());
        event.new_state = Some(flag.state.as_str().into());
        event.reason = Some(flag.reason.clone());
        event.by = Some(flag.by.clone());
        let write = Write::with_id(self.link.names.control_events(), event.id.as_str(), perform::json(&event));
        self.outbox.send(Tag::FlagEvent, write).await;
    }

    /// Reads records that someone else wrote: another coordinator that believed to be active, too.
    fn sweep_again(&mut self) {
        let unread = self.engine.records_unread_from().filter(|_| self.sweeping.is_none());
        self.looks = if unread.is_some() && unread == self.unread { self.looks + 1 } else { 0 };
        // What is merely in flight has been answered by then, and what another one still runs, ended.
        if let Some(from) = unread.filter(|_| self.looks >= LOOKS) {
            self.looks = 0;
            tracing::warn!(from, "records by another coordinator: reading them");
            self.sweeping = Some(sweep_from(&self.link, from));
        }
        self.unread = unread;
        let (link, stream) = (self.link.clone(), Names::bucket_stream(&self.link.names.executions_bucket()));
        self.fetches.spawn(async move { Fetched::RecordsReach(js::stream_info(&link, &stream).await.ok().map(|i| i.state.last_seq)) });
    }

    async fn write_checkpoint(&mut self) {
        let (log, records) = self.engine.floors();
        // Before everything was swept the records' floor would skip what was not read yet.
        if self.sweeping.is_some() || self.checkpoint_in_flight || (log, records) == (self.checkpoint.log, self.checkpoint.records) {
            return;
        }
        fault::point("coordinator.checkpoint");
        self.checkpoint = Checkpoint { log, records, coordinator_id: self.id.clone() };
        let subject = Names::kv_subject(&self.link.names.checkpoints_bucket(), Names::checkpoint_key());
        let write = Write::swap(subject, self.checkpoint_revision, perform::json(&self.checkpoint));
        self.checkpoint_in_flight = true;
        self.outbox.send(Tag::Checkpoint, write).await;
    }

    /// Takes no further requests, waits for what was sent, leaves a checkpoint.
    async fn drain(&mut self) {
        let _ = self.submits.unsubscribe().await;
        let _ = self.cancels.unsubscribe().await;
        let answered = async {
            self.perform().await;
            while !self.outbox.is_empty() {
                let (tag, outcome) = self.outbox.next().await;
                self.answered(tag, outcome);
                self.perform().await;
            }
            self.write_checkpoint().await;
            while !self.outbox.is_empty() && !self.superseded {
                let (tag, outcome) = self.outbox.next().await;
                self.answered(tag, outcome);
            }
            let _ = self.link.client.flush().await;
        };
        if tokio::time::timeout(DRAIN, answered).await.is_err() {
            tracing::warn!("stopped with unanswered writes; a successor finds them");
        }
    }
}

/// Reads records from `from` up to the end.
fn sweep_from(link: &Link, from: u64) -> Tail {
    let options = tail::Options {
        stream: Names::bucket_stream(&link.names.executions_bucket()),
        filter: String::new(),
        start: Start::Seq(from),
        heartbeat: Duration::from_secs(2),
        buffer: 4096,
        reader: "coordinator_sweep".into(),
    };
    Tail::start(link, options)
}

async fn next_of(tail: &mut Option<Tail>) -> Option<Item> {
    tail.as_mut()?.next().await
}
