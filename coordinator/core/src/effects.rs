//! What the log has of a node's side effects: which were intended, and what became of them.
//!
//! An intent without an outcome is in doubt: its worker may have died before it sent anything, or after.
//! An outcome `done` without the node's result is in doubt as well: what the node gave is lost. Neither is
//! performed again before someone was asked, and while an outcome is missing the node does not end as
//! failed.

use haltline_types::{
    Timestamp,
    event::{Event, EventType},
};

/// `status` of an `effect_settled`: it happened.
const DONE: &str = "done";
/// `status` of an `effect_settled`: it certainly did not happen.
const NOT_DONE: &str = "not_done";

/// What became of a side effect, as far as it is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It happened.
    Done,
    /// It did not happen, and will not.
    NotDone,
}

impl Settled {
    /// As events carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => DONE,
            Self::NotDone => NOT_DONE,
        }
    }
}

/// A side effect that was intended, and may have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Id of its `effect_intended`.
    pub id: String,
    /// The idempotency key that it carried.
    pub key: String,
    /// The attempt it belongs to.
    pub attempt: u32,
    /// The fencing token that it carried.
    pub token: u64,
    /// When it was stored as an intent.
    pub at: Timestamp,
    /// Whether it is certain that it happened: then only what it gave is missing.
    pub done: bool,
}

/// The side effects of the node that a walk is at.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effects {
    seen: Vec<(Intent, Option<Settled>)>,
}

impl Effects {
    /// Takes in an `effect_intended` or `effect_settled`; other events say nothing.
    pub fn take_in(&mut self, event: &Event) {
        match event.kind {
            EventType::EffectIntended if self.seen.iter().all(|(intent, _)| intent.id != event.id) => {
                let intent = Intent {
                    id: event.id.clone(),
                    key: event.key.clone().unwrap_or_default(),
                    attempt: event.attempt.unwrap_or(1),
                    token: event.token.unwrap_or(0),
                    at: event.timestamp,
                    done: false,
                };
                self.seen.push((intent, None));
            }
            EventType::EffectSettled => {
                let settled = match event.status.as_deref() {
                    Some(DONE) => Settled::Done,
                    Some(NOT_DONE) => Settled::NotDone,
                    // Of a version that knows more than this one: still in doubt.
                    _ => return,
                };
                if let Some((intent, outcome)) = self.seen.iter_mut().find(|(i, _)| Some(&i.id) == event.intent.as_ref()) {
                    intent.done = settled == Settled::Done;
                    *outcome = Some(settled);
                }
            }
            _ => {}
        }
    }

    /// How many were intended in an attempt.
    pub fn intended(&self, attempt: u32) -> u32 {
        self.seen.iter().filter(|(intent, _)| intent.attempt == attempt).count() as u32
    }

    /// Those that happened or may have happened.
    pub fn in_doubt(&self) -> Vec<Intent> {
        self.seen.iter().filter(|(_, outcome)| *outcome != Some(Settled::NotDone)).map(|(intent, _)| intent.clone()).collect()
    }

    /// Ids of those without any outcome.
    pub fn unsettled(&self) -> Vec<String> {
        self.seen.iter().filter(|(_, outcome)| outcome.is_none()).map(|(intent, _)| intent.id.clone()).collect()
    }

    /// The walk goes on to the next node.
    pub fn clear(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haltline_types::event::{Correlation, event_id};

    fn event(kind: EventType, id: String) -> Event {
        let c = Correlation { execution_id: "e".into(), workflow_id: "w".into(), bot_id: "".into(), strategy_id: "".into() };
        Event { attempt: Some(1), ..Event::new(kind, id, &c, Timestamp(0)) }
    }

    #[test]
    fn an_intent_is_in_doubt_until_it_certainly_did_not_happen() {
        let mut effects = Effects::default();
        let ids: Vec<String> = (1..=3).map(|n| event_id::effect_intended("e", "n", 1, n)).collect();
        for id in &ids {
            effects.take_in(&event(EventType::EffectIntended, id.clone()));
            effects.take_in(&event(EventType::EffectIntended, id.clone()));
        }
        assert_eq!((effects.intended(1), effects.intended(2)), (3, 0), "a repeat counts once");
        for (id, settled) in ids.iter().zip([Settled::Done, Settled::NotDone]) {
            let mut e = event(EventType::EffectSettled, event_id::effect_settled(id));
            e.intent = Some(id.clone());
            e.status = Some(settled.as_str().into());
            effects.take_in(&e);
        }
        let doubtful: Vec<(String, bool)> = effects.in_doubt().into_iter().map(|i| (i.id, i.done)).collect();
        assert_eq!(doubtful, [(ids[0].clone(), true), (ids[2].clone(), false)]);
        assert_eq!(effects.unsettled(), [ids[2].clone()]);
        assert_eq!(event_id::effect_settled(&ids[0]), "e/n/1/settled");
        assert_eq!(event_id::effect_settled(&ids[2]), "e/n/1/settled/3");
    }
}
