//! What outcomes show: a state for each rule that is watched, moved by the log's messages and by time.
//!
//! One reader follows the log and stores this with its position in it, by compare-and-swap, so that each
//! outcome counts once, whoever reads. What is told again under the same id counts once as well.

use std::collections::{BTreeMap, VecDeque};

use haltline_types::{
    Timestamp,
    control::Scope,
    event::{Event, EventType},
    ids,
    risk::{Breach, Fill, Noted},
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{
    day,
    rule::{Kind, Rule},
};

/// Ids of outcomes that are remembered, so that one told twice counts once.
const SEEN_MAX: usize = 2048;
/// Parts of a window in which outcomes are counted together.
const PARTS: u64 = 60;
/// Symbols of one rule; a further one makes its money uncountable, which counts as a breach.
const SYMBOLS_MAX: usize = 200;

/// What a rule's state moves by.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A message of the log, with the server's time of storing it.
    Event(&'a Event, Timestamp),
    /// Time passes.
    Tick(Timestamp),
}

/// What is to be said about a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It came near its limit.
    Warning,
    /// It reached its limit.
    Breached,
    /// It had reached its limit before, and does so still after a further outcome: said again, so that a
    /// level that was lowered meanwhile is raised again.
    Still,
}

/// A word about a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which word.
    pub word: Word,
    /// The rule, its limit, what is measured.
    pub breach: Breach,
    /// What it followed from: an event's id, or a time.
    pub by: String,
}

/// The state of all rules that are watched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watched {
    /// The log was read up to here.
    pub log: u64,
    /// States by the rule's key.
    pub rules: BTreeMap<String, State>,
    /// Digests of outcomes seen last.
    pub seen: VecDeque<String>,
}

/// The state of one rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What it is a state of: a rule that becomes one of another kind begins anew.
    pub kind: Kind,
    /// What is measured now.
    #[serde(default)]
    pub value: Decimal,
    /// It warned and has not come down since.
    #[serde(default)]
    pub warned: bool,
    /// It breached and has not come down since.
    #[serde(default)]
    pub breached: bool,
    /// What it counts.
    pub counts: Counts,
}

/// What a rule counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// Fills, and what they are worth.
    Money(Money),
    /// Executions that failed one after the other.
    Streak(u64),
    /// Good and bad outcomes within a window, by the time at which their part of it began.
    Rate(VecDeque<(Timestamp, u64, u64)>),
    /// When a node gave something last; before it did, when the rule was stored.
    Feed(Timestamp),
}

/// What fills came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Money {
    /// Money got less money paid.
    pub cash: Decimal,
    /// Units and last price by symbol.
    pub positions: BTreeMap<String, (Decimal, Decimal)>,
    /// The highest that profit has been.
    pub peak: Decimal,
    /// The day that `day_start` is about.
    pub day: String,
    /// Profit at the beginning of the day.
    pub day_start: Decimal,
    /// Something could not be counted: the rule counts as breached.
    pub lost: bool,
}

impl Money {
    fn fill(&mut self, fill: &Fill) -> Option<()> {
        if fill.quantity.is_zero() {
            return Some(());
        }
        if !self.positions.contains_key(&fill.symbol) && self.positions.len() >= SYMBOLS_MAX {
            return None;
        }
        let change = fill.side.signed(fill.quantity);
        self.cash = self.cash.checked_sub(change.checked_mul(fill.price)?)?;
        let (quantity, price) = self.positions.entry(fill.symbol.clone()).or_default();
        (*quantity, *price) = (quantity.checked_add(change)?, fill.price);
        if quantity.is_zero() {
            self.positions.remove(&fill.symbol);
        }
        Some(())
    }

    fn mark(&mut self, symbol: &str, price: Decimal) {
        if let Some((_, last)) = self.positions.get_mut(symbol) {
            *last = price;
        }
    }

    /// Profit so far, open positions at their last price.
    pub fn profit(&self) -> Option<Decimal> {
        self.positions.values().try_fold(self.cash, |sum, (quantity, price)| sum.checked_add(quantity.checked_mul(*price)?))
    }
}

impl State {
    fn new(rule: &Rule, at: Timestamp) -> Self {
        let counts = match rule.kind {
            Kind::ConsecutiveFailures => Counts::Streak(0),
            Kind::FailureRate | Kind::OrderRejectRate => Counts::Rate(VecDeque::new()),
            Kind::StaleFeed => Counts::Feed(rule.at.unwrap_or(at)),
            _ => Counts::Money(Money::default()),
        };
        Self { kind: rule.kind, value: Decimal::ZERO, warned: false, breached: false, counts }
    }

