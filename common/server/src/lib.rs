//! Getting nats-server and keeping it: finding or fetching its binary, running it on a folder, and
//! making sure that no child of ours outlives the process that started it.
//!
//! Production runs its own nats-server; this crate is for a developer's machine, tests and
//! benchmarks.

mod bound;
mod cache;
mod conf;
mod death;
mod fetch;
mod locate;
mod managed;
mod pinned;
pub mod port;
mod ready;
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
mod wrapper;

pub use bound::{Bound, Launch, spawn_bound};
pub use conf::{CONF_FILE, LOG_FILE, sync_interval_of};
pub use locate::{LocateError, OVERRIDE_VAR, find_or_fetch};
pub use managed::{Cluster, Managed, Options, StartError};
