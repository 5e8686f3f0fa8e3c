//! What every Haltline service shares around its core: the connection, reading and writing streams
//! so that nothing acknowledged is lost, the control flag's guard, configuration, logs and shutdown.
//! The contracts themselves are in `haltline-types`, re-exported here.

pub mod audit;
pub mod clock;
pub mod config;
pub mod confirmation;
pub mod control;
pub mod control_watch;
pub mod definitions;
pub mod fault;
pub mod history;
pub mod js;
pub mod kv;
mod lanes;
pub mod link;
pub mod metrics;
pub mod outbox;
pub mod payloads;
pub mod planted;
pub mod publisher;
pub mod retry;
pub mod risk;
pub mod shutdown;
pub mod sync;
pub mod tail;
pub mod telemetry;
pub mod topology;

pub use haltline_types as types;
pub use link::Link;
