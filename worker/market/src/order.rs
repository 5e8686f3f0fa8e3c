//! Orders: what is asked, what comes of it, and how an arrival is written down.

use std::sync::Arc;

use haltline_common::types::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Buy.
    Buy,
    /// Sell.
    Sell,
}

/// An order as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The asker's id of the order: the same again is the same order. At most 512 bytes.
    pub client_order_id: Arc<str>,
    /// A known symbol.
    pub symbol: String,
    /// Which way.
    pub side: Side,
    /// How much, above zero.
    pub quantity: Decimal,
    /// The worst price to accept; an order that cannot be filled within it at once expires.
    pub limit_price: Option<Decimal>,
    /// Fencing token: lower than one seen for the same id is refused.
    pub token: u64,
    /// Which attempt with that token, from 1; 0 if the asker does not count.
    pub attempt: u64,
    /// After it the order is refused: its sender may have been frozen, and a halt confirmed since.
    pub deadline: Option<Timestamp>,
    /// The execution on whose behalf. At most 256 bytes.
    pub execution_id: String,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Taken as a new order.
    Accepted,
    /// Recognised: answered with the order taken before.
    Duplicate,
    /// Refused: a newer token was seen for its id, or it was asked for before it arrived.
    Stale,
}

/// Somebody asked for an order that had not arrived: what was sent before is refused from then on, so that the answer
/// stays true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Its `client_order_id`.
    pub key: Arc<str>,
    /// Orders with a lower token are refused,
    pub token: u64,
    /// and with the same token those of this attempt and earlier ones.
    pub attempt: u64,
    /// When, by the market's clock.
    pub time: Timestamp,
}

/// One line of the ledger: an order that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Its `client_order_id`.
    pub key: Arc<str>,
    /// Its token.
    pub token: u64,
    /// When, by the market's clock.
    pub time: Timestamp,
    /// What became of it.
    pub outcome: Outcome,
    /// As asked.
    pub symbol: String,
    /// As asked.
    pub side: Side,
    /// As asked.
    pub quantity: Decimal,
    /// As asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_price: Option<Decimal>,
    /// At which it (for a duplicate: the original) was filled; `null` if it was not.
    pub price: Option<Decimal>,
    /// As asked.
    pub execution_id: String,
    /// The market's id of the order, absent on stale arrivals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// The replay's day, `YYYY-MM-DD`.
    pub date: String,
}

/// What became of an accepted order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Filled as a whole.
    Filled,
    /// Nothing was filled: its limit was not reached.
    Expired,
}

/// An accepted order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The market's id, `paper-` and a number from 1.
    pub order_id: String,
    /// The asker's id.
    pub client_order_id: Arc<str>,
    /// What became of it.
    pub status: Status,
    /// The symbol.
    pub symbol: String,
    /// Which way.
    pub side: Side,
    /// How much.
    pub quantity: Decimal,
    /// The worst price, if one was given.
    pub limit_price: Option<Decimal>,
    /// The price of each; `null` if expired.
    pub price: Option<Decimal>,
    /// Price times quantity; zero if expired.
    pub notional: Decimal,
    /// The replay's day of the price.
    pub date: String,
    /// Token of the arrival that was accepted.
    pub token: u64,
    /// On whose behalf.
    pub execution_id: String,
    /// When it was accepted.
    pub time: Timestamp,
}

impl Ask {
    /// The price this fills at on a day that closed at `close`, or `None` if the limit forbids it.
    pub fn fill(&self, close: Decimal) -> Option<Decimal> {
        let within = match (self.side, self.limit_price) {
            (_, None) => true,
            (Side::Buy, Some(limit)) => close <= limit,
            (Side::Sell, Some(limit)) => close >= limit,
        };
        within.then_some(close)
    }
}

impl Order {
    /// The order of an accepted arrival; `None` if its amount has no exact form or it has no id.
    pub fn of(a: &Arrival) -> Option<Self> {
        let notional = match a.price {
            Some(price) => price.checked_mul(a.quantity)?,
            None => Decimal::ZERO,
        };
        Some(Self {
            order_id: a.order_id.clone()?,
            client_order_id: a.key.clone(),
            status: if a.price.is_some() { Status::Filled } else { Status::Expired },
            symbol: a.symbol.clone(),
            side: a.side,
            quantity: a.quantity,
            limit_price: a.limit_price,
            price: a.price,
            notional,
            date: a.date.clone(),
            token: a.token,
            execution_id: a.execution_id.clone(),
            time: a.time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_bound_the_price() {
        let ask = |side, limit: Option<i64>| Ask {
            client_order_id: "a".into(),
            symbol: "A".into(),
            side,
            quantity: Decimal::ONE,
            limit_price: limit.map(Decimal::from),
            token: 1,
            attempt: 1,
            deadline: None,
            execution_id: "e".into(),
        };
        let close = Decimal::from(100);
        for (side, limit, filled) in [
            (Side::Buy, None, true),
            (Side::Buy, Some(100), true),
            (Side::Buy, Some(99), false),
            (Side::Sell, Some(100), true),
            (Side::Sell, Some(101), false),
        ] {
            assert_eq!(ask(side, limit).fill(close).is_some(), filled, "{side:?} {limit:?}");
        }
    }
}
