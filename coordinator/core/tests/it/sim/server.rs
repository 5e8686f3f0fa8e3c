//! The broker's stored state: what survives a kill of the server, and what it forgets.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

use haltline_core::{Beside, LogMessage};
use haltline_types::{SmolStr, control::Flag, event::EventType, record::Record, task::Task};

use super::{Pid, Time, net::ConnId};

/// Where a log message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Note,
    Input,
    Command,
}

/// A stored log message. Its sequence is its position plus one.
pub struct LogEntry {
    pub class: Class,
    pub execution: SmolStr,
    pub id: String,
    pub message: LogMessage,
    /// Of what a coordinator reads: what else its message tells.
    pub beside: Option<Beside>,
    pub at: Time,
}

/// A task in the queue.
pub struct QueuedTask {
    pub task: Rc<Task>,
    pub deliveries: u64,
    pub again: bool,
    /// Delivered and not acknowledged until then.
    pub waits_until: Option<Time>,
    pub id: Option<String>,
}

/// A coordinators' checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    pub log: u64,
    pub records: u64,
    /// Where the first record of a running execution is.
    pub oldest: u64,
}

/// What a publish writes.
#[derive(Clone, Debug)]
pub enum What {
    /// A message of the log, a line each. `first`: only if there is no input of the execution yet.
    Log {
        class: Class,
        execution: SmolStr,
        id: Option<String>,
        lines: Vec<LogMessage>,
        first: bool,
    },
    Task {
        task: Rc<Task>,
        id: Option<String>,
    },
    Record {
        record: Box<Record>,
        expect: Option<u64>,
    },
    Checkpoint {
        value: Checkpoint,
        expect: u64,
    },
}

/// A write with its fault point.
#[derive(Clone, Debug)]
pub struct Write {
    pub what: What,
    pub point: &'static str,
}

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PubAck {
    Stored(u64),
    Conflict,
}

/// A subscription of a process: dies with its connection.
pub struct Sub {
    pub conn: ConnId,
    pub pid: Pid,
}

/// The server.
#[derive(Default)]
pub struct Server {
    pub up: bool,
    pub epoch: u64,
    pub log: Vec<LogEntry>,
    log_ids: HashMap<String, (u64, Time)>,
    /// Executions that have inputs.
    has_inputs: HashSet<SmolStr>,
    pub tasks: BTreeMap<u64, QueuedTask>,
    pub task_seq: u64,
    task_ids: HashMap<String, (u64, Time)>,
    pub records: BTreeMap<SmolStr, (u64, Record)>,
    pub record_seq: u64,
    pub checkpoint: (u64, Checkpoint),
    pub flag: Option<Flag>,
    pub inputs: Vec<Sub>,
    pub submits: Vec<Sub>,
    pub flags: Vec<Sub>,
    /// Credit of workers.
    pub pulls: Vec<(Sub, u64)>,
    /// How long message ids are remembered.
    pub window: Time,
}

impl Server {
    /// Memory goes; ids are read again from what is stored.
    pub fn crash(&mut self, now: Time) {
        self.up = false;
        self.epoch += 1;
        self.inputs.clear();
        self.submits.clear();
        self.flags.clear();
        self.pulls.clear();
        let window = self.window;
        self.log_ids = self
            .log
            .iter()
            .enumerate()
            .filter(|(_, e)| e.at + window > now && !e.id.is_empty())
            .map(|(i, e)| (e.id.clone(), (i as u64 + 1, e.at)))
            .collect();
        let tasks = &self.tasks;
        self.task_ids.retain(|_, (seq, _)| tasks.contains_key(seq));
    }

    /// Stores a write, or says why not. `Some(log position)` if the log grew.
    pub fn store(&mut self, write: &Write, again: bool, now: Time) -> (PubAck, Option<u64>) {
        match &write.what {
            What::Log { class, execution, id, lines, first } => {
                // Before it looks for repeats, as the real one does.
                if *first && self.has_inputs.contains(execution) {
                    return (PubAck::Conflict, None);
                }
                if let Some((seq, at)) = id.as_ref().and_then(|id| self.log_ids.get(id))
                    && at + self.window > now
                {
                    return (PubAck::Stored(*seq), None);
                }
                if *class == Class::Input {
                    self.has_inputs.insert(execution.clone());
                }
                let beside = Beside {
                    start: is(lines.first(), |k| k == EventType::ExecutionStarted),
                    end: is(lines.last(), EventType::is_terminal),
                };
                let last = lines.len() - 1;
                let decides = last.saturating_sub(usize::from(beside.end));
                for (i, message) in lines.iter().enumerate() {
                    let entry_id = id.clone().filter(|_| i == last).unwrap_or_default();
                    self.log.push(LogEntry {
                        class: *class,
                        execution: execution.clone(),
                        id: entry_id,
                        message: message.clone(),
                        beside: (i == decides && *class != Class::Note).then_some(beside),
                        at: now,
                    });
                }
                let seq = self.log.len() as u64;
                if let Some(id) = id {
                    self.log_ids.insert(id.clone(), (seq, now));
                }
                (PubAck::Stored(seq), Some(seq - last as u64 + decides as u64))
            }
            What::Task { task, id } => {
                if let Some((seq, at)) = id.as_ref().and_then(|id| self.task_ids.get(id))
                    && at + self.window > now
                {
                    return (PubAck::Stored(*seq), None);
                }
                self.task_seq += 1;
                let queued = QueuedTask { task: task.clone(), deliveries: 0, again, waits_until: None, id: id.clone() };
                self.tasks.insert(self.task_seq, queued);
                if let Some(id) = id {
                    self.task_ids.insert(id.clone(), (self.task_seq, now));
                }
                (PubAck::Stored(self.task_seq), None)
            }
            What::Record { record, expect } => {
                let key = &record.correlation.execution_id;
                let current = self.records.get(key).map_or(0, |(revision, _)| *revision);
                if expect.is_some_and(|e| e != current) {
                    return (PubAck::Conflict, None);
                }
                self.record_seq += 1;
                self.records.insert(key.clone(), (self.record_seq, (**record).clone()));
                (PubAck::Stored(self.record_seq), None)
            }
            What::Checkpoint { value, expect } => {
                if *expect != self.checkpoint.0 {
                    return (PubAck::Conflict, None);
                }
                self.checkpoint = (self.checkpoint.0 + 1, *value);
                (PubAck::Stored(self.checkpoint.0), None)
            }
        }
    }

    /// What the log has of an execution: its events or its commands.
    pub fn history(&self, execution: &str, commands: bool) -> Vec<(u64, LogMessage)> {
        let of = |e: &&LogEntry| e.execution == execution && (e.class == Class::Command) == commands;
        let numbered = self.log.iter().enumerate().map(|(i, e)| (i as u64 + 1, e));
        numbered.filter(|(_, e)| of(e)).map(|(seq, e)| (seq, e.message.clone())).collect()
    }
}

fn is(line: Option<&LogMessage>, of: impl Fn(EventType) -> bool) -> bool {
    matches!(line, Some(LogMessage::Event(e)) if of(e.kind))
}
