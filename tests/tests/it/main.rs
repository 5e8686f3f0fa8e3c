//! Tests of the whole: what users run, as processes, with everything that can go wrong for real.

mod access;
mod answers;
mod backup;
mod bad_input;
mod belt;
mod crash;
mod edge;
mod effects;
mod emergency;
mod engine;
mod engine_ids;
mod engine_size;
mod engine_whole;
mod fuzz;
mod grouped;
pub mod halt;
mod halt_watch;
mod hold;
mod inputs;
mod market;
mod on_error;
mod operations;
mod oracle;
mod outbox;
mod payloads;
mod replay;
mod retention;
mod risk;
mod said;
mod seed_gateway;
mod snapshots;
mod socketio;
mod stops;
mod tidy;
mod topology;
mod torture;
mod worker_life;

/// The `haltline` command.
const COMMAND: &str = env!("CARGO_BIN_EXE_haltline-under-test");
