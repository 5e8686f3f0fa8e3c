//! A coordinator's mind: submissions, log messages and answers to writes go in; writes, replies and
//! loads come out. It keeps log, records and tasks consistent through a crash at any point:
//!
//! * an execution exists from the moment its record is stored, by compare-and-swap;
//! * everything else that a state calls for has a deterministic id, so a successor that rebuilds the
//!   state from record and log and emits what the log lacks does no harm by emitting too much;
//! * [`Engine::floors`] say from where a successor must read: below them all outputs are stored.

mod guard;
mod live;
mod load;
mod start;
mod stuck;
mod submit;
mod tick;
mod waiting;

pub use guard::Guard;
pub(crate) use load::as_accepted;
pub use start::Beside;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use haltline_types::{
    SmolStr, Timestamp,
    event::{Command, Event},
    record::{Outcome, Record},
    submit::{Reply, Submit},
    task::Task,
};

use crate::{
    execution::{Execution, Input},
    floor::Floor,
    outputs::Output,
    plan::Plan,
};

/// Number of a write, by which its answer is known.
pub type WriteId = u64;

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A new record; there must be none under that execution id.
    Create(Box<Record>),
    /// A record in place of revision.
    Replace(Box<Record>, u64),
    /// An event that only tells.
    Note(Box<Event>),
    /// An execution's first event, which a worker may be telling at this moment: among inputs, of which there must
    /// be none yet.
    Start(Box<Event>),
    /// A task.
    Task(Box<Task>),
    /// A command, before it is acted on.
    Command(Box<Command>),
}

/// What the engine wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    /// Write it and answer with [`Engine::stored`] or [`Engine::conflicted`].
    Write(WriteId, Body),
    /// Read record and log of an execution and answer with [`Engine::loaded`]. With a key, the record is enough where
    /// it is final and another's ([`Loaded::is_anothers`]).
    Load(SmolStr, Option<SmolStr>),
    /// Answer a request.
    Reply(u64, Reply),
    /// Tell a waiting client the end.
    Notify(SmolStr, Box<Outcome>),
}

/// A message of the log that the coordinator reads.
#[derive(Clone, Debug, PartialEq)]
pub enum LogMessage {
    /// A task's result.
    Event(Box<Event>),
    /// A command.
    Command(Box<Command>),
}

/// What a load found.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The record and its revision.
    pub record: Option<(Record, u64)>,
    /// The pinned definition's plan; `None` if it cannot be had.
    pub plan: Option<Arc<Plan>>,
    /// Ids of its tasks that are in the queue: not emitted again, a worker may have them.
    pub queued: Vec<String>,
    /// Everything the log has of it, in order, read after the queue.
    pub history: Vec<(u64, LogMessage)>,
    /// Nothing but the record was read.
    pub anothers: bool,
}

impl Loaded {
    /// Whether a record says all that whoever submits with `key` has to know: that its id is taken.
    pub fn is_anothers(record: &Record, key: Option<&str>) -> bool {
        record.status.is_terminal() && key.is_some_and(|key| key != record.key)
    }
    /// What a load found if so.
    pub fn anothers(record: Record, revision: u64) -> Self {
        Self { record: Some((record, revision)), plan: None, queued: Vec::new(), history: Vec::new(), anothers: true }
    }
}

/// What bounds an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Executions in memory; further submissions are refused.
    pub executions_max: usize,
    /// Dispatch linear chains as one task.
    pub segments: bool,
    /// How many shards there are.
    pub shards: u32,
    /// Milliseconds after a cancel or a time-out in which workers have to answer; then the execution ends
    /// without them.
    pub abandon_after_ms: u64,
    /// Milliseconds for which a worker that is to tell the start of an execution may not have come: then who watches is
    /// to know that it waits.
    pub start_within_ms: u64,
    /// A write may get lost though a later one is stored, as in a cluster whose leaders change: nothing is
    /// written before what it follows from is stored.
    pub one_by_one: bool,
}

