//! The replay's clock: which day it is on the paper market.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use crate::prices::{Bar, Prices};

/// Prices with a day that only moves forward.
pub struct Replay {
    prices: Prices,
    day: AtomicUsize,
}

/// Where the replay is.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The day, `YYYY-MM-DD`.
    pub date: String,
    /// Its number, from 0.
    pub bar: usize,
    /// How many days there are.
    pub bars: usize,
    /// Whether this is the last day: the replay stays there.
    pub ended: bool,
}

impl Replay {
    /// Starts at the first day.
    pub fn new(prices: Prices) -> Self {
        Self { prices, day: AtomicUsize::new(0) }
    }

    /// The prices.
    pub fn prices(&self) -> &Prices {
        &self.prices
    }

    /// The day, `YYYY-MM-DD`.
    pub fn date(&self) -> &str {
        self.prices.dates().get(self.day.load(Ordering::Acquire)).map_or("", String::as_str)
    }

    /// The symbol's bar of the day; its last one if it did not trade.
    pub fn now(&self, symbol: &str) -> Option<&Bar> {
        self.prices.until(symbol, self.date())
    }

    /// Moves forward by `days`, at most to the last one.
    pub fn advance(&self, days: usize) -> Position {
        let bars = self.prices.dates().len();
        let step = |day: usize| day.saturating_add(days).min(bars.saturating_sub(1));
        let before = match self.day.fetch_update(Ordering::AcqRel, Ordering::Acquire, |day| Some(step(day))) {
            Ok(day) | Err(day) => day,
        };
        let bar = step(before);
        let date = self.prices.dates().get(bar).cloned().unwrap_or_default();
        Position { date, bar, bars, ended: bar + 1 >= bars }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn it_moves_forward_and_stays_at_the_end() {
        let replay = Replay::new(Prices::load(None).unwrap());
        assert_eq!(replay.now("IBM").unwrap().date, "2008-09-02");
        assert_eq!(replay.advance(1), Position { date: "2008-09-03".into(), bar: 1, bars: 85, ended: false });
        assert!(replay.advance(usize::MAX).ended);
        assert_eq!(replay.now("IBM").unwrap().date, "2008-12-31");
        assert_eq!(replay.advance(1).bar, 84);
        assert!(replay.now("MSFT").is_none());
    }
}
