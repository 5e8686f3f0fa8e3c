//! Numbers that a seed determines: SplitMix64, small and the same everywhere.

use std::time::Duration;

/// A sequence of numbers.
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed` for one purpose; different purposes have unrelated sequences.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = Self(seed ^ purpose.wrapping_mul(0xD1B5_4A32_D192_ED03));
        // The first numbers of near seeds are near; these are not used.
        rng.next();
        rng.next();
        rng
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `from` to `to`, both included.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to.saturating_sub(from) + 1)
    }

    /// A duration between two numbers of milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.range(from, to))
    }

    /// True in `per_mille` of a thousand cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.range(0, 999) < per_mille
    }

    /// One of `items`; `None` only if there are none.
    pub fn pick<'i, T>(&mut self, items: &'i [T]) -> Option<&'i T> {
        let last = items.len().checked_sub(1)?;
        items.get(self.range(0, last as u64) as usize)
    }

    /// Puts `items` into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.range(0, i as u64) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_purposes_differ() {
        let five = |seed, purpose| {
            let mut rng = Rng::new(seed, purpose);
            [(); 5].map(|()| rng.next())
        };
        assert_eq!(five(7, 1), five(7, 1));
        assert_ne!(five(7, 1), five(7, 2));
        assert_ne!(five(7, 1), five(8, 1));
        let mut rng = Rng::new(1, 1);
        assert!((0..1000).all(|_| (3..=5).contains(&rng.range(3, 5))));
        assert_eq!(rng.pick::<u8>(&[]), None);
    }
}