    /// Takes in an outcome; whether it was about this rule.
    fn take(&mut self, rule: &Rule, event: &Event, at: Timestamp) -> bool {
        let orders = || event.risk.iter().filter(|n| is_of_venue(rule, n));
        match &mut self.counts {
            Counts::Money(money) => {
                let before = money.clone();
                // The day that has begun starts with what the last one ended with.
                money.roll(rule, at);
                let mut about = false;
                for noted in orders() {
                    match noted {
                        Noted::Fill(fill) => {
                            about = true;
                            if money.fill(fill).is_none() {
                                money.lost = true;
                            }
                        }
                        Noted::Mark { symbol, price } => money.mark(symbol, *price),
                        Noted::Rejected { .. } | Noted::Warned(_) | Noted::Refused(_) => {}
                    }
                }
                about || before != *money
            }
            Counts::Streak(failures) => match outcome(event.kind) {
                Some(true) => std::mem::take(failures) > 0,
                Some(false) => {
                    *failures += 1;
                    true
                }
                None => false,
            },
            Counts::Rate(parts) => {
                let (mut good, mut bad) = (0, 0);
                if rule.kind == Kind::FailureRate {
                    match outcome(event.kind) {
                        Some(true) => good = 1,
                        Some(false) => bad = 1,
                        None => {}
                    }
                } else {
                    good = orders().filter(|n| matches!(n, Noted::Fill(_))).count() as u64;
                    bad = orders().filter(|n| matches!(n, Noted::Rejected { .. })).count() as u64;
                }
                count(parts, rule.window().0, at, good, bad);
                good + bad > 0
            }
            Counts::Feed(last) => {
                let fed = event.kind == EventType::NodeCompleted && event.node_id.as_deref() == Some(&rule.node);
                if fed {
                    *last = at.max(*last);
                }
                fed
            }
        }
    }

    /// What is measured; `None` if it cannot be counted any more.
    fn measure(&mut self, rule: &Rule, at: Timestamp) -> Option<Decimal> {
        match &mut self.counts {
            Counts::Money(money) => {
                money.roll(rule, at);
                let profit = money.profit().filter(|_| !money.lost)?;
                money.peak = money.peak.max(profit);
                if rule.kind == Kind::DailyLoss {
                    return Some(money.day_start.checked_sub(profit)?.max(Decimal::ZERO));
                }
                let highest = rule.capital?.checked_add(money.peak)?;
                money.peak.checked_sub(profit)?.checked_mul(Decimal::ONE_HUNDRED)?.checked_div(highest)
            }
            Counts::Streak(failures) => Some(Decimal::from(*failures)),
            Counts::Rate(parts) => {
                count(parts, rule.window().0, at, 0, 0);
                let (good, bad) = parts.iter().fold((0, 0), |(g, b), (_, good, bad)| (g + good, b + bad));
                let all: u64 = good + bad;
                if all < u64::from(rule.samples.unwrap_or(10)) {
                    return Some(Decimal::ZERO);
                }
                Decimal::from(bad * 100).checked_div(Decimal::from(all))
            }
            Counts::Feed(last) => Some(Decimal::from(at.millis_since(*last) / 1000)),
        }
    }

    /// What is to be said after an outcome, or after time passed.
    fn judge(&mut self, rule: &Rule, at: Timestamp, about: bool) -> Option<(Word, Breach)> {
        let measured = self.measure(rule, at);
        // What cannot be counted is not known to be within its limit.
        self.value = measured.unwrap_or(Decimal::MAX);
        let breached = self.value >= rule.limit;
        let warns = rule.warns(self.value);
        let word = match (breached, self.breached) {
            (true, false) => Some(Word::Breached),
            (true, true) if about => Some(Word::Still),
            (false, _) if warns && !self.warned => Some(Word::Warning),
            _ => None,
        };
        (self.breached, self.warned) = (breached, warns);
        word.map(|word| (word, rule.breach(self.value, None)))
    }
}

impl Money {
    fn roll(&mut self, rule: &Rule, at: Timestamp) {
        if rule.kind != Kind::DailyLoss {
            return;
        }
        let today = day::day(at, &rule.time_zone);
        // Days do not go back: messages may be stored a little out of the order of their times.
        if today > self.day {
            self.day = today;
            self.day_start = self.profit().unwrap_or(self.day_start);
        }
    }
}

