//! The book: accepted orders, the tokens seen, and the ledger, changed together.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::ensure;
use haltline_common::types::Timestamp;

use crate::{
    ledger::{Ledger, Snapshot},
    order::{Arrival, Ask, Fence, Order, Outcome},
    prices::Bar,
};

/// Orders kept: about half a kilobyte each, so half a gigabyte in all. Above it new orders are
/// refused rather than old ones forgotten, since a forgotten order could be accepted twice.
pub const ORDERS_MAX: usize = 1_000_000;

/// What is known of a client's order id.
struct Known {
    /// Index of its (last) order.
    order: usize,
    /// Highest token seen.
    token: u64,
}

/// All orders of a market.
pub struct Book {
    dedup: bool,
    ledger: Ledger,
    orders: Vec<Order>,
    known: HashMap<Arc<str>, Known>,
    fence_file: Ledger,
    /// Token and attempt up to which orders of an id are refused that had not arrived when they were asked for.
    fences: HashMap<Arc<str>, (u64, u64)>,
}

/// Why an order was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// A higher token was seen for its id.
    Stale {
        /// The highest.
        seen: u64,
    },
    /// Price times quantity has no exact decimal form.
    Amount,
    /// [`ORDERS_MAX`] is reached.
    Full,
    /// The ledger could not be written, so nothing was done.
    Ledger(std::io::Error),
}

impl Book {
    /// Opens the ledger and takes up what is in it.
    pub fn open(path: &Path, dedup: bool) -> anyhow::Result<Self> {
        let mut orders = Vec::new();
        let mut known = HashMap::new();
        let ledger = Ledger::open(path, |arrival: Arrival| {
            ensure!(orders.len() < ORDERS_MAX, "more than {ORDERS_MAX} orders");
            remember(&mut orders, &mut known, &arrival)
        })?;
        let mut fences = HashMap::new();
        let fence_file = Ledger::open(&beside(path), |fence: Fence| {
            ensure!(fences.len() < ORDERS_MAX, "more than {ORDERS_MAX} fences");
            raise(&mut fences, &fence);
            Ok(())
        })?;
        Ok(Self { dedup, ledger, orders, known, fence_file, fences })
    }

    /// Takes an order that arrived at `time`, on a day with that bar. `true` if it was a duplicate.
    pub fn place(&mut self, ask: Ask, bar: &Bar, time: Timestamp) -> Result<(Order, bool), Refusal> {
        let known = self.known.get(&ask.client_order_id).filter(|_| self.dedup);
        let original = known.and_then(|k| self.orders.get(k.order));
        let fence = self.fences.get(&ask.client_order_id).copied().filter(|_| self.dedup);
        let outcome = match (known, original) {
            (Some(k), _) if ask.token < k.token => Outcome::Stale,
            (_, Some(_)) => Outcome::Duplicate,
            _ if fence.is_some_and(|fence| (ask.token, ask.attempt) <= fence) => Outcome::Stale,
            _ => Outcome::Accepted,
        };
        let seen = known.map_or(0, |k| k.token).max(fence.map_or(0, |(token, _)| token));
        let (price, order_id) = match (outcome, original) {
            (Outcome::Stale, _) => (None, None),
            (_, Some(order)) => (order.price, Some(order.order_id.clone())),
            _ => (ask.fill(bar.close), Some(format!("paper-{}", self.orders.len() + 1))),
        };
        if outcome == Outcome::Accepted && self.orders.len() >= ORDERS_MAX {
            return Err(Refusal::Full);
        }
        let arrival = Arrival {
            key: ask.client_order_id,
            token: ask.token,
            time,
            outcome,
            symbol: ask.symbol,
            side: ask.side,
            quantity: ask.quantity,
            limit_price: ask.limit_price,
            price,
            execution_id: ask.execution_id,
            order_id,
            date: bar.date.clone(),
        };
        // What a restart could not take up again must not get into the ledger.
        let accepted = match outcome {
            Outcome::Accepted => Some(Order::of(&arrival).ok_or(Refusal::Amount)?),
            _ => None,
        };
        let original = original.cloned();
        self.ledger.append(&arrival).map_err(Refusal::Ledger)?;
        if let Some(order) = accepted {
            self.orders.push(order.clone());
            let entry = self.known.entry(arrival.key).or_insert(Known { order: 0, token: 0 });
            *entry = Known { order: self.orders.len() - 1, token: entry.token.max(arrival.token) };
            return Ok((order, false));
        }
        if let Some(entry) = self.known.get_mut(&arrival.key) {
            entry.token = entry.token.max(arrival.token);
        }
        match original {
            Some(order) if outcome == Outcome::Duplicate => Ok((order, true)),
            _ => Err(Refusal::Stale { seen }),
        }
    }

    /// The order of that id; the last one if it was accepted more than once.
    pub fn get(&self, client_order_id: &str) -> Option<&Order> {
        self.orders.get(self.known.get(client_order_id)?.order)
    }

    /// The order of that id; if there is none, one that was sent with that token and attempt or before it is refused
    /// when it arrives.
    ///
    /// # Errors
    /// When that cannot be kept: then nothing was promised.
    pub fn get_or_fence(&mut self, fence: &Fence) -> Result<Option<&Order>, Refusal> {
        if self.known.contains_key(&fence.key) {
            return Ok(self.get(&fence.key));
        }
        if self.fences.get(&fence.key).is_none_or(|known| *known < (fence.token, fence.attempt)) {
            if self.fences.len() >= ORDERS_MAX {
                return Err(Refusal::Full);
            }
            self.fence_file.append(fence).map_err(Refusal::Ledger)?;
            raise(&mut self.fences, fence);
        }
        Ok(None)
    }

    /// All orders, in order of acceptance.
    pub fn orders(&self) -> &[Order] {
        &self.orders
    }

    /// The ledger as it is now.
    pub fn ledger(&self) -> Snapshot {
        self.ledger.snapshot()
    }
}

/// The file of fences beside a ledger.
fn beside(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".fences");
    name.into()
}

fn raise(fences: &mut HashMap<Arc<str>, (u64, u64)>, fence: &Fence) {
    let known = fences.entry(fence.key.clone()).or_default();
    *known = (fence.token, fence.attempt).max(*known);
}

/// Takes up one line of the ledger.
fn remember(orders: &mut Vec<Order>, known: &mut HashMap<Arc<str>, Known>, arrival: &Arrival) -> anyhow::Result<()> {
    if arrival.outcome == Outcome::Accepted {
        let order = Order::of(arrival).ok_or_else(|| anyhow::anyhow!("an accepted order without id or with an amount out of range"))?;
        orders.push(order);
        let entry = known.entry(arrival.key.clone()).or_insert(Known { order: 0, token: 0 });
        entry.order = orders.len() - 1;
    }
    // Stale and repeated arrivals of an order that is not in this ledger say nothing about it.
    if let Some(entry) = known.get_mut(&arrival.key) {
        entry.token = entry.token.max(arrival.token);
    }
    Ok(())
}
