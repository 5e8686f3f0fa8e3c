//! One task from delivery to acknowledgement: performs what `worker/src/task.rs` performs.

use std::collections::BTreeSet;

use haltline_core::{After, Guard, LogMessage, Next, NodeOutcome, STALE_INPUT, Settled, TaskRun};
use haltline_types::{
    control::{Gate, Place},
    event::{Event, EventType, event_id},
    ids,
};
use serde_json::{Map, json};

use super::{
    Killed, Pid, Time,
    broker::ACK_WAIT,
    faults::Bug,
    net::Up,
    server::{Class, PubAck, What, Write},
    worker::Worker,
    world::{Ev, Timer, World},
};

/// What follows when everything published is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Learn,
    /// The claim: read the log again.
    Claim,
    /// The intent: perform the effect.
    Perform,
    Step,
    Ack,
    Retry(u64),
}

/// The first message of a walk that tells the execution's start.
enum Opening {
    /// What it is to tell.
    Holds(Vec<Event>),
    /// What it tells, and what waits for its answer.
    OnItsWay(Vec<Event>, Vec<Event>),
    Over,
}

/// A walk through a task.
pub struct Walk {
    pub run: TaskRun,
    opening: Opening,
    pub seq: u64,
    pub deliveries: u64,
    pub since: Time,
    /// When the server was last told of progress.
    pub renewed: Time,
    claimed: bool,
    pub commands_only: bool,
    pending: BTreeSet<u64>,
    pub then: Then,
    node: usize,
    attempt: u32,
    /// An order is on its way since.
    ordered: Option<Time>,
    history: Vec<(u64, LogMessage)>,
    reads: u32,
}

impl Walk {
    pub fn new(run: TaskRun, seq: u64, deliveries: u64, since: Time) -> Self {
        let opening = if run.start().is_some() { Opening::Holds(Vec::new()) } else { Opening::Over };
        Self {
            run,
            opening,
            seq,
            deliveries,
            since,
            renewed: since,
            claimed: false,
            commands_only: false,
            pending: BTreeSet::new(),
            then: Then::Nothing,
            node: 0,
            attempt: 0,
            ordered: None,
            history: Vec::new(),
            reads: 0,
        }
    }
    /// Whether the server cannot have given the task away yet.
    pub fn is_held(&self, now: Time) -> bool {
        now - self.renewed < ACK_WAIT
    }
}

impl World {
    /// Reads the log: events, then commands; or commands only.
    pub fn learn(&mut self, pid: Pid, w: &mut Worker, id: u64) {
        let Some(walk) = w.walks.get_mut(&id) else { return };
        walk.then = Then::Learn;
        walk.reads = u32::from(walk.commands_only);
        walk.history.clear();
        w.next_token += 1;
        w.tokens.retain(|_, other| *other != id);
        w.tokens.insert(w.next_token, id);
        self.send(
            pid,
            Up::ReadLog { token: w.next_token, id: walk.run.task().correlation.execution_id.clone(), commands: walk.commands_only },
        );
    }

    pub fn learned(&mut self, pid: Pid, w: &mut Worker, token: u64, entries: Vec<(u64, LogMessage)>) -> Result<(), Killed> {
        let Some(id) = w.tokens.get(&token).copied() else { return Ok(()) };
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        walk.history.extend(entries);
        walk.reads += 1;
        if walk.reads == 1 {
            self.send(pid, Up::ReadLog { token, id: walk.run.task().correlation.execution_id.clone(), commands: true });
            return Ok(());
        }
        w.tokens.remove(&token);
        walk.then = Then::Nothing;
        let mut history = std::mem::take(&mut walk.history);
        history.sort_by_key(|(seq, _)| *seq);
        walk.run.learn(history.iter().map(|(_, message)| message));
        if std::mem::replace(&mut walk.commands_only, false) && walk.run.is_contested() {
            self.learn(pid, w, id);
            return Ok(());
        }
        if walk.run.is_contested()
            && let Some(start) = walk.run.missing_start()
        {
            walk.then = Then::Claim;
            self.point(pid, "worker.opening")?;
            let message_id = Some(start.id.clone());
            let what = What::Log {
                class: Class::Input,
                execution: start.execution_id.clone(),
                id: message_id,
                lines: vec![LogMessage::Event(Box::new(start))],
                first: true,
            };
            self.write_of_walk(pid, w, id, Write { what, point: "worker.opening" });
            return Ok(());
        }
        if !walk.run.must_claim() || self.plan.bug == Bug::NoClaim {
            return self.step(pid, w, id);
        }
        if std::mem::replace(&mut walk.claimed, true) || !walk.is_held(self.now) {
            self.abandon(pid, w, id);
            return Ok(());
        }
        let command = walk.run.claim(self.clock(pid));
        walk.then = Then::Claim;
        self.point(pid, "worker.claim")?;
        let what = What::Log {
            class: Class::Command,
            execution: command.execution_id.clone(),
            id: Some(command.message_id()),
            lines: vec![LogMessage::Command(Box::new(command))],
            first: false,
        };
        self.write_of_walk(pid, w, id, Write { what, point: "worker.claim" });
        Ok(())
    }

