//! Rules as people write them and as they are stored.

use haltline_types::{
    Millis, Timestamp,
    control::{Level, Scope},
    error::ApiError,
    ids::{check_id, token},
    limits::TEXT_BYTES_MAX,
    risk::Breach,
};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::day;

/// Rules of an installation: each reservation looks through those of its scopes, and what is watched is one record.
pub const RULES_MAX: usize = 200;
/// Longest window: what was spent is kept that long.
const WINDOW_MAX: Millis = Millis::secs(24 * 3600);
/// Shortest window.
const WINDOW_MIN: Millis = Millis::secs(1);
/// Largest limit: sums of a million of them still fit a decimal.
const LIMIT_MAX: Decimal = Decimal::from_parts(2_764_472_320, 232_830, 0, false, 0); // 10^15

/// What a rule limits. Of all of them more is worse: a loss is an amount above zero, and nobody guesses a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Money lost since the day began, open positions included.
    DailyLoss,
    /// Percent that the equity is below its highest.
    DrawdownPercent,
    /// Units of one symbol, bought or sold short.
    PositionSize,
    /// Money in positions, all symbols, bought or sold short.
    Exposure,
    /// Money traded within a window.
    NotionalPerWindow,
    /// Side effects within a minute.
    ActionsPerMinute,
    /// Executions that failed one after the other.
    ConsecutiveFailures,
    /// Percent of executions within a window that failed.
    FailureRate,
    /// Percent of orders within a window that the venue refused.
    OrderRejectRate,
    /// Seconds since a node gave something.
    StaleFeed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::DailyLoss,
        Self::DrawdownPercent,
        Self::PositionSize,
        Self::Exposure,
        Self::NotionalPerWindow,
        Self::ActionsPerMinute,
        Self::ConsecutiveFailures,
        Self::FailureRate,
        Self::OrderRejectRate,
        Self::StaleFeed,
    ];
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DailyLoss => "daily_loss",
            Self::DrawdownPercent => "drawdown_percent",
            Self::PositionSize => "position_size",
            Self::Exposure => "exposure",
            Self::NotionalPerWindow => "notional_per_window",
            Self::ActionsPerMinute => "actions_per_minute",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
            Self::OrderRejectRate => "order_reject_rate",
            Self::StaleFeed => "stale_feed",
        }
    }
    /// What its limit is counted in.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::DailyLoss | Self::Exposure | Self::NotionalPerWindow => "money",
            Self::DrawdownPercent | Self::FailureRate | Self::OrderRejectRate => "percent",
            Self::PositionSize => "units",
            Self::ActionsPerMinute | Self::ConsecutiveFailures => "times",
            Self::StaleFeed => "seconds",
        }
    }
    /// Whether actions reserve it before they happen. Its limit may be reached and not passed; the limit of what is
    /// watched breaches when it is reached.
    pub const fn reserves(self) -> bool {
        matches!(self, Self::PositionSize | Self::Exposure | Self::NotionalPerWindow | Self::ActionsPerMinute)
    }
    /// Whether it counts within a window.
    const fn has_window(self) -> bool {
        matches!(self, Self::NotionalPerWindow | Self::FailureRate | Self::OrderRejectRate)
    }
    /// Whether it counts the money of fills.
    pub(crate) const fn counts_money(self) -> bool {
        matches!(self, Self::DailyLoss | Self::DrawdownPercent)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|k| k.as_str() == text).ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}

/// What a breach leads to. An action that would exceed what it has to reserve is refused whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The action is refused, and nothing else: only for what is reserved.
    Refuse,
    /// Raises `alert`.
    Alert,
    /// Raises `reducing`.
    Reducing,
    /// Raises `halt`.
    Halt,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Refuse, Self::Alert, Self::Reducing, Self::Halt];
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Alert => "alert",
            Self::Reducing => "reducing",
            Self::Halt => "halt",
        }
    }
    /// The level it raises.
    pub const fn level(self) -> Option<Level> {
        match self {
            Self::Refuse => None,
            Self::Alert => Some(Level::Alert),
            Self::Reducing => Some(Level::Reducing),
            Self::Halt => Some(Level::Halt),
        }
    }
}

impl std::str::FromStr for Action {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|a| a.as_str() == text).ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}

fn is_default_warn(percent: &Decimal) -> bool {
    *percent == default_warn()
}
fn is_zero(n: &u64) -> bool {
    *n == 0
}
fn default_warn() -> Decimal {
    Decimal::from(80)
}

