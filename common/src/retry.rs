//! Delays between attempts. The one module that uses `backoff` (named by the project's user, and
//! unmaintained: RUSTSEC-2025-0012; see `.cargo/audit.toml`).

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};
use haltline_types::{definition::RetryPolicy, limits::RETRY_DELAY_MS_MAX};

/// Part of a delay that jitter may add or take.
const JITTER: f64 = 0.2;

/// The delay after failed attempt number `attempt` (from 1), jittered.
pub fn delay_after(policy: &RetryPolicy, attempt: u32) -> Duration {
    let max = Duration::from_millis(RETRY_DELAY_MS_MAX);
    let grown = (policy.delay.0 as f64) * policy.factor.max(1.0).powi(attempt.saturating_sub(1).min(64) as i32);
    let base = Duration::from_millis((grown.min(RETRY_DELAY_MS_MAX as f64)) as u64);
    let mut b = ExponentialBackoffBuilder::new()
        .with_initial_interval(base)
        .with_randomization_factor(JITTER)
        .with_max_interval(max)
        .with_max_elapsed_time(None)
        .build();
    b.next_backoff().unwrap_or(base).min(max)
}

/// Delays for reconnecting to something of ours: 50 ms growing to `max`, without end.
pub struct Reconnect(ExponentialBackoff);

impl Reconnect {
    /// Delays that grow to `max`.
    pub fn new(max: Duration) -> Self {
        Self(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(Duration::from_millis(50))
                .with_multiplier(2.0)
                .with_max_interval(max)
                .with_max_elapsed_time(None)
                .build(),
        )
    }
    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(Duration::from_secs(1))
    }
    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haltline_types::Millis;

    #[test]
    fn delays_grow_and_stay_below_the_cap() {
        let p = RetryPolicy { attempts: 10, delay: Millis(1000), factor: 2.0 };
        for (attempt, base) in [(1, 1000.0), (2, 2000.0), (3, 4000.0)] {
            let d = delay_after(&p, attempt).as_secs_f64() * 1e3;
            assert!((base * 0.79..=base * 1.21).contains(&d), "{attempt}: {d}");
        }
        assert!(delay_after(&p, 60) <= Duration::from_millis(RETRY_DELAY_MS_MAX));
    }
}
