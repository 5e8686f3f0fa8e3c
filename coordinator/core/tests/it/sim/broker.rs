//! The server at work: takes messages, answers, hands tasks out.

use haltline_types::control::{Flag, Level};

use super::{
    Pid, Time,
    faults::Victim,
    net::{ConnId, Down, Up},
    server::{PubAck, Sub},
    world::{Ev, World},
};

/// A task without a sign of progress for this long goes to another worker.
pub const ACK_WAIT: Time = 300;

impl World {
    /// A message arrives at the server.
    pub fn arrive(&mut self, conn: ConnId, up: Up) {
        if !self.server.up || self.now > self.conns[conn].cut {
            return;
        }
        let fault = self.server_fault(up.point());
        if fault.is_some() {
            self.note(|| format!("fault point {} at the server: {fault:?}", up.point()));
        }
        if fault == Some(Victim::ServerBefore) {
            self.kill_server();
            return;
        }
        let pid = self.conns[conn].pid;
        self.handle(conn, pid, up);
        if fault == Some(Victim::ServerAfter) {
            self.kill_server();
        }
    }

    fn handle(&mut self, conn: ConnId, pid: Pid, up: Up) {
        match up {
            Up::Publish { n, write, again } => {
                let (answer, seq) = self.server.store(&write, again, self.now);
                self.note(|| {
                    format!(
                        "server: {pid} {} {:?} -> {answer:?} {}",
                        write.point,
                        brief(&write.what),
                        if seq.is_some() { "new" } else { "" }
                    )
                });
                if let Some(seq) = seq {
                    self.push_input(seq);
                }
                self.after(0, Ev::Dispatch);
                let lost = self.plan.ack_loss > 0 && self.rng.chance(self.plan.ack_loss);
                if !lost || answer == PubAck::Conflict {
                    self.deliver(conn, Down::PubAck { n, answer });
                }
            }
            Up::SubInputs(after) => {
                self.server.inputs.push(Sub { conn, pid });
                for seq in after + 1..=self.server.log.len() as u64 {
                    self.push_input_to(seq, conn);
                }
            }
            Up::Sweep(after) => {
                let mut found: Vec<_> = self
                    .server
                    .records
                    .iter()
                    .filter(|(_, (rev, _))| *rev > after)
                    .map(|(id, (rev, r))| (*rev, id.clone(), r.status.is_terminal()))
                    .collect();
                found.sort_unstable();
                for (revision, id, terminal) in found {
                    self.deliver(conn, Down::Swept { id, revision, terminal });
                }
                let last_seq = self.server.record_seq;
                self.deliver(conn, Down::CaughtUp(last_seq));
            }
            Up::SubFlag => {
                self.server.flags.push(Sub { conn, pid });
                if let Some(flag) = self.server.flag.clone() {
                    self.deliver(conn, Down::Flag(flag));
                }
            }
            Up::SubSubmits => self.server.submits.push(Sub { conn, pid }),
            Up::ReadCheckpoint => {
                let (revision, value) = self.server.checkpoint;
                self.deliver(conn, Down::Checkpoint { revision, value });
            }
            Up::Ping => {
                let conns = &self.conns;
                let another = self.server.submits.iter().any(|s| s.pid != pid && conns[s.conn].open);
                self.deliver(conn, Down::Pong(another));
            }
            Up::Submit { from, request, submit } => self.forward(conn, request, Down::Submit { from, request, submit }),
            Up::Cancel { from, request, cancel } => self.forward(conn, request, Down::Cancel { from, request, cancel }),
            Up::Reply { to, request, reply, .. } => {
                if let Some(conn) = self.processes[to].conn {
                    self.deliver(conn, Down::Reply { request, reply: Some(reply) });
                }
            }
            Up::Notify { subject, outcome } => {
                let to: Pid = subject.parse().expect("a process");
                if let Some(conn) = self.processes[to].conn.filter(|_| self.server.up) {
                    self.deliver(conn, Down::Notify(outcome));
                }
            }
            Up::Stop(command) => {
                for worker in super::WORKERS {
                    if let Some(conn) = self.processes[worker].conn {
                        self.deliver(conn, Down::Stop(command.clone()));
                    }
                }
            }
            Up::ReadRecord { token, id, .. } => {
                let record = self.server.records.get(&id).map(|(rev, r)| (*rev, Box::new(r.clone())));
                self.deliver(conn, Down::Record { token, record });
            }
            Up::ReadLog { token, id, commands } => {
                let entries = self.server.history(&id, commands);
                self.deliver(conn, Down::Log { token, entries });
            }
            Up::ReadTasks { token, id } => {
                let of = |t: &&super::server::QueuedTask| t.task.correlation.execution_id == id;
                let ids = self.server.tasks.values().filter(of).map(|t| t.task.task_id.clone()).collect();
                self.deliver(conn, Down::Tasks { token, ids });
            }
            Up::Pull(credit) => {
                match self.server.pulls.iter_mut().find(|(s, _)| s.conn == conn) {
                    Some((_, have)) => *have += credit,
                    None => self.server.pulls.push((Sub { conn, pid }, credit)),
                }
                self.dispatch();
            }
            Up::Ack { seq, deliveries } => {
                // Any delivery's acknowledgement removes the task.
                let removed = self.server.tasks.remove(&seq);
                self.note(|| {
                    format!(
                        "server: {pid} acks {seq} (delivery {deliveries}): {}",
                        removed.map_or("gone".into(), |t| t.id.unwrap_or_default())
                    )
                });
            }
            Up::Progress { seq, deliveries } => {
                let until = self.now + ACK_WAIT;
                if let Some(t) = self.server.tasks.get_mut(&seq)
                    && let Some(waits) = &mut t.waits_until
                {
                    *waits = until;
                    let deliveries = t.deliveries.max(deliveries);
                    self.at(until, Ev::AckWait { seq, deliveries });
                }
            }
        }
    }

