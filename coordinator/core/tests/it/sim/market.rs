//! The paper market: counts arrivals and fills, knows repeats by their key.

use haltline_types::SmolStr;
use std::collections::BTreeMap;

use super::{
    Pid, Time,
    world::{Ev, World},
};

/// What the market has of one key.
#[derive(Default)]
pub struct Fill {
    pub execution: SmolStr,
    pub fills: u32,
    pub arrivals: u32,
    pub token: u64,
    pub filled_at: Time,
}

/// The market.
#[derive(Default)]
pub struct Market {
    pub orders: BTreeMap<String, Fill>,
}

impl World {
    /// An order arrives.
    pub fn order(&mut self, pid: Pid, life: u64, walk: u64, key: String, execution: SmolStr, token: u64) {
        let now = self.now;
        let fill = self.market.orders.entry(key.clone()).or_default();
        fill.arrivals += 1;
        let stale = token < fill.token;
        if fill.fills == 0 {
            fill.execution = execution;
            fill.fills = 1;
            fill.filled_at = now;
        }
        fill.token = fill.token.max(token);
        self.note(|| format!("market: {key} token {token} stale {stale}"));
        let delay = self.rng.range(1, 10);
        // An answer that gets lost is asked for again.
        if !self.rng.chance(3) {
            self.after(delay, Ev::Filled { pid, life, walk, stale });
        }
    }
}
