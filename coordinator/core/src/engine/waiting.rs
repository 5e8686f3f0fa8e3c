//! Executions of which nothing can go on until a flag is lowered: their records say `waiting`.
//!
//! For people and programs only: nothing is decided on it, and a successor that does not know it says `running`
//! until it has seen for itself.

use haltline_types::{Timestamp, record::Status};

use super::{Engine, Slot};
use crate::outputs::Output;

/// For how long nothing must have gone on (milliseconds): a flag that is raised and lowered at once costs no record.
const AFTER_MS: u64 = 1_000;

/// What is told of an execution that the gate holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Since then; its record does not say so.
    Since(Timestamp),
    /// Its record says so.
    Told,
}

impl Engine {
    /// Tells of executions that the gate holds back as a whole, and of those that it does not any more.
    pub(super) fn look_at_waiting(&mut self) {
        if !self.guard.is_sure() {
            return;
        }
        let due = |live: &super::Live, now: Timestamp| match live.gated {
            Some(Held::Since(since)) => live.execution.is_at_rest() && now.millis_since(since) >= AFTER_MS,
            Some(Held::Told) | None => false,
        };
        let waiting = self.gated.iter().filter(|id| matches!(self.slots.get(*id), Some(Slot::Live(live)) if due(live, self.now)));
        for id in waiting.cloned().collect::<Vec<_>>() {
            self.tell_status(&id, Some(Held::Told), Status::Waiting);
        }
    }

    /// It goes on: what its record says of that is taken back.
    pub(super) fn goes_on(&mut self, id: &str) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        match live.gated.take() {
            Some(Held::Told) if !live.execution.has_ended() => self.tell_status(id, None, Status::Running),
            _ => {}
        }
    }

    fn tell_status(&mut self, id: &str, gated: Option<Held>, status: Status) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        live.gated = gated;
        let record = live.execution.open_record(status);
        self.emit(id, vec![Output::Standing(Box::new(record))]);
    }
}