    /// Requests go to any coordinator that listens; to none, and the client is told.
    fn forward(&mut self, from: ConnId, request: u64, down: Down) {
        let conns = &self.conns;
        let open: Vec<ConnId> = self.server.submits.iter().map(|s| s.conn).filter(|c| conns[*c].open).collect();
        if open.is_empty() {
            self.deliver(from, Down::Reply { request, reply: None });
        } else {
            let to = *self.rng.pick(&open);
            self.deliver(to, down);
        }
    }

    fn push_input(&mut self, seq: u64) {
        let conns: Vec<ConnId> = self.server.inputs.iter().map(|s| s.conn).collect();
        for conn in conns {
            self.push_input_to(seq, conn);
        }
    }
    fn push_input_to(&mut self, seq: u64, conn: ConnId) {
        let entry = &self.server.log[seq as usize - 1];
        if let Some(beside) = entry.beside {
            let message = Box::new(entry.message.clone());
            self.deliver(conn, Down::Input { seq, message, beside });
        }
    }

    /// Hands waiting tasks to workers with credit.
    pub fn dispatch(&mut self) {
        if !self.server.up {
            return;
        }
        let now = self.now;
        let due: Vec<u64> = self.server.tasks.iter().filter(|(_, t)| t.waits_until.is_none()).map(|(seq, _)| *seq).collect();
        for seq in due {
            let kind = self.server.tasks[&seq].task.nodes[0].kind.clone();
            let able: Vec<usize> = (0..self.server.pulls.len())
                .filter(|i| self.server.pulls[*i].1 > 0 && self.can_run(self.server.pulls[*i].0.pid, &kind))
                .collect();
            if able.is_empty() {
                continue;
            }
            let chosen = *self.rng.pick(&able);
            self.server.pulls[chosen].1 -= 1;
            let conn = self.server.pulls[chosen].0.conn;
            let until = now + ACK_WAIT;
            let Some(t) = self.server.tasks.get_mut(&seq) else { continue };
            t.deliveries += 1;
            t.waits_until = Some(until);
            let (deliveries, task, again) = (t.deliveries, t.task.clone(), t.again);
            self.at(until, Ev::AckWait { seq, deliveries });
            self.deliver(conn, Down::Task { seq, deliveries, task, again });
        }
    }

    /// The time to acknowledge is over.
    pub fn ack_wait(&mut self, seq: u64, deliveries: u64) {
        let now = self.now;
        if !self.server.up {
            // Pending deliveries are stored; the wait goes on after a restart.
            self.after(ACK_WAIT, Ev::AckWait { seq, deliveries });
            return;
        }
        if let Some(t) = self.server.tasks.get_mut(&seq)
            && t.waits_until.is_some_and(|u| u <= now)
        {
            t.waits_until = None;
            self.dispatch();
        }
    }

    /// The server notices that a process is gone.
    pub fn gone(&mut self, conn: ConnId) {
        self.server.pulls.retain(|(s, _)| s.conn != conn);
        self.server.inputs.retain(|s| s.conn != conn);
        self.server.submits.retain(|s| s.conn != conn);
        self.server.flags.retain(|s| s.conn != conn);
    }

    pub fn set_flag(&mut self, runs: bool) {
        let revision = self.server.flag.as_ref().map_or(0, |f| f.revision) + 1;
        let state = if runs { Level::Normal } else { Level::Halt };
        let flag = Flag { state, reason: "drill".into(), by: "sim".into(), revision, ..Flag::default() };
        self.note(|| format!("flag {state:?}"));
        self.server.flag = Some(flag.clone());
        let conns: Vec<ConnId> = self.server.flags.iter().map(|s| s.conn).collect();
        for conn in conns {
            self.deliver(conn, Down::Flag(flag.clone()));
        }
    }
}

fn brief(what: &super::server::What) -> String {
    use super::server::What;
    match what {
        What::Log { execution, id, class, .. } => format!("{class:?} {}", id.as_deref().unwrap_or(execution)),
        What::Task { task, .. } => format!("task {} {:?}", task.task_id, task.nodes.iter().map(|n| n.id.as_str()).collect::<Vec<_>>()),
        What::Record { record, expect } => format!("record {} {:?} over {expect:?}", record.correlation.execution_id, record.status),
        What::Checkpoint { value, .. } => format!("{value:?}"),
    }
}
