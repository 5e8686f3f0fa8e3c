//! One task from delivery to acknowledgement: performs what the core's walk says. A node's result is
//! stored before its task is acknowledged, and before the next node starts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Message, Subject, connection::State};
use haltline_common::{
    clock, control_watch, fault, history, metrics,
    outbox::{AGAIN, Write},
    planted::{Bug, planted},
    publisher::Receipt,
    retry::{self, Reconnect},
    tail::Meta,
    types::{
        event::{Event, EventType},
        json,
        risk::Noted,
        task::Task,
    },
};
use haltline_core::{After, Delivery, LogMessage, Next, NodeOutcome, TaskRun};

use crate::{
    flight::{Entered, Flight},
    node_run,
};

/// A task that waited longer than this may have been cancelled unheard: the log is asked.
const ASK_LOG_AFTER_MS: u64 = 1000;
/// How often a task looks again at a flag that cannot be read for certain.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A write that was not answered within this time may be lost, with its connection or its leader.
const ANSWERED_WITHIN: Duration = Duration::from_millis(50);

/// How long a task may wait for its execution's first event; then someone else may try.
const BEGIN_WITHIN: Duration = Duration::from_secs(1);

/// Why a task is abandoned when the connection is gone for good.
const NOT_STORED: &str = "its events could not be stored";

/// Why a task is abandoned when this worker did not run for longer than the server waits.
const STALLED: &str = "this worker stalled for so long that another one may have it";

