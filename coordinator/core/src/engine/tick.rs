//! Time: executions whose deadline has passed.

use haltline_types::{
    Timestamp,
    event::{Command, CommandType},
};

use super::{Body, Engine, Purpose, Slot};

impl Engine {
    /// What `now` calls for: a time-out of every execution whose deadline has passed. It becomes part
    /// of the log before anything is decided on it. To be called several times a second; costs
    /// nothing while no deadline passes.
    pub fn tick(&mut self, now: Timestamp) {
        while let Some((_, id)) = self.deadlines.first().filter(|(deadline, _)| *deadline < now) {
            let id = id.clone();
            // Out of the queue: it is sent once.
            self.deadlines.pop_first();
            let Some(Slot::Live(live)) = self.slots.get_mut(&id) else { continue };
            if live.execution.is_stopped() || live.execution.has_ended() {
                continue;
            }
            live.unanswered += 1;
            self.write(Purpose::Output(id.clone()), Body::Command(Box::new(Command::new(CommandType::Timeout, &id, now))));
        }
    }
}
