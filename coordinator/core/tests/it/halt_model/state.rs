//! The model's state: the control bucket, the workers, the intents, the venue, the halting side.

use super::{Bounds, Bug};

/// How long a lease lasts, in ticks of an even clock.
pub const LEASE: u8 = 2;
/// The same on a slow clock: it shows two thirds of the time.
const LEASE_SLOW: u8 = 3;
/// How long the halting side waits: lease and margin.
const WAIT: u8 = 3;
/// How long after its intent an effect may arrive at the venue.
pub const DEADLINE: u8 = 2;

/// A message of the control bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Halt,
    Lease { worker: u8, n: u8 },
}

/// What a worker is at with its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Idle,
    /// The guard let it pass; its intent is on its way.
    Intending,
    /// The intent is stored.
    Intended,
    /// The guard let it pass again: it starts.
    Started,
    /// The request is on its way.
    Sent,
    /// The venue has answered, or it never began: the outcome is to be stored.
    Settling,
}

/// The intent of an effect in the log. There is one of a worker's name at a time: a worker begins the next after the last is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    None,
    /// On its way to the log.
    Sent,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub alive: bool,
    pub phase: Phase,
    /// How far the bucket was delivered to it.
    pub delivered: u8,
    /// It heard of the halt.
    pub halted: bool,
    /// The renewal that it awaits, with what is left of the lease since it was sent.
    pub awaits: Option<(u8, u8)>,
    /// What is left of its lease.
    pub lease: u8,
    /// Number of its next renewal.
    pub next: u8,
    pub renewals: u8,
    pub effects: u8,
    pub slow: bool,
    // What outlives it:
    /// A renewal on its way to the bucket.
    pub renewal: Option<u8>,
    pub intent: Intent,
    /// Until when the venue takes the effect of the intent.
    pub deadline: u8,
    /// A request on its way to the venue, with what is left until its deadline.
    pub request: Option<u8>,
    /// The halting side has heard of a lease of it.
    pub known: bool,
    /// It told that it heard of the halt; whether an intent of it was open.
    pub confirmed: Option<bool>,
}

/// The halting side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Halting {
    NotYet,
    /// Sent and stored; the answer is on its way.
    Stored,
    /// Until then silent workers may hold a lease.
    Waits(u8),
    /// Told: nothing starts, nothing is in flight.
    Told,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub bucket: Vec<Entry>,
    pub workers: Vec<Worker>,
    pub halting: Halting,
    pub deaths: u8,
    pub bounds: Bounds,
    pub wrong: Option<&'static str>,
}

impl State {
    pub fn new(bounds: Bounds) -> Self {
        let worker = |n: usize| Worker {
            alive: true,
            phase: Phase::Idle,
            delivered: 0,
            halted: false,
            awaits: None,
            lease: 0,
            next: 1,
            renewals: bounds.renewals,
            effects: bounds.effects,
            slow: bounds.slow && n == 0,
            renewal: None,
            intent: Intent::None,
            deadline: 0,
            request: None,
            known: false,
            confirmed: None,
        };
        let workers = (0..bounds.workers).map(worker).collect();
        Self { bucket: Vec::new(), workers, halting: Halting::NotYet, deaths: bounds.deaths, bounds, wrong: None }
    }

    pub fn is_told(&self) -> bool {
        self.halting == Halting::Told
    }

    /// One tick of time.
    pub fn tick(&mut self, bug: Bug) {
        for w in &mut self.workers {
            if bug != Bug::EndlessLease {
                w.lease = w.lease.saturating_sub(1);
            }
            if let Some((_, left)) = &mut w.awaits {
                *left = left.saturating_sub(1);
            }
            w.deadline = w.deadline.saturating_sub(1);
            w.request = w.request.map(|left| left.saturating_sub(1));
        }
        if let Halting::Waits(left) = &mut self.halting {
            *left = left.saturating_sub(1);
        }
    }

    /// Whether time changes anything.
    pub fn ticks(&self, bug: Bug) -> bool {
        let runs = |w: &Worker| {
            (w.lease > 0 && bug != Bug::EndlessLease) || w.awaits.is_some_and(|(_, left)| left > 0) || w.deadline > 0 || w.request > Some(0)
        };
        matches!(self.halting, Halting::Waits(1..)) || self.workers.iter().any(runs)
    }

    /// Whether there is a lease of a worker in the bucket.
    pub fn has_lease(&self, n: usize) -> bool {
        self.bucket.iter().any(|e| matches!(e, Entry::Lease { worker, .. } if usize::from(*worker) == n))
    }

    /// Whether the halting side can tell that all is quiet.
    pub fn is_quiet(&self, bug: Bug) -> bool {
        let Halting::Waits(left) = self.halting else { return false };
        let over = left == 0 || bug == Bug::NoWait;
        // The flag has come to it as well: every lease before the flag has.
        let before = self.bucket.split(|e| *e == Entry::Halt).next().unwrap_or_default();
        let has_read = before.iter().all(|e| matches!(e, Entry::Lease { worker, .. } if self.workers[usize::from(*worker)].known));
        if !has_read && bug != Bug::NotReadUp {
            return false;
        }
        self.workers.iter().filter(|w| w.known).all(|w| {
            let open = w.intent == Intent::Open && bug != Bug::IgnoresIntents;
            match w.confirmed {
                // What it told as open may have been settled since; nothing else can have been added.
                Some(was_open) => !(was_open && open),
                None => over && !open,
            }
        })
    }
}

impl Worker {
    pub fn lease_length(&self) -> u8 {
        if self.slow { LEASE_SLOW } else { LEASE }
    }

    /// The guard: two comparisons.
    pub fn may_start(&self) -> bool {
        !self.halted && self.lease > 0
    }
}

/// How long the halting side waits.
pub fn wait(bug: Bug) -> u8 {
    if bug == Bug::NoMargin { LEASE } else { WAIT }
}