/// How a task left this worker.
enum Left {
    /// Its result is stored.
    Done,
    /// Someone else is to go on with it.
    HandedBack,
    /// It is not this worker's any more, or its results cannot be stored: nothing is said, and the
    /// server gives it to someone else. Why, in words.
    Abandoned(&'static str),
}

/// Runs the task in `message`.
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
    if task.nodes.is_empty() || task.v > haltline_common::types::WIRE_VERSION {
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
    let mut walk = Walk { flight, entered, run, reply };
    let left = walk.walk().await;
    walk.leave(left).await;
}

struct Walk {
    flight: Arc<Flight>,
    entered: Entered,
    run: TaskRun,
    /// Where the server hears what became of the delivery.
    reply: Subject,
}

impl Walk {
    async fn walk(&mut self) -> Left {
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
            && let Err(left) = self.learn().await
        {
            return left;
        }
        let mut pending: Vec<Receipt> = Vec::with_capacity(2);
        loop {
            if !self.entered.is_held() {
                return Left::Abandoned(STALLED);
            }
            if self.entered.cancel.is_cancelled()
                && let Some(command) = self.flight.stopped(&self.run.task().correlation.execution_id)
            {
                self.run.command(&command);
            }
            let gate = self.flight.control.gate_at(&self.run.place());
            match self.run.next(&gate, clock::now()) {
                Next::Finished => return Left::Done,
                Next::Wait(why) => {
                    tracing::debug!(task_id = self.run.task().task_id, why, "waiting for the control flag");
                    tokio::select! {
                        () = self.flight.draining.cancelled() => return Left::HandedBack,
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                }
                Next::End(events) => {
                    if events.iter().any(|e| e.halted.is_some()) {
                        metrics::GUARD_REFUSALS.inc();
                        control_watch::count_refusal(&gate);
                    }
                    return self.publish_end(events, pending).await;
                }
                Next::Start { .. } if !self.has_next_type() => {
                    // The rest of a segment that another worker began: what is done counts, the rest is
                    // for a worker that has the type.
                    return match self.run.hand_back(clock::now()) {
                        Some(event) => self.publish_end(vec![event], pending).await,
                        None => Left::HandedBack,
                    };
                }
                Next::Start { started, node, attempt, inputs } => {
                    let started_at = Instant::now();
                    if let Some(event) = started {
                        pending.push(self.publish(*event).await);
                    }
                    let step = self.node(node, attempt, inputs, &mut pending).await;
                    if !self.entered.is_held() {
                        return Left::Abandoned(STALLED);
                    }
                    if self.must_confirm(started_at) && !confirm(&mut pending).await {
                        return Left::Abandoned(NOT_STORED);
                    }
                    match step {
                        Step::End(event) => return self.publish_end(vec![*event], pending).await,
                        Step::Note(event) => {
                            pending.push(self.publish(*event).await);
                            if !confirm(&mut pending).await {
                                return Left::Abandoned(NOT_STORED);
                            }
                            if self.flight.draining.is_cancelled() {
                                return Left::HandedBack;
                            }
                        }
                        Step::Retry(event, wait_ms) => {
                            pending.push(self.publish(*event).await);
                            if !confirm(&mut pending).await {
                                return Left::Abandoned(NOT_STORED);
                            }
                            tokio::select! {
                                () = self.flight.draining.cancelled() => return Left::HandedBack,
                                () = self.entered.cancel.cancelled() => {}
                                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
                            }
                        }
                        Step::Again => {}
                        Step::GivenUp => return Left::HandedBack,
                        Step::Lost => return Left::Abandoned(NOT_STORED),
                        Step::Stale => return Left::Abandoned("the venue has seen a newer delivery of it"),
                    }
                }
            }
        }
    }

    /// Whether what was published must be stored before more is. On a healthy connection to a single
    /// server order is kept anyway, and an instant node need not wait for the answer about its start.
    fn must_confirm(&self, since: Instant) -> bool {
        self.flight.arrivals.is_replicated()
            || since.elapsed() > ANSWERED_WITHIN
            || self.flight.link.client.connection_state() != State::Connected
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
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            if !self.run.must_claim() || planted(Bug::LateResult) {
                return Ok(());
            }
            if claimed {
                return Err(Left::Abandoned("another worker has claimed it since"));
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

    /// What the log has of the execution: all of it, or commands only. `None` if the worker stops before it
    /// answers.
    async fn read_log(&self, commands_only: bool) -> Option<Vec<LogMessage>> {
        let execution_id = &self.run.task().correlation.execution_id;
        let link = &self.flight.link;
        let mut delays = Reconnect::new(Duration::from_secs(1));
        loop {
            let read = if commands_only {
                let commands = history::commands(link, execution_id).await;
                commands.map(|all| all.into_iter().map(|(_, c)| LogMessage::Command(Box::new(c))).collect())
            } else {
                history::read(link, execution_id).await.map(|all| all.into_iter().map(|(_, entry)| log_message(entry)).collect())
            };
            match read {
                Ok(log) => return Some(log),
                Err(e) => {
                    tracing::warn!(execution_id, error = %e, "cannot read what the log has of a task; trying again");
                    tokio::select! {
                        () = self.flight.draining.cancelled() => return None,
                        () = tokio::time::sleep(delays.next_delay()) => {}
                    }
                }
            }
        }
    }

    /// Runs one attempt of one node.
    async fn node(
        &mut self,
        node: usize,
        attempt: u32,
        inputs: serde_json::Map<String, serde_json::Value>,
        pending: &mut Vec<Receipt>,
    ) -> Step {
        let (attempted, left, noted) = node_run::attempt(&self.flight, &self.run, node, attempt, inputs, &self.entered).await;
        if let Some(left) = left {
            left.events.iter().for_each(|event| self.run.effect(event));
            pending.extend(left.answers);
            if left.lost {
                return Step::Lost;
            }
        }
        let (outcome, duration_ms) = match attempted {
            node_run::Attempted::Ended(outcome, duration_ms) => (outcome, duration_ms),
            node_run::Attempted::Unsure => return Step::Again,
            node_run::Attempted::GivenUp => return Step::GivenUp,
            node_run::Attempted::Stale => return Step::Stale,
        };
        if outcome == NodeOutcome::Cancelled
            && let Some(command) = self.flight.stopped(&self.run.task().correlation.execution_id)
        {
            self.run.command(&command);
        }
        let next_kind = self.run.task().nodes.get(node + 1).map(|n| n.kind.as_str());
        let can_run_next = next_kind.is_some_and(|k| self.flight.slots.contains_key(k));
        let gate = self.flight.control.gate_at(&self.run.place_after());
        match self.run.after(outcome, &gate, can_run_next, clock::now(), duration_ms, |policy, attempt| {
            retry::delay_after(policy, attempt).as_millis() as u64
        }) {
            After::Note(e) => Step::Note(with_risk(e, noted)),
            After::End(e) => Step::End(with_risk(e, noted)),
            After::Retry(e, wait) => Step::Retry(e, wait),
        }
    }

    async fn publish_end(&self, events: Vec<Event>, mut pending: Vec<Receipt>) -> Left {
        if planted(Bug::EarlyAck) {
            let client = &self.flight.link.client;
            let _ = (client.publish(self.reply.clone(), "+ACK".into()).await, client.flush().await);
        }
        for event in events {
            pending.push(self.publish(event).await);
        }
        if !confirm(&mut pending).await {
            return Left::Abandoned(NOT_STORED);
        }
        // Whoever has the task by now acknowledges it: this result may be void.
        if self.entered.is_held() { Left::Done } else { Left::Abandoned(STALLED) }
    }

    /// Queues an event, in order.
    async fn publish(&self, event: Event) -> Receipt {
        let names = &self.flight.link.names;
        // What ends a task is an input of the coordinator; everything else only tells.
        let subject = if event.task_events.is_some() { names.input(&event.execution_id) } else { names.note(&event.execution_id) };
        fault::point(match event.kind {
            EventType::NodeStarted => "worker.started",
            EventType::NodeRetrying => "worker.retrying",
            _ if event.task_events.is_some() => "worker.result",
            _ => "worker.note",
        });
        let body = json::line(&event).unwrap_or_default();
        let mut id = self.run.message_id(&event);
        if self.run.is_contested() && planted(Bug::LateResult) {
            // As under a claim; or the server would drop one of the two as a repeat.
            id = format!("{id}@{}", self.run.token());
        }
        self.flight.publisher.send(Write::with_id(subject, id, body)).await
    }

    async fn leave(&self, left: Left) {
        let task = self.run.task();
        let word = match left {
            Left::Done => {
                fault::point("worker.ack");
                metrics::TASKS_RUN.inc();
                "+ACK"
            }
            Left::HandedBack => {
                tracing::info!(task_id = task.task_id, "handed a task back");
                "-NAK"
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

/// Awaits the answers to what was published; whether all of it is stored.
async fn confirm(pending: &mut Vec<Receipt>) -> bool {
    let mut all = true;
    for answer in pending.drain(..) {
        if let Err(e) = answer.await {
            tracing::error!(error = %e, "an event could not be stored");
            all = false;
        }
    }
    all
}

/// A node's result says what its attempt says about risk.
fn with_risk(mut event: Box<Event>, noted: Vec<Noted>) -> Box<Event> {
    if matches!(event.kind, EventType::NodeCompleted | EventType::NodeFailed) {
        event.risk = noted;
    }
    event
}
