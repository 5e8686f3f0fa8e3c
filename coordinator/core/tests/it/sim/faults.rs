//! Fault points, one for each write, and what a run does to its processes.

use super::{Pid, rng::Rng};

/// Every named fault point.
pub const POINTS: [&str; 23] = [
    "coordinator.create",
    "coordinator.started",
    "coordinator.task",
    "coordinator.skipped",
    "coordinator.ended",
    "coordinator.final",
    "coordinator.reply",
    "coordinator.notify",
    "coordinator.checkpoint",
    "coordinator.command",
    "worker.opening",
    "worker.started",
    "worker.claim",
    "worker.intended",
    "worker.effect",
    "worker.effect_done",
    "worker.settled",
    "worker.note",
    "worker.result",
    "worker.retrying",
    "worker.ack",
    "client.submit",
    "client.wait",
];

/// Who dies at a fault point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The process that writes, before the write.
    Own,
    /// The server, when the write arrives, before it is stored.
    ServerBefore,
    /// The server, after the write is stored, before it is answered.
    ServerAfter,
}

/// All of them.
pub const VICTIMS: [Victim; 3] = [Victim::Own, Victim::ServerBefore, Victim::ServerAfter];

/// Kill `victim` at the `nth` passage of `point`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub point: &'static str,
    pub nth: u32,
    pub victim: Victim,
}

/// What happens at a point of time.
#[derive(Clone, Copy, Debug)]
pub enum Blow {
    Kill(Pid),
    KillServer,
    /// Frozen for so long, then it goes on as if nothing had been.
    Stall(Pid, u64),
    /// The connection breaks; the process lives.
    Break(Pid),
}

/// A planted bug of the simulated shell, to prove that the checker sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// Redelivered tasks are not claimed.
    NoClaim,
    /// Tasks are acknowledged before their result is confirmed.
    EarlyAck,
    /// Recovery emits no tasks.
    NoTasksOnLoad,
    /// Ids carry the delivery.
    IdPerDelivery,
    /// The checkpoint tells what was read instead of what is taken care of.
    CheckpointAhead,
    /// Records are put, not swapped.
    PutRecords,
    /// New writes overtake those that a broken connection lost.
    Overtake,
    /// Redelivered tasks do not read the log.
    NoLearn,
    /// The reply leaves with the create.
    EarlyReply,
    /// Records are not swept after a start.
    NoSweep,
    /// A result that ends a task has the message id of the one that only told it.
    SharedMessageId,
    /// Records are read until caught up, and not any more.
    SweepOnce,
    /// Every attempt has its own idempotency key.
    KeyPerDelivery,
    /// What may have happened is repeated without asking.
    BlindRepeat,
    /// A coordinator tells the start also where there is an input.
    StartUnfenced,
    /// A worker tells the start also where there is an input.
    OpeningUnfenced,
}

/// All of them.
pub const BUGS: [Bug; 16] = [
    Bug::EarlyAck,
    Bug::NoTasksOnLoad,
    Bug::IdPerDelivery,
    Bug::CheckpointAhead,
    Bug::PutRecords,
    Bug::Overtake,
    Bug::NoLearn,
    Bug::EarlyReply,
    Bug::NoSweep,
    Bug::SharedMessageId,
    Bug::SweepOnce,
    Bug::KeyPerDelivery,
    Bug::BlindRepeat,
    Bug::NoClaim,
    Bug::StartUnfenced,
    Bug::OpeningUnfenced,
];

/// What is done to a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub faults: Vec<Fault>,
    pub blows: Vec<(u64, Blow)>,
    /// Halt at, resume at.
    pub halt: Option<(u64, Option<u64>)>,
    pub cancels: bool,
    /// Two coordinators may be active at once.
    pub rivals: bool,
    /// Percent of acknowledgements of writes that get lost.
    pub ack_loss: u64,
    pub bug: Bug,
    /// As in a cluster: nothing is written before what it follows from is stored.
    pub one_by_one: bool,
    /// How far each process's clock is off.
    pub skew: Vec<i64>,
}

impl Plan {
    /// Nothing happens.
    pub fn calm() -> Self {
        Self {
            faults: Vec::new(),
            blows: Vec::new(),
            halt: None,
            cancels: false,
            rivals: false,
            ack_loss: 0,
            bug: Bug::None,
            one_by_one: false,
            skew: Vec::new(),
        }
    }

    /// One fault point, sometimes with a cancel, a halt or a rival besides.
    pub fn at_point(point: &'static str, victim: Victim, rng: &mut Rng) -> Self {
        let nth = if matches!(point, "coordinator.command" | "coordinator.started" | "worker.opening" | "worker.note") || rng.chance(60) {
            1
        } else {
            2
        };
        let halt = rng.chance(10).then(|| (rng.range(100, 400), Some(rng.range(500, 1500))));
        let mut faults = vec![Fault { point, nth, victim }];
        if point == "worker.claim" {
            // Nobody claims a task that was not left behind.
            faults[0].nth = 1;
            faults.push(Fault { point: "worker.note", nth: 1, victim: Victim::Own });
        }
        Self {
            faults,
            cancels: point == "coordinator.command" || rng.chance(15),
            halt: halt.filter(|_| {
                !matches!(
                    point,
                    "worker.intended"
                        | "worker.effect"
                        | "worker.effect_done"
                        | "worker.settled"
                        | "worker.retrying"
                        | "worker.note"
                        | "worker.claim"
                        | "coordinator.skipped"
                )
            }),
            rivals: rng.chance(20),
            ..Self::calm()
        }
    }

    /// Anything, several times.
    pub fn random(rng: &mut Rng) -> Self {
        let mut plan = Self { cancels: rng.chance(40), rivals: rng.chance(40), ..Self::calm() };
        plan.one_by_one = rng.chance(30);
        if rng.chance(40) {
            plan.skew = (0..8).map(|_| rng.range(0, 400) as i64 - 200).collect();
        }
        for _ in 0..rng.range(0, 3) {
            let fault = Fault {
                point: POINTS[rng.range(0, POINTS.len() as u64 - 1) as usize],
                nth: rng.range(1, 6) as u32,
                victim: *rng.pick(&VICTIMS),
            };
            plan.faults.push(fault);
        }
        for _ in 0..rng.range(1, 5) {
            let at = rng.range(0, 1500);
            let blow = match rng.range(0, 9) {
                0..=2 => Blow::Kill(rng.range(0, 6) as Pid),
                3..=5 => Blow::KillServer,
                6 | 7 => Blow::Break(rng.range(0, 3) as Pid),
                _ => Blow::Stall(rng.range(0, 3) as Pid, rng.range(50, 900)),
            };
            plan.blows.push((at, blow));
        }
        if rng.chance(30) {
            let at = rng.range(0, 800);
            plan.halt = Some((at, rng.chance(60).then(|| at + rng.range(20, 800))));
        }
        if rng.chance(25) {
            plan.ack_loss = rng.range(1, 15);
        }
        plan
    }
}
