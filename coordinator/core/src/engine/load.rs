//! Executions read back from record and log, by the same steps as live.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use haltline_types::{
    SmolStr, Timestamp,
    error::{ApiError, Code},
    event::{CommandType, event_id},
    record::{Outcome, Record, Status},
    submit::{Accepted, Reply},
    task::{Task, round, task_id},
};

use super::{Body, Engine, Live, Loaded, Loading, LogMessage, Out, Purpose, Slot, start::Start, waiting::Held};
use crate::{
    execution::{Execution, Input, Told},
    outputs::Output,
};

impl Engine {
    /// Forgets an execution and reads it anew. Answers to what was written for it mean nothing any more:
    /// what the log lacks by then is written again.
    pub(super) fn reload(&mut self, id: &str) {
        let Some(Slot::Live(live)) = self.slots.remove(id) else { return };
        self.due.remove(&(live.due, id.into()));
        self.writes.retain(|_, purpose| !matches!(purpose, Purpose::Output(of) | Purpose::Start(of) | Purpose::Final(of) if of == id));
        let asked = live.after_start.into_iter().filter_map(|(purpose, command)| match purpose {
            Purpose::Command(ticket, _) => Some((ticket, command)),
            _ => None,
        });
        let commands = asked.collect();
        self.load(id, Loading { commands, entries: live.entries, created: live.created, quiet: live.quiet, ..Loading::default() });
    }

