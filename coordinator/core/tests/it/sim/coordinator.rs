//! A coordinator around the real engine: performs what `coordinator/src/active.rs` performs.

use std::{collections::BTreeMap, rc::Rc};

use haltline_core::{Body, Engine, Guard, Known, Limits, Loaded, LogMessage, Out, WriteId};
use haltline_types::{
    SmolStr,
    control::{Flag, Gate},
    error::{ApiError, Code},
    event::{CommandType, EventType},
    record::{Record, Status},
    submit::{Accepted, Reply},
};

use super::{
    Killed, Pid,
    faults::Bug,
    net::{Down, Up},
    outbox::Outbox,
    server::{Checkpoint, Class, PubAck, What, Write},
    workload,
    world::{Timer, World},
};

/// Whose write an answer is about.
#[derive(Clone, Copy)]
pub enum Tag {
    Engine(WriteId),
    /// A record.
    Record(WriteId),
    Checkpoint,
}

/// A read of an execution, step by step, as the real one: record, tasks in the queue, events, commands.
#[derive(Default)]
struct Load {
    record: Option<(Record, u64)>,
    queued: Vec<String>,
    history: Vec<(u64, LogMessage)>,
    step: u32,
}

/// An active coordinator.
pub struct Coordinator {
    pub engine: Engine,
    /// Records written by this one or read.
    known: Known,
    pub outbox: Outbox<Tag>,
    last_input: u64,
    last_swept: u64,
    pub swept: bool,
    /// Where records by someone else begin, when it was last looked.
    unread: Option<u64>,
    looks: u32,
    flag: Option<Flag>,
    tickets: BTreeMap<u64, (Pid, u64, SmolStr)>,
    next_ticket: u64,
    loads: BTreeMap<SmolStr, Load>,
    tokens: BTreeMap<u64, SmolStr>,
    next_token: u64,
    checkpoint: Checkpoint,
    revision: u64,
    checkpoint_in_flight: bool,
    superseded: bool,
}

impl Coordinator {
    /// Nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.engine.running() == 0 && self.outbox.pending.is_empty() && self.loads.is_empty() && self.swept && self.unread.is_none()
    }
}

/// What a watch on the flag says.
pub fn gate(flag: Option<&Flag>, connected: bool) -> Gate {
    match flag {
        Some(flag) if !flag.state.runs() => Gate::Halted(flag.clone()),
        Some(_) if connected => Gate::Open,
        _ => Gate::Unsure("not watched".into()),
    }
}

impl World {
    /// Does `f` with the coordinator, then what its engine wants.
    fn coordinate(&mut self, pid: Pid, f: impl FnOnce(&mut Self, &mut Coordinator) -> Result<(), Killed>) {
        let Some(mut c) = self.coordinators[pid].take() else { return };
        c.engine.set_guard(Guard::of(gate(c.flag.as_ref(), self.processes[pid].conn.is_some())));
        if f(self, &mut c).and_then(|()| self.perform(pid, &mut c)).is_err() {
            return;
        }
        if c.superseded {
            self.note(|| format!("coordinator {pid} steps down"));
            if let Some(conn) = self.processes[pid].conn {
                self.gone(conn);
            }
            self.timer(pid, 1, Timer::Ask);
            return;
        }
        self.coordinators[pid] = Some(c);
    }

    pub fn coordinator_connected(&mut self, pid: Pid) {
        let Some(mut c) = self.coordinators[pid].take() else { return };
        self.subscribe(pid, &mut c);
        if self.plan.bug != Bug::Overtake {
            for (n, write) in c.outbox.due(true, self.now) {
                self.publish_again(pid, n, write);
            }
        }
        self.coordinators[pid] = Some(c);
    }

    fn subscribe(&mut self, pid: Pid, c: &mut Coordinator) {
        self.send(pid, Up::SubSubmits);
        self.send(pid, Up::SubInputs(c.last_input));
        self.send(pid, Up::SubFlag);
        if !c.swept {
            self.send(pid, Up::Sweep(c.last_swept));
        }
        let ids: Vec<SmolStr> = c.loads.keys().cloned().collect();
        for id in ids {
            self.start_load(pid, c, id);
        }
    }