/// Whether an execution ended well (`true`) or failed; a halt or a cancel is neither.
fn outcome(kind: EventType) -> Option<bool> {
    match kind {
        EventType::ExecutionCompleted => Some(true),
        EventType::ExecutionFailed | EventType::ExecutionTimedOut => Some(false),
        _ => None,
    }
}

fn is_of_venue(rule: &Rule, noted: &Noted) -> bool {
    match (&rule.scope, noted) {
        (Scope::Venue(id), Noted::Fill(fill)) => fill.venue == *id,
        (Scope::Venue(id), Noted::Rejected { venue }) => venue == id,
        _ => true,
    }
}

/// Whether an event is about the scope of a rule.
fn is_of(scope: &Scope, event: &Event) -> bool {
    match scope {
        Scope::Global | Scope::Venue(_) => true,
        Scope::Strategy(id) => event.strategy_id == *id,
        Scope::Bot(id) => event.bot_id == *id,
        Scope::Workflow(id) => event.workflow_id == *id,
        Scope::NodeType(_) => false,
    }
}

fn count(parts: &mut VecDeque<(Timestamp, u64, u64)>, window: u64, at: Timestamp, good: u64, bad: u64) {
    let part = (window / PARTS).max(1);
    let began = Timestamp(at.0 - at.0.rem_euclid(part as i64));
    if good + bad > 0 {
        match parts.back_mut().filter(|(last, ..)| *last >= began) {
            Some((_, g, b)) => (*g, *b) = (*g + good, *b + bad),
            None => parts.push_back((began, good, bad)),
        }
    }
    // A part is left out once all of it is older than the window.
    while parts.front().is_some_and(|(began, ..)| at.millis_since(*began) > window + part) {
        parts.pop_front();
    }
}

impl Watched {
    /// Takes in what happened; what is to be said.
    pub fn apply(&mut self, rules: &BTreeMap<String, Rule>, input: Input) -> Vec<Verdict> {
        let (at, event) = match input {
            Input::Event(event, at) => (at, Some(event)),
            Input::Tick(at) => (at, None),
        };
        let by = event.map_or_else(|| at.to_string(), |e| e.id.clone());
        self.rules.retain(|key, _| rules.get(key).is_some_and(|r| !r.kind.reserves()));
        let event = event.filter(|e| !counts(e) || !self.has_seen(e));
        let mut verdicts = Vec::new();
        for (key, rule) in rules.iter().filter(|(_, r)| !r.kind.reserves()) {
            let state = self.rules.entry(key.clone()).or_insert_with(|| State::new(rule, at));
            if state.kind != rule.kind {
                *state = State::new(rule, at);
            }
            let about = event.filter(|e| is_of(&rule.scope, e)).is_some_and(|e| state.take(rule, e, at));
            // Most events are about nothing; time is looked at by ticks.
            if about || matches!(input, Input::Tick(_)) {
                verdicts.extend(state.judge(rule, at, about).map(|(word, breach)| Verdict { word, breach, by: by.clone() }));
            }
        }
        let refused = event.into_iter().flat_map(|e| &e.risk).filter_map(|noted| match noted {
            Noted::Warned(breach) => Some((Word::Warning, breach)),
            Noted::Refused(breach) => Some((Word::Breached, breach)),
            Noted::Fill(_) | Noted::Rejected { .. } | Noted::Mark { .. } => None,
        });
        verdicts.extend(refused.map(|(word, breach)| Verdict { word, breach: breach.clone(), by: by.clone() }));
        verdicts
    }

    /// Whether an outcome with that id was seen, as far as that is remembered; from now on it was. A fill is known by
    /// its own id: two results may tell of it.
    fn has_seen(&mut self, event: &Event) -> bool {
        let fill = event.risk.iter().find_map(|n| if let Noted::Fill(fill) = n { Some(format!("fill/{}", fill.id)) } else { None });
        let id = ids::digest(fill.as_deref().unwrap_or(&event.id).as_bytes());
        if self.seen.contains(&id) {
            return true;
        }
        self.seen.push_back(id);
        while self.seen.len() > SEEN_MAX {
            self.seen.pop_front();
        }
        false
    }
}

/// Whether an event counts something, and so may count once only. That a feed lives may be told twice.
fn counts(event: &Event) -> bool {
    event.kind.is_terminal() || !event.risk.is_empty()
}

#[cfg(test)]
mod tests;