    /// What a load found: rebuilds the state input by input as it was decided live, and emits what the
    /// log and the record lack.
    ///
    /// Whether a predecessor dispatched what was ready is not in the log, so it counts as dispatched:
    /// an execution must not end while a task of it may be in the queue. Emitting such a task is
    /// harmless, leaving it out is not.
    pub fn loaded(&mut self, id: &str, loaded: Loaded) {
        let Some(Slot::Loading(loading)) = self.slots.remove(id) else { return };
        if loaded.anothers && !loading.only_waiting() {
            // It has become more than a question.
            self.load(id, loading);
            return;
        }
        let Loading { waiting, commands, inputs, end_told, entries, created, mut quiet } = loading;
        if let (true, Some((record, _))) = (loaded.anothers, &loaded.record) {
            self.close(entries, created);
            for w in waiting {
                self.meet(w, record, false);
            }
            return;
        }
        let (Some((record, revision)), Some(plan)) = (loaded.record, loaded.plan) else {
            // A record that expired, or never was: nothing can be decided about it.
            self.close(entries, created);
            for ticket in waiting.into_iter().map(|w| w.ticket).chain(commands.into_iter().map(|(ticket, _)| ticket)) {
                let e = ApiError::new(Code::Internal, format!("the record or definition of {id} cannot be read"));
                self.out.push_back(Out::Reply(ticket, Reply::Error(e)));
            }
            return;
        };
        let ended_id = event_id::ended(id);
        let mut stored: HashSet<String> = loaded.queued.into_iter().collect();
        let mut ended = None;
        let mut has_inputs = false;
        let mut by_seq: BTreeMap<u64, Input> = inputs.into_iter().collect();
        let mut log = Told::default();
        for (seq, message) in loaded.history {
            match message {
                LogMessage::Event(e) => {
                    if !log.event(&e) {
                        continue;
                    }
                    if e.kind.is_input() && e.task_events.is_some() {
                        has_inputs = true;
                        let head = e.segment.first().map(|s| s.node_id.as_str()).or(e.node_id.as_deref());
                        stored.insert(task_id(id, head.unwrap_or_default(), e.token.map_or(1, round)));
                        by_seq.insert(seq, Input::Result(e));
                    } else if e.id == ended_id {
                        ended = Some((seq, e));
                    }
                }
                LogMessage::Command(c) => {
                    log.command(&c);
                    let abandoned = c.kind == CommandType::Abandon;
                    by_seq.insert(seq, if abandoned { Input::Abandoned(c.timestamp, log.by_workers()) } else { Input::Command(c) });
                }
            }
        }
        stored.extend(log.into_ids());
        // Read too early: it came with an input since.
        stored.extend(end_told.then(|| ended_id.clone()));
        // Stored after the log was read: how many events it has by then is to be read again.
        let again = by_seq.values().any(|i| matches!(i, Input::Command(c) if c.kind == CommandType::Abandon));
        // What was not read yet comes with the log, in order: a read of several subjects is not one.
        let until = ended.as_ref().map_or(self.read, |(seq, _)| *seq);
        let mut execution = Execution::accept(as_accepted(&record), Arc::clone(&plan));
        let mut tasks: BTreeMap<SmolStr, Box<Task>> = BTreeMap::new();
        let (mut told, mut end) = (Vec::new(), None);
        let segments = self.limits.segments;
        let mut decide = |execution: &mut Execution| {
            for output in execution.decide_all(segments) {
                match output {
                    Output::Task(task) => {
                        tasks.insert(task.nodes[0].id.clone(), task);
                    }
                    Output::Note(_) => told.push(output),
                    // Only the last one counts, and only if the record does not say so.
                    Output::Standing(_) => {}
                    Output::End(..) => end = Some(output),
                }
            }
        };
        decide(&mut execution);
        for input in by_seq.range(..=until).map(|(_, input)| input) {
            execution.apply(input);
            decide(&mut execution);
        }
        let started = execution.started_event();
        let has_started = stored.contains(&started.id);
        if record.status.is_terminal() && has_started && ended.is_some() {
            self.close(entries, created);
            for w in waiting {
                self.meet(w, &record, false);
            }
            for (ticket, _) in commands {
                self.reply(ticket, Accepted { execution_id: id.into(), status: record.status, repeated: true });
            }
            return;
        }
        let mut outcome = None;
        let outputs = if record.status.is_terminal() {
            // The record is final but the log lacks events: they are emitted, the record stays.
            outcome = Some(Box::new(Outcome::from(&record)));
            let event = execution.end_as_recorded(&record);
            told.push(Output::End(Box::new(event), Box::new(record.clone())));
            told
        } else if let Some((_, event)) = ended {
            let record = execution.end_as_told(&event);
            told.push(Output::End(event, Box::new(record)));
            told
        } else {
            let awaited = tasks.into_iter().filter(|(head, _)| execution.awaits(head)).map(|(_, task)| Output::Task(task));
            let standing = execution.standing(&record.unknown_nodes).map(|record| Output::Standing(Box::new(record)));
            let mut outputs: Vec<Output> = told.into_iter().chain(awaited).chain(standing).chain(end).collect();
            quiet.repaired |= self.repair(id, quiet, &stored, &mut outputs);
            outputs
        };
        let live = Live {
            execution,
            revision,
            unanswered: 0,
            refused: false,
            entries,
            created,
            replies: Vec::new(),
            stored,
            recovered: true,
            held: Vec::new(),
            start: Start::Told,
            after_start: Vec::new(),
            halting: false,
            gated: (record.status == Status::Waiting).then_some(Held::Told),
            replacing: None,
            quiet,
            due: Timestamp::default(),
            ended: outcome,
        };
        self.slots.insert(id.into(), Slot::Live(Box::new(live)));
        self.set_due(id);
        if !has_started {
            // A worker may have the task that a predecessor left this to; where there is an input, none can tell it.
            let started = Box::new(started);
            self.write_start(id, if has_inputs { Body::Note(started) } else { Body::Start(started) });
        }
        self.emit(id, outputs);
        for (ticket, command) in commands {
            self.command(&id.into(), Purpose::Command(ticket, id.into()), command);
        }
        for w in waiting {
            let waits = matches!(self.slots.get(id), Some(Slot::Live(live)) if live.unanswered > 0);
            self.meet(w, &record, waits);
        }
        if again {
            self.reload(id);
        }
    }
}

/// The record as it was at acceptance: what a final one added is derived again.
pub(crate) fn as_accepted(record: &Record) -> Record {
    Record {
        status: Status::Running,
        nodes_completed: 0,
        nodes_failed: 0,
        nodes_skipped: 0,
        finished_at: None,
        duration_ms: None,
        results: Arc::default(),
        results_omitted: false,
        error: None,
        error_type: None,
        failed_node: None,
        errors: Vec::new(),
        reason: None,
        event_count: None,
        unknown_nodes: Vec::new(),
        ..record.clone()
    }
}