    fn start_load(&mut self, pid: Pid, c: &mut Coordinator, id: SmolStr) {
        c.next_token += 1;
        c.tokens.retain(|_, other| *other != id);
        c.tokens.insert(c.next_token, id.clone());
        c.loads.insert(id.clone(), Load::default());
        self.send(pid, Up::ReadRecord { token: c.next_token, id, point: "" });
    }

    /// A timer of a coordinator.
    pub fn coordinator_timer(&mut self, pid: Pid, timer: Timer) {
        match timer {
            Timer::Ask if self.coordinators[pid].is_none() => {
                self.send(pid, Up::Ping);
                self.timer(pid, 30, Timer::Ask);
            }
            Timer::Look if self.coordinators[pid].is_some() => {
                self.coordinate(pid, |w, c| {
                    for (n, write) in c.outbox.due(false, w.now) {
                        w.publish_again(pid, n, write);
                    }
                    c.engine.tick(w.clock(pid));
                    Ok(())
                });
                self.timer(pid, 40, Timer::Look);
            }
            Timer::Checkpoint if self.coordinators[pid].is_some() => {
                self.coordinate(pid, |w, c| {
                    w.sweep_again(pid, c);
                    c.engine.look_for_stuck();
                    w.write_checkpoint(pid, c)
                });
                self.timer(pid, 60, Timer::Checkpoint);
            }
            _ => {}
        }
    }

    /// Reads records that someone else wrote, once they were missing for some time.
    fn sweep_again(&mut self, pid: Pid, c: &mut Coordinator) {
        if matches!(self.plan.bug, Bug::NoSweep | Bug::SweepOnce) {
            return;
        }
        if self.processes[pid].conn.is_some() {
            c.known.reaches(self.server.record_seq);
        }
        let unread = c.known.unknown_from().filter(|_| c.swept);
        c.looks = if unread.is_some() && unread == c.unread { c.looks + 1 } else { 0 };
        if let Some(from) = unread.filter(|_| c.looks >= 4) {
            c.looks = 0;
            c.swept = false;
            c.last_swept = from - 1;
            self.send(pid, Up::Sweep(from - 1));
        }
        c.unread = unread;
    }

    fn write_checkpoint(&mut self, pid: Pid, c: &mut Coordinator) -> Result<(), Killed> {
        let (mut log, records) = c.engine.floors(c.known.up_to());
        let oldest = c.engine.oldest(c.known.up_to()).unwrap_or(c.checkpoint.oldest);
        let mut oldest = oldest;
        if self.plan.bug == Bug::CheckpointAhead {
            // Of the records as well: each of the two finds what the other one missed.
            log = c.last_input.max(log);
            oldest = records + 1;
        }
        let value = Checkpoint { log, records, oldest };
        if !c.swept || c.checkpoint_in_flight || value == c.checkpoint {
            return Ok(());
        }
        self.point(pid, "coordinator.checkpoint")?;
        c.checkpoint = value;
        c.checkpoint_in_flight = true;
        let write = Write { what: What::Checkpoint { value, expect: c.revision }, point: "coordinator.checkpoint" };
        self.queue(pid, c, Tag::Checkpoint, write);
        Ok(())
    }

    fn queue(&mut self, pid: Pid, c: &mut Coordinator, tag: Tag, write: Write) {
        let (n, write) = c.outbox.add(tag, write, self.now);
        self.publish(pid, n, write);
    }

    fn perform(&mut self, pid: Pid, c: &mut Coordinator) -> Result<(), Killed> {
        while let Some(out) = c.engine.take() {
            match out {
                Out::Write(id, body) => {
                    let write = self.write_of(&body);
                    self.point(pid, write.point)?;
                    match &body {
                        Body::Command(command) => self.send(pid, Up::Stop((**command).clone())),
                        Body::Task(task) if task.recovered && self.plan.bug == Bug::NoTasksOnLoad => {
                            c.engine.stored(id, 0);
                            continue;
                        }
                        Body::Create(record) if self.plan.bug == Bug::EarlyReply => self.reply_early(pid, c, record),
                        _ => {}
                    }
                    let tag = if matches!(body, Body::Create(_) | Body::Replace(..)) { Tag::Record(id) } else { Tag::Engine(id) };
                    self.queue(pid, c, tag, write);
                }
                // No two keys draw one id here.
                Out::Load(id, _) => self.start_load(pid, c, id),
                Out::Reply(ticket, reply) => {
                    self.point(pid, "coordinator.reply")?;
                    if let Some((to, request, _)) = c.tickets.remove(&ticket) {
                        self.send(pid, Up::Reply { to, request, reply, point: "coordinator.reply" });
                    }
                }
                Out::Notify(subject, outcome) => {
                    self.point(pid, "coordinator.notify")?;
                    self.send(pid, Up::Notify { subject: subject.to_string(), outcome });
                }
            }
        }
        Ok(())
    }

