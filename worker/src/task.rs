//! One task from delivery to acknowledgement: performs what the core's walk says. A node's result is
//! stored before its task is acknowledged, and before the next node starts if that may act outside.

use std::{
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use async_nats::{Message, Subject};
use haltline_common::{
    clock, fault, history, metrics,
    outbox::{AGAIN, Write, WriteError},
    planted::{Bug, planted},
    retry::{self, Reconnect},
    tail::Meta,
    types::{
        control::{Gate, OnHalt},
        definition::RetryPolicy,
        event::{Event, EventType},
        json, payload,
        risk::Noted,
        task::{Task, WHOLE_VERSION},
    },
};
use haltline_core::{After, Delivery, LogMessage, Next, NodeOutcome, TaskRun};
use serde_json::{Map, Value};

use crate::{
    flight::{Entered, Flight},
    node_run::{self, Wanted},
    payloads::{self, Until},
    telling::{NotStored, Telling},
};

/// A task that waited longer than this may have been cancelled unheard: the log is asked.
const ASK_LOG_AFTER_MS: u64 = 1000;
/// How often a task looks again at a flag that cannot be read for certain.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long a task may wait for its execution's first event; then someone else may try.
const BEGIN_WITHIN: Duration = Duration::from_secs(1);

/// A task that waits for so long for a flag to be lowered gives its slot to others.
const WAIT_HERE: Duration = Duration::from_secs(3);
/// It comes again after five seconds.
const LATER: &str = r#"-NAK {"delay":5000000000}"#;

/// How often a node is asked about that a halt ends: then it ends as unknown, for an operator to resolve. With
/// the waits below about half a minute, longer than a venue's connection takes to come back.
const ASKED_MAX: u32 = 30;
/// Who did not answer what became of an effect is asked again after this long, and after this long at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Why a task is abandoned when the connection is gone for good.
const NOT_STORED: &str = "its events could not be stored";

/// Why a task is abandoned when this worker did not run for longer than the server waits.
const STALLED: &str = "this worker stalled for so long that another one may have it";

/// Why a task is abandoned that someone else may be running.
const CLAIMED: &str = "another worker has claimed it since";

/// Why a task is abandoned whose fencing token was refused.
const OVERTAKEN: &str = "the venue has seen a newer delivery of it";

/// How a task left this worker.
enum Left {
    /// Its result is stored.
    Done,
    /// Someone else is to go on with it.
    HandedBack,
    /// It waits for a flag to be lowered; it is to come back then.
    Later,
    /// It is not this worker's any more, or its results cannot be stored: nothing is said, and the
    /// server gives it to someone else. Why, in words.
    Abandoned(&'static str),
}

/// Runs the task in `message`. What few tasks come to is boxed below: each task is a future that is moved and kept,
/// and would have room for all of it.
pub async fn run(flight: Arc<Flight>, message: Message) {
    let Some(reply) = message.reply.clone() else { return };
    let Some(meta) = Meta::parse(&reply) else { return };
    let task: Task = match serde_json::from_slice(&message.payload) {
        Ok(task) => task,
        Err(e) => {
            tracing::error!(seq = meta.stream_seq, error = %e, "malformed task: removed");
            let _ = flight.link.client.publish(reply, "+TERM malformed task".into()).await;
            return;
        }
    };
    if task.nodes.is_empty() || task.v > WHOLE_VERSION {
        tracing::error!(task_id = task.task_id, v = task.v, "task of an unknown version: handed back");
        let _ = flight.link.client.publish(reply, r#"-NAK {"delay":5000000000}"#.into()).await;
        return;
    }
    if meta.deliveries > 1 {
        metrics::TASKS_REDELIVERED.inc();
    }
    let Some(entered) = flight.enter(&task.correlation.execution_id, reply.clone()) else {
        tracing::info!(task_id = task.task_id, "the same delivery came twice; once is enough");
        return;
    };
    let waited = clock::now().millis_since(task.created_at);
    let sent_again = message.headers.as_ref().is_some_and(|h| h.get(AGAIN).is_some());
    let again = sent_again || flight.arrivals.doubts(&flight.link, meta.stream_seq, waited);
    let delivery = Delivery { deliveries: meta.deliveries, again, walk: entered.id() };
    let run = TaskRun::new(task, &flight.worker_id, delivery);
    let telling = Telling::new(&flight.link.names, &run.task().correlation.execution_id);
    let mut walk = Walk { flight, entered, run, reply, telling, asked: 0 };
    let left = walk.walk().await;
    walk.leave(left).await;
}

struct Walk {
    flight: Arc<Flight>,
    entered: Entered,
    run: TaskRun,
    /// Where the server hears what became of the delivery.
    reply: Subject,
    telling: Telling,
    /// How often someone was asked what the node that is next did.
    asked: u32,
}

impl Walk {
    /// Whether it waits for a flag, not for certainty, and has done so for long.
    fn may_hand_back(&self, since: Option<Instant>) -> bool {
        self.run.task().on_halt == Some(OnHalt::Hold)
            && self.flight.control.doubt().is_none()
            && since.is_some_and(|since| since.elapsed() > WAIT_HERE)
    }

    async fn walk(&mut self) -> Left {
        // One that comes back and has to wait still needs no claim yet, unless it did something of which nobody knows.
        let holds = self.run.task().on_halt == Some(OnHalt::Hold) && self.run.is_contested() && self.flight.control.doubt().is_none();
        if holds && matches!(self.flight.control.gate_at(&self.run.place()), Gate::Unsure(_)) {
            let Some(log) = self.read_log(false).await else { return Left::HandedBack };
            self.run.learn(&log);
            if self.run.doubtful().is_none() {
                return Left::Later;
            }
        }
        let waited = clock::now().millis_since(self.run.task().created_at);
        // Who waited long may have been stopped unheard; commands tell. All events are read only where
        // someone else may have begun: of a wide execution they are many.
        if !self.run.is_contested() && waited > ASK_LOG_AFTER_MS {
            match self.read_log(true).await {
                Some(commands) => self.run.learn(&commands),
                None => return Left::HandedBack,
            }
        }
        if self.run.is_contested()
            && let Err(left) = Box::pin(self.learn()).await
        {
            return left;
        }
        self.go_on().await.unwrap_or(Left::Abandoned(NOT_STORED))
    }

    /// Node after node, until the task ends or has to be left.
    async fn go_on(&mut self) -> Result<Left, NotStored> {
        self.telling.begin_with(self.run.start());
        let mut waiting_since = None;
        loop {
            if !self.entered.is_held() {
                return Ok(Left::Abandoned(STALLED));
            }
            if self.entered.cancel.is_cancelled()
                && let Some(command) = self.flight.stopped(&self.run.task().correlation.execution_id)
            {
                self.run.command(&command);
            }
            let gate = self.flight.control.gate_at(&self.run.place());
            if matches!(gate, Gate::Open) {
                self.asked = 0;
            } else if let Some(step) = Box::pin(self.ask(&gate)).await? {
                match step {
                    Step::End(event) => return self.end(vec![*event]).await,
                    Step::Note(event) => self.tell(&event).await?,
                    Step::Lost => return Err(NotStored),
                    Step::GivenUp => return self.hand_back().await,
                    Step::Stale => return Ok(Left::Abandoned(OVERTAKEN)),
                    Step::Retry(..) | Step::Again => self.settle().await?,
                }
                continue;
            }
            match self.run.next(&gate, clock::now()) {
                Next::Finished => {
                    self.settle().await?;
                    return Ok(Left::Done);
                }
                Next::Wait(_) if self.may_hand_back(waiting_since) => {
                    self.settle().await?;
                    // What is done counts, and the coordinator keeps the rest until it may go on: its record says so then.
                    let rest = if self.run.doubtful().is_none() { self.run.hand_back(clock::now()) } else { None };
                    return match rest {
                        Some(event) => self.end(vec![event]).await,
                        None => Ok(Left::Later),
                    };
                }
                Next::Wait(why) => {
                    waiting_since.get_or_insert_with(Instant::now);
                    tracing::debug!(task_id = self.run.task().task_id, why, "waiting for the control flag");
                    self.telling.leave(&self.flight).await?;
                    tokio::select! {
                        () = self.flight.draining.cancelled() => return self.hand_back().await,
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                }
                Next::End(events) => {
                    if events.iter().any(|e| e.halted.is_some()) {
                        self.flight.control.count(&gate);
                    }
                    return self.end(events).await;
                }
                Next::Start { .. } if !self.has_next_type() => {
                    // The rest of a segment that another worker began: what is done counts, the rest is
                    // for a worker that has the type.
                    return match self.run.hand_back(clock::now()) {
                        Some(event) => self.end(vec![event]).await,
                        None => Ok(Left::HandedBack),
                    };
                }
                Next::Start { started, node, attempt, inputs } => {
                    waiting_since = None;
                    if let Some(event) = started {
                        self.tell(&event).await?;
                    }
                    if self.next_acts() {
                        // What it does outside must not be in the log before its start.
                        self.telling.leave(&self.flight).await?;
                        if self.flight.arrivals.is_replicated() {
                            self.telling.confirm().await?;
                        }
                    }
                    let step = self.node(Wanted::Run, node, attempt, inputs).await?;
                    if !self.entered.is_held() {
                        return Ok(Left::Abandoned(STALLED));
                    }
                    match step {
                        Step::End(event) => return self.end(vec![*event]).await,
                        Step::Note(event) => {
                            self.tell(&event).await?;
                            if self.flight.draining.is_cancelled() {
                                return self.hand_back().await;
                            }
                            // Of a node that only computes the events follow in order, or are lost with what they
                            // follow from. What may act on a result outside waits until it is stored.
                            if self.next_acts() {
                                self.settle().await?;
                            }
                        }
                        Step::Retry(event, wait_ms) => {
                            self.tell(&event).await?;
                            self.settle().await?;
                            tokio::select! {
                                () = self.flight.draining.cancelled() => return Ok(Left::HandedBack),
                                () = self.entered.cancel.cancelled() => {}
                                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
                            }
                        }
                        Step::Again => self.telling.leave(&self.flight).await?,
                        Step::GivenUp => return self.hand_back().await,
                        Step::Lost => return Err(NotStored),
                        Step::Stale => return Ok(Left::Abandoned(OVERTAKEN)),
                    }
                }
            }
        }
    }

    /// Whether the node that is next may do something outside.
    fn next_acts(&self) -> bool {
        self.run.next_kind().is_some_and(|kind| self.flight.registry.acts(kind))
    }

    /// Waits until all that was told is stored.
    async fn settle(&mut self) -> Result<(), NotStored> {
        self.telling.leave(&self.flight).await?;
        self.telling.confirm().await
    }

    async fn hand_back(&mut self) -> Result<Left, NotStored> {
        self.settle().await?;
        Ok(Left::HandedBack)
    }

    fn has_next_type(&self) -> bool {
        self.run.next_kind().is_none_or(|kind| self.flight.slots.contains_key(kind))
    }

    /// Asks the log what is there already, and claims the task where another worker may have it.
    async fn learn(&mut self) -> Result<(), Left> {
        let (mut claimed, since) = (false, Instant::now());
        loop {
            let log = self.read_log(false).await.ok_or(Left::HandedBack)?;
            self.run.learn(&log);
            // Of a task that overtook it: what this worker tells must not come first.
            if !self.run.is_begun() {
                if since.elapsed() > BEGIN_WITHIN {
                    return Err(Left::HandedBack);
                }
                match self.run.missing_start() {
                    // Whoever had it before told nothing. One that does now is overtaken, and goes on without the start.
                    Some(start) => self.begin(&start).await?,
                    None => tokio::time::sleep(LOOK_AGAIN).await,
                }
                continue;
            }
            if !self.run.must_claim() || planted(Bug::LateResult) {
                return Ok(());
            }
            if claimed {
                return Err(Left::Abandoned(CLAIMED));
            }
            if !self.entered.is_held() {
                return Err(Left::Abandoned(STALLED));
            }
            claimed = true;
            let command = self.run.claim(clock::now());
            tracing::info!(task_id = self.run.task().task_id, token = command.token, "taking a task over");
            fault::point("worker.claim");
            let subject = self.flight.link.names.command(&command.execution_id);
            let body = serde_json::to_vec(&command).unwrap_or_default();
            if let Err(e) = self.flight.publisher.write(Write::with_id(subject, command.message_id(), body)).await {
                tracing::error!(error = %e, "a claim could not be stored");
                return Err(Left::Abandoned(NOT_STORED));
            }
        }
    }

    /// Tells the execution's first event, unless someone else has by now.
    async fn begin(&self, start: &Event) -> Result<(), Left> {
        let mut line = Vec::new();
        json::append(&mut line, start);
        let write = Write::first(self.flight.link.names.input(&start.execution_id), start.id.as_str(), line);
        match self.flight.publisher.write(write).await {
            Ok(_) | Err(WriteError::Conflict(_)) => Ok(()),
            Err(e) => {
                tracing::error!(error = %e, "the start of an execution could not be stored");
                Err(Left::Abandoned(NOT_STORED))
            }
        }
    }

    /// What the log has of the execution: all of it, or commands only. `None` if the worker stops before it
    /// answers.
    async fn read_log(&self, commands_only: bool) -> Option<Vec<LogMessage>> {
        let execution_id = &self.run.task().correlation.execution_id;
        let link = &self.flight.link;
        let mut delays = Reconnect::new(Duration::from_secs(1));
        loop {
            let read = if commands_only {
                let commands = Box::pin(history::commands(link, execution_id)).await;
                commands.map(|all| all.into_iter().map(|(_, c)| LogMessage::Command(Box::new(c))).collect())
            } else {
                Box::pin(history::read(link, execution_id)).await.map(|all| all.into_iter().map(|(_, entry)| log_message(entry)).collect())
            };
            match read {
                Ok(log) => return Some(log),
                Err(e) => {
                    tracing::warn!(execution_id = execution_id.as_str(), error = %e, "cannot read what the log has of a task; trying again");
                    tokio::select! {
                        () = self.flight.draining.cancelled() => return None,
                        () = tokio::time::sleep(delays.next_delay()) => {}
                    }
                }
            }
        }
    }

    /// Where a flag keeps the node that is next from running, and it did something of which nobody knows: asks
    /// what became of it, before it waits or ends. A confirmation of the halt waits for the answer.
    async fn ask(&mut self, gate: &Gate) -> Result<Option<Step>, NotStored> {
        let kept_back = self.flight.control.doubt().is_none() && self.has_next_type();
        let Some((node, attempt, inputs)) = self.run.doubtful().filter(|_| kept_back) else {
            self.asked = 0;
            return Ok(None);
        };
        let policy = self.run.task().nodes[node].retry;
        // What ends by a halt ends as unknown if nobody answers; what waits asks again and again.
        if matches!(gate, Gate::Halted(_)) && self.asked >= ASKED_MAX {
            return Ok(None);
        }
        if self.asked > 0 {
            let wait = retry::delay_after(&policy, self.asked).clamp(ASK_AGAIN.0, ASK_AGAIN.1);
            tokio::select! {
                () = self.flight.draining.cancelled() => return Ok(Some(Step::GivenUp)),
                () = self.entered.cancel.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.asked = self.asked.saturating_add(1);
        self.node(Wanted::Ask, node, attempt, inputs).await.map(Some)
    }

    /// Runs one attempt of one node. What is held leaves if the node does not end at once.
    async fn node(&mut self, wanted: Wanted, node: usize, attempt: u32, inputs: Map<String, Value>) -> Result<Step, NotStored> {
        let execution_id = self.run.task().correlation.execution_id.clone();
        let deadline = self.run.task().deadline;
        let (flight, cancel) = (self.flight.clone(), self.entered.cancel.clone());
        let until = Until { cancel: &cancel, deadline };
        // Its room is taken until the attempt is over.
        let (inputs, _room) = if inputs.values().any(payload::is_marked) {
            self.telling.leave(&self.flight).await?;
            match Box::pin(flight.payloads.whole(&execution_id, inputs, &until)).await {
                Ok(whole) => whole,
                Err(outcome) => return Ok(self.step(node, outcome, 0.0, Vec::new())),
            }
        } else {
            (inputs, None)
        };
        let (attempted, left, noted) = {
            let mut running = pin!(node_run::attempt(&self.flight, &self.run, node, attempt, inputs, &self.entered, wanted));
            match futures_util::poll!(&mut running) {
                Poll::Ready(ended) => ended,
                Poll::Pending => {
                    self.telling.leave(&self.flight).await?;
                    running.await
                }
            }
        };
        if let Some(left) = left {
            left.events.iter().for_each(|event| self.run.effect(event));
            self.telling.extend(left.answers);
            if left.lost {
                return Ok(Step::Lost);
            }
        }
        let (outcome, duration_ms) = match attempted {
            node_run::Attempted::Ended(outcome, duration_ms) => (outcome, duration_ms),
            node_run::Attempted::Unsure | node_run::Attempted::Asked => return Ok(Step::Again),
            node_run::Attempted::GivenUp => return Ok(Step::GivenUp),
            node_run::Attempted::Stale => return Ok(Step::Stale),
        };
        let outcome = match outcome {
            NodeOutcome::Completed(outputs) if payloads::must_put_away(&outputs) => {
                self.telling.leave(&self.flight).await?;
                Box::pin(flight.payloads.put_away(&execution_id, outputs, &until)).await.map_or_else(|ended| ended, NodeOutcome::Completed)
            }
            other => other,
        };
        Ok(self.step(node, outcome, duration_ms, noted))
    }

    /// What follows from how a node's attempt ended.
    fn step(&mut self, node: usize, outcome: NodeOutcome, duration_ms: f64, noted: Vec<Noted>) -> Step {
        if self.flight.abandon.is_cancelled() && outcome == NodeOutcome::Cancelled {
            return Step::GivenUp;
        }
        if outcome == NodeOutcome::Cancelled
            && let Some(command) = self.flight.stopped(&self.run.task().correlation.execution_id)
        {
            self.run.command(&command);
        }
        let next_kind = self.run.task().nodes.get(node + 1).map(|n| n.kind.as_str());
        let can_run_next = next_kind.is_some_and(|k| self.flight.slots.contains_key(k));
        // One that is to be tried again goes by the flags on itself, whatever follows it may.
        let stays = matches!(outcome, NodeOutcome::Failed { retryable: true, .. }) && self.run.has_attempts_left();
        let gate = self.flight.control.gate_at(&if stays { self.run.place() } else { self.run.place_after() });
        // It cannot be repeated under the halt, and would end as unknown: who was sent to is asked first.
        if stays && matches!(gate, Gate::Halted(_)) && self.run.doubtful().is_some() && self.asked < ASKED_MAX {
            return Step::Again;
        }
        let delay = |policy: &RetryPolicy, attempt| retry::delay_after(policy, attempt).as_millis() as u64;
        match self.run.after(outcome, &gate, can_run_next, clock::now(), duration_ms, delay) {
            After::Note(e) => Step::Note(with_risk(e, noted)),
            After::End(e) => Step::End(with_risk(e, noted)),
            After::Retry(e, wait) => Step::Retry(e, wait),
        }
    }

    /// Tells the last of the task: its end is an input of the coordinator, what is held comes before it in
    /// the same message.
    async fn end(&mut self, events: Vec<Event>) -> Result<Left, NotStored> {
        if planted(Bug::EarlyAck) {
            let client = &self.flight.link.client;
            let _ = (client.publish(self.reply.clone(), "+ACK".into()).await, client.flush().await);
        }
        for event in &events {
            self.tell(event).await?;
        }
        if self.telling.opens()
            && let Some(end) = events.last().and_then(|last| self.run.end(last))
        {
            self.telling.hold_end(&end);
        }
        self.telling.decide(&self.flight).await?;
        self.telling.confirm().await?;
        // Whoever has the task by now acknowledges it: this result may be void.
        if !self.entered.is_held() {
            return Ok(Left::Abandoned(STALLED));
        }
        // A delivery that came late, as to a worker that stood still, looks held though someone else was given the task.
        if self.run.is_contested() && self.read_log(true).await.is_none_or(|commands| self.run.is_overtaken(&commands)) {
            return Ok(Left::Abandoned(CLAIMED));
        }
        Ok(Left::Done)
    }

    /// Has an event told, in order.
    async fn tell(&mut self, event: &Event) -> Result<(), NotStored> {
        fault::point(match event.kind {
            EventType::NodeStarted => "worker.started",
            EventType::NodeRetrying => "worker.retrying",
            _ if event.task_events.is_some() => "worker.result",
            _ => "worker.note",
        });
        let mut id = self.run.message_id(event);
        if self.run.is_contested() && planted(Bug::LateResult) {
            // As under a claim; or the server would drop one of the two as a repeat.
            id = format!("{id}@{}", self.run.token());
        }
        self.telling.hold(&self.flight, event, id).await
    }

    async fn leave(&self, left: Left) {
        let task = self.run.task();
        let word = match left {
            Left::Done => {
                metrics::TASKS_RUN.inc();
                self.flight.acks.add(self.reply.clone());
                return;
            }
            Left::HandedBack => {
                tracing::info!(task_id = task.task_id, "handed a task back");
                "-NAK"
            }
            Left::Later => {
                tracing::debug!(task_id = task.task_id, "a task waits for a flag: handed back for a while");
                LATER
            }
            Left::Abandoned(why) => {
                tracing::error!(task_id = task.task_id, why, "abandoned a task");
                return;
            }
        };
        let _ = self.flight.link.client.publish(self.reply.clone(), word.into()).await;
    }
}

fn log_message(entry: history::Entry) -> LogMessage {
    match entry {
        history::Entry::Event(e) => LogMessage::Event(e),
        history::Entry::Command(c) => LogMessage::Command(c),
    }
}

/// What to do after a node.
enum Step {
    Note(Box<Event>),
    End(Box<Event>),
    Retry(Box<Event>, u64),
    /// The flag could not be read at the effect: the same attempt again.
    Again,
    /// The worker stops; the task goes back.
    GivenUp,
    /// An intent could not be stored.
    Lost,
    /// Another worker has the task by now.
    Stale,
}

/// A node's result says what its attempt says about risk.
fn with_risk(mut event: Box<Event>, noted: Vec<Noted>) -> Box<Event> {
    if matches!(event.kind, EventType::NodeCompleted | EventType::NodeFailed) {
        event.risk = noted;
    }
    event
}
