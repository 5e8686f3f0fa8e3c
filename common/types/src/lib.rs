//! Haltline's contracts: what travels on the wire and what is kept in buckets, with the ids, names
//! and limits they obey. Everything here is plain data: no runtime, no clock, no randomness, so the
//! core that decides can depend on it.

pub mod access;
pub mod catalog;
pub mod control;
pub mod definition;
pub mod effect;
pub mod error;
pub mod event;
pub mod feed;
pub mod ids;
pub mod json;
pub mod limits;
pub mod millis;
pub mod names;
pub mod payload;
pub mod record;
pub mod risk;
pub mod submit;
pub mod task;
pub mod timestamp;
pub mod worker;

pub use effect::Effect;
pub use millis::Millis;
pub use names::Names;
/// Text that is cloned without an allocation: ids, names and keys travel through all that is decided.
pub use smol_str::SmolStr;
pub use timestamp::Timestamp;

/// Version of every wire type in this crate. Readers refuse a higher one.
pub const WIRE_VERSION: u32 = 1;
