//! Acting on words about rules: levels are raised, events are stored.

use std::time::Duration;

use haltline_common::{
    Link, clock, control, metrics,
    outbox::Write,
    publisher::Publisher,
    types::{
        control::{Level, Scope},
        event::{Correlation, Event, EventType, event_id},
        risk::Breach,
    },
};
use haltline_risk::{Verdict, Word, rule_key};

use super::dead_man::Missed;

/// Who raises levels here.
const BY: &str = "haltline risk";
/// Between two tries to raise a level.
const AGAIN: Duration = Duration::from_millis(200);

/// Tells.
pub struct Teller {
    link: Link,
    publisher: Publisher,
}

impl Teller {
    /// On a connection.
    pub fn new(link: &Link, publisher: Publisher) -> Self {
        Self { link: link.clone(), publisher }
    }

    /// Acts on a word about a rule. Returns when the level is raised, however long that takes: nothing is counted
    /// on while a breach is not acted on.
    pub async fn tell(&self, verdict: &Verdict) {
        let Verdict { word, breach, by } = verdict;
        let level = breach.raises.as_deref().and_then(|l| l.parse::<Level>().ok());
        let target = breach.target.as_ref().unwrap_or(&breach.scope);
        let reason = format!("{} (after {by})", breach.sentence());
        let raised = match (word, level) {
            (Word::Warning, _) | (_, None) => false,
            (Word::Breached | Word::Still, Some(level)) => self.raise(target, level, &reason).await,
        };
        let kind = match word {
            Word::Warning => EventType::RiskLimitWarning,
            // It was said before; said again only if somebody had lowered the level.
            Word::Still if !raised => return,
            Word::Breached | Word::Still => EventType::RiskLimitBreached,
        };
        if kind == EventType::RiskLimitBreached {
            metrics::RISK_BREACHES.inc();
            tracing::warn!(rule = breach.rule, scope = %breach.scope, limit = %breach.limit, current = %breach.current, by, ?level, "risk limit breached");
        } else {
            metrics::RISK_WARNINGS.inc();
            tracing::info!(rule = breach.rule, scope = %breach.scope, limit = %breach.limit, current = %breach.current, by, "risk limit near");
        }
        let word = if kind == EventType::RiskLimitWarning { "warning" } else { "breached" };
        let id = event_id::risk(&rule_key(&breach.scope, &breach.rule), by, word);
        self.store(kind, id, breach, reason, by).await;
    }

    /// Acts on a missed heartbeat. `false` if the level could not be raised by now.
    pub async fn missed(&self, missed: &Missed) -> bool {
        tracing::warn!(scope = %missed.scope, reason = missed.reason, "dead-man switch");
        control::raise(&self.link, &missed.scope, missed.level, BY, &missed.reason)
            .await
            .inspect_err(|e| tracing::error!(error = %e, "the level of a missed heartbeat could not be raised; trying again"))
            .is_ok()
    }

    /// Raises a level, unless it was raised for this already; whether it had to.
    async fn raise(&self, target: &Scope, level: Level, reason: &str) -> bool {
        loop {
            let done = match control::read(&self.link, target).await {
                // Told before, by this coordinator or by one that died before it stored that.
                Ok(flag) if flag.state >= level && flag.reason.contains(reason) => return false,
                Ok(flag) => control::raise(&self.link, target, level, BY, reason).await.map(|_| flag.state < level),
                Err(e) => Err(e),
            };
            match done {
                Ok(was_lower) => return was_lower,
                Err(e) => tracing::error!(%target, error = %e, "the level of a breached risk limit could not be raised; trying again"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn store(&self, kind: EventType, id: String, breach: &Breach, reason: String, by: &str) {
        let mut event = Event::new(kind, id, &Correlation::default(), clock::now());
        match &breach.scope {
            Scope::Bot(id) => event.bot_id = id.into(),
            Scope::Strategy(id) => event.strategy_id = id.into(),
            Scope::Workflow(id) => event.workflow_id = id.into(),
            Scope::Global | Scope::Venue(_) | Scope::NodeType(_) => {}
        }
        event.breach = Some(Box::new(breach.clone()));
        event.reason = Some(reason);
        event.caused_by = Some(by.to_owned());
        let body = serde_json::to_vec(&event).unwrap_or_default();
        let write = Write::with_id(self.link.names.risk_events(), event.id.as_str(), body);
        if let Err(e) = self.publisher.write(write).await {
            tracing::warn!(error = %e, "the event of a risk limit could not be stored");
        }
    }
}
