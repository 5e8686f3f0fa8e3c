//! Risk limits that trip by themselves: the coordinator that has shard 0 follows the log for all scopes, wherever
//! their executions run, and raises levels.
//!
//! Which one that is, is no fence: a stalled coordinator may believe to have the shard still. The record is: whoever
//! begins writes it first, and the one before loses its next swap. What is stored there, and the position
//! in the log that it includes, are one value, so a successor counts each outcome once. A breach is acted on before it is
//! stored: what a coordinator that dies in between has done, its successor does again, which changes nothing.

mod dead_man;
mod owner;
mod settle;
mod tell;

pub use owner::run;
