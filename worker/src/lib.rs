//! Haltline's worker: pulls tasks, guards them with the control flag, runs their nodes and publishes
//! results. Also the SDK by which node types are added: [`Node`], [`Context`], [`Registry`].

mod acks;
mod arrivals;
mod context;
mod effects;
mod flight;
mod node_run;
pub mod nodes;
mod payloads;
mod presence;
pub mod probe;
mod puller;
mod registry;
mod reserve;
mod run;
mod task;
mod telling;

pub use context::{Context, Happened, NodeError, Outputs, to_decimal};
pub use haltline_core::Intent;
pub use registry::{Node, Registry, Resolved};
pub use run::run;
