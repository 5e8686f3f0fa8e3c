//! How near each limit is, as people and programs read it.

use haltline_risk::{Heartbeat, Rule};
use haltline_types::{Millis, Timestamp, control::Scope, error::ApiError};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use super::{ServerTime, rule_of, store};
use crate::{Link, clock};

/// A rule and how near its limit is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RuleStatus {
    /// Its key in the control bucket.
    pub key: String,
    /// The rule; absent if the stored value is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// What is measured now; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub current: Option<Decimal>,
    /// The same in percent of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub used_percent: Option<Decimal>,
    /// `ok`, `warning`, `breached` (of what is reserved: nothing more fits), or `unknown`.
    pub state: &'static str,
    /// Why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A dead-man switch that is armed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SwitchStatus {
    /// Whose.
    pub scope: Option<Scope>,
    /// How long a heartbeat is good for.
    pub every: Option<Millis>,
    /// What a missing one raises.
    pub level: String,
    /// Who sent the last.
    pub by: String,
    /// When.
    pub at: Option<Timestamp>,
    /// `ok`, `missed`, or `unknown` if it cannot be read.
    pub state: &'static str,
}

/// All rules, and how near their limits are now.
///
/// # Errors
/// `Unavailable`.
pub async fn status(link: &Link) -> Result<Vec<RuleStatus>, ApiError> {
    let (rules, books) = (store::rules(link).await?, store::books(link).await?);
    let watched = store::watched(link).await;
    // As reservations count.
    let now = ServerTime::new(link).now().await?;
    let of = |(key, rule): (String, Result<Rule, String>)| {
        let unknown = |rule: Option<Rule>, why: String| RuleStatus {
            key: key.clone(),
            rule,
            current: None,
            used_percent: None,
            state: "unknown",
            problem: Some(why),
        };
        let rule = match rule {
            Ok(rule) => rule,
            Err(why) => {
                let refused = rule_of(&key).map_or_else(|| "everything".to_owned(), |(scope, _)| scope.to_string());
                return unknown(None, format!("it cannot be read, so the side effects of {refused} are refused: {why}"));
            }
        };
        let current = if rule.kind.reserves() {
            match books.get(&rule.scope) {
                Some(Ok(book)) => book.used(&rule, now).ok_or_else(|| "an amount is out of range".to_owned()),
                Some(Err(why)) => Err(why.clone()),
                None => Err(format!("what it counts is missing; `haltline risk reset --scope {}` begins anew", rule.scope)),
            }
        } else {
            match &watched {
                Ok(watched) => match watched.rules.get(&key) {
                    Some(state) => Ok(state.value),
                    None => Err("no coordinator has begun to watch it".to_owned()),
                },
                Err(e) => Err(e.message.clone()),
            }
        };
        let current = match current {
            Ok(current) => current,
            Err(why) => return unknown(Some(rule), why),
        };
        let used = current.checked_mul(Decimal::ONE_HUNDRED).and_then(|c| c.checked_div(rule.limit)).map(|p| p.round_dp(1).normalize());
        let state = if current >= rule.limit {
            "breached"
        } else if rule.warns(current) {
            "warning"
        } else {
            "ok"
        };
        RuleStatus {
            key: key.clone(),
            current: Some(current.round_dp(6).normalize()),
            used_percent: used,
            state,
            problem: None,
            rule: Some(rule),
        }
    };
    Ok(rules.into_iter().map(of).collect())
}

/// All dead-man switches that are armed.
///
/// # Errors
/// `Unavailable`.
pub async fn switches(link: &Link) -> Result<Vec<SwitchStatus>, ApiError> {
    let now = clock::now();
    let of = |(key, beat): (String, Result<Heartbeat, String>)| match beat {
        Ok(beat) => {
            let state = if beat.is_missed(beat.at, now) { "missed" } else { "ok" };
            let level = beat.level.to_string();
            SwitchStatus { scope: Some(beat.scope), every: Some(beat.every), level, by: beat.by, at: Some(beat.at), state }
        }
        Err(_) => {
            let (every, at, by) = (None, None, String::new());
            SwitchStatus { scope: super::heartbeat_scope(&key), every, level: "halt".into(), by, at, state: "unknown" }
        }
    };
    Ok(super::heartbeats(link).await?.into_iter().map(of).collect())
}
