//! Who tells an execution's start. Where one task is the whole execution its worker does, in one message with all
//! else it has to tell: that saves a message and a round trip. Should no worker come, the coordinator does.
//!
//! Both write it among the inputs of the execution, where there must be none yet: the server takes one of the two.
//! And no command is stored before the start is. So who was the first to store the start knows that nothing
//! was decided before: a worker may then tell the end, too.

use haltline_types::{SmolStr, Timestamp, event::Command};

use super::{Body, Engine, Purpose, Slot};

/// What a message of the log tells beside what it decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The execution's start.
    pub start: bool,
    /// Its end.
    pub end: bool,
}

/// What is known of an execution's first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The worker of its only task is to tell it; until then.
    ByWorker(Timestamp),
    /// The coordinator is writing it.
    Written,
    /// The log has it.
    Told,
}

impl Engine {
    /// Tells the start, if that is left to a worker.
    pub(super) fn tell_start(&mut self, id: &str) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        if matches!(live.start, Start::ByWorker(_)) {
            let event = live.execution.started_event();
            self.write_start(id, Body::Start(Box::new(event)));
        }
    }

    pub(super) fn write_start(&mut self, id: &str, body: Body) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        live.start = Start::Written;
        live.unanswered += 1;
        self.write(Purpose::Start(id.into()), body);
    }

    /// The log has the start: what waited for that is written.
    pub(super) fn start_is_told(&mut self, id: &str) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        live.start = Start::Told;
        for (purpose, command) in std::mem::take(&mut live.after_start) {
            self.write(purpose, Body::Command(command));
        }
    }

    /// Writes a command about an execution in memory, once the log has its start.
    pub(super) fn command(&mut self, id: &SmolStr, purpose: Purpose, command: Box<Command>) {
        match self.slots.get_mut(id) {
            Some(Slot::Live(live)) if live.start != Start::Told => {
                live.after_start.push((purpose, command));
                self.tell_start(id);
            }
            _ => self.write(purpose, Body::Command(command)),
        }
    }
}
