//! `haltline risk set`.

use std::path::PathBuf;

use haltline_common::{
    Link, risk,
    types::{
        Millis,
        control::Scope,
        error::{ApiError, Code},
    },
};
use haltline_risk::{Action, Kind, Rule};
use rust_decimal::Decimal;
use serde_json::json;

use crate::{commands::Context, output, read};

/// The rule, by flags or from a file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// daily_loss, drawdown_percent, position_size, exposure, notional_per_window, actions_per_minute, consecutive_failures, failure_rate, order_reject_rate or stale_feed
    #[arg(required_unless_present = "file")]
    kind: Option<Kind>,
    /// What it is about: global, or a kind and an id, as bot:b1
    #[arg(long, value_name = "SCOPE", required_unless_present = "file")]
    scope: Option<Scope>,
    /// The limit, above zero: money, percent, units, times, or for stale_feed a duration as 30s
    #[arg(long, value_name = "LIMIT", required_unless_present = "file", allow_hyphen_values = true)]
    limit: Option<String>,
    /// Its name, unique in the scope [default: the kind]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What a breach leads to: refuse (only the action), alert, reducing or halt [default: refuse for what is reserved, else halt]
    #[arg(long, value_name = "ACTION")]
    action: Option<Action>,
    /// Whose level a breach raises [default: the rule's scope]
    #[arg(long, value_name = "SCOPE")]
    target: Option<Scope>,
    /// Percent of the limit from which on it warns; 100 for no warning [default: 80]
    #[arg(long, value_name = "PERCENT")]
    warn: Option<Decimal>,
    /// The window of notional_per_window, failure_rate and order_reject_rate, as 1h
    #[arg(long, value_name = "DURATION")]
    window: Option<Millis>,
    /// Money that the scope began with, for drawdown_percent
    #[arg(long, value_name = "MONEY")]
    capital: Option<Decimal>,
    /// The one symbol of position_size [default: each by itself]
    #[arg(long, value_name = "SYMBOL")]
    symbol: Option<String>,
    /// The node that stale_feed is about
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// How many there must be in the window before a rate says anything [default: 10]
    #[arg(long, value_name = "N")]
    samples: Option<u32>,
    /// Where the day of daily_loss begins at midnight, as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// A rule as JSON instead of flags; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "scope", "limit", "name", "action", "target", "warn", "window", "capital", "symbol", "node", "samples", "time_zone"])]
    file: Option<PathBuf>,
    /// Who [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Args {
    fn rule(self) -> Result<Rule, ApiError> {
        let by = read::by(self.by);
        if let Some(file) = &self.file {
            let rule = serde_json::from_str::<Rule>(&read::file(file)?);
            let malformed = |e| ApiError::new(Code::Invalid, format!("{}: {e}", file.display()));
            return Ok(Rule { by, ..rule.map_err(malformed)? });
        }
        let missing = |name: &str| ApiError::invalid(name, "is needed");
        let kind = self.kind.ok_or_else(|| missing("kind"))?;
        let limit = limit(kind, &self.limit.ok_or_else(|| missing("limit"))?)?;
        let action = self.action.unwrap_or(if kind.reserves() { Action::Refuse } else { Action::Halt });
        let mut rule = Rule::new(self.scope.ok_or_else(|| missing("scope"))?, kind, limit, action);
        rule.name = self.name.unwrap_or(rule.name);
        rule.warn_percent = self.warn.unwrap_or(rule.warn_percent);
        (rule.target, rule.window, rule.capital, rule.samples, rule.by) = (self.target, self.window, self.capital, self.samples, by);
        rule.symbol = self.symbol.unwrap_or_default();
        rule.node = self.node.unwrap_or_default();
        rule.time_zone = self.time_zone.unwrap_or_default();
        Ok(rule)
    }
}

/// A number; of time, also a duration.
fn limit(kind: Kind, text: &str) -> Result<Decimal, ApiError> {
    let text = text.trim().trim_end_matches('%');
    if kind == Kind::StaleFeed
        && let Ok(duration) = text.parse::<Millis>()
    {
        return Ok(Decimal::new(i64::try_from(duration.0).unwrap_or(i64::MAX), 3).normalize());
    }
    text.parse().map_err(|e| ApiError::invalid("limit", format!("`{text}` is not a decimal number: {e}")))
}

/// Stores it.
///
/// # Errors
/// What is wrong with it, by the field; when nats-server does not answer.
pub async fn run(args: Args, link: &Link, context: &Context) -> anyhow::Result<()> {
    let rule = args.rule()?;
    let revision = risk::set(link, &rule).await?;
    if context.json {
        output::json(&json!({ "key": rule.key(), "revision": revision }));
        return Ok(());
    }
    let then = match rule.action.level() {
        None => "what would exceed it is refused".to_owned(),
        Some(level) => format!("a breach raises {level} of {}", rule.target.as_ref().unwrap_or(&rule.scope)),
    };
    output::line(format_args!(
        "{} of {}: at most {} {}; {then} (revision {revision})",
        rule.kind,
        rule.scope,
        rule.limit,
        rule.kind.unit()
    ));
    Ok(())
}
