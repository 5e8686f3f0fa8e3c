//! Risk limits: rules as data, what actions reserve before they happen, and what outcomes show.
//!
//! Two kinds of limits, because they can promise different things. What an action itself consumes
//! (notional, position, exposure, actions per minute) is **reserved** in its scope's [`Book`] before
//! the action: never exceeded. What outcomes show (loss, drawdown, failures, rejects, a stale feed) is
//! **watched** in [`Watched`]: it trips once it has happened.
//!
//! Pure: time comes with the inputs, and the same inputs lead to the same state anywhere.

mod book;
mod day;
mod heartbeat;
mod rule;
mod watched;

pub use book::{Book, Denied, Open};
pub use heartbeat::Heartbeat;
pub use rule::{Action, Kind, RULES_MAX, Rule, rule_key};
pub use watched::{Input, Verdict, Watched, Word};
