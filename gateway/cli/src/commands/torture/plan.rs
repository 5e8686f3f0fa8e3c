//! The plan of faults: what happens when to whom. The seed determines all of it.

use std::{fmt, time::Duration};

use super::rng::Rng;

/// Purpose of the plan's numbers.
const PURPOSE: u64 = 1;
/// After everything was killed, or the disk was full, the system gets this long to do some work.
const RECOVER: Duration = Duration::from_secs(4);
/// Nothing is injected so shortly before the end.
const QUIET: Duration = Duration::from_secs(1);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `kill -9`, then a new process after the pause.
    Kill,
    /// SIGSTOP, and SIGCONT after the pause.
    Stall,
    /// SIGTERM, then a new process.
    Restart,
    /// SIGTERM and a new process for each of a role, one after the other.
    Rolling,
    /// `kill -9` of everything at once.
    KillAll,
    /// Connections are closed and new ones refused.
    Cut,
    /// Nothing passes, nobody is told. What was sent into it arrives when it is over, or never.
    Hold,
    /// Everything arrives late.
    Delay,
    /// Few bytes a second pass.
    Throttle,
    /// Connections are reset once.
    Reset,
    /// Requests reach the market, its answers are lost.
    LoseReplies,
    /// Publishes and deliveries are repeated, some of them much later.
    Duplicate,
    /// Deliveries of tasks are late, in another order.
    Late,
    /// A nats-server of a cluster is cut off from the other ones.
    Isolate,
    /// The disk of a nats-server is full.
    DiskFull,
    /// The wall clock of a service jumps.
    ClockJump,
}

impl Kind {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stall => "stall",
            Self::Restart => "restart",
            Self::Rolling => "rolling",
            Self::KillAll => "kill_all",
            Self::Cut => "cut",
            Self::Hold => "hold",
            Self::Delay => "delay",
            Self::Throttle => "throttle",
            Self::Reset => "reset",
            Self::LoseReplies => "lose_replies",
            Self::Duplicate => "duplicate",
            Self::Late => "late",
            Self::Isolate => "isolate",
            Self::DiskFull => "disk_full",
            Self::ClockJump => "clock_jump",
        }
    }
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When, from the start of the load.
    pub at: Duration,
    /// What.
    pub kind: Kind,
    /// To whom: a process, a role, or `market` for the way there.
    pub target: String,
    /// How long it lasts; of a kill and a restart the pause before the new process.
    pub lasts: Duration,
    /// How much: milliseconds of a delay, bytes a second, seconds of a jump.
    pub amount: i64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, kind, target, lasts, amount } = self;
        write!(f, "{:8.2}s {:<12} {target:<14} {:>6} ms", at.as_secs_f64(), kind.as_str(), lasts.as_millis())?;
        match kind {
            Kind::Delay => write!(f, ", {amount} ms late"),
            Kind::Throttle => write!(f, ", {amount} bytes/s"),
            Kind::ClockJump => write!(f, ", {amount:+} s"),
            _ => Ok(()),
        }
    }
}

/// What, to names that begin so (empty: to any), how often out of the sum of all.
pub type Weight = (Kind, &'static str, u32);

/// What there is to be hurt.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Workers.
    pub workers: Vec<String>,
    /// Coordinators.
    pub coordinators: Vec<String>,
    /// Gateways.
    pub gateways: Vec<String>,
    /// nats-servers.
    pub servers: Vec<String>,
    /// Whether a disk can be filled.
    pub disk: bool,
    /// Whether clocks can be moved.
    pub clock: bool,
    /// Instead of the usual ones.
    pub weights: Option<&'static [Weight]>,
}

impl Targets {
    fn services(&self) -> Vec<String> {
        [&self.workers[..], &self.coordinators, &self.gateways].concat()
    }

    /// One deck of faults: each kind as often as it deserves. Dealt until it is empty, so that every
    /// kind has its turn.
    fn deck(&self) -> Vec<(Kind, &'static str)> {
        use Kind::*;
        if let Some(weights) = self.weights {
            return weights.iter().flat_map(|(kind, role, n)| (0..*n).map(|_| (*kind, *role))).collect();
        }
        let mut deck = vec![];
        let counts = [
            (Kill, 8),
            (Stall, 5),
            (Restart, 4),
            (Rolling, 1),
            (KillAll, 1),
            (Cut, 3),
            (Hold, 3),
            (Delay, 2),
            (Throttle, 1),
            (Reset, 3),
            (LoseReplies, 2),
            (Duplicate, 3),
            (Late, 2),
            (Isolate, if self.servers.len() > 1 { 2 } else { 0 }),
            (DiskFull, u32::from(self.disk)),
            (ClockJump, if self.clock { 2 } else { 0 }),
        ];
        for (kind, n) in counts {
            deck.extend((0..n).map(|_| (kind, "")));
        }
        deck
    }
}

