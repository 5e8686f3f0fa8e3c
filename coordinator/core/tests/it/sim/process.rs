//! Lives and deaths of processes, connections and the server.

use std::rc::Rc;

use super::{
    COORDINATORS, Pid, Time, WORKERS,
    broker::ACK_WAIT,
    faults::Blow,
    net::{Conn, Down, Up},
    server::Write,
    world::{Ev, Timer, World},
};

/// A worker notices that it stood still for so long: less than a task is its own.
const NOTICED: Time = ACK_WAIT * 2 / 3;

impl World {
    /// Sends to the server; nothing goes out without a connection.
    pub fn send(&mut self, pid: Pid, up: Up) {
        let Some(conn) = self.processes[pid].conn else { return };
        let arrives = (self.now + self.rng.range(1, 8)).max(self.conns[conn].last_up);
        self.conns[conn].last_up = arrives;
        self.at(arrives, Ev::Arrive(conn, up));
    }
    /// Sends a write of an outbox.
    pub fn publish(&mut self, pid: Pid, n: u64, write: Rc<Write>) {
        self.send(pid, Up::Publish { n, write, again: false });
    }
    /// Sends a write that was sent before, and says so.
    pub fn publish_again(&mut self, pid: Pid, n: u64, write: Rc<Write>) {
        self.send(pid, Up::Publish { n, write, again: true });
    }
    /// Sends to a process.
    pub fn deliver(&mut self, conn: usize, down: Down) {
        let arrives = (self.now + self.rng.range(1, 8)).max(self.conns[conn].last_down);
        self.conns[conn].last_down = arrives;
        self.at(arrives, Ev::Deliver(conn, down));
    }

    /// kill -9.
    pub fn kill(&mut self, pid: Pid) {
        if !self.processes[pid].alive {
            return;
        }
        self.note(|| format!("process {pid} dies"));
        let some = self.rng.range(0, 12);
        self.hang_up(pid, some);
        let p = &mut self.processes[pid];
        p.alive = false;
        p.life += 1;
        p.frozen_until = 0;
        p.stood_still = false;
        if COORDINATORS.contains(&pid) {
            self.coordinators[pid] = None;
        } else if WORKERS.contains(&pid) {
            if let Some(worker) = self.workers[pid - WORKERS.start].take() {
                self.forget_walks(&worker);
            }
        } else if self.rng.chance(30) && pid != super::CLIENTS {
            self.processes[pid].gone = true;
            return;
        }
        let back = if self.rng.chance(20) { self.rng.range(400, 1500) } else { self.rng.range(20, 300) };
        self.after(back, Ev::Start(pid));
    }

    /// The connection ends: what reaches the server within `some` is still taken.
    fn hang_up(&mut self, pid: Pid, some: u64) {
        let Some(conn) = self.processes[pid].conn.take() else { return };
        self.conns[conn].open = false;
        self.conns[conn].cut = self.conns[conn].cut.min(self.now + some);
        let notices = self.rng.range(0, 60);
        self.after(notices, Ev::Gone(conn));
    }

    /// kill -9 of the server.
    pub fn kill_server(&mut self) {
        if !self.server.up {
            return;
        }
        self.note(|| "server dies".into());
        self.server.crash(self.now);
        for pid in 0..self.processes.len() {
            self.disconnect(pid, 0);
        }
        for conn in &mut self.conns {
            conn.cut = conn.cut.min(self.now);
        }
        let back = self.rng.range(10, 250);
        self.after(back, Ev::ServerUp);
    }

    /// A living process loses its connection and will try to get another.
    pub fn disconnect(&mut self, pid: Pid, some: u64) {
        if self.processes[pid].conn.is_none() {
            return;
        }
        self.hang_up(pid, some);
        let delay = self.rng.range(5, 60);
        let life = self.processes[pid].life;
        self.after(delay, Ev::Connect(pid, life));
    }

    pub fn blow(&mut self, blow: Blow) {
        self.pending_blows -= 1;
        self.note(|| format!("{blow:?}"));
        match blow {
            Blow::Kill(pid) if pid < self.processes.len() => self.kill(pid),
            Blow::Kill(_) => {}
            Blow::KillServer => self.kill_server(),
            Blow::Break(pid) => {
                let some = self.rng.range(0, 8);
                self.disconnect(pid, some);
            }
            Blow::Stall(pid, long) => {
                let p = &mut self.processes[pid];
                p.frozen_until = p.frozen_until.max(self.now + long);
                p.stood_still |= p.frozen_until - self.now >= NOTICED;
            }
        }
    }

    /// A process begins a life.
    pub fn start(&mut self, pid: Pid) {
        if self.processes[pid].gone || self.processes[pid].alive {
            return;
        }
        self.note(|| format!("process {pid} starts"));
        self.processes[pid].alive = true;
        if COORDINATORS.contains(&pid) {
            self.timer(pid, 1, Timer::Ask);
        } else if WORKERS.contains(&pid) {
            self.new_worker(pid);
            self.timer(pid, 20, Timer::Look);
        } else {
            self.clients[pid - super::CLIENTS].begin_again();
            self.timer(pid, 1, Timer::Client);
        }
        let life = self.processes[pid].life;
        self.connect(pid, life);
    }

    /// A process gets a connection, or tries again later.
    pub fn connect(&mut self, pid: Pid, life: u64) {
        let p = &self.processes[pid];
        if !p.alive || p.life != life || p.conn.is_some() {
            return;
        }
        if !self.server.up {
            let delay = self.rng.range(10, 40);
            self.after(delay, Ev::Connect(pid, life));
            return;
        }
        self.conns.push(Conn { pid, open: true, cut: u64::MAX, last_up: self.now, last_down: self.now });
        self.processes[pid].conn = Some(self.conns.len() - 1);
        self.note(|| format!("process {pid} connects"));
        if COORDINATORS.contains(&pid) {
            self.coordinator_connected(pid);
        } else if WORKERS.contains(&pid) {
            self.worker_connected(pid);
        }
    }
}
