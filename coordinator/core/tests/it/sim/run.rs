//! One run: from a seed and a plan to a verdict.

use std::collections::BTreeSet;

use haltline_core::LogMessage;
use haltline_types::event::EventType;

use super::{
    CLIENTS, COORDINATORS, WORKERS,
    check::check,
    client::Client,
    faults::Plan,
    workload,
    world::{Ev, Process, Timer, World},
};

/// Longer than this is stuck.
const TIME_MAX: u64 = 40_000;
const STEPS_MAX: u64 = 200_000;

/// A run that went well.
#[derive(Debug)]
pub struct Fine {
    /// Faults of the plan that happened.
    pub hits: u32,
    pub steps: u64,
    pub executions: usize,
    pub overlapped: usize,
    /// Nodes whose inputs were read again.
    pub read_again: usize,
}

/// Runs; on a violation runs again with a trace and says everything.
pub fn run(seed: u64, plan: &Plan) -> Result<Fine, String> {
    simulate(seed, plan, false).map_err(|_| {
        let (problems, trace) = simulate(seed, plan, true).err().unwrap_or_else(|| (vec!["not reproducible".into()], Vec::new()));
        format!("seed {seed}, {plan:?}\n  {}\nlast steps:\n  {}", problems.join("\n  "), trace.join("\n  "))
    })
}

/// Only whether it went well.
pub fn passes(seed: u64, plan: &Plan) -> bool {
    simulate(seed, plan, false).is_ok()
}

fn simulate(seed: u64, plan: &Plan, trace: bool) -> Result<Fine, (Vec<String>, Vec<String>)> {
    let mut w = World::new(seed, plan.clone(), trace);
    w.build();
    let mut problems = Vec::new();
    if !w.rest() {
        problems.push(format!("stuck at time {} after {} steps", w.now, w.steps));
    }
    problems.extend(check(&w));
    if problems.is_empty() {
        problems.extend(w.restart_changes_nothing());
    }
    if problems.is_empty() {
        let is_stale = |e: &&super::server::LogEntry| matches!(&e.message, LogMessage::Event(e) if e.kind == EventType::NodeStale);
        return Ok(Fine {
            hits: w.hits,
            steps: w.steps,
            executions: w.server.records.len(),
            overlapped: w.overlapped.len(),
            read_again: w.server.log.iter().filter(is_stale).count(),
        });
    }
    Err((problems, w.trace.take().unwrap_or_default().into()))
}

impl World {
    fn build(&mut self) {
        self.server.up = true;
        // Long, or short: by then a task has waited for so long that whoever gets it asks the log first, by whatever
        // clock. Of the real ones, the one is two minutes and the other a second.
        let short = if self.plan.skew.is_empty() { [400, 150] } else { [1_000, 600] };
        self.server.window = *self.rng.pick(&[1_000_000, 1_000_000, short[0], short[1]]);
        self.lacks = *self.rng.pick(&[None, None, Some("order"), Some("flaky")]);
        let clients = 2 + self.rng.range(0, 1) as usize;
        for pid in 0..CLIENTS + clients {
            self.processes.push(Process::default());
            if pid >= CLIENTS {
                // The first has the segment with a retry and an order.
                // Of the second one a coordinator tells the start.
                let skips = self.plan.faults.iter().any(|f| matches!(f.point, "coordinator.skipped" | "coordinator.started"));
                let i = match pid - CLIENTS {
                    0 => 0,
                    1 if skips => workload::SKIPS as u64,
                    _ => self.rng.range(0, workload::plans().len() as u64 - 1),
                };
                let i = if i == workload::READS as u64 && matches!(self.plan.halt, Some((_, None))) { 0 } else { i };
                let cancels = self.plan.cancels && (pid == CLIENTS || self.rng.chance(50));
                self.clients.push(Client::new(format!("key-{pid}-{}", self.rng.range(0, 9)), format!("w{i}"), cancels));
            }
            let delay = if COORDINATORS.contains(&pid) || WORKERS.contains(&pid) { self.rng.range(0, 20) } else { self.rng.range(5, 200) };
            self.after(delay, Ev::Start(pid));
        }
        self.set_flag(true);
        if let Some((halt, resume)) = self.plan.halt {
            self.pending_blows += 1 + u32::from(resume.is_some());
            self.at(halt, Ev::SetFlag(false));
            if let Some(resume) = resume {
                self.at(resume, Ev::SetFlag(true));
            }
        }
        for (at, blow) in self.plan.blows.clone() {
            self.at(at, Ev::Blow(blow));
        }
    }

    /// Runs until nothing is left to do for a while. `false`: that never came.
    fn rest(&mut self) -> bool {
        let mut quiet_since = None;
        while let Some(ev) = self.pop() {
            if self.now > TIME_MAX || self.steps > STEPS_MAX {
                return false;
            }
            self.happen(ev);
            if !self.steps.is_multiple_of(8) {
                continue;
            }
            if self.is_quiet() {
                if self.now > *quiet_since.get_or_insert(self.now) + 130 {
                    return true;
                }
            } else {
                quiet_since = None;
            }
        }
        false
    }

