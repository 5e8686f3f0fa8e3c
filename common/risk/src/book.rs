//! What the actions of one scope have reserved and spent: one record a scope, changed by
//! compare-and-swap before and after each action.
//!
//! What is reserved counts as if it had happened at its worst; what was settled counts as it came out. So at no time
//! is more spent than the rules allow, whichever process does it, and whatever dies in between.

use std::collections::{BTreeMap, VecDeque};

use haltline_types::{
    Timestamp, ids,
    risk::{Breach, Fill, Order, Side},
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::rule::{Kind, Rule};

/// Amounts kept one by one within the longest window; above it the oldest two become one that counts as long as
/// the younger one: never too short.
const SPENT_MAX: usize = 512;
/// Keys of settled actions that are remembered, so that one told twice counts once.
const SETTLED_MAX: usize = 1024;
/// Symbols of one scope; a further one is refused.
const SYMBOLS_MAX: usize = 500;
/// Actions of one scope that are reserved at once; a further one is refused. With the rest, a record stays below 400 KB.
pub const OPEN_MAX: usize = 1000;

/// A position as it was filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Units, below zero if sold short.
    pub quantity: Decimal,
    /// The last price.
    pub price: Decimal,
}

/// What an action has reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// When.
    pub at: Timestamp,
    /// The execution.
    pub execution_id: String,
    /// The node.
    pub node_id: String,
    /// The order, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// What was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// When, at the latest.
    pub at: Timestamp,
    /// Money traded.
    pub notional: Decimal,
    /// How many actions.
    pub actions: u32,
}

/// The record of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Book {
    /// Revision of the rule of this scope that was changed last: who knows older ones only must not reserve by them.
    pub rules: u64,
    /// Positions by symbol.
    pub positions: BTreeMap<String, Position>,
    /// Reserved and not settled, by the effect's key.
    pub open: BTreeMap<String, Open>,
    /// Spent within the longest window, oldest first.
    pub spent: VecDeque<Spent>,
    /// Digests of the keys that were settled last.
    pub settled: VecDeque<String>,
}

/// Why nothing can be reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A rule.
    Limit(Box<Breach>),
    /// A rule that counts money, and the order has no price that bounds it.
    NoPrice(String),
    /// The rules are older than those that the scope has now.
    Behind,
    /// The record has no room, or an amount no decimal form.
    Full(String),
}

impl Book {
    /// Reserves what the action with `key` needs, if `rules` allow it; what came near a limit. The same key again
    /// changes nothing. With `bound` false it is counted and never refused, as of what only takes risk away.
    ///
    /// # Errors
    /// The first rule that it would exceed. Nothing is changed then.
    pub fn reserve(&mut self, rules: &[&Rule], key: &str, wanted: Open, bound: bool) -> Result<Vec<Breach>, Denied> {
        if self.open.contains_key(key) || self.is_settled(key) {
            return Ok(Vec::new());
        }
        let now = self.now(wanted.at);
        if self.open.len() >= OPEN_MAX {
            return Err(Denied::Full(format!("{OPEN_MAX} actions of this scope are reserved and not settled")));
        }
        if let Some(order) = &wanted.order
            && !self.positions.contains_key(&order.symbol)
            && self.symbols() >= SYMBOLS_MAX
        {
            return Err(Denied::Full(format!("this scope has {SYMBOLS_MAX} symbols already")));
        }
        let mut near = Vec::new();
        let mut after = self.clone();
        after.open.insert(key.to_owned(), Open { at: now, ..wanted.clone() });
        for rule in rules.iter().filter(|r| r.kind.reserves()) {
            let order = wanted.order.as_ref();
            if order.is_none() && rule.kind != Kind::ActionsPerMinute {
                continue;
            }
            let needs_price = matches!(rule.kind, Kind::Exposure | Kind::NotionalPerWindow);
            if bound && needs_price && order.is_some_and(|o| o.price.is_none()) {
                return Err(Denied::NoPrice(format!("rule `{}` of {} limits money", rule.name, rule.scope)));
            }
            let amount = |book: &Self| book.measure(rule, order, now).ok_or_else(|| Denied::Full("an amount is out of range".into()));
            let (current, asked) = (amount(self)?, amount(&after)?);
            // What does not make it worse is let through: a limit that was lowered must not keep anyone in a position.
            if bound && asked > rule.limit && asked > current {
                return Err(Denied::Limit(Box::new(rule.breach(current, Some(asked)))));
            }
            if rule.warns(asked) && !rule.warns(current) {
                near.push(rule.breach(current, Some(asked)));
            }
        }
        *self = after;
        Ok(near)
    }