/// Why a write was made: what its answer means.
#[derive(Clone, Debug)]
enum Purpose {
    Create(SmolStr),
    /// Anything that an execution waits for.
    Output(SmolStr),
    /// The first event of an execution.
    Start(SmolStr),
    Final(SmolStr),
    Command(u64, SmolStr),
    /// What an operator says, of which there may be one.
    Resolve(u64, SmolStr),
}

/// A request that waits for its execution to be stored or loaded.
#[derive(Clone, Debug)]
struct Waiting {
    ticket: u64,
    submit: Arc<Submit>,
    body: SmolStr,
    draw: u32,
    plan: Arc<Plan>,
    now: Timestamp,
}

#[derive(Debug)]
enum Slot {
    /// The record is being created.
    Creating {
        waiting: Waiting,
        record: Box<Record>,
        entry: u64,
        inputs: Vec<(u64, Input)>,
        /// One of them came with the end.
        end_told: bool,
        entries: Vec<u64>,
    },
    /// Record and log are being read.
    Loading(Loading),
    Live(Box<Live>),
}

/// What waits for a load.
#[derive(Debug, Default)]
struct Loading {
    waiting: Vec<Waiting>,
    /// Commands, each with its request, that are written once it is known whether the log has the start.
    commands: Vec<(u64, Box<Command>)>,
    inputs: Vec<(u64, Input)>,
    /// One of them came with the end.
    end_told: bool,
    /// Log entries that close when everything is stored.
    entries: Vec<u64>,
    /// The record's entry, likewise.
    created: Option<u64>,
    /// Read again because nothing was heard of it.
    quiet: stuck::Quiet,
}

impl Loading {
    /// Nothing is to be done with it, only submissions ask for it.
    fn only_waiting(&self) -> bool {
        self.inputs.is_empty() && self.commands.is_empty() && !self.end_told
    }
}

/// An execution in memory.
#[derive(Debug)]
struct Live {
    execution: Execution,
    revision: u64,
    /// Writes not answered yet, and those that were refused.
    unanswered: u32,
    /// One of them was refused: it is never answered by anything else.
    refused: bool,
    /// Log entries that close when everything is stored.
    entries: Vec<u64>,
    /// The create's entry, likewise.
    created: Option<u64>,
    /// Requests answered when everything is stored.
    replies: Vec<(u64, bool)>,
    /// Ids of events that the log has already, and of tasks whose result it has: not emitted again.
    stored: HashSet<String>,
    /// Rebuilt from the log, or another coordinator may have sent its tasks: they say so.
    recovered: bool,
    /// What waits for the writes before it, where these go one by one.
    held: Vec<Output>,
    /// Who tells the start.
    start: start::Start,
    /// Commands that wait until the log has the start.
    after_start: Vec<(Purpose, Box<Command>)>,
    /// A halt command was sent; one is enough.
    halting: bool,
    /// The gate holds it back.
    gated: Option<waiting::Held>,
    /// A new record is being stored. The next one, if there is one, waits for its revision.
    replacing: Option<Option<Box<Record>>>,
    /// For how long nothing was heard of it.
    quiet: stuck::Quiet,
    /// Its entry in [`Engine::due`].
    due: Timestamp,
    ended: Option<Box<Outcome>>,
}

/// The engine of one coordinator.
pub struct Engine {
    limits: Limits,
    guard: Guard,
    slots: HashMap<SmolStr, Slot>,
    writes: HashMap<WriteId, Purpose>,
    next_write: WriteId,
    /// Executions that wait for the gate.
    gated: HashSet<SmolStr>,
    /// Executions in memory by when something is to be done about them if nothing happens until then.
    due: BTreeSet<(Timestamp, SmolStr)>,
    /// The time, as it was told last.
    now: Timestamp,
    log: Floor,
    /// The last input of the log that was read, or that was read before this engine began.
    read: u64,
    records: Floor,
    /// Where the records' floor was at first.
    records_from: u64,
    out: VecDeque<Out>,
    /// Executions brought to their end, in all.
    ended: u64,
    /// Tasks that got lost and were emitted again, in words.
    repairs: Vec<String>,
}

