//! Executions in memory: from stored record to end, and back from the log after a crash.

use std::collections::HashSet;

use haltline_types::{
    Timestamp,
    control::Gate,
    error::{ApiError, Code},
    event::{Command, CommandType, event_id},
    record::{Outcome, Status},
    submit::{Accepted, Reply},
};

use super::{Beside, Body, Engine, Live, Loading, LogMessage, Out, Purpose, Slot, WriteId, start::Start, stuck::Quiet, waiting::Held};
use crate::{
    execution::{Applied, Execution, Input},
    outputs::Output,
};

impl Engine {
    /// The next message of the log: what it decides, and what it tells beside that.
    pub fn log_message(&mut self, seq: u64, message: LogMessage, beside: Beside) {
        let entry = self.log.open(Some(seq));
        self.read = self.read.max(seq);
        let of = match &message {
            LogMessage::Event(e) => &e.execution_id,
            LogMessage::Command(c) => &c.execution_id,
        };
        if let Some(Slot::Live(live)) = self.slots.get_mut(of)
            && live.start != Start::Told
        {
            let of = of.clone();
            if beside.start {
                self.start_is_told(&of);
            } else if let LogMessage::Event(_) = &message
                && matches!(live.start, Start::ByWorker(_))
            {
                // By a worker that does not tell the start: the log has an input now, so nobody else can.
                let event = live.execution.started_event();
                self.write_start(&of, Body::Note(Box::new(event)));
            }
        }
        let (id, input) = match message {
            // Only what ends a task decides; middle results of a segment come with it.
            LogMessage::Event(e) if e.kind.is_input() && e.task_events.is_some() => (e.execution_id.clone(), Input::Result(e)),
            LogMessage::Event(_) => {
                self.log.close(entry);
                return;
            }
            LogMessage::Command(c) => (c.execution_id.clone(), Input::Command(c)),
        };
        match self.slots.get_mut(&id) {
            Some(Slot::Live(live)) if matches!(&input, Input::Command(c) if c.kind == CommandType::Abandon) => {
                if !live.execution.can_be_abandoned() {
                    self.log.close(entry);
                    return;
                }
                // How many events there are by now, only the log knows.
                live.entries.push(entry);
                self.reload(&id);
                if let Some(Slot::Loading(loading)) = self.slots.get_mut(&id) {
                    loading.inputs.push((seq, input));
                }
            }
            Some(Slot::Live(live)) => {
                if beside.end {
                    live.stored.insert(event_id::ended(&id));
                }
                if live.execution.apply(&input) == Applied::Ignored {
                    self.log.close(entry);
                    return;
                }
                live.entries.push(entry);
                live.quiet = Quiet::default();
                self.set_due(&id);
                self.advance(&id);
                if beside.end && matches!(self.slots.get(&id), Some(Slot::Live(live)) if !live.execution.has_ended()) {
                    // What was told stands, also if it does not follow from what this one knows.
                    self.reload(&id);
                }
            }
            Some(Slot::Creating { inputs, entries, end_told, .. }) => {
                // Only what another coordinator runs can have inputs before our create is answered.
                inputs.push((seq, input));
                *end_told |= beside.end;
                entries.push(entry);
            }
            Some(Slot::Loading(loading)) => {
                loading.inputs.push((seq, input));
                loading.end_told |= beside.end;
                loading.entries.push(entry);
            }
            None => {
                let inputs = vec![(seq, input)];
                self.load(&id, Loading { inputs, end_told: beside.end, entries: vec![entry], ..Loading::default() });
            }
        }
    }

    /// A write was stored at `seq`.
    pub fn stored(&mut self, write: WriteId, seq: u64) {
        match self.writes.remove(&write) {
            None => {}
            Some(Purpose::Create(id)) => self.created(&id, seq),
            Some(Purpose::Output(id)) => self.answered(&id),
            Some(Purpose::Start(id)) => {
                self.start_is_told(&id);
                self.answered(&id);
            }
            Some(Purpose::Final(id)) => {
                if let Some(Slot::Live(live)) = self.slots.get_mut(&id) {
                    live.revision = seq;
                    if let Some(next) = live.replacing.take().flatten() {
                        live.replacing = Some(None);
                        self.write(Purpose::Final(id.clone()), Body::Replace(next, seq));
                    }
                }
                self.answered(&id);
            }
            Some(Purpose::Command(ticket, id) | Purpose::Resolve(ticket, id)) => self.cancel_stored(ticket, id),
        }
    }

    /// A write was stored at `seq` before: by an earlier try, or by someone else under the same id.
    pub fn stored_before(&mut self, write: WriteId, seq: u64) {
        if let Some(Purpose::Resolve(ticket, _)) = self.writes.get(&write) {
            let ticket = *ticket;
            self.writes.remove(&write);
            let message = "someone has said what became of this node just now; asked again, this tells whether it was the same";
            self.refuse(ticket, ApiError::new(Code::Unavailable, message));
            return;
        }
        self.stored(write, seq);
    }

