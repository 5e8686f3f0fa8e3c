//! Time: executions whose deadline has passed, and those that were stopped and whose workers do not
//! answer.

use haltline_types::{
    Timestamp,
    event::{Command, CommandType},
};

use super::{Engine, Purpose, Slot, start::Start};

impl Engine {
    /// What `now` calls for: a time-out of every execution whose deadline has passed, the end of those
    /// that were stopped long enough ago. It becomes part of the log before anything is decided on
    /// it. To be called several times a second; costs nothing while nothing is due.
    pub fn tick(&mut self, now: Timestamp) {
        self.now = now;
        self.look_at_waiting();
        while let Some((_, id)) = self.due.first().filter(|(due, _)| *due < now) {
            let id = id.clone();
            // Out of the queue: it is sent once.
            self.due.pop_first();
            let Some(Slot::Live(live)) = self.slots.get_mut(&id) else { continue };
            let kind = if live.execution.can_be_abandoned() {
                CommandType::Abandon
            } else if live.execution.is_stopped() || live.execution.has_ended() {
                continue;
            } else if live.execution.deadline() < now {
                CommandType::Timeout
            } else {
                // Nobody has taken its task.
                self.tell_start(&id);
                self.set_due(&id);
                continue;
            };
            live.unanswered += 1;
            self.command(&id, Purpose::Output(id.clone()), Box::new(Command::new(kind, &id, now)));
        }
    }

    /// Puts an execution where it belongs among those that something is to be done about.
    pub(super) fn set_due(&mut self, id: &str) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        let due = if live.execution.can_be_abandoned() {
            let after = i64::try_from(self.limits.abandon_after_ms).unwrap_or(i64::MAX);
            Timestamp(self.now.0.saturating_add(after))
        } else {
            match live.start {
                Start::ByWorker(until) => until.min(live.execution.deadline()),
                Start::Written | Start::Told => live.execution.deadline(),
            }
        };
        if due != live.due {
            self.due.remove(&(live.due, id.into()));
            live.due = due;
            self.due.insert((due, id.into()));
        }
    }
}
