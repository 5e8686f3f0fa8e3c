//! Who keeps the record of control flags: the coordinator that has shard 0 tells every change of a flag in the log,
//! waits for halts to be confirmed, runs what is to run then, and writes the audit.
//!
//! Having the shard is no fence: a stalled coordinator may believe to have it still. The audit is: an entry is stored
//! only behind the one that its writer has read last, so of two writers one loses, and begins again. Events have
//! deterministic ids and are stored before their entry, so a successor repeats what is not known to be told.

mod belt;
mod chain;
mod run;
mod tell;

pub use run::run;
