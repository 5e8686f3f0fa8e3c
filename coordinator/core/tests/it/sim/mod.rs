//! A seeded, deterministic simulation of an installation: broker, coordinators, workers, clients and
//! a paper market, with kills at every write. It drives the core as the real shells do.

pub mod broker;
pub mod check;
pub mod client;
pub mod coordinator;
pub mod fates;
pub mod faults;
pub mod market;
pub mod net;
pub mod outbox;
pub mod process;
pub mod rng;
pub mod run;
pub mod server;
pub mod walk;
pub mod worker;
pub mod workload;
pub mod world;

/// Time in units of about ten milliseconds.
pub type Time = u64;

/// A process: 0 and 1 are coordinators, 2 and 3 workers, the rest clients.
pub type Pid = usize;

/// Coordinators.
pub const COORDINATORS: std::ops::Range<Pid> = 0..2;
/// Workers.
pub const WORKERS: std::ops::Range<Pid> = 2..4;
/// The first client.
pub const CLIENTS: Pid = 4;

/// The process was killed in the middle: whatever it was about to do does not happen.
#[derive(Debug)]
pub struct Killed;
