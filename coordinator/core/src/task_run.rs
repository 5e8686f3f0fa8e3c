//! How a worker walks through a task: which event comes next, what is published when, where a
//! redelivered task goes on. The worker performs what this says; the simulation does, too.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use haltline_types::{
    Effect, SmolStr, Timestamp,
    control::{Flag, Gate, OnHalt, Place},
    definition::RetryPolicy,
    event::{Claims, Command, CommandType, Event, EventType, SegmentResult, event_id},
    json,
    limits::{ERROR_BYTES_MAX, OUTPUT_BYTES_MAX, SEGMENT_BYTES_MAX},
    record::{Outputs, Status},
    task::{Task, TaskInput, TaskNode, round},
};
use serde_json::{Map, Value};

use crate::{
    effects::{Effects, Intent},
    engine::LogMessage,
    execution::DEADLINE_EXCEEDED,
    outputs::{deadline_passed, look_up_output, results_of, terminal_event},
};

/// Error type of a node whose inputs are older than it allows.
pub const STALE_INPUT: &str = "StaleInput";

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Publish `started` (unless it is in the log already), then run the node.
    Start {
        /// `node_started`, if it is not in the log yet.
        started: Option<Box<Event>>,
        /// Index into the task's nodes.
        node: usize,
        /// Number of the attempt.
        attempt: u32,
        /// Resolved inputs.
        inputs: Map<String, Value>,
    },
    /// The task ends here: publish these (the last one is the result and an input), then acknowledge.
    End(Vec<Event>),
    /// The log has the result already: acknowledge.
    Finished,
    /// The flag cannot be read for certain: ask again later. Not an attempt.
    Wait(String),
}

/// What to do after a node ran.
#[derive(Clone, Debug, PartialEq)]
pub enum After {
    /// Publish as a note and go on with the next node.
    Note(Box<Event>),
    /// Publish as an input, then acknowledge the task.
    End(Box<Event>),
    /// Publish as a note, wait so many milliseconds, go on.
    Retry(Box<Event>, u64),
}

/// How a node's attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeOutcome {
    /// It gave outputs.
    Completed(Map<String, Value>),
    /// It failed.
    Failed {
        /// Stable kind.
        error_type: String,
        /// One sentence.
        message: String,
        /// Whether another attempt can help.
        retryable: bool,
    },
    /// The flag refused its side effect.
    Halted(Flag),
    /// It stopped because the execution was cancelled, or its deadline passed.
    Cancelled,
    /// Whether its side effect happened cannot be told.
    Unknown {
        /// Stable kind of what went wrong.
        error_type: String,
        /// One sentence: why it cannot be told.
        message: String,
    },
}

/// What is particular to one delivery of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How often its message was delivered, this time included.
    pub deliveries: u64,
    /// Its message was sent more than once: there may be another copy of it.
    pub again: bool,
    /// Unique among the walks of a worker: one worker can have a task twice.
    pub walk: u64,
}

/// A worker's walk through a task.
#[derive(Clone, Debug)]
pub struct TaskRun {
    task: Task,
    worker_id: SmolStr,
    /// Whose claims this walk takes for its own.
    claimant: String,
    token: u64,
    /// Another walk may have this task, too: it must be claimed before it goes on.
    contested: bool,
    /// This walk's claim is the one that stands.
    claimed: bool,
    /// The highest token that the log has on these nodes.
    highest: u64,
    /// The log has the execution's first event.
    begun: bool,
    at: usize,
    attempt: u32,
    /// Ids of this task's events that are in the log or were published by this walk, each with the
    /// index of its node.
    ids: HashMap<String, usize>,
    outputs: HashMap<SmolStr, Outputs>,
    /// When the nodes of this task that are done ended, and with which attempt.
    done_at: HashMap<SmolStr, (Timestamp, u32)>,
    /// Side effects of the node that is next.
    effects: Effects,
    /// The `node_started` that the last step gave out: of a node that is handed back it is not published.
    announced: bool,
    finished: bool,
    /// The command that stopped the execution: a cancel or a time-out.
    stopped: Option<Command>,
    /// The log says that the execution was halted, whatever the flag says by now.
    halted: Option<Flag>,
    /// It waited for a flag.
    waited: bool,
}