    /// A write was sent more than once, to be called before its answer is: what waited for it may have been sent by another
    /// coordinator meanwhile, and a server that was killed forgets the ids of tasks that are done. Who is given such a task
    /// asks the log first.
    pub fn sent_again(&mut self, write: WriteId) {
        if let Some(Purpose::Output(id) | Purpose::Start(id)) = self.writes.get(&write)
            && let Some(Slot::Live(live)) = self.slots.get_mut(id)
        {
            live.recovered = true;
        }
    }

    /// A write's compare-and-swap found something else.
    pub fn conflicted(&mut self, write: WriteId) {
        match self.writes.remove(&write) {
            Some(Purpose::Create(id)) => self.create_conflicted(&id),
            // The record is not what we knew: someone else owns it, or our own write was answered
            // late. Forget it and read everything anew; what is missing is emitted again.
            Some(Purpose::Final(id)) => self.reload(&id),
            Some(Purpose::Output(id)) => self.answered(&id),
            // An input is there, and the first one has the start.
            Some(Purpose::Start(id)) => {
                self.start_is_told(&id);
                self.answered(&id);
            }
            Some(Purpose::Command(ticket, id) | Purpose::Resolve(ticket, id)) => self.cancel_stored(ticket, id),
            None => {}
        }
    }

    fn created(&mut self, id: &str, revision: u64) {
        let Some(Slot::Creating { waiting, record, entry, inputs, end_told, entries }) = self.slots.remove(id) else { return };
        self.records.place(entry, revision);
        if !inputs.is_empty() {
            // Our record, but someone else found it first and runs it.
            self.load(id, Loading { waiting: vec![waiting], inputs, end_told, entries, created: Some(entry), ..Loading::default() });
            return;
        }
        let mut execution = Execution::accept(*record, waiting.plan);
        let guard = &self.guard;
        let outputs = execution.decide(&|place| guard.gate(place), self.limits.segments);
        let by_worker = !self.limits.one_by_one && outputs.iter().any(|o| matches!(o, Output::Task(task) if task.whole));
        let started = execution.started_event();
        let live = Live {
            execution,
            revision,
            unanswered: 0,
            refused: false,
            entries,
            created: Some(entry),
            replies: vec![(waiting.ticket, false)],
            stored: HashSet::new(),
            recovered: false,
            held: Vec::new(),
            start: Start::ByWorker(Timestamp(self.now.0.saturating_add_unsigned(self.limits.start_within_ms))),
            after_start: Vec::new(),
            halting: false,
            gated: None,
            replacing: None,
            quiet: Quiet::default(),
            due: Timestamp::default(),
            ended: None,
        };
        self.slots.insert(id.into(), Slot::Live(Box::new(live)));
        if !by_worker {
            self.write_start(id, Body::Note(Box::new(started)));
        }
        self.set_due(id);
        self.emit(id, outputs);
    }

    /// The server refuses a write and would again: a fault of ours. Who asked for it is told. What an execution
    /// waits for keeps its floor open, so that a successor tries it again, as this one does: it is read anew where
    /// nothing else is heard of it ([`Engine::look_for_stuck`]), and counted until then.
    pub fn refused(&mut self, write: WriteId, why: &str) {
        match self.writes.remove(&write) {
            Some(Purpose::Create(id)) => {
                let Some(Slot::Creating { waiting, entry, entries, .. }) = self.slots.remove(&id) else { return };
                self.close(entries, Some(entry));
                self.refuse(waiting.ticket, ApiError::new(Code::Internal, format!("the record could not be stored: {why}")));
            }
            Some(Purpose::Command(ticket, _) | Purpose::Resolve(ticket, _)) => {
                self.refuse(ticket, ApiError::new(Code::Internal, format!("the command could not be stored: {why}")));
            }
            Some(Purpose::Output(id) | Purpose::Start(id) | Purpose::Final(id)) => {
                if let Some(Slot::Live(live)) = self.slots.get_mut(&id) {
                    live.refused = true;
                }
            }
            None => {}
        }
    }