/// A limit. One line of JSON in the control bucket; `deny_unknown_fields`, since a misspelt limit would be none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in its scope.
    pub name: String,
    /// What it is about.
    pub scope: Scope,
    /// What it limits.
    pub kind: Kind,
    /// The limit, above zero: in money, percent, units, times or seconds, as the kind says.
    #[schemars(with = "String")]
    pub limit: Decimal,
    /// Percent of the limit from which on it warns; 100 for no warning.
    #[serde(default = "default_warn", skip_serializing_if = "is_default_warn")]
    #[schemars(with = "String")]
    pub warn_percent: Decimal,
    /// What a breach leads to.
    pub action: Action,
    /// Whose level a breach raises (default: the rule's scope).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Scope>,
    /// The window of `notional_per_window`, `failure_rate`, `order_reject_rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Millis>,
    /// Money that the scope began with, for `drawdown_percent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub capital: Option<Decimal>,
    /// The one symbol that `position_size` is about (default: each by itself).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub symbol: String,
    /// The node that `stale_feed` is about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// How many there must be in the window before a rate says anything (default 10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
    /// Where the day of `daily_loss` begins at midnight (default UTC).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub time_zone: String,
    /// The log's position when it was first stored: what came before counts for nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
    /// Who stored it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// The key of a rule in the control bucket: `risk.bot.alpha.daily_loss`.
pub fn rule_key(scope: &Scope, name: &str) -> String {
    format!("risk.{}.{}", scope.key().trim_start_matches("halt."), token(name))
}

impl Rule {
    /// A rule with nothing but what every rule has.
    pub fn new(scope: Scope, kind: Kind, limit: Decimal, action: Action) -> Self {
        Self {
            name: kind.as_str().to_owned(),
            scope,
            kind,
            limit,
            warn_percent: default_warn(),
            action,
            target: None,
            window: None,
            capital: None,
            symbol: String::new(),
            node: String::new(),
            samples: None,
            time_zone: String::new(),
            since: 0,
            by: String::new(),
            at: None,
        }
    }

    /// Its key in the control bucket.
    pub fn key(&self) -> String {
        rule_key(&self.scope, &self.name)
    }

