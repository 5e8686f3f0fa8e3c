//! How often somebody may ask: buckets that fill up with time, one for each caller, and smaller ones for
//! each address whose tokens are refused.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Requests at once, in seconds of what is allowed for long.
const BURST_S: f64 = 5.0;
/// Refused tokens of one address: a person who mistypes, not a program that guesses.
const REFUSALS_PER_S: f64 = 2.0;
const REFUSALS_BURST: f64 = 20.0;
/// Callers remembered; beyond it those who have not asked for longest are forgotten.
const CALLERS_MAX: usize = 20_000;

/// Frames that a client of a socket sends within [`FLOW_WINDOW`]: many subscriptions at once, but no flood.
const FLOW_MAX: u32 = 600;
const FLOW_WINDOW: Duration = Duration::from_secs(10);

/// What one socket's client sends.
pub(crate) struct Flow {
    since: Instant,
    frames: u32,
}

impl Flow {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { since: Instant::now(), frames: 0 }
    }

    /// Counts a frame; `false` if it is one too many.
    pub fn one_more(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) > FLOW_WINDOW {
            *self = Self { since: now, frames: 0 };
        }
        self.frames += 1;
        self.frames <= FLOW_MAX
    }
}

struct Bucket {
    left: f64,
    at: Instant,
}

struct Buckets<K> {
    per_s: f64,
    burst: f64,
    all: Mutex<HashMap<K, Bucket>>,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(per_s: f64, burst: f64) -> Self {
        Self { per_s, burst, all: Mutex::default() }
    }

    /// Takes `n` if it is there.
    fn take(&self, key: &K, n: f64, now: Instant) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= CALLERS_MAX && !all.contains_key(key) {
            // Full ones say nothing; if that is not enough, a quarter of the rest goes.
            let (per_s, burst) = (self.per_s, self.burst);
            all.retain(|_, b| b.left + now.duration_since(b.at).as_secs_f64() * per_s < burst);
            if all.len() >= CALLERS_MAX {
                let mut times: Vec<Instant> = all.values().map(|b| b.at).collect();
                times.sort_unstable();
                let old = times[times.len() / 4];
                all.retain(|_, b| b.at > old);
            }
        }
        let bucket = all.entry(key.clone()).or_insert(Bucket { left: self.burst, at: now });
        bucket.left = (bucket.left + now.duration_since(bucket.at).as_secs_f64() * self.per_s).min(self.burst);
        bucket.at = now;
        if bucket.left < n {
            return false;
        }
        bucket.left -= n;
        true
    }
}

/// The limits.
pub(crate) struct Limits {
    callers: Buckets<String>,
    refusals: Buckets<IpAddr>,
}

impl Limits {
    /// With so many requests a second for each caller.
    pub fn new(requests_per_s: u32) -> Self {
        let per_s = f64::from(requests_per_s);
        Self { callers: Buckets::new(per_s, per_s * BURST_S), refusals: Buckets::new(REFUSALS_PER_S, REFUSALS_BURST) }
    }

    /// Whether a caller may ask once more.
    pub fn caller(&self, credential: &str) -> bool {
        self.callers.take(&credential.to_owned(), 1.0, Instant::now())
    }

    /// A token of this address was refused: whether that was within what a person does who mistypes.
    pub fn refused(&self, address: IpAddr) -> bool {
        self.refusals.take(&address, 1.0, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_from_a_burst() {
        let mut flow = Flow::new();
        let start = Instant::now();
        assert_eq!((0..700).filter(|_| flow.one_more(start)).count(), 600);
        assert!(!flow.one_more(start + Duration::from_secs(9)));
        assert!(flow.one_more(start + Duration::from_secs(11)));
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let buckets = Buckets::new(10.0, 5.0);
        let start = Instant::now();
        assert_eq!((0..20).filter(|_| buckets.take(&"a", 1.0, start)).count(), 5);
        assert!(buckets.take(&"b", 1.0, start), "others are not concerned");
        assert_eq!((0..20).filter(|_| buckets.take(&"a", 1.0, start + Duration::from_millis(300))).count(), 3);
        assert_eq!((0..20).filter(|_| buckets.take(&"a", 1.0, start + Duration::from_secs(60))).count(), 5);
    }

    #[test]
    fn memory_is_bounded() {
        let buckets = Buckets::new(0.001, 5.0);
        for n in 0..CALLERS_MAX * 2 {
            buckets.take(&n, 1.0, Instant::now());
        }
        assert!(buckets.all.lock().is_ok_and(|all| all.len() <= CALLERS_MAX));
    }

    #[test]
    fn who_guesses_is_told_apart() {
        let limits = Limits::new(1);
        let address = IpAddr::from([192, 0, 2, 1]);
        assert_eq!((0..100).filter(|_| limits.refused(address)).count(), 20);
        assert!(limits.refused(IpAddr::from([192, 0, 2, 2])));
    }
}