impl Engine {
    /// An engine that starts reading at the given floors.
    pub fn new(limits: Limits, log_floor: u64, records_floor: u64) -> Self {
        Self {
            limits,
            guard: Guard::default(),
            slots: HashMap::new(),
            writes: HashMap::new(),
            next_write: 0,
            gated: HashSet::new(),
            due: BTreeSet::new(),
            now: Timestamp::default(),
            log: Floor::new(log_floor),
            read: log_floor,
            records: Floor::new(records_floor),
            records_from: records_floor,
            out: VecDeque::new(),
            ended: 0,
            repairs: Vec::new(),
        }
    }

    /// What is to be done next, in order.
    pub fn take(&mut self) -> Option<Out> {
        self.out.pop_front()
    }
    /// Positions in the log and in the records' stream below which everything is taken care of. `known`:
    /// every record up to there was written through this engine or given to
    /// [`Engine::found_record`], as far as it is this engine's.
    pub fn floors(&self, known: u64) -> (u64, u64) {
        let closed = if self.records.held() == 0 { known } else { self.records.get().min(known) };
        (self.log.get(), closed.max(self.records_from))
    }
    /// From where on a successor finds the records of all executions that are running. `None` while some
    /// are being read.
    pub fn oldest(&self, known: u64) -> Option<u64> {
        let mut oldest = self.floors(known).1 + 1;
        for slot in self.slots.values() {
            match slot {
                Slot::Live(live) => oldest = oldest.min(live.revision),
                Slot::Creating { .. } => {}
                Slot::Loading(_) => return None,
            }
        }
        Some(oldest)
    }
    /// Executions in memory.
    pub fn running(&self) -> usize {
        self.slots.len()
    }
    /// Writes not answered yet.
    pub fn unanswered(&self) -> usize {
        self.writes.len()
    }
    /// Executions brought to their end.
    pub fn ended(&self) -> u64 {
        self.ended
    }

    /// What the flags say from now on.
    pub fn set_guard(&mut self, guard: Guard) {
        if guard == self.guard {
            return;
        }
        self.guard = guard;
        if self.guard.is_sure() {
            let mut gated: Vec<SmolStr> = self.gated.drain().collect();
            gated.sort_unstable();
            for id in gated {
                self.advance(&id);
            }
        }
    }

    /// A record that may lack some of its outputs: found by reading records, after a start from the
    /// floor, and later wherever someone else wrote some.
    pub fn found_record(&mut self, execution_id: &str, revision: u64, terminal: bool) {
        let entry = self.records.open(Some(revision));
        if terminal {
            self.records.close(entry);
            return;
        }
        let gated = self.gated.contains(execution_id);
        match self.slots.get_mut(execution_id) {
            Some(Slot::Live(live)) if live.created.is_none() && (live.unanswered > 0 || gated) => live.created = Some(entry),
            Some(Slot::Loading(loading)) if loading.created.is_none() => loading.created = Some(entry),
            Some(_) => self.records.close(entry),
            None => self.load(execution_id, Loading { created: Some(entry), ..Loading::default() }),
        }
    }

    fn load(&mut self, id: &str, loading: Loading) {
        let key = loading.waiting.first().filter(|_| loading.only_waiting()).map(|w| w.submit.key.clone());
        self.slots.insert(id.into(), Slot::Loading(loading));
        self.out.push_back(Out::Load(id.into(), key));
    }

    fn write(&mut self, purpose: Purpose, body: Body) {
        self.next_write += 1;
        self.writes.insert(self.next_write, purpose);
        self.out.push_back(Out::Write(self.next_write, body));
    }
}