    /// Leaves a task to others, without a word.
    fn abandon(&mut self, pid: Pid, w: &mut Worker, id: u64) {
        let Some(walk) = w.walks.remove(&id) else { return };
        self.note(|| format!("worker {pid} abandons {}", walk.run.task().task_id));
        if let Some(alive) = self.walks_alive.get_mut(&walk.run.task().task_id) {
            *alive -= 1;
        }
        self.send(pid, Up::Pull(1));
    }

    /// Abandons a task that another worker may have by now. Whether it did.
    fn lost(&mut self, pid: Pid, w: &mut Worker, id: u64) -> bool {
        let now = self.now;
        let lost = w.walks.get(&id).is_some_and(|walk| !walk.is_held(now)) && self.plan.bug != Bug::NoClaim;
        if lost {
            self.abandon(pid, w, id);
        }
        lost
    }

    fn write_of_walk(&mut self, pid: Pid, w: &mut Worker, id: u64, write: Write) {
        let (n, write) = w.outbox.add(id, write, self.now);
        if let Some(walk) = w.walks.get_mut(&id) {
            walk.pending.insert(n);
        }
        self.publish(pid, n, write);
    }

    /// What comes next in a walk.
    pub fn step(&mut self, pid: Pid, w: &mut Worker, id: u64) -> Result<(), Killed> {
        if self.lost(pid, w, id) {
            return Ok(());
        }
        let gate = self.worker_gate(pid, w);
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        let gate = held(gate, &walk.run.place());
        if let Some(c) = w.stopped.get(&walk.run.task().correlation.execution_id) {
            walk.run.command(c);
        }
        match walk.run.next(&gate, self.clock(pid)) {
            Next::Finished => self.acknowledge(pid, w, id),
            Next::Wait(_) => {
                // Who has waited for long gives the rest of a segment back.
                if self.rng.chance(10)
                    && walk.run.doubtful().is_none()
                    && let Some(event) = walk.run.hand_back(self.clock(pid))
                {
                    return self.end(pid, w, id, vec![event]);
                }
                self.timer(pid, 5, Timer::Step(id));
                Ok(())
            }
            Next::End(events) => self.end(pid, w, id, events),
            Next::Start { started, node, attempt, .. } => {
                let kind = walk.run.task().nodes[node].kind.clone();
                if !self.can_run(pid, &kind)
                    && let Some(event) = walk.run.hand_back(self.clock(pid))
                {
                    return self.end(pid, w, id, vec![event]);
                }
                walk.node = node;
                walk.attempt = attempt;
                walk.then = Then::Nothing;
                if let Some(e) = started {
                    self.publish_event(pid, w, id, *e)?;
                }
                let takes = if self.rng.chance(10) { self.rng.range(50, 500) } else { self.rng.range(0, 30) };
                self.timer(pid, takes, Timer::NodeDone(id));
                Ok(())
            }
        }
    }