    fn reply_early(&mut self, pid: Pid, c: &mut Coordinator, record: &Record) {
        for (to, request, _) in c.tickets.values().filter(|(.., key)| *key == record.key).cloned().collect::<Vec<_>>() {
            let ok = Accepted { execution_id: record.correlation.execution_id.clone(), status: Status::Running, repeated: false };
            self.send(pid, Up::Reply { to, request, reply: Reply::Ok(ok), point: "" });
        }
    }

    fn write_of(&mut self, body: &Body) -> Write {
        let swap = self.plan.bug != Bug::PutRecords;
        let (what, point) = match body {
            Body::Create(record) => (What::Record { record: record.clone(), expect: swap.then_some(0) }, "coordinator.create"),
            Body::Replace(record, revision) => {
                (What::Record { record: record.clone(), expect: swap.then_some(*revision) }, "coordinator.final")
            }
            Body::Note(event) | Body::Start(event) => {
                let start = matches!(body, Body::Start(_));
                let what = What::Log {
                    class: if start { Class::Input } else { Class::Note },
                    execution: event.execution_id.clone(),
                    id: Some(event.id.clone()),
                    lines: vec![LogMessage::Event(event.clone())],
                    first: start && self.plan.bug != Bug::StartUnfenced,
                };
                let point = match event.kind {
                    EventType::ExecutionStarted => "coordinator.started",
                    EventType::NodeSkipped => "coordinator.skipped",
                    _ => "coordinator.ended",
                };
                (what, point)
            }
            Body::Task(task) => (What::Task { id: Some(task.message_id()), task: Rc::new((**task).clone()) }, "coordinator.task"),
            Body::Command(command) => {
                let what = What::Log {
                    class: Class::Command,
                    execution: command.execution_id.clone(),
                    id: Some(command.message_id()),
                    lines: vec![LogMessage::Command(command.clone())],
                    first: false,
                };
                (what, "coordinator.command")
            }
        };
        Write { what, point }
    }

    /// A message reaches a coordinator.
    pub fn coordinator_heard(&mut self, pid: Pid, down: Down) {
        match &down {
            Down::Pong(another) if self.coordinators[pid].is_none() => {
                // A lost answer makes a rival.
                if !*another || (self.plan.rivals && self.rng.chance(25)) {
                    self.send(pid, Up::ReadCheckpoint);
                }
                return;
            }
            Down::Checkpoint { revision, value } if self.coordinators[pid].is_none() => {
                self.activate(pid, *revision, *value);
                return;
            }
            _ => {}
        }
        self.coordinate(pid, |w, c| w.take_in(pid, c, down));
    }

    fn activate(&mut self, pid: Pid, revision: u64, value: Checkpoint) {
        let limits = Limits {
            executions_max: 1000,
            segments: true,
            shards: 8,
            abandon_after_ms: 450,
            one_by_one: self.plan.one_by_one,
            start_within_ms: 60,
        };
        self.note(|| format!("coordinator {pid} active from {value:?}"));
        let mut c = Box::new(Coordinator {
            engine: Engine::new(limits, value.log, value.records),
            known: Known::new(value.records),
            outbox: Outbox::new(),
            last_input: value.log,
            last_swept: value.records.min(value.oldest.saturating_sub(1)),
            swept: self.plan.bug == Bug::NoSweep,
            unread: None,
            looks: 0,
            flag: None,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            loads: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
            checkpoint: value,
            revision,
            checkpoint_in_flight: false,
            superseded: false,
        });
        self.subscribe(pid, &mut c);
        self.coordinators[pid] = Some(c);
        self.timer(pid, 40, Timer::Look);
        self.timer(pid, 60, Timer::Checkpoint);
    }