    /// The action happened: what it reserved becomes what it came to. `None` if it was no order. Also without a
    /// reservation, as of a scope that had no rule when the action began. The same again changes nothing.
    pub fn settle(&mut self, key: &str, fill: Option<&Fill>, at: Timestamp) {
        if self.is_settled(key) {
            return;
        }
        let now = self.now(at);
        self.open.remove(key);
        self.settled.push_back(ids::digest(key.as_bytes()));
        while self.settled.len() > SETTLED_MAX {
            self.settled.pop_front();
        }
        let mut notional = Decimal::ZERO;
        if let Some(fill) = fill.filter(|f| !f.quantity.is_zero()) {
            notional = fill.quantity.checked_mul(fill.price).unwrap_or(Decimal::MAX);
            let position = self.positions.entry(fill.symbol.clone()).or_default();
            position.quantity = position.quantity.saturating_add(fill.side.signed(fill.quantity));
            position.price = fill.price;
        }
        self.spent.push_back(Spent { at: now, notional, actions: 1 });
        if self.spent.len() > SPENT_MAX
            && let (Some(a), Some(b)) = (self.spent.pop_front(), self.spent.front_mut())
        {
            *b = Spent { at: b.at, notional: a.notional.saturating_add(b.notional), actions: a.actions.saturating_add(b.actions) };
        }
    }

    /// The action certainly did not happen: what it reserved is free again.
    pub fn release(&mut self, key: &str) -> bool {
        self.open.remove(key).is_some()
    }

    /// Whether the action with `key` was settled, as far as that is remembered.
    pub fn is_settled(&self, key: &str) -> bool {
        let digest = ids::digest(key.as_bytes());
        self.settled.iter().any(|s| *s == digest)
    }

    /// Forgets what lies outside of `window_ms`, and positions that are none.
    pub fn prune(&mut self, window_ms: u64, at: Timestamp) {
        let now = self.now(at);
        while self.spent.front().is_some_and(|s| now.millis_since(s.at) > window_ms) {
            self.spent.pop_front();
        }
        let open = &self.open;
        self.positions
            .retain(|symbol, p| !p.quantity.is_zero() || open.values().any(|o| o.order.as_ref().is_some_and(|o| o.symbol == *symbol)));
    }

    /// How much of a rule's limit is taken now; `None` out of range.
    pub fn used(&self, rule: &Rule, now: Timestamp) -> Option<Decimal> {
        self.measure(rule, None, self.now(now))
    }

    /// Processes' clocks differ: time does not go back here.
    fn now(&self, at: Timestamp) -> Timestamp {
        self.spent.back().map_or(at, |s| s.at.max(at))
    }