    /// A node comes to its end, or to its effect.
    pub fn node_done(&mut self, pid: Pid, w: &mut Worker, id: u64) -> Result<(), Killed> {
        if self.lost(pid, w, id) {
            return Ok(());
        }
        let gate = self.worker_gate(pid, w);
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        let gate = held(gate, &walk.run.place());
        let task = walk.run.task();
        let node = &task.nodes[walk.node];
        let execution = task.correlation.execution_id.clone();
        let failed =
            |error_type: &str, retryable| NodeOutcome::Failed { error_type: error_type.into(), message: "scripted".into(), retryable };
        let key = format!("{execution}/{}", node.id);
        let outcome = match node.kind.as_str() {
            // As `sleep` and whatever else looks at its cancel token.
            "give" if w.stopped.contains_key(&execution) => NodeOutcome::Cancelled,
            "fail" => failed("Scripted", false),
            "flaky" if walk.attempt <= 1 + ids::shard_of(&key, 2) => failed("Scripted", true),
            "order" => match gate {
                Gate::Halted(flag) => NodeOutcome::Halted(flag),
                Gate::Unsure(_) => return self.step(pid, w, id),
                Gate::Open if w.stopped.contains_key(&execution) => NodeOutcome::Cancelled,
                Gate::Open => return self.intend(pid, w, id),
            },
            // Each reading gives something else.
            "quote" => completed(&execution, &format!("{}@{}", node.id, walk.attempt)),
            _ => completed(&execution, &node.id),
        };
        self.outcome(pid, w, id, outcome)
    }

    fn order_key(&self, walk: &Walk) -> String {
        let key = format!("{}/{}", walk.run.task().correlation.execution_id, walk.run.task().nodes[walk.node].id);
        if self.plan.bug == Bug::KeyPerDelivery { format!("{key}#{}", walk.run.token()) } else { key }
    }

    /// Asks the market what became of an order that may have been placed; then stores the intent.
    fn intend(&mut self, pid: Pid, w: &mut Worker, id: u64) -> Result<(), Killed> {
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        if !walk.run.in_doubt().is_empty() && self.plan.bug != Bug::BlindRepeat {
            let placed = self.market.orders.contains_key(&self.order_key(walk));
            let task = walk.run.task();
            let (execution, node) = (task.correlation.execution_id.clone(), task.nodes[walk.node].id.clone());
            self.settle(pid, w, id, if placed { Settled::Done } else { Settled::NotDone })?;
            if placed {
                return self.outcome(pid, w, id, completed(&execution, &node));
            }
        }
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        if self.is_too_late(pid, walk) {
            return self.outcome(pid, w, id, stale_input());
        }
        let intent = walk.run.intend(self.clock(pid));
        walk.run.effect(&intent);
        walk.then = Then::Perform;
        self.publish_event(pid, w, id, intent)
    }

    /// Whether the inputs are older than the node allows.
    fn is_too_late(&self, pid: Pid, walk: &Walk) -> bool {
        walk.run.inputs_until().is_some_and(|until| self.clock(pid) > until)
    }

    /// What became of all that is open.
    fn settle(&mut self, pid: Pid, w: &mut Worker, id: u64, settled: Settled) -> Result<(), Killed> {
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        let open: Vec<_> = walk.run.in_doubt().into_iter().filter(|intent| !intent.done).collect();
        for intent in open {
            let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
            let mut event = walk.run.intend(self.clock(pid));
            event.kind = EventType::EffectSettled;
            event.id = event_id::effect_settled(&intent.id);
            event.intent = Some(intent.id);
            event.status = Some(settled.as_str().into());
            walk.run.effect(&event);
            self.publish_event(pid, w, id, event)?;
        }
        Ok(())
    }

    /// The intent is stored: places the order, if the flag still allows it.
    fn place_order(&mut self, pid: Pid, w: &mut Worker, id: u64) -> Result<(), Killed> {
        if self.lost(pid, w, id) {
            return Ok(());
        }
        let gate = self.worker_gate(pid, w);
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        let gate = held(gate, &walk.run.place());
        let execution = walk.run.task().correlation.execution_id.clone();
        let refused = match gate {
            Gate::Halted(flag) => Some(NodeOutcome::Halted(flag)),
            Gate::Open if w.stopped.contains_key(&execution) => Some(NodeOutcome::Cancelled),
            Gate::Open if self.is_too_late(pid, walk) => Some(stale_input()),
            Gate::Open => None,
            Gate::Unsure(_) => {
                self.settle(pid, w, id, Settled::NotDone)?;
                return self.step(pid, w, id);
            }
        };
        if let Some(outcome) = refused {
            self.settle(pid, w, id, Settled::NotDone)?;
            return self.outcome(pid, w, id, outcome);
        }
        self.point(pid, "worker.effect")?;
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        walk.ordered = Some(self.now);
        let (token, key) = (walk.run.token(), self.order_key(walk));
        let (delay, life) = (self.rng.range(1, 10), self.processes[pid].life);
        self.after(delay, Ev::Order { pid, life, walk: id, key, execution, token });
        self.timer(pid, 60, Timer::OrderLost(id));
        Ok(())
    }