    /// The first problem, by its field.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check(&self) -> Result<(), ApiError> {
        let kind = self.kind;
        let wrong = |field: &str, message: String| Err(ApiError::invalid(field, message));
        check_id(&self.name).map_err(|e| ApiError::invalid("name", e))?;
        if self.limit <= Decimal::ZERO || self.limit > LIMIT_MAX {
            let hint = if kind == Kind::DailyLoss { "; a loss is an amount above zero, as 500" } else { "" };
            return wrong("limit", format!("{} is not above zero and at most {LIMIT_MAX}{hint}", self.limit));
        }
        if kind.unit() == "percent" && self.limit > Decimal::ONE_HUNDRED {
            return wrong("limit", format!("{} is more than 100 percent", self.limit));
        }
        if kind.unit() == "times" && !self.limit.fract().is_zero() {
            return wrong("limit", format!("{} is no whole number", self.limit));
        }
        if self.warn_percent <= Decimal::ZERO || self.warn_percent > Decimal::ONE_HUNDRED {
            return wrong("warn_percent", format!("{} is not above zero and at most 100", self.warn_percent));
        }
        if self.action == Action::Refuse && !kind.reserves() {
            return wrong(
                "action",
                format!("`refuse` is for what actions reserve; {kind} is seen afterwards: write alert, reducing or halt"),
            );
        }
        match (kind.has_window(), self.window) {
            (true, None) => return wrong("window", format!("{kind} needs one, as 1h")),
            (true, Some(w)) if !(WINDOW_MIN..=WINDOW_MAX).contains(&w) => {
                return wrong("window", format!("{w} is not within {WINDOW_MIN} and {WINDOW_MAX}"));
            }
            (false, Some(_)) => return wrong("window", format!("{kind} has none")),
            _ => {}
        }
        match (kind, self.capital) {
            (Kind::DrawdownPercent, None) => return wrong("capital", format!("{kind} needs the money that the scope began with")),
            (Kind::DrawdownPercent, Some(c)) if c <= Decimal::ZERO || c > LIMIT_MAX => {
                return wrong("capital", format!("{c} is not above zero and at most {LIMIT_MAX}"));
            }
            (Kind::DrawdownPercent, _) | (_, None) => {}
            _ => return wrong("capital", format!("{kind} does not use it")),
        }
        let only = |set: bool, field: &str, of: &[Kind]| match !set || of.contains(&kind) {
            true => Ok(()),
            false => Err(ApiError::invalid(field, format!("{kind} does not use it"))),
        };
        only(!self.symbol.is_empty(), "symbol", &[Kind::PositionSize])?;
        only(!self.node.is_empty(), "node", &[Kind::StaleFeed])?;
        only(self.samples.is_some(), "samples", &[Kind::FailureRate, Kind::OrderRejectRate])?;
        only(!self.time_zone.is_empty(), "time_zone", &[Kind::DailyLoss])?;
        if kind == Kind::StaleFeed && self.node.is_empty() {
            return wrong("node", "stale_feed needs the id of the node that feeds".into());
        }
        if self.samples == Some(0) {
            return wrong("samples", "must be above zero".into());
        }
        day::zone(&self.time_zone).map_err(|e| ApiError::invalid("time_zone", e))?;
        if !kind.reserves() && !self.is_watchable() {
            return wrong(
                "scope",
                format!("{kind} cannot be told apart by {}: write global, strategy, bot or workflow", self.scope.kind()),
            );
        }
        if self.symbol.len() > TEXT_BYTES_MAX || self.by.len() > TEXT_BYTES_MAX {
            return wrong("symbol", "is too long".into());
        }
        Ok(())
    }

    /// Whether what it watches can be told apart by its scope: results name no node type, executions no venue.
    fn is_watchable(&self) -> bool {
        match self.scope {
            Scope::Global | Scope::Strategy(_) | Scope::Bot(_) | Scope::Workflow(_) => true,
            Scope::Venue(_) => self.kind.counts_money() || self.kind == Kind::OrderRejectRate,
            Scope::NodeType(_) => false,
        }
    }

    /// Whether `value` is near enough to the limit to warn.
    pub fn warns(&self, value: Decimal) -> bool {
        // Both are bounded, so this cannot overflow; if it did, it would be near enough.
        self.limit.checked_mul(self.warn_percent).is_none_or(|w| value.checked_mul(Decimal::ONE_HUNDRED).is_none_or(|v| v >= w))
    }

    /// What it counts within.
    pub fn window(&self) -> Millis {
        self.window.unwrap_or(Millis::secs(60))
    }

    /// A word about it, `current` being measured.
    pub fn breach(&self, current: Decimal, asked: Option<Decimal>) -> Breach {
        // Money and units are exact; of a quotient six places are enough to read.
        let places = if self.kind.unit() == "percent" { 6 } else { Decimal::MAX_SCALE };
        let current = current.round_dp(places);
        Breach {
            rule: self.name.clone(),
            scope: self.scope.clone(),
            kind: self.kind.as_str().to_owned(),
            limit: self.limit.normalize(),
            current: current.normalize(),
            asked: asked.map(|a| a.normalize()),
            unit: self.kind.unit().to_owned(),
            raises: self.action.level().map(|l| l.as_str().to_owned()),
            target: self.target.clone().filter(|t| *t != self.scope),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: Kind) -> Rule {
        let mut rule = Rule::new(Scope::Bot("b".into()), kind, Decimal::from(10), Action::Halt);
        if kind.has_window() {
            rule.window = Some(Millis::secs(3600));
        }
        if kind == Kind::DrawdownPercent {
            rule.capital = Some(Decimal::from(1000));
        }
        if kind == Kind::StaleFeed {
            rule.node = "price".into();
        }
        rule
    }

    #[test]
    fn each_problem_names_its_field() {
        for kind in Kind::ALL {
            assert_eq!(rule(kind).check(), Ok(()), "{kind}");
        }
        let field = |kind, change: &dyn Fn(&mut Rule)| {
            let mut rule = rule(kind);
            change(&mut rule);
            rule.check().err().and_then(|e| e.field).unwrap_or_default()
        };
        assert_eq!(field(Kind::DailyLoss, &|r| r.limit = Decimal::from(-500)), "limit");
        assert_eq!(field(Kind::FailureRate, &|r| r.limit = Decimal::from(101)), "limit");
        assert_eq!(field(Kind::ConsecutiveFailures, &|r| r.limit = Decimal::new(15, 1)), "limit");
        assert_eq!(field(Kind::DailyLoss, &|r| r.action = Action::Refuse), "action");
        assert_eq!(field(Kind::NotionalPerWindow, &|r| r.window = None), "window");
        assert_eq!(field(Kind::DailyLoss, &|r| r.window = Some(Millis::secs(60))), "window");
        assert_eq!(field(Kind::FailureRate, &|r| r.window = Some(Millis(1))), "window");
        assert_eq!(field(Kind::DrawdownPercent, &|r| r.capital = None), "capital");
        assert_eq!(field(Kind::DailyLoss, &|r| r.time_zone = "Mars/Olympus".into()), "time_zone");
        assert_eq!(field(Kind::StaleFeed, &|r| r.node.clear()), "node");
        assert_eq!(field(Kind::Exposure, &|r| r.symbol = "IBM".into()), "symbol");
        assert_eq!(field(Kind::FailureRate, &|r| r.scope = Scope::NodeType("http".into())), "scope");
        assert_eq!(field(Kind::Exposure, &|r| r.warn_percent = Decimal::ZERO), "warn_percent");
        assert_eq!(field(Kind::Exposure, &|r| r.name.clear()), "name");
        assert_eq!(rule(Kind::Exposure).key(), "risk.bot.b.exposure");
        assert_eq!(rule_key(&Scope::Global, "a.b"), "risk.global.a=2Eb");
        assert_eq!(LIMIT_MAX.to_string(), "1000000000000000");
    }
}