    /// What a rule measures, with all that is reserved at its worst. `order` says which symbol and side it is about.
    fn measure(&self, rule: &Rule, order: Option<&Order>, now: Timestamp) -> Option<Decimal> {
        let window = rule.window().0;
        let recent = self.spent.iter().filter(|s| now.millis_since(s.at) < window);
        match rule.kind {
            Kind::ActionsPerMinute => {
                let spent: u64 = recent.map(|s| u64::from(s.actions)).sum();
                Some(Decimal::from(spent + self.open.len() as u64))
            }
            Kind::NotionalPerWindow => {
                let spent = recent.map(|s| Some(s.notional));
                spent.chain(self.orders().map(notional)).try_fold(Decimal::ZERO, |sum, n| sum.checked_add(n?))
            }
            Kind::Exposure => self.symbol_names().try_fold(Decimal::ZERO, |sum, symbol| sum.checked_add(self.worth(symbol)?)),
            Kind::PositionSize => match order {
                Some(o) if !rule.symbol.is_empty() && rule.symbol != o.symbol => Some(Decimal::ZERO),
                Some(o) => self.reach(&o.symbol, o.side),
                None => {
                    let names = self.symbol_names().filter(|s| rule.symbol.is_empty() || rule.symbol == **s);
                    names
                        .flat_map(|s| [self.reach(s, Side::Buy), self.reach(s, Side::Sell)])
                        .try_fold(Decimal::ZERO, |m, r| Some(m.max(r?)))
                }
            },
            Kind::DailyLoss
            | Kind::DrawdownPercent
            | Kind::ConsecutiveFailures
            | Kind::FailureRate
            | Kind::OrderRejectRate
            | Kind::StaleFeed => None,
        }
    }

    fn orders(&self) -> impl Iterator<Item = &Order> {
        self.open.values().filter_map(|o| o.order.as_ref())
    }

    fn symbol_names(&self) -> impl Iterator<Item = &String> {
        let open = self.orders().map(|o| &o.symbol).filter(|s| !self.positions.contains_key(*s));
        self.positions.keys().chain(open.collect::<std::collections::BTreeSet<_>>())
    }

    fn symbols(&self) -> usize {
        self.symbol_names().count()
    }

    /// How far the position can reach to that side, all orders of the side filled and none of the other.
    fn reach(&self, symbol: &str, side: Side) -> Option<Decimal> {
        let held = self.positions.get(symbol).map_or(Decimal::ZERO, |p| p.quantity);
        let mut orders = self.orders().filter(|o| o.symbol == symbol && o.side == side);
        let sum = orders.try_fold(Decimal::ZERO, |sum, o| sum.checked_add(o.quantity))?;
        Some(side.signed(held).checked_add(sum)?.max(Decimal::ZERO))
    }

    /// What the position of a symbol can be worth at most, bought or sold short.
    fn worth(&self, symbol: &str) -> Option<Decimal> {
        let held = self.positions.get(symbol).copied().unwrap_or_default();
        let value = held.quantity.checked_mul(held.price)?;
        let side = |side: Side| {
            let orders = self.orders().filter(|o| o.symbol == symbol && o.side == side);
            let sum = orders.map(notional).try_fold(Decimal::ZERO, |sum, n| sum.checked_add(n?))?;
            side.signed(value).checked_add(sum)
        };
        Some(side(Side::Buy)?.max(side(Side::Sell)?).max(Decimal::ZERO))
    }
}

/// What an order costs at worst; nothing where nothing bounds it, which only an order has that is not bound by rules.
fn notional(order: &Order) -> Option<Decimal> {
    order.price.map_or(Some(Decimal::ZERO), |p| p.checked_mul(order.quantity))
}

#[cfg(test)]
mod tests {
    use haltline_types::{Millis, control::Scope};
    use proptest::prelude::*;

    use super::*;
    use crate::rule::Action;