    /// The market answered.
    pub fn filled(&mut self, pid: Pid, w: &mut Worker, id: u64, stale: bool) -> Result<(), Killed> {
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        if walk.ordered.take().is_none() {
            return Ok(());
        }
        let (execution, node) = (walk.run.task().correlation.execution_id.clone(), walk.run.task().nodes[walk.node].id.clone());
        self.point(pid, "worker.effect_done")?;
        if stale {
            self.abandon(pid, w, id);
            return Ok(());
        }
        self.settle(pid, w, id, Settled::Done)?;
        self.outcome(pid, w, id, completed(&execution, &node))
    }

    pub fn order_lost(&mut self, pid: Pid, w: &mut Worker, id: u64) -> Result<(), Killed> {
        let now = self.now;
        let Some(walk) = w.walks.get_mut(&id).filter(|walk| walk.ordered.is_some_and(|at| at + 60 <= now)) else { return Ok(()) };
        walk.ordered = None;
        let outcome = NodeOutcome::Failed { error_type: "Connection".into(), message: "no answer".into(), retryable: true };
        self.outcome(pid, w, id, outcome)
    }

    fn outcome(&mut self, pid: Pid, w: &mut Worker, id: u64, outcome: NodeOutcome) -> Result<(), Killed> {
        if self.lost(pid, w, id) {
            return Ok(());
        }
        let gate = self.worker_gate(pid, w);
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        let gate = held(gate, &walk.run.place_after());
        if outcome == NodeOutcome::Cancelled
            && let Some(c) = w.stopped.get(&walk.run.task().correlation.execution_id)
        {
            walk.run.command(c);
        }
        let next = walk.run.task().nodes.get(walk.node + 1).map(|n| n.kind.clone());
        let can_run_next = next.is_some_and(|k| self.can_run(pid, &k));
        match walk.run.after(outcome, &gate, can_run_next, self.clock(pid), 1.0, |policy, _| policy.delay.0) {
            After::Note(e) => {
                // What does nothing outside follows at once: the connection keeps the order.
                let awaits = walk.run.next_kind() == Some("order");
                walk.then = if awaits { Then::Step } else { Then::Nothing };
                self.publish_event(pid, w, id, *e)?;
                if awaits { Ok(()) } else { self.step(pid, w, id) }
            }
            After::End(e) => self.end(pid, w, id, vec![*e]),
            After::Retry(e, wait) => {
                walk.then = Then::Retry(wait);
                self.publish_event(pid, w, id, *e)
            }
        }
    }

    fn end(&mut self, pid: Pid, w: &mut Worker, id: u64, events: Vec<Event>) -> Result<(), Killed> {
        if let Some(walk) = w.walks.get_mut(&id) {
            walk.then = Then::Ack;
        }
        if self.plan.bug == Bug::EarlyAck {
            self.acknowledge(pid, w, id)?;
        }
        for event in events {
            self.publish_event(pid, w, id, event)?;
        }
        Ok(())
    }

    fn publish_event(&mut self, pid: Pid, w: &mut Worker, id: u64, mut event: Event) -> Result<(), Killed> {
        let ends = event.task_events.is_some();
        let point = match event.kind {
            EventType::NodeStarted => "worker.started",
            EventType::NodeRetrying => "worker.retrying",
            EventType::EffectIntended => "worker.intended",
            EventType::EffectSettled => "worker.settled",
            _ if ends => "worker.result",
            _ => "worker.note",
        };
        self.point(pid, point)?;
        if self.plan.bug == Bug::IdPerDelivery {
            event.id = format!("{}#{}", event.id, event.token.unwrap_or(0));
        }
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        // A node that takes time has its start told before; else what is told at once travels together.
        let leaves = ends || walk.then != Then::Nothing || self.rng.chance(50);
        match &mut walk.opening {
            Opening::Holds(held) => {
                held.push(event);
                if leaves { self.open(pid, w, id) } else { Ok(()) }
            }
            Opening::OnItsWay(_, held) => {
                held.push(event);
                Ok(())
            }
            Opening::Over => {
                self.publish_one(pid, w, id, event, point);
                Ok(())
            }
        }
    }

