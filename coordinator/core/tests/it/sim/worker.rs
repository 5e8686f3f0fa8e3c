//! A worker process: slots, the watch on the flag, its outbox; the walks are in `walk.rs`.

use std::collections::BTreeMap;

use haltline_core::{Delivery, TaskRun};
use haltline_types::{
    SmolStr,
    control::{Flag, Gate},
    event::{Command, CommandType},
};

use super::{
    Killed, Pid, WORKERS,
    coordinator::gate,
    faults::Bug,
    net::{Down, Up},
    outbox::Outbox,
    walk::{Then, Walk},
    world::{Timer, World},
};

/// Tasks at once.
const SLOTS: u64 = 3;
/// A task that waited longer asks the log.
const ASK_LOG_AFTER: i64 = 100;

/// A worker.
pub struct Worker {
    pub outbox: Outbox<u64>,
    pub walks: BTreeMap<u64, Walk>,
    next_walk: u64,
    flag: Option<Flag>,
    pub stopped: BTreeMap<SmolStr, Command>,
    pub tokens: BTreeMap<u64, u64>,
    pub next_token: u64,
}

impl World {
    pub fn new_worker(&mut self, pid: Pid) {
        self.workers[pid - WORKERS.start] = Some(Box::new(Worker {
            outbox: Outbox::new(),
            walks: BTreeMap::new(),
            next_walk: 0,
            flag: None,
            stopped: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
        }));
    }

    /// Whether a worker has a node type.
    pub fn can_run(&self, pid: Pid, kind: &str) -> bool {
        pid == WORKERS.start || self.lacks != Some(kind)
    }

    pub fn worker_gate(&self, pid: Pid, w: &Worker) -> Gate {
        gate(w.flag.as_ref(), self.processes[pid].conn.is_some())
    }

    /// Does `f` with the worker.
    pub fn work(&mut self, pid: Pid, f: impl FnOnce(&mut Self, &mut Worker) -> Result<(), Killed>) {
        let Some(mut w) = self.workers[pid - WORKERS.start].take() else { return };
        match f(self, &mut w) {
            Ok(()) => self.workers[pid - WORKERS.start] = Some(w),
            Err(Killed) => self.forget_walks(&w),
        }
    }

    /// The walks of a dead worker are no more.
    pub fn forget_walks(&mut self, w: &Worker) {
        for walk in w.walks.values() {
            if let Some(alive) = self.walks_alive.get_mut(&walk.run.task().task_id) {
                *alive -= 1;
            }
        }
    }

    pub fn worker_connected(&mut self, pid: Pid) {
        self.work(pid, |world, w| {
            world.send(pid, Up::SubFlag);
            if world.plan.bug != Bug::Overtake {
                for (n, write) in w.outbox.due(true, world.now) {
                    world.publish_again(pid, n, write);
                }
            }
            world.send(pid, Up::Pull(SLOTS.saturating_sub(w.walks.len() as u64)));
            let learning: Vec<u64> = w.walks.iter().filter(|(_, walk)| walk.then == Then::Learn).map(|(id, _)| *id).collect();
            for id in learning {
                world.learn(pid, w, id);
            }
            Ok(())
        });
    }

    pub fn worker_timer(&mut self, pid: Pid, timer: Timer) {
        match timer {
            Timer::Look => {
                self.work(pid, |world, w| {
                    for (n, write) in w.outbox.due(false, world.now) {
                        world.publish_again(pid, n, write);
                    }
                    let now = world.now;
                    for walk in w.walks.values_mut().filter(|walk| now - walk.since >= 70 && walk.is_held(now)) {
                        walk.renewed = now;
                        world.send(pid, Up::Progress { seq: walk.seq, deliveries: walk.deliveries });
                    }
                    Ok(())
                });
                self.timer(pid, 40, Timer::Look);
            }
            Timer::Step(walk) => self.work(pid, |world, w| world.step(pid, w, walk)),
            Timer::NodeDone(walk) => self.work(pid, |world, w| world.node_done(pid, w, walk)),
            Timer::OrderLost(walk) => self.work(pid, |world, w| world.order_lost(pid, w, walk)),
            _ => {}
        }
    }

    pub fn worker_heard(&mut self, pid: Pid, down: Down) {
        match down {
            Down::Task { seq, deliveries, task, again } => self.work(pid, |world, w| {
                let task = (*task).clone();
                let name = format!("worker-{pid}");
                let waited = world.clock(pid).0 - task.created_at.0;
                let last = world.server.task_seq;
                let p = &mut world.processes[pid];
                if std::mem::take(&mut p.stood_still) {
                    p.doubted = last;
                }
                let again = again || seq <= p.doubted;
                let learns = (deliveries > 1 || again || task.recovered || waited > ASK_LOG_AFTER) && world.plan.bug != Bug::NoLearn;
                world.walk_begins(&task.task_id, &task.correlation.execution_id);
                w.next_walk += 1;
                let id = w.next_walk;
                world.note(|| format!("worker {pid} walk {id}: {} delivery {deliveries} learns {learns}", task.task_id));
                let run = TaskRun::new(task, &name, Delivery { deliveries, again, walk: id });
                let mut walk = Walk::new(run, seq, deliveries, world.now);
                walk.commands_only = !walk.run.is_contested();
                w.walks.insert(id, walk);
                if learns {
                    world.learn(pid, w, id);
                    return Ok(());
                }
                world.step(pid, w, id)
            }),
            Down::PubAck { n, answer } => self.work(pid, |world, w| {
                let Some((id, _)) = w.outbox.take(n) else { return Ok(()) };
                world.opened(pid, w, id, answer);
                world.confirmed(pid, w, id, n)
            }),
            Down::Flag(flag) => self.work(pid, |_, w| {
                w.flag = Some(flag);
                Ok(())
            }),
            Down::Stop(command) if matches!(command.kind, CommandType::Cancel | CommandType::Timeout) => self.work(pid, |_, w| {
                w.stopped.entry(command.execution_id.clone()).or_insert(command);
                Ok(())
            }),
            Down::Log { token, entries } => self.work(pid, |world, w| world.learned(pid, w, token, entries)),
            _ => {}
        }
    }

    fn walk_begins(&mut self, task: &str, execution: &str) {
        let alive = self.walks_alive.entry(task.to_owned()).or_default();
        *alive += 1;
        if *alive > 1 {
            self.overlapped.insert(execution.to_owned());
        }
    }
}