    /// Emits what the state calls for now.
    pub(super) fn advance(&mut self, id: &str) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        let guard = &self.guard;
        let outputs = live.execution.decide(&|place| guard.gate(place), self.limits.segments);
        self.emit(id, outputs);
    }

    /// Writes what was decided, and asks for what the gate holds back.
    pub(super) fn emit(&mut self, id: &str, mut outputs: Vec<Output>) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        // A server whose disk is full can refuse the first event and take the task, whose worker then tells first.
        let one_by_one = self.limits.one_by_one || live.created.is_some() || live.start == Start::Written || !live.held.is_empty();
        if one_by_one {
            // Notes first; tasks and the end once everything before them is stored.
            let (notes, rest): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|o| !matches!(o, Output::Task(_) | Output::End(..)));
            live.held.extend(rest);
            outputs = notes;
            let free = live.unanswered == 0 && outputs.is_empty();
            if free {
                outputs = std::mem::take(&mut live.held);
            }
        }
        let mut writes = Vec::with_capacity(outputs.len() * 2);
        let replace = |live: &mut Live, writes: &mut Vec<(bool, Body)>, record| match &mut live.replacing {
            None => {
                live.replacing = Some(None);
                writes.push((true, Body::Replace(record, live.revision)));
            }
            // Only the newest one counts.
            Some(next) => live.unanswered += u32::from(next.replace(record).is_none()),
        };
        for output in outputs {
            match output {
                // Its result is in the log already and comes with the log, or came while it was held back.
                Output::Task(task) if live.stored.contains(&task.task_id) || !live.execution.awaits(&task.nodes[0].id) => {}
                Output::Task(mut task) => {
                    // The worker is to read why the execution was stopped.
                    task.recovered |= live.recovered || live.execution.is_stopped();
                    if task.whole && (live.recovered || !matches!(live.start, Start::ByWorker(_))) {
                        task.set_whole(false);
                    }
                    writes.push((false, Body::Task(task)));
                }
                Output::End(event, record) => {
                    if !live.stored.contains(&event.id) {
                        writes.push((false, Body::Note(event)));
                    }
                    // Already final if a crash fell between record and event.
                    if live.ended.is_none() {
                        live.ended = Some(Box::new(Outcome::from(&*record)));
                        replace(live, &mut writes, record);
                    }
                }
                Output::Note(event) => {
                    if !live.stored.contains(&event.id) {
                        writes.push((false, Body::Note(event)));
                    }
                }
                Output::Standing(record) => replace(live, &mut writes, record),
            }
        }
        let mut gated = false;
        let halt = if live.execution.wants_gate() {
            let guard = &self.guard;
            match live.execution.gate(&|place| guard.gate(place)) {
                Gate::Open => None,
                Gate::Unsure(_) => {
                    gated = true;
                    live.gated.get_or_insert(Held::Since(self.now));
                    None
                }
                Gate::Halted(flag) => Some(flag),
            }
        } else {
            // Told by a worker: the others, whose tasks wait, read commands only.
            live.execution.halt_with_tasks_out().cloned()
        };
        if let Some(flag) = halt.filter(|_| !live.halting) {
            live.halting = true;
            // Seen by us, not decided by us: it goes into the log first.
            writes.push((
                false,
                Body::Command(Box::new(Command {
                    reason: flag.reason.clone(),
                    by: flag.by.clone(),
                    halted: Some(flag),
                    ..Command::new(CommandType::Halt, id, live.execution.at)
                })),
            ));
        }
        if gated {
            self.gated.insert(id.into());
        } else {
            self.gated.remove(id);
        }
        live.unanswered += writes.len() as u32;
        // All of it was stored before: nothing would be answered.
        let go_on = live.unanswered == 0 && !live.held.is_empty();
        for (is_final, body) in writes {
            let purpose = if is_final { Purpose::Final(id.into()) } else { Purpose::Output(id.into()) };
            match body {
                Body::Command(command) => self.command(&id.into(), purpose, command),
                body => self.write(purpose, body),
            }
        }
        if go_on {
            self.emit(id, Vec::new());
            return;
        }
        if !gated {
            self.goes_on(id);
        }
        self.settle(id);
    }

    fn answered(&mut self, id: &str) {
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        live.unanswered = live.unanswered.saturating_sub(1);
        if live.unanswered == 0 && !live.held.is_empty() {
            self.emit(id, Vec::new());
            return;
        }
        self.settle(id);
    }

    /// If everything that this execution caused is stored: replies, closes its entries, and lets go
    /// of it if it has ended.
    fn settle(&mut self, id: &str) {
        let gated = self.gated.contains(id);
        let Some(Slot::Live(live)) = self.slots.get_mut(id) else { return };
        if live.unanswered > 0 || gated || !live.held.is_empty() {
            return;
        }
        let (entries, created) = (std::mem::take(&mut live.entries), live.created.take());
        let ended = live.execution.has_ended();
        let status = match &live.ended {
            Some(outcome) if ended => outcome.status,
            _ => Status::Running,
        };
        for (ticket, repeated) in live.replies.drain(..) {
            let ok = Accepted { execution_id: id.into(), status, repeated };
            self.out.push_back(Out::Reply(ticket, Reply::Ok(ok)));
        }
        if ended {
            let outcome = live.ended.take();
            let notify = live.execution.record().notify.clone();
            self.due.remove(&(live.due, id.into()));
            self.slots.remove(id);
            self.ended += 1;
            if let (Some(subject), Some(outcome)) = (notify, outcome) {
                self.out.push_back(Out::Notify(subject, outcome));
            }
        }
        self.close(entries, created);
    }

    pub(super) fn close(&mut self, entries: Vec<u64>, created: Option<u64>) {
        for entry in entries {
            self.log.close(entry);
        }
        if let Some(entry) = created {
            self.records.close(entry);
        }
    }
}