impl TaskRun {
    /// A walk through `task`.
    pub fn new(task: Task, worker_id: &str, delivery: Delivery) -> Self {
        let Delivery { deliveries, again, walk } = delivery;
        let token = task.token.saturating_add(deliveries);
        let attempt = task.attempt;
        let contested = deliveries > 1 || again || task.recovered;
        let nodes = task.nodes.len();
        Self {
            task,
            worker_id: worker_id.into(),
            claimant: format!("{worker_id}/{walk}"),
            token,
            contested,
            claimed: false,
            highest: 0,
            begun: false,
            at: 0,
            attempt,
            ids: HashMap::with_capacity(2 * nodes),
            outputs: HashMap::with_capacity(nodes),
            done_at: HashMap::with_capacity(nodes),
            effects: Effects::default(),
            announced: false,
            finished: false,
            stopped: None,
            halted: None,
            waited: false,
        }
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }
    /// Fencing token of this delivery.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Takes in what the log has of the execution, in its order: nodes that are done are not run again,
    /// what a claim made void does not count.
    pub fn learn<'e>(&mut self, log: impl IntoIterator<Item = &'e LogMessage>) {
        let mut claims = Claims::default();
        for message in log {
            match message {
                LogMessage::Command(c) => {
                    claims.take_in(c);
                    self.command(c);
                }
                LogMessage::Event(event) => {
                    if let Some(flag) = &event.halted {
                        self.halt(flag);
                    }
                    self.begun |= event.kind == EventType::ExecutionStarted;
                    // Nothing starts after the end.
                    self.finished |= event.kind.is_terminal();
                    let node = event.node_id.as_ref().and_then(|id| self.task.nodes.iter().position(|n| n.id == *id));
                    if let Some(i) = node {
                        self.highest = self.highest.max(event.token.unwrap_or(0));
                        if !claims.is_void(event) {
                            self.learn_event(i, event);
                        }
                    }
                }
            }
        }
        for node in &self.task.nodes {
            self.highest = self.highest.max(claims.standing(&node.id).map_or(0, |(token, _)| token));
        }
        self.finished |= self.at >= self.task.nodes.len();
        self.contested |= self.highest > 0;
        let standing = self.task.nodes.get(self.at).and_then(|n| claims.standing(&n.id));
        self.claimed = standing == Some((self.token, self.claimant.as_str()));
    }

    fn learn_event(&mut self, i: usize, event: &Event) {
        // Of the task before this one, which an operator had repeated, or whose node is read again.
        let before = |attempt: u32| attempt < self.task.attempt;
        if i == 0 && (event.attempt.is_some_and(before) || event.token.map(round).is_some_and(before)) {
            return;
        }
        self.ids.insert(event.id.clone(), i);
        match event.kind {
            EventType::NodeCompleted => {
                self.outputs.insert(self.task.nodes[i].id.clone(), event.outputs.clone().unwrap_or_default());
                self.done_at.insert(self.task.nodes[i].id.clone(), (event.timestamp, event.attempt.unwrap_or(1)));
                // A result that ends a task carries the number of its events.
                self.finished |= event.task_events.is_some();
                if self.at == i {
                    self.at += 1;
                    self.attempt = 1;
                    self.effects.clear();
                }
            }
            EventType::NodeFailed | EventType::NodeRefused | EventType::NodeUnknown | EventType::NodeStale => self.finished = true,
            EventType::EffectIntended | EventType::EffectSettled if self.at == i => self.effects.take_in(event),
            EventType::NodeRetrying if self.at == i => {
                self.attempt = self.attempt.max(event.attempt.unwrap_or(0) + 1);
            }
            _ => {}
        }
    }

    /// The execution's first event, if this walk is to tell it: nobody else can have.
    pub fn start(&self) -> Option<Event> {
        (self.task.whole && !self.contested).then(|| self.task.start())
    }

    /// The execution's first event, if the log that was learned lacks it and this task is the whole execution: whoever
    /// had it before has told nothing.
    pub fn missing_start(&self) -> Option<Event> {
        (self.task.whole && !self.begun).then(|| self.task.start())
    }

    /// The execution's end, if it follows from `result`, the last event of a task that is the whole of it: that every
    /// node completed. Only what is stored in one message with the start and before any command is the end; else the
    /// coordinator decides.
    pub fn end(&self, result: &Event) -> Option<Event> {
        let all = result.kind == EventType::NodeCompleted && result.segment.len() + 1 == self.task.nodes.len();
        if !all || !self.task.whole || self.contested || result.halted.is_some() || self.stopped.is_some() {
            return None;
        }
        let done = self.task.nodes.iter().filter_map(|n| Some((&n.id, self.outputs.get(&n.id)?)));
        let times = (self.task.created_at, self.task.created_at.max(result.timestamp));
        // With the start.
        let before = 1 + result.task_events?;
        let results = results_of(done, 0);
        Some(terminal_event(EventType::ExecutionCompleted, Status::Completed, &self.task.correlation, times, before, results))
    }

    /// Whether the log that was learned has the execution's first event.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Whether another walk may have or have had this task: the log is to be asked first.
    pub fn is_contested(&self) -> bool {
        self.contested
    }

    /// Whether another walk may have this task, too, and this one has no claim that stands.
    pub fn must_claim(&self) -> bool {
        self.contested && !self.claimed && !self.finished
    }

    /// Takes the task over from whoever else may have it. Store this, then [`TaskRun::learn`] again: if
    /// [`TaskRun::must_claim`] says so still, someone else has claimed it since.
    pub fn claim(&mut self, now: Timestamp) -> Command {
        // Above what a copy of this task would carry that has left no trace in the log yet.
        self.token = self.token.max(self.highest) + 1;
        Command {
            by: self.claimant.clone(),
            nodes: self.task.nodes[self.at..].iter().map(|n| n.id.clone()).collect(),
            token: Some(self.token),
            ..Command::new(CommandType::Claim, &self.task.correlation.execution_id, now)
        }
    }

    /// Whether another walk has claimed some of this task since, by the commands of the log: what this one told may be
    /// void, and the task is that one's to acknowledge.
    pub fn is_overtaken<'e>(&self, commands: impl IntoIterator<Item = &'e LogMessage>) -> bool {
        let mut claims = Claims::default();
        for command in commands {
            if let LogMessage::Command(c) = command {
                claims.take_in(c);
            }
        }
        self.task.nodes.iter().any(|n| claims.standing(&n.id).is_some_and(|(token, _)| token > self.token))
    }

    /// The execution was cancelled: no further node starts.
    pub fn cancel(&mut self, by: &str, reason: &str) {
        let id = &self.task.correlation.execution_id;
        let command = || Command { by: by.to_owned(), reason: reason.to_owned(), ..Command::new(CommandType::Cancel, id, Timestamp(0)) };
        self.stopped.get_or_insert_with(command);
    }

    /// The execution was halted: no further node starts, also if the flag was lowered since.
    pub fn halt(&mut self, flag: &Flag) {
        self.halted.get_or_insert_with(|| flag.clone());
    }

    /// Takes in a command that the log has of the execution, or that was heard of.
    pub fn command(&mut self, command: &Command) {
        match command.kind {
            CommandType::Cancel | CommandType::Timeout => {
                self.stopped.get_or_insert_with(|| command.clone());
            }
            CommandType::Halt => {
                let unnamed = || Flag::unreadable(command.reason.clone(), 0, None);
                self.halt(&command.halted.clone().unwrap_or_else(unnamed));
            }
            // It ended without this task.
            CommandType::Abandon => self.finished = true,
            CommandType::Claim | CommandType::Resolve => {}
        }
    }

    /// An `effect_intended` of the attempt that runs; the worker gives it its number.
    pub fn intend(&self, now: Timestamp) -> Event {
        self.event(EventType::EffectIntended, now)
    }

    /// How many effects the attempt that runs has intended so far, on this worker or before.
    pub fn intended(&self) -> u32 {
        self.effects.intended(self.attempt)
    }

    /// An `effect_intended` or `effect_settled` of the node that runs was published.
    pub fn effect(&mut self, event: &Event) {
        self.ids.insert(event.id.clone(), self.at);
        self.effects.take_in(event);
    }

    /// Side effects of the node that is next which happened or may have happened: someone has to be asked
    /// before it runs again.
    pub fn in_doubt(&self) -> Vec<Intent> {
        self.effects.in_doubt()
    }

    /// The node that is next, if someone has to be asked what it did: its index, its attempt and its inputs, as far
    /// as they are known. A flag that keeps it from running does not keep anyone from asking, and a halt is not
    /// confirmed before that is known.
    pub fn doubtful(&self) -> Option<(usize, u32, Map<String, Value>)> {
        if self.finished || self.stopped.is_some() || self.at >= self.task.nodes.len() || self.effects.in_doubt().is_empty() {
            return None;
        }
        Some((self.at, self.attempt, self.inputs().unwrap_or_default()))
    }

    /// Whether another attempt follows if this one fails in a way that is worth one.
    pub fn has_attempts_left(&self) -> bool {
        // A node that an operator had repeated has all its attempts again.
        let first = if self.at == 0 { self.task.attempt } else { 1 };
        self.attempt.saturating_sub(first) + 1 < self.node().retry.attempts
    }

    /// The `Nats-Msg-Id` of an event of this task.
    ///
    /// A result that ends its task must not be taken for a repeat of the one with the same id that only
    /// told it, or the coordinator would never hear of it; what follows a claim must not be taken for a
    /// repeat of what the claim made void.
    pub fn message_id(&self, event: &Event) -> String {
        let mut id = event.id.clone();
        if event.task_events.is_some() {
            id.push_str("/end");
        }
        if self.claimed {
            id.push_str(&format!("@{}", self.token));
        }
        id
    }

    /// Where the node is that is next, for the flags.
    pub fn place(&self) -> Place<'_> {
        self.task.place(self.at)
    }

    /// The same for what follows the node that has run: the next one of this task, else what else
    /// the execution may do.
    pub fn place_after(&self) -> Place<'_> {
        match self.at + 1 {
            next if next < self.task.nodes.len() => self.task.place(next),
            _ => Place { effect: Effect::Neutral, on_halt: self.task.on_halt, ..Place::of(&self.task.correlation) },
        }
    }

    /// The type of the node that is next; `None` if nothing is.
    pub fn next_kind(&self) -> Option<&str> {
        self.task.nodes.get(self.at).filter(|_| !self.finished).map(|n| n.kind.as_str())
    }

    /// Ends the task after the nodes that are done: for a worker that was given the rest of a segment
    /// and does not have the next node's type. `None` if no node is done yet.
    ///
    /// The result has the id of the event that told it without ending the task, and
    /// [`TaskRun::message_id`] tells the two apart.
    pub fn hand_back(&mut self, now: Timestamp) -> Option<Event> {
        let last = self.at.checked_sub(1)?;
        if std::mem::take(&mut self.announced)
            && let Some(next) = self.task.nodes.get(self.at)
        {
            self.ids.remove(&event_id::node_started(&self.task.correlation.execution_id, &next.id, self.attempt));
        }
        let node = self.task.nodes[last].clone();
        let mut e = Event::new(
            EventType::NodeCompleted,
            event_id::node_reading(&self.task.correlation.execution_id, &node.id, node.readings),
            &self.task.correlation,
            now,
        );
        e.attempt = self.done_at.get(&node.id).map(|(_, attempt)| *attempt);
        e.outputs = self.outputs.get(&node.id).cloned();
        e.node_id = Some(node.id);
        e.node_name = Some(node.name);
        e.node_category = Some(node.category);
        e.token = Some(self.token);
        e.worker_id = Some(self.worker_id.clone());
        e.status = Some("success".into());
        self.at = last;
        let mut e = self.result(e);
        self.at = last + 1;
        let rest = self.ids.values().filter(|node| **node > last).count() as u32;
        e.rest_events = Some(rest).filter(|n| *n > 0);
        Some(e)
    }

    /// What comes next, given what the guard says at `now`.
    pub fn next(&mut self, gate: &Gate, now: Timestamp) -> Next {
        // What the step before this one gave out was published.
        self.announced = false;
        if self.finished || self.at >= self.task.nodes.len() {
            return Next::Finished;
        }
        if let Some(flag) = self.halted.clone() {
            return Next::End(vec![self.refuse_halted(now, flag, None)]);
        }
        self.look_at(now);
        match gate {
            Gate::Halted(flag) => return Next::End(vec![self.refuse_halted(now, flag.clone(), None)]),
            Gate::Unsure(why) if self.stopped.is_none() => {
                self.waited = true;
                return Next::Wait(why.clone());
            }
            Gate::Unsure(_) | Gate::Open => {}
        }
        if self.stopped.is_some() {
            return Next::End(vec![self.refuse_stopped(now)]);
        }
        // Of what may have happened already someone is asked first, however old its inputs are by now.
        let stale = self.inputs_until().filter(|until| now > *until && self.effects.in_doubt().is_empty());
        if stale.is_some() && self.may_read_again(now) {
            return Next::End(vec![self.stale(now, None)]);
        }
        let started = self.started(now);
        if let Some(until) = stale {
            return Next::End(self.fail_unrun(started, now, STALE_INPUT, too_old(until)));
        }
        match self.inputs() {
            Ok(inputs) => Next::Start { started: started.map(Box::new), node: self.at, attempt: self.attempt, inputs },
            Err(message) => Next::End(self.fail_unrun(started, now, "MissingInput", message)),
        }
    }

    /// What follows from how the node ran. `gate` is the guard's word after it; `can_run_next` says
    /// whether this worker has the next node's type; `delay` gives the retry delay.
    pub fn after(
        &mut self,
        outcome: NodeOutcome,
        gate: &Gate,
        can_run_next: bool,
        now: Timestamp,
        duration_ms: f64,
        delay: impl FnOnce(&RetryPolicy, u32) -> u64,
    ) -> After {
        self.look_at(now);
        let flag = match gate {
            Gate::Halted(flag) => Some(flag.clone()),
            Gate::Open | Gate::Unsure(_) => self.halted.clone(),
        };
        match too_large(outcome) {
            NodeOutcome::Completed(outputs) => {
                let outputs = Arc::new(outputs);
                let mut e = self.event(EventType::NodeCompleted, now);
                e.status = Some("success".into());
                e.duration_ms = Some(duration_ms);
                e.outputs = Some(outputs.clone());
                e.halted = flag.clone();
                let last = self.at + 1 == self.task.nodes.len();
                self.outputs.insert(self.node().id.clone(), outputs);
                self.done_at.insert(self.node().id.clone(), (now, self.attempt));
                let full = || {
                    self.outputs.values().map(|o| json::bound(o)).sum::<usize>() > SEGMENT_BYTES_MAX
                        && self.outputs.values().map(json::size).sum::<usize>() > SEGMENT_BYTES_MAX
                };
                // The size last: it is measured only where the segment could go on.
                if last || flag.is_some() || !can_run_next || self.stopped.is_some() || full() {
                    return After::End(Box::new(self.result(e)));
                }
                self.ids.insert(e.id.clone(), self.at);
                self.at += 1;
                self.attempt = 1;
                self.effects.clear();
                After::Note(Box::new(e))
            }
            NodeOutcome::Failed { error_type, .. } if error_type == STALE_INPUT && self.may_read_again(now) => {
                After::End(Box::new(match flag {
                    Some(flag) => self.refuse_halted(now, flag, Some(duration_ms)),
                    None if self.stopped.is_some() => self.refuse_stopped(now),
                    None => self.stale(now, Some(duration_ms)),
                }))
            }
            NodeOutcome::Failed { error_type, message, retryable } => {
                let policy = self.node().retry;
                let again = retryable && self.has_attempts_left();
                // A halt or cancel keeps the next attempt from starting: that is what ended the node.
                if again && let Some(flag) = flag {
                    return After::End(Box::new(self.refuse_halted(now, flag, Some(duration_ms))));
                }
                if again && self.stopped.is_some() {
                    return After::End(Box::new(self.refuse_stopped(now)));
                }
                let mut e = self.event(if again { EventType::NodeRetrying } else { self.failure() }, now);
                e.duration_ms = Some(duration_ms);
                e.error = Some(cut(message));
                e.error_type = Some(error_type);
                if !again {
                    e.halted = flag;
                    return After::End(Box::new(self.result(e)));
                }
                let wait = delay(&policy, self.attempt);
                e.retry_in_ms = Some(wait);
                self.ids.insert(e.id.clone(), self.at);
                self.attempt += 1;
                After::Retry(Box::new(e), wait)
            }
            NodeOutcome::Halted(flag) => After::End(Box::new(self.refuse_halted(now, flag, Some(duration_ms)))),
            NodeOutcome::Cancelled => After::End(Box::new(self.refuse_stopped(now))),
            NodeOutcome::Unknown { error_type, message } => {
                let mut e = self.event(EventType::NodeUnknown, now);
                e.duration_ms = Some(duration_ms);
                e.error = Some(cut(message));
                e.error_type = Some(error_type);
                e.halted = flag;
                After::End(Box::new(self.result(e)))
            }
        }
    }

    /// Whether the deadline has passed, by this worker's own clock.
    fn look_at(&mut self, now: Timestamp) {
        if now > self.task.deadline {
            let id = &self.task.correlation.execution_id;
            self.stopped.get_or_insert_with(|| Command::new(CommandType::Timeout, id, now));
        }
    }

    /// A node does not end as failed while nobody knows whether its side effect happened.
    fn failure(&self) -> EventType {
        if self.effects.unsettled().is_empty() { EventType::NodeFailed } else { EventType::NodeUnknown }
    }

    fn node(&self) -> &TaskNode {
        &self.task.nodes[self.at]
    }

    fn event(&self, kind: EventType, now: Timestamp) -> Event {
        let (execution, node) = (&self.task.correlation.execution_id, self.node());
        let id = match kind {
            EventType::NodeStarted => event_id::node_started(execution, &node.id, self.attempt),
            EventType::NodeRetrying => event_id::node_retrying(execution, &node.id, self.attempt),
            EventType::NodeUnknown => event_id::node_unknown(execution, &node.id, self.attempt),
            EventType::NodeStale => event_id::node_stale(execution, &node.id, self.attempt),
            EventType::EffectIntended => event_id::effect_intended(execution, &node.id, self.attempt, self.intended() + 1),
            _ => event_id::node_reading(execution, &node.id, node.readings),
        };
        let mut e = Event::new(kind, id, &self.task.correlation, now);
        e.node_id = Some(node.id.clone());
        e.node_name = Some(node.name.clone());
        e.node_category = Some(node.category.clone());
        e.attempt = Some(self.attempt);
        e.token = Some(self.token);
        e.worker_id = Some(self.worker_id.clone());
        e
    }

    fn started(&mut self, now: Timestamp) -> Option<Event> {
        let e = self.event(EventType::NodeStarted, now);
        self.announced = self.ids.insert(e.id.clone(), self.at).is_none();
        self.announced.then_some(e)
    }

    /// Makes `e` the result that ends the task.
    fn result(&mut self, mut e: Event) -> Event {
        self.ids.insert(e.id.clone(), self.at);
        self.finished = true;
        if e.kind != EventType::NodeCompleted {
            e.unsettled = self.effects.unsettled();
        }
        // What an earlier walk did with a later node is counted by the task that goes on with it.
        e.task_events = Some(self.ids.values().filter(|node| **node <= self.at).count() as u32);
        e.segment = self.task.nodes[..self.at]
            .iter()
            .map(|n| SegmentResult {
                node_id: n.id.clone(),
                outputs: self.outputs.get(&n.id).cloned().unwrap_or_default(),
                at: self.done_at.get(&n.id).map(|(at, _)| *at),
                attempt: self.done_at.get(&n.id).map(|(_, attempt)| *attempt).filter(|attempt| *attempt > 1),
            })
            .collect();
        e
    }

    fn refuse_halted(&mut self, now: Timestamp, flag: Flag, duration_ms: Option<f64>) -> Event {
        let mut e = self.event(EventType::NodeRefused, now);
        e.duration_ms = duration_ms;
        e.error_type = Some("EmergencyHalted".into());
        e.error = Some(flag.sentence());
        e.reason = Some(flag.reason.clone());
        e.by = Some(flag.by.clone());
        e.halted = Some(flag);
        self.result(e)
    }

    fn refuse_stopped(&mut self, now: Timestamp) -> Event {
        let mut e = self.event(EventType::NodeRefused, now);
        match &self.stopped {
            Some(c) if c.kind == CommandType::Timeout => {
                e.error_type = Some(DEADLINE_EXCEEDED.into());
                e.reason = Some(deadline_passed(self.task.deadline));
            }
            stopped => {
                e.error_type = Some("Cancelled".into());
                e.reason = Some(stopped.as_ref().map(|c| c.reason.clone()).unwrap_or_default());
                e.by = Some(stopped.as_ref().map(|c| c.by.clone()).unwrap_or_default());
            }
        }
        self.result(e)
    }

    /// A node that cannot run counts as started and failed, so that its history reads like any other.
    fn fail_unrun(&mut self, started: Option<Event>, now: Timestamp, error_type: &str, message: String) -> Vec<Event> {
        let mut e = self.event(self.failure(), now);
        e.duration_ms = Some(0.0);
        e.error_type = Some(error_type.into());
        e.error = Some(message);
        let result = self.result(e);
        started.into_iter().chain([result]).collect()
    }

    /// Until when the inputs of the node that is next are not older than it allows; `None` if it has no limit.
    pub fn inputs_until(&self) -> Option<Timestamp> {
        let node = self.task.nodes.get(self.at)?;
        let age = i64::try_from(node.max_input_age_ms?).unwrap_or(i64::MAX);
        let earlier = node.inputs.values().filter_map(|input| match input {
            // What is not known is old.
            TaskInput::Earlier(node, _) => Some(self.ended_at(node)),
            TaskInput::Value(_) | TaskInput::Missing(_) => None,
        });
        earlier.chain(node.inputs_at).min().map(|oldest| Timestamp(oldest.0.saturating_add(age)))
    }

    fn ended_at(&self, node: &str) -> Timestamp {
        self.done_at.get(node).map(|(at, _)| *at).unwrap_or_default()
    }

    /// Whether the inputs of the node that is next are too old, waiting for a flag made them so, and reading
    /// again makes all of them new.
    fn may_read_again(&self, now: Timestamp) -> bool {
        let node = self.node();
        let Some(age) = node.max_input_age_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)) else { return false };
        let is_old = |at: Timestamp| now.0 > at.0.saturating_add(age);
        let is_fixed = |input: &TaskInput| matches!(input, TaskInput::Earlier(from, _) if !node.read_again.contains(from) && is_old(self.ended_at(from)));
        (self.task.on_halt == Some(OnHalt::Hold) || self.waited)
            && !node.read_again.is_empty()
            && self.effects.in_doubt().is_empty()
            && self.inputs_until().is_some_and(|until| now > until)
            && !node.fixed_at.is_some_and(is_old)
            && !node.inputs.values().any(is_fixed)
    }

    /// The node is left until its inputs were read again.
    fn stale(&mut self, now: Timestamp, duration_ms: Option<f64>) -> Event {
        let mut e = self.event(EventType::NodeStale, now);
        e.duration_ms = duration_ms;
        e.error_type = Some(STALE_INPUT.into());
        e.error = self.inputs_until().map(too_old);
        e.read_again = self.node().read_again.clone();
        self.result(e)
    }

    fn inputs(&self) -> Result<Map<String, Value>, String> {
        let mut inputs = Map::new();
        for (name, input) in &self.node().inputs {
            let value = match input {
                TaskInput::Value(v) => v.clone(),
                TaskInput::Missing(why) => return Err(why.clone()),
                TaskInput::Earlier(node, output) => self
                    .outputs
                    .get(node)
                    .and_then(|o| look_up_output(o, output))
                    .map(Cow::into_owned)
                    .ok_or_else(|| format!("input `{name}`: node `{node}` gave no output `{output}`"))?,
            };
            inputs.insert(name.clone(), value);
        }
        Ok(inputs)
    }
}

fn too_old(until: Timestamp) -> String {
    format!("an input was good until {until}, and is older than the node's max_input_age now")
}

/// An error's text within its limit; what is missing is told.
fn cut(mut message: String) -> String {
    if message.len() > ERROR_BYTES_MAX {
        message.truncate(message.floor_char_boundary(ERROR_BYTES_MAX));
        message.push_str("… (cut)");
    }
    message
}

/// Outputs above the limit are a failure, not a truncated success.
fn too_large(outcome: NodeOutcome) -> NodeOutcome {
    match outcome {
        NodeOutcome::Completed(outputs) if json::exceeds(&outputs, OUTPUT_BYTES_MAX) => NodeOutcome::Failed {
            error_type: "OutputTooLarge".into(),
            message: format!("the outputs have {} bytes, more than {OUTPUT_BYTES_MAX}", json::size(&outputs)),
            retryable: false,
        },
        other => other,
    }
}