    fn is_quiet(&self) -> bool {
        let idle = |c: &Option<Box<super::coordinator::Coordinator>>| c.as_ref().is_none_or(|c| c.is_idle());
        let at_work =
            |w: &Option<Box<super::worker::Worker>>| w.as_ref().is_none_or(|w| !w.walks.is_empty() || !w.outbox.pending.is_empty());
        self.pending_blows == 0
            && self.server.up
            && self.server.tasks.is_empty()
            && self.processes.iter().all(|p| (p.alive && p.conn.is_some()) || p.gone)
            && self.clients.iter().enumerate().all(|(i, c)| (c.done && !c.asks()) || self.processes[CLIENTS + i].gone)
            && self.coordinators.iter().any(Option::is_some)
            && self.coordinators.iter().all(idle)
            && !self.workers.iter().any(at_work)
    }

    /// Coordinators that start from the checkpoint find nothing to do.
    fn restart_changes_nothing(&mut self) -> Vec<String> {
        self.plan.faults.clear();
        let state = |w: &Self| {
            let ids: BTreeSet<String> = w.server.log.iter().map(|e| e.id.clone()).collect();
            (ids, w.server.records.clone(), w.market.orders.values().map(|f| f.fills).sum::<u32>())
        };
        let before = state(self);
        for pid in COORDINATORS {
            self.kill(pid);
        }
        if !self.rest() {
            return vec!["stuck after the last restart".into()];
        }
        let after = state(self);
        if before == after {
            return Vec::new();
        }
        let new: Vec<_> = after.0.difference(&before.0).collect();
        let records: Vec<_> = after.1.iter().filter(|(id, r)| before.1.get(*id) != Some(r)).map(|(id, r)| (id, r.0, r.1.status)).collect();
        vec![format!(
            "a restart from the checkpoint changed something: log {new:?}, records {records:?}, fills {} to {}",
            before.2, after.2
        )]
    }

    fn happen(&mut self, ev: Ev) {
        // A frozen process does everything later, in the same order.
        let who = match &ev {
            Ev::Timer(pid, ..) | Ev::Filled { pid, .. } => Some(*pid),
            Ev::Deliver(conn, _) => Some(self.conns[*conn].pid),
            _ => None,
        };
        if let Some(until) = who.map(|pid| self.processes[pid].frozen_until).filter(|until| *until > self.now) {
            self.put_off(until, ev);
            return;
        }
        match ev {
            Ev::Arrive(conn, up) => self.arrive(conn, up),
            Ev::Deliver(conn, down) => {
                let pid = self.conns[conn].pid;
                if self.processes[pid].conn != Some(conn) {
                    return;
                }
                if COORDINATORS.contains(&pid) {
                    self.coordinator_heard(pid, down);
                } else if WORKERS.contains(&pid) {
                    self.worker_heard(pid, down);
                } else {
                    self.client_heard(pid, down);
                }
            }
            Ev::Timer(pid, life, timer) => {
                if self.processes[pid].life == life && self.processes[pid].alive {
                    self.timer_of(pid, timer);
                }
            }
            Ev::Start(pid) => self.start(pid),
            Ev::Connect(pid, life) => self.connect(pid, life),
            Ev::ServerUp => {
                self.server.up = true;
                self.note(|| "server is up".into());
                for runs in std::mem::take(&mut self.flags_waiting) {
                    self.at(self.now, Ev::SetFlag(runs));
                }
            }
            Ev::AckWait { seq, deliveries } => self.ack_wait(seq, deliveries),
            Ev::Dispatch => self.dispatch(),
            Ev::Gone(conn) => self.gone(conn),
            Ev::Order { pid, life, walk, key, execution, token } => self.order(pid, life, walk, key, execution, token),
            Ev::Filled { pid, life, walk, stale } => {
                if self.processes[pid].life == life && self.processes[pid].alive {
                    self.work(pid, |world, w| world.filled(pid, w, walk, stale));
                }
            }
            // Whoever sets the flag repeats it until it is stored.
            Ev::SetFlag(runs) => match self.server.up {
                true => {
                    self.pending_blows -= 1;
                    self.set_flag(runs);
                }
                false => self.flags_waiting.push(runs),
            },
            Ev::Blow(blow) => self.blow(blow),
        }
    }

    fn timer_of(&mut self, pid: usize, timer: Timer) {
        if COORDINATORS.contains(&pid) {
            self.coordinator_timer(pid, timer);
        } else if WORKERS.contains(&pid) {
            self.worker_timer(pid, timer);
        } else {
            self.client_timer(pid, timer);
        }
    }
}