    fn take_in(&mut self, pid: Pid, c: &mut Coordinator, down: Down) -> Result<(), Killed> {
        let now = self.clock(pid);
        match down {
            Down::PubAck { n, answer } => {
                let Some((tag, again)) = c.outbox.take(n) else { return Ok(()) };
                if let (Tag::Engine(id) | Tag::Record(id), true, PubAck::Stored(_)) = (&tag, again, &answer) {
                    c.engine.sent_again(*id);
                }
                match (tag, answer) {
                    (Tag::Engine(id), PubAck::Stored(seq)) => c.engine.stored(id, seq),
                    (Tag::Record(id), PubAck::Stored(seq)) => {
                        c.known.add(seq);
                        c.engine.stored(id, seq);
                    }
                    (Tag::Engine(id) | Tag::Record(id), PubAck::Conflict) => c.engine.conflicted(id),
                    (Tag::Checkpoint, PubAck::Stored(seq)) => {
                        c.checkpoint_in_flight = false;
                        c.revision = seq;
                    }
                    (Tag::Checkpoint, PubAck::Conflict) => c.superseded = true,
                }
            }
            Down::Input { seq, message, beside } if seq > c.last_input => {
                c.last_input = seq;
                c.engine.log_message(seq, *message, beside);
            }
            Down::Swept { id, revision, terminal } if !c.swept => {
                c.last_swept = c.last_swept.max(revision);
                c.engine.found_record(&id, revision, terminal);
            }
            Down::CaughtUp(last_seq) => {
                c.known.add_up_to(last_seq);
                c.swept = true;
            }
            Down::Flag(flag) => {
                c.flag = Some(flag);
                c.engine.set_guard(Guard::of(gate(c.flag.as_ref(), true)));
            }
            Down::Submit { from, request, submit } => {
                c.next_ticket += 1;
                c.tickets.insert(c.next_ticket, (from, request, submit.key.clone()));
                match workload::plan_of(&submit.workflow_id) {
                    Some(plan) => c.engine.submit(c.next_ticket, *submit, plan, now),
                    None => c.engine.refuse(c.next_ticket, ApiError::new(Code::UnknownWorkflow, "no such workflow")),
                }
            }
            Down::Cancel { from, request, cancel } => {
                c.next_ticket += 1;
                c.tickets.insert(c.next_ticket, (from, request, "".into()));
                c.engine.cancel(c.next_ticket, cancel, now);
            }
            Down::Record { token, record } => self.load_went_on(pid, c, token, |load| load.record = record.map(|(rev, r)| (*r, rev))),
            Down::Tasks { token, ids } => self.load_went_on(pid, c, token, |load| load.queued = ids),
            Down::Log { token, entries } => self.load_went_on(pid, c, token, |load| load.history.extend(entries)),
            _ => {}
        }
        Ok(())
    }

    fn load_went_on(&mut self, pid: Pid, c: &mut Coordinator, token: u64, f: impl FnOnce(&mut Load)) {
        let Some(id) = c.tokens.get(&token).cloned() else { return };
        let Some(load) = c.loads.get_mut(&id) else { return };
        f(load);
        load.step += 1;
        // Events once more if the execution was abandoned: those stored while commands were read count.
        let abandoned = |m: &LogMessage| matches!(m, LogMessage::Command(c) if c.kind == CommandType::Abandon);
        let again = load.step == 4 && load.history.iter().any(|(_, m)| abandoned(m));
        if again {
            load.history.retain(|(_, m)| matches!(m, LogMessage::Command(_)));
        }
        if (load.step < 4 || again) && load.record.is_some() {
            match load.step {
                1 => self.send(pid, Up::ReadTasks { token, id }),
                step => self.send(pid, Up::ReadLog { token, id, commands: step == 3 }),
            }
            return;
        }
        c.tokens.remove(&token);
        let Some(load) = c.loads.remove(&id) else { return };
        let mut history = load.history;
        history.sort_by_key(|(seq, _)| *seq);
        let plan = load.record.as_ref().and_then(|(r, _)| workload::plan_of(&r.correlation.workflow_id));
        self.note(|| format!("coordinator {pid} loaded {id}: {} entries", history.len()));
        c.engine.loaded(&id, Loaded { record: load.record, plan, queued: load.queued, history, anothers: false });
    }
}
