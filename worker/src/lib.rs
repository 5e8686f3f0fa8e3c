//! Haltline's worker: pulls tasks, guards them with the control flag, runs their nodes and publishes
//! results. Also the SDK by which node types are added: [`Node`], [`Context`], [`Registry`].

mod context;
pub mod nodes;
mod registry;

pub use context::{Context, NodeError, Outputs};
pub use registry::{Node, Registry};