    fn publish_one(&mut self, pid: Pid, w: &mut Worker, id: u64, event: Event, point: &'static str) {
        let Some(walk) = w.walks.get(&id) else { return };
        let what = What::Log {
            class: if event.task_events.is_some() { Class::Input } else { Class::Note },
            execution: event.execution_id.clone(),
            id: Some(self.message_id(walk, &event)),
            lines: vec![LogMessage::Event(Box::new(event))],
            first: false,
        };
        self.write_of_walk(pid, w, id, Write { what, point });
    }

    fn message_id(&self, walk: &Walk, event: &Event) -> String {
        if self.plan.bug == Bug::SharedMessageId { event.id.clone() } else { walk.run.message_id(event) }
    }

    /// Tells the start with all that is held, and the end if it follows.
    fn open(&mut self, pid: Pid, w: &mut Worker, id: u64) -> Result<(), Killed> {
        self.point(pid, "worker.opening")?;
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        let (Opening::Holds(held), Some(start)) = (&walk.opening, walk.run.start()) else { return Ok(()) };
        let (held, last) = (held.clone(), held.last().expect("something is held").clone());
        let end = walk.run.end(&last);
        let what = What::Log {
            class: Class::Input,
            execution: last.execution_id.clone(),
            id: Some(self.message_id(walk, &last)),
            lines: [start].into_iter().chain(held.iter().cloned()).chain(end).map(|e| LogMessage::Event(Box::new(e))).collect(),
            first: self.plan.bug != Bug::OpeningUnfenced,
        };
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        walk.opening = Opening::OnItsWay(held, Vec::new());
        self.write_of_walk(pid, w, id, Write { what, point: "worker.opening" });
        Ok(())
    }

    /// The server has answered a message that has the start. Where that was told before, the rest is told without.
    pub fn opened(&mut self, pid: Pid, w: &mut Worker, id: u64, answer: PubAck) {
        let Some(walk) = w.walks.get_mut(&id) else { return };
        if let Opening::OnItsWay(sent, after) = std::mem::replace(&mut walk.opening, Opening::Over) {
            let again = sent.into_iter().filter(|_| answer == PubAck::Conflict);
            for event in again.chain(after).collect::<Vec<_>>() {
                self.publish_one(pid, w, id, event, "");
            }
        }
    }

    /// A write of a walk is stored.
    pub fn confirmed(&mut self, pid: Pid, w: &mut Worker, id: u64, n: u64) -> Result<(), Killed> {
        let Some(walk) = w.walks.get_mut(&id) else { return Ok(()) };
        walk.pending.remove(&n);
        if !walk.pending.is_empty() {
            return Ok(());
        }
        match std::mem::replace(&mut walk.then, Then::Nothing) {
            Then::Nothing => Ok(()),
            Then::Learn => {
                walk.then = Then::Learn;
                Ok(())
            }
            Then::Claim => {
                self.learn(pid, w, id);
                Ok(())
            }
            Then::Perform => self.place_order(pid, w, id),
            Then::Step => self.step(pid, w, id),
            Then::Ack => self.acknowledge(pid, w, id),
            Then::Retry(wait) => {
                self.timer(pid, wait, Timer::Step(id));
                Ok(())
            }
        }
    }

    fn acknowledge(&mut self, pid: Pid, w: &mut Worker, id: u64) -> Result<(), Killed> {
        let Some(walk) = w.walks.get(&id) else { return Ok(()) };
        let (seq, deliveries, task) = (walk.seq, walk.deliveries, walk.run.task().task_id.clone());
        self.point(pid, "worker.ack")?;
        self.send(pid, Up::Ack { seq, deliveries });
        w.walks.remove(&id);
        if let Some(alive) = self.walks_alive.get_mut(&task) {
            *alive -= 1;
        }
        self.send(pid, Up::Pull(1));
        Ok(())
    }
}

/// What a halt means at a place: some hold.
fn held(gate: Gate, place: &Place) -> Gate {
    if matches!(gate, Gate::Halted(_)) { Guard::of(gate).gate(place) } else { gate }
}

fn stale_input() -> NodeOutcome {
    NodeOutcome::Failed { error_type: STALE_INPUT.into(), message: "too old".into(), retryable: false }
}

fn completed(execution: &str, node: &str) -> NodeOutcome {
    NodeOutcome::Completed(Map::from_iter([("out".to_owned(), json!(format!("{execution}/{node}")))]))
}
