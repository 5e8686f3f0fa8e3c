//! Risk on the wire: what an action is about to consume, what came of it, and limits that were met.
//! Amounts are decimal texts; quantities are above zero, the side says which way.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::control::Scope;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The position grows.
    Buy,
    /// The position shrinks.
    Sell,
}

impl Side {
    /// A quantity as a change of the position.
    pub fn signed(self, quantity: Decimal) -> Decimal {
        match self {
            Self::Buy => quantity,
            Self::Sell => -quantity,
        }
    }
}

/// What an action is about to consume, at worst.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What is traded.
    pub symbol: String,
    /// Which way.
    pub side: Side,
    /// How much, above zero.
    pub quantity: Decimal,
    /// The highest price of one that it can be filled at; `None` if nothing bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Decimal>,
}

/// What an order came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Tells it from every other fill, also when it is told again: the order's idempotency key.
    pub id: String,
    /// The venue; empty if the node names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub venue: String,
    /// What was traded.
    pub symbol: String,
    /// Which way.
    pub side: Side,
    /// How much was filled: zero if the order was taken and nothing was.
    pub quantity: Decimal,
    /// The price of one.
    pub price: Decimal,
}

/// What a node's result says about risk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noted {
    /// An order was taken by its venue.
    Fill(Fill),
    /// An order was refused by its venue.
    Rejected {
        /// The venue; empty if the node names none.
        #[serde(default)]
        venue: String,
    },
    /// What something is worth now.
    Mark {
        /// What.
        symbol: String,
        /// The price of one.
        price: Decimal,
    },
    /// An action was allowed that came near a limit.
    Warned(Breach),
    /// An action was refused by a limit; nothing was sent.
    Refused(Breach),
}

/// A limit that was met, or nearly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breach {
    /// The rule's name, unique in its scope.
    pub rule: String,
    /// Whose limit it is.
    pub scope: Scope,
    /// What it limits, as `daily_loss`.
    pub kind: String,
    /// The limit.
    pub limit: Decimal,
    /// What is measured now. Of a refused action: before it.
    pub current: Decimal,
    /// Of a reservation: what this action would have come to, or came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Decimal>,
    /// What the limit is counted in: `money`, `percent`, `times`, `units`, `seconds`.
    pub unit: String,
    /// The level that the breach raises, if it raises one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raises: Option<String>,
    /// Whose level it raises, if that is not `scope`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Scope>,
}

impl Breach {
    /// One sentence for people, which names rule, limit, current and what was asked for.
    pub fn sentence(&self) -> String {
        let Self { rule, scope, kind, limit, current, unit, .. } = self;
        match self.asked {
            Some(asked) => {
                format!("rule `{rule}` of {scope} allows a {kind} of {limit} {unit}: it is {current} now and would be {asked}")
            }
            None => format!("rule `{rule}` of {scope} limits {kind} to {limit} {unit}: it is {current}"),
        }
    }
}