/// The plan of `seed` for so long, with a fault every `every` on average.
pub fn plan(seed: u64, lasts: Duration, every: Duration, targets: &Targets) -> Vec<Fault> {
    let mut rng = Rng::new(seed, PURPOSE);
    let (mut plan, mut deck) = (Vec::new(), Vec::new());
    let gap = every.as_millis() as u64;
    let mut at = rng.millis(gap / 4, gap);
    while at + QUIET < lasts {
        if deck.is_empty() {
            deck = targets.deck();
            rng.shuffle(&mut deck);
        }
        let Some((kind, role)) = deck.pop() else { break };
        let fault = fault(&mut rng, at, kind, role, targets);
        let recover = if matches!(kind, Kind::KillAll | Kind::DiskFull) { fault.lasts + RECOVER } else { Duration::ZERO };
        plan.push(fault);
        at += recover + rng.millis(gap / 4, gap * 7 / 4);
    }
    plan
}

/// A fault of that kind, to one whose name begins with `role`.
pub fn fault(rng: &mut Rng, at: Duration, kind: Kind, role: &str, targets: &Targets) -> Fault {
    let services = targets.services();
    let all = [&services[..], &targets.servers].concat();
    let workers_and_coordinators = [&targets.workers[..], &targets.coordinators].concat();
    // The client's own connection suffers, too, and so do requests to the market.
    let links = [&services[..], &["client".to_owned(), "market".to_owned()]].concat();
    let roles = ["workers", "coordinators", "gateways", "servers"].map(str::to_owned);
    let mut of = |names: &[String]| {
        let named: Vec<String> = names.iter().filter(|n| n.starts_with(role)).cloned().collect();
        rng.pick(&named).cloned().unwrap_or_default()
    };
    let target = match kind {
        Kind::Kill | Kind::Restart | Kind::Stall => of(&all),
        Kind::Rolling => of(&roles),
        Kind::KillAll => "everything".to_owned(),
        Kind::Cut | Kind::Hold | Kind::Delay | Kind::Throttle | Kind::Reset => of(&links),
        Kind::LoseReplies => "market".to_owned(),
        Kind::Duplicate => of(&workers_and_coordinators),
        Kind::Late => of(&targets.workers),
        Kind::Isolate | Kind::DiskFull => of(&targets.servers),
        Kind::ClockJump => of(&workers_and_coordinators),
    };
    let lasts = match kind {
        Kind::Kill | Kind::Restart => rng.millis(0, 1500),
        Kind::Stall if target.starts_with("nats") => rng.millis(200, 3000),
        Kind::Stall => rng.millis(300, 8000),
        Kind::Rolling => rng.millis(0, 300),
        Kind::KillAll => rng.millis(0, 1000),
        Kind::Reset => Duration::ZERO,
        Kind::Cut => rng.millis(200, 5000),
        Kind::Hold | Kind::Late => rng.millis(500, 9000),
        Kind::Delay | Kind::Throttle | Kind::Duplicate => rng.millis(1000, 8000),
        Kind::LoseReplies => rng.millis(500, 3000),
        Kind::Isolate => rng.millis(500, 5000),
        Kind::DiskFull => rng.millis(500, 3000),
        Kind::ClockJump => rng.millis(1000, 8000),
    };
    let amount = match kind {
        Kind::Delay => rng.range(5, 400) as i64,
        Kind::Throttle => rng.range(20_000, 200_000) as i64,
        Kind::ClockJump => rng.range(0, 240) as i64 - 120,
        _ => 0,
    };
    Fault { at, kind, target, lasts, amount }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Targets {
        let names = |role: &str, n: usize| (1..=n).map(|i| format!("{role}-{i}")).collect();
        Targets {
            workers: names("worker", 3),
            coordinators: names("coordinator", 2),
            gateways: names("gateway", 1),
            servers: names("nats", 3),
            disk: true,
            clock: true,
            weights: None,
        }
    }

    #[test]
    fn ten_minutes_have_enough_faults_of_every_kind_and_the_seed_repeats_them() {
        let make = |seed| plan(seed, Duration::from_secs(600), Duration::from_secs(2), &targets());
        for seed in 0..20 {
            let plan = make(seed);
            assert!(plan.len() >= 200, "{} faults", plan.len());
            assert_eq!(plan, make(seed));
            let kinds: std::collections::BTreeSet<Kind> = plan.iter().map(|f| f.kind).collect();
            assert_eq!(kinds.len(), 16);
            assert!(plan.iter().all(|f| !f.target.is_empty() && f.target != "market-1"));
        }
        assert_ne!(make(1), make(2));
    }
}
