//! Everything there is, and what happens next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
};

use haltline_types::{SmolStr, Timestamp};

use super::{
    Killed, Pid, Time,
    client::Client,
    coordinator::Coordinator,
    faults::{Blow, Plan, Victim},
    market::Market,
    net::{Conn, ConnId, Down, Up},
    rng::Rng,
    server::Server,
    worker::Worker,
};

/// Something that happens.
#[derive(Debug)]
pub enum Ev {
    /// A message reaches the server.
    Arrive(ConnId, Up),
    /// A message reaches a process.
    Deliver(ConnId, Down),
    /// A process looks at something; dropped if it was killed since.
    Timer(Pid, u64, Timer),
    Start(Pid),
    Connect(Pid, u64),
    ServerUp,
    /// A task was not acknowledged in time.
    AckWait {
        seq: u64,
        deliveries: u64,
    },
    Dispatch,
    /// The server notices that a worker is gone.
    Gone(ConnId),
    /// An order reaches the market.
    Order {
        pid: Pid,
        life: u64,
        walk: u64,
        key: String,
        execution: SmolStr,
        token: u64,
    },
    Filled {
        pid: Pid,
        life: u64,
        walk: u64,
        stale: bool,
    },
    SetFlag(bool),
    Blow(Blow),
}

/// What a process looks at.
#[derive(Debug)]
pub enum Timer {
    /// Resend what is unanswered; report progress.
    Look,
    Checkpoint,
    /// A coordinator that stands by asks.
    Ask,
    NodeDone(u64),
    Step(u64),
    OrderLost(u64),
    Client,
    CancelNow,
}

struct Scheduled {
    at: Time,
    n: u64,
    ev: Ev,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.n == other.n
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.n).cmp(&(other.at, other.n))
    }
}

/// What is true of every process.
#[derive(Default)]
pub struct Process {
    pub alive: bool,
    /// Grows with every kill.
    pub life: u64,
    pub conn: Option<ConnId>,
    pub frozen_until: Time,
    /// It stood still for so long that tasks which it was given may have been given to others; and up to which
    /// that was found to hold.
    pub stood_still: bool,
    pub doubted: u64,
    /// Never comes back.
    pub gone: bool,
}

/// The world.
pub struct World {
    pub rng: Rng,
    pub now: Time,
    heap: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    /// Number of what is happening.
    happening: u64,
    pub steps: u64,
    pub processes: Vec<Process>,
    pub conns: Vec<Conn>,
    pub server: Server,
    pub coordinators: Vec<Option<Box<Coordinator>>>,
    pub workers: Vec<Option<Box<Worker>>>,
    pub clients: Vec<Client>,
    pub market: Market,
    pub plan: Plan,
    passed: BTreeMap<&'static str, u32>,
    arrived: BTreeMap<&'static str, u32>,
    /// Faults of the plan that happened; those that only lead to its first one do not count.
    pub hits: u32,
    /// Blows and flag changes still to come.
    pub pending_blows: u32,
    /// What clients were told: key, execution.
    pub acknowledged: Vec<(String, String)>,
    /// Executions of which one task was run by two walks at once.
    pub overlapped: BTreeSet<String>,
    /// Walks alive, by task id.
    pub walks_alive: BTreeMap<String, u32>,
    /// A node type that the second worker does not have.
    pub lacks: Option<&'static str>,
    /// Changes of the flag that the server could not take yet.
    pub flags_waiting: Vec<bool>,
    pub failures: Vec<String>,
    pub trace: Option<VecDeque<String>>,
}

impl World {
    pub fn new(seed: u64, plan: Plan, trace: bool) -> Self {
        Self {
            rng: Rng::new(seed),
            now: 0,
            heap: BinaryHeap::new(),
            scheduled: 0,
            happening: 0,
            steps: 0,
            processes: Vec::new(),
            conns: Vec::new(),
            server: Server::default(),
            coordinators: vec![None, None],
            workers: vec![None, None],
            clients: Vec::new(),
            market: Market::default(),
            pending_blows: plan.blows.len() as u32,
            plan,
            passed: BTreeMap::new(),
            arrived: BTreeMap::new(),
            hits: 0,
            acknowledged: Vec::new(),
            overlapped: BTreeSet::new(),
            walks_alive: BTreeMap::new(),
            lacks: None,
            flags_waiting: Vec::new(),
            failures: Vec::new(),
            trace: trace.then(VecDeque::new),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "the environment chooses how much is kept")]
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let mut line = format!("{:>6} {}", self.now, what());
            line.truncate(line.floor_char_boundary(400));
            trace.push_back(line);
            let keep = if std::env::var("HALTLINE_SIM_TRACE").is_ok() { 100_000 } else { 60 };
            if trace.len() > keep {
                trace.pop_front();
            }
        }
    }

    pub fn at(&mut self, at: Time, ev: Ev) {
        self.scheduled += 1;
        self.heap.push(Reverse(Scheduled { at: at.max(self.now), n: self.scheduled, ev }));
    }
    /// Puts what is happening off, before everything that was scheduled after it.
    pub fn put_off(&mut self, until: Time, ev: Ev) {
        self.heap.push(Reverse(Scheduled { at: until, n: self.happening, ev }));
    }
    pub fn after(&mut self, delay: Time, ev: Ev) {
        self.at(self.now + delay, ev);
    }
    pub fn timer(&mut self, pid: Pid, delay: Time, timer: Timer) {
        let life = self.processes[pid].life;
        self.after(delay, Ev::Timer(pid, life, timer));
    }
    pub fn pop(&mut self) -> Option<Ev> {
        let Reverse(next) = self.heap.pop()?;
        self.now = next.at;
        self.happening = next.n;
        self.steps += 1;
        Some(next.ev)
    }

    /// The time by a process's own clock.
    pub fn clock(&self, pid: Pid) -> Timestamp {
        Timestamp(self.now as i64 + self.plan.skew.get(pid).copied().unwrap_or(0))
    }

    /// A process passes a fault point: killed here, perhaps.
    pub fn point(&mut self, pid: Pid, point: &'static str) -> Result<(), Killed> {
        let nth = self.passed.entry(point).or_default();
        *nth += 1;
        let nth = *nth;
        let hit = self.plan.faults.iter().any(|f| f.victim == Victim::Own && f.point == point && f.nth == nth);
        // Effects do not pass the server: it is killed at the same moment.
        let effect = matches!(point, "worker.effect" | "worker.effect_done");
        if effect && self.plan.faults.iter().any(|f| f.victim != Victim::Own && f.point == point && f.nth == nth) {
            self.hits += 1;
            self.kill_server();
        }
        if hit {
            self.hits += u32::from(self.plan.faults[0].point == point);
            self.note(|| format!("fault point {point}: kill process {pid}"));
            self.kill(pid);
            return Err(Killed);
        }
        Ok(())
    }

    /// Whether the server is to die at this message: before, or after it was stored.
    pub fn server_fault(&mut self, point: &'static str) -> Option<Victim> {
        if point.is_empty() {
            return None;
        }
        let nth = self.arrived.entry(point).or_default();
        *nth += 1;
        let nth = *nth;
        let fault = self.plan.faults.iter().find(|f| f.victim != Victim::Own && f.point == point && f.nth == nth)?;
        self.hits += 1;
        Some(fault.victim)
    }
}