    fn rule(kind: Kind, limit: i64) -> Rule {
        let window = (kind == Kind::NotionalPerWindow).then_some(Millis::secs(60));
        Rule { window, ..Rule::new(Scope::Global, kind, Decimal::from(limit), Action::Refuse) }
    }
    fn open(side: Side, quantity: i64, price: i64, at: i64) -> Open {
        let order = Order { symbol: "IBM".into(), side, quantity: quantity.into(), price: Some(price.into()) };
        Open { at: Timestamp(at), execution_id: "e".into(), node_id: "n".into(), order: Some(order) }
    }
    fn fill(key: &str, side: Side, quantity: i64, price: i64) -> Fill {
        Fill { id: key.into(), venue: String::new(), symbol: "IBM".into(), side, quantity: quantity.into(), price: price.into() }
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_settled_or_released() {
        let notional = rule(Kind::NotionalPerWindow, 1000);
        let mut book = Book::default();
        let ask = |book: &mut Book, key: &str, quantity, at| book.reserve(&[&notional], key, open(Side::Buy, quantity, 100, at), true);
        assert_eq!(ask(&mut book, "a", 6, 0), Ok(vec![]));
        assert_eq!(ask(&mut book, "a", 6, 0), Ok(vec![]), "the same key reserves once");
        let Err(Denied::Limit(breach)) = ask(&mut book, "b", 5, 0) else { panic!("not refused") };
        assert_eq!((breach.current, breach.asked, breach.limit), (600.into(), Some(1100.into()), 1000.into()));
        assert!(breach.sentence().contains("notional_per_window of 1000 money: it is 600 now and would be 1100"), "{}", breach.sentence());
        // 1000 is reached and not passed; and from 80 percent on it warns, once.
        let near = ask(&mut book, "c", 4, 0).expect("allowed");
        assert_eq!(near.len(), 1);
        assert_eq!(near[0].asked, Some(1000.into()));
        assert!(book.release("c") && !book.release("c"));
        // Filled cheaper than reserved: the rest is free again.
        book.settle("a", Some(&fill("a", Side::Buy, 6, 50)), Timestamp(10));
        assert!(ask(&mut book, "d", 8, 10).is_err());
        assert!(ask(&mut book, "d", 7, 10).is_ok());
        assert_eq!(book.used(&notional, Timestamp(10)), Some(1000.into()));
        book.release("d");
        // The window moves on.
        assert!(ask(&mut book, "e", 10, 60_009).is_err());
        assert!(ask(&mut book, "e", 10, 60_010).is_ok());
        assert_eq!(ask(&mut book, "a", 6, 60_010), Ok(vec![]), "it was settled: nothing is reserved for it again");
        assert!(!book.open.contains_key("a"));
    }

    #[test]
    fn positions_count_orders_of_their_side_and_may_always_shrink() {
        let position = rule(Kind::PositionSize, 10);
        let mut book = Book::default();
        let mut n = 0;
        let mut ask = |book: &mut Book, rule: &Rule, side, quantity| {
            n += 1;
            book.reserve(&[rule], &n.to_string(), open(side, quantity, 1, 0), true).is_ok()
        };
        assert!(ask(&mut book, &position, Side::Buy, 10));
        assert!(!ask(&mut book, &position, Side::Buy, 1));
        // Working orders of the other side do not make room: they may not be filled.
        assert!(ask(&mut book, &position, Side::Sell, 10));
        assert!(!ask(&mut book, &position, Side::Sell, 1));
        book.settle("1", Some(&fill("1", Side::Buy, 10, 1)), Timestamp(0));
        assert!(ask(&mut book, &position, Side::Sell, 10));
        // A limit that was lowered keeps nobody in.
        let lower = rule(Kind::PositionSize, 2);
        let mut book = Book::default();
        book.settle("x", Some(&fill("x", Side::Buy, 10, 1)), Timestamp(0));
        assert!(ask(&mut book, &lower, Side::Sell, 3));
        assert!(!ask(&mut book, &lower, Side::Buy, 1));
        assert!(!ask(&mut book, &lower, Side::Sell, 10), "through zero to the other side");
    }

    #[test]
    fn money_needs_a_price() {
        let mut wanted = open(Side::Buy, 1, 1, 0);
        if let Some(o) = &mut wanted.order {
            o.price = None;
        }
        let denied = Book::default().reserve(&[&rule(Kind::Exposure, 10)], "a", wanted.clone(), true);
        assert!(matches!(denied, Err(Denied::NoPrice(_))), "{denied:?}");
        assert!(Book::default().reserve(&[&rule(Kind::PositionSize, 10)], "a", wanted, true).is_ok());
    }

    #[test]
    fn what_is_merged_counts_longer_not_shorter() {
        let mut book = Book::default();
        let actions = rule(Kind::ActionsPerMinute, 1_000_000);
        for i in 0..2000 {
            book.settle(&i.to_string(), None, Timestamp(i));
        }
        assert_eq!(book.spent.len(), SPENT_MAX);
        assert_eq!(book.used(&actions, Timestamp(2000)), Some(2000.into()));
        assert!(book.settled.len() <= SETTLED_MAX);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve {
            key: u8,
            side: Side,
            quantity: u8,
            price: u8,
        },
        /// Filled by so many percent, at so many percent of the price.
        Settle {
            key: u8,
            filled: u8,
            better: u8,
        },
        Release {
            key: u8,
        },
        Time(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let side = prop_oneof![Just(Side::Buy), Just(Side::Sell)];
        prop_oneof![
            4 => (any::<u8>(), side, 1..40u8, 1..200u8).prop_map(|(key, side, quantity, price)| Step::Reserve { key, side, quantity, price }),
            2 => (any::<u8>(), 0..=100u8, 0..=100u8).prop_map(|(key, filled, better)| Step::Settle { key, filled, better }),
            1 => any::<u8>().prop_map(|key| Step::Release { key }),
            1 => (0..30_000u16).prop_map(Step::Time),
        ]
    }

    proptest! {
        /// Whatever is asked for, filled, released and repeated: what was filled never passes a limit, counted
        /// here from the fills alone.
        #[test]
        fn limits_are_never_passed(steps in prop::collection::vec(step(), 1..120)) {
            let rules = [rule(Kind::NotionalPerWindow, 5000), rule(Kind::PositionSize, 50), rule(Kind::ActionsPerMinute, 12)];
            let all: Vec<&Rule> = rules.iter().collect();
            let (mut book, mut now) = (Book::default(), 0i64);
            let mut reserved: BTreeMap<u8, (Side, i64, i64)> = BTreeMap::new();
            let mut filled: Vec<(i64, Decimal)> = Vec::new();
            let (mut seen, mut held) = (std::collections::BTreeSet::new(), Decimal::ZERO);
            for step in steps {
                match step {
                    Step::Time(ms) => now += i64::from(ms),
                    Step::Reserve { key, side, quantity, price } => {
                        let (q, p) = (i64::from(quantity), i64::from(price));
                        let known = seen.contains(&key) || reserved.contains_key(&key);
                        let before = book.clone();
                        let asked = book.reserve(&all, &key.to_string(), open(side, q, p, now), true);
                        if known || asked.is_err() {
                            prop_assert_eq!(&before, &book);
                        } else {
                            reserved.insert(key, (side, q, p));
                        }
                    }
                    Step::Settle { key, filled: part, better } => {
                        let Some((side, q, p)) = reserved.remove(&key) else { continue };
                        let quantity = Decimal::from(q) * Decimal::from(part) / Decimal::ONE_HUNDRED;
                        let price = Decimal::from(p) * Decimal::from(better) / Decimal::ONE_HUNDRED;
                        let mut f = fill(&key.to_string(), side, 1, 1);
                        (f.quantity, f.price) = (quantity, price);
                        for _ in 0..2 {
                            book.settle(&key.to_string(), Some(&f), Timestamp(now));
                        }
                        seen.insert(key);
                        filled.push((now, quantity * price));
                        held += side.signed(quantity);
                    }
                    Step::Release { key } => {
                        reserved.remove(&key);
                        book.release(&key.to_string());
                    }
                }
                book.prune(60_000, Timestamp(now));
                let recent: Vec<&(i64, Decimal)> = filled.iter().filter(|(at, _)| now - at < 60_000).collect();
                prop_assert!(recent.iter().map(|(_, n)| *n).sum::<Decimal>() <= Decimal::from(5000));
                prop_assert!(recent.len() <= 12);
                prop_assert!(held.abs() <= Decimal::from(50));
                let stored: Book = serde_json::from_str(&serde_json::to_string(&book).expect("json")).expect("book");
                prop_assert_eq!(&stored, &book);
            }
        }
    }
}
