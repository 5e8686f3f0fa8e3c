//! The wall clock. Nothing else reads it, so that tests and the core stay free of it.

use std::time::{SystemTime, UNIX_EPOCH};

use haltline_types::Timestamp;

use crate::fault;

/// Now, in milliseconds.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(fault::clock_ms()))
}

/// Now, in nanoseconds since 1970: for measuring against the times that nats-server stores.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Time since the machine was started, time asleep included: what leases are counted by. A machine that was
/// suspended has lost its lease, which `Instant` would not notice.
pub fn boot() -> std::time::Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    std::time::Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// Milliseconds with three decimals of a duration, as events carry it.
pub fn millis(d: std::time::Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}
