//! What a state calls for: tasks to dispatch, or the end. Everything has a deterministic id and
//! content, so that emitting it twice is harmless.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use haltline_types::{
    SmolStr, Timestamp,
    control::{Gate, Place},
    definition::{InputRef, look_up},
    event::{Correlation, Event, EventType, event_id},
    ids::traceparent,
    json,
    limits::{ID_BYTES_MAX, RELEASED_TASKS_MAX, RESULTS_BYTES_MAX, TASK_INPUT_BYTES_MAX},
    payload::PayloadRef,
    record::{Outputs, Record, Results, Status},
    task::{Task, TaskInput, TaskNode, task_id, token},
};
use serde_json::{Map, Value};

use crate::execution::{DEADLINE_EXCEEDED, Execution, NodeState, Stop};

/// What a decision emits.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A task, for the type of its first node.
    Task(Box<Task>),
    /// An event that no worker tells.
    Note(Box<Event>),
    /// The record of an execution that goes on, since what people must know of it has changed.
    Standing(Box<Record>),
    /// The end: the terminal event and the final record.
    End(Box<Event>, Box<Record>),
}

impl Execution {
    /// `execution_started`: the first event.
    pub fn started_event(&self) -> Event {
        let r = &self.record;
        Event::started(&r.correlation, r.started_at, r.node_count, &r.workflow_version, &traceparent(self.id()))
    }

    /// Whether there is anything that only an open gate lets out.
    pub fn wants_gate(&self) -> bool {
        self.stop.is_none() && !self.ready.is_empty() && (self.outstanding as usize) < RELEASED_TASKS_MAX
    }

    /// What `gate` says of the nodes that are ready: halted if it refuses one of them, unsure if one has to
    /// wait.
    pub fn gate(&self, gate: &dyn Fn(&Place) -> Gate) -> Gate {
        let mut all = Gate::Open;
        for i in &self.ready {
            match gate(&self.place(*i)) {
                Gate::Open => {}
                Gate::Halted(flag) => return Gate::Halted(flag),
                unsure @ Gate::Unsure(_) => all = unsure,
            }
        }
        all
    }

    fn place(&self, i: u32) -> Place<'_> {
        self.plan.place(i, &self.record.correlation)
    }

    /// Takes what is due now: tasks that `gate` lets out, none if it refuses one. `segments`: linear chains
    /// as one task.
    ///
    /// What was ready when the execution was stopped is dispatched even then, once: whoever rebuilds
    /// this state from the log cannot know that the gate held it back, and must find the same end.
    /// The worker reads in the log that the execution was stopped, and refuses.
    pub fn decide(&mut self, gate: &dyn Fn(&Place) -> Gate, segments: bool) -> Vec<Output> {
        let mut out = Vec::new();
        if self.ended {
            return out;
        }
        out.extend(self.notes.drain(..).map(|event| Output::Note(Box::new(event))));
        let stopped = self.stop.is_some();
        let all = if stopped || self.ready.is_empty() { Gate::Open } else { self.gate(gate) };
        let mut waiting = Vec::new();
        while !matches!(all, Gate::Halted(_)) && (self.outstanding as usize) < RELEASED_TASKS_MAX {
            let Some(head) = self.ready.pop_front() else { break };
            if all != Gate::Open && gate(&self.place(head)) != Gate::Open {
                waiting.push(head);
                continue;
            }
            out.push(Output::Task(Box::new(self.dispatch(head, segments))));
        }
        waiting.into_iter().rev().for_each(|head| self.ready.push_front(head));
        if stopped {
            self.ready.clear();
        }
        let settled = self.completed + self.failed + self.skipped;
        if self.outstanding == 0 && (stopped || settled as usize == self.nodes.len()) {
            self.ended = true;
            let (event, record) = self.end();
            out.push(Output::End(Box::new(event), Box::new(record)));
        } else if let Some(record) = self.standing(&self.told) {
            self.told.clone_from(&record.unknown_nodes);
            out.push(Output::Standing(Box::new(record)));
        }
        out
    }

    /// [`Execution::decide`] with nothing held back.
    pub fn decide_all(&mut self, segments: bool) -> Vec<Output> {
        self.decide(&|_| Gate::Open, segments)
    }

    pub(crate) fn skipped_event(&self, i: u32, cause: u32) -> Event {
        let def = self.plan.def(i);
        let mut event = Event::new(EventType::NodeSkipped, event_id::node_skipped(self.id(), &def.id), &self.record.correlation, self.at);
        event.node_id = Some(def.id.clone());
        event.node_name = Some(def.title().clone());
        event.node_category = Some(def.category.clone());
        event.reason = Some(format!("it depends on node `{}`, which failed", self.plan.def(cause).id));
        event
    }

    fn dispatch(&mut self, head: u32, segments: bool) -> Task {
        let left = if segments { self.plan.node(head).chain_left.max(1) } else { 1 };
        let mut chain = Vec::with_capacity(left as usize);
        let mut at = Some(head);
        while let Some(i) = at.filter(|_| chain.len() < left as usize) {
            chain.push(i);
            // What was read again counts its attempts by itself: it begins a task of its own.
            let follows = |n: &u32| matches!(self.nodes[*n as usize], NodeState::Waiting(_)) && !self.rounds.contains_key(n);
            at = self.plan.node(i).chain_next.filter(follows);
        }
        let mut budget = TASK_INPUT_BYTES_MAX;
        let nodes = chain.iter().map(|i| self.task_node(*i, &chain, &mut budget)).collect();
        for i in &chain {
            self.nodes[*i as usize] = NodeState::InTask(head);
        }
        self.outstanding += 1;
        // The rest of a segment that ended early: a worker may have begun with it.
        let rest = segments && self.plan.node(head).deps.iter().any(|d| self.plan.node(*d).chain_next == Some(head));
        // A node that is repeated takes up counting where it was, and its token is above all before it.
        let attempt = self.rounds.get(&head).copied().unwrap_or(1);
        let whole = chain.len() == self.nodes.len() && attempt == 1;
        let r = &self.record;
        let mut task = Task {
            v: haltline_types::WIRE_VERSION,
            task_id: task_id(self.id(), &self.plan.def(head).id, attempt),
            correlation: r.correlation.clone(),
            workflow_version: r.workflow_version.clone(),
            shard: r.shard,
            attempt,
            token: token(attempt),
            deadline: self.deadline(),
            created_at: self.at,
            traceparent: traceparent(self.id()).into(),
            recovered: rest,
            on_halt: self.plan.on_halt(),
            repair: 0,
            whole: false,
            nodes,
        };
        task.set_whole(whole);
        task
    }

    fn task_node(&self, i: u32, chain: &[u32], budget: &mut usize) -> TaskNode {
        let def = self.plan.def(i);
        let inputs = def.inputs.iter().map(|(name, r)| (name.clone(), self.resolve(name, r, chain, budget))).collect::<BTreeMap<_, _>>();
        let at = |r: &InputRef| match r {
            InputRef::Value(_) => None,
            InputRef::Input(_) => Some(self.record.started_at),
            InputRef::Node(r) => self.plan.find(&r.node).filter(|n| !chain.contains(n)).map(|n| self.done_at[n as usize]),
        };
        let (read_again, fixed_at) = self.readable_inputs(i, chain);
        TaskNode {
            read_again,
            fixed_at,
            readings: self.readings.of(i),
            max_input_age_ms: def.max_input_age.map(|age| age.0),
            inputs_at: def.max_input_age.and_then(|_| def.inputs.values().filter_map(at).min()),
            id: def.id.clone(),
            name: def.title().clone(),
            category: def.category.clone(),
            kind: def.kind.clone(),
            effect: self.plan.node(i).effect,
            venue: self.plan.node(i).venue.clone(),
            allowed_while_halted: self.plan.node(i).allowed_while_halted,
            params: def.params.clone(),
            inputs,
            timeout_ms: self.plan.timeout_ms(i),
            retry: def.retry.unwrap_or_default(),
        }
    }

    /// Fails closed: what is not there is missing, never a default.
    fn resolve(&self, name: &str, input: &InputRef, chain: &[u32], budget: &mut usize) -> TaskInput {
        let found = match input {
            InputRef::Value(v) => Some(Cow::Borrowed(&v.value)),
            InputRef::Input(r) => look_up(&self.record.input, &r.input).map(Cow::Borrowed),
            InputRef::Node(r) => match self.plan.find(&r.node) {
                Some(n) if chain.contains(&n) => return TaskInput::Earlier(r.node.clone(), r.output.clone()),
                Some(n) => match self.outputs_of(n) {
                    Some(outputs) => look_up_output(outputs, &r.output),
                    None => {
                        return TaskInput::Missing(format!("input `{name}`: node `{}` failed and gave no output `{}`", r.node, r.output));
                    }
                },
                None => None,
            },
        };
        match found {
            None => TaskInput::Missing(describe_missing(name, input)),
            Some(value) => {
                let bytes = json::size(&*value);
                match budget.checked_sub(bytes) {
                    Some(left) => {
                        *budget = left;
                        TaskInput::Value(value.into_owned())
                    }
                    None => {
                        TaskInput::Missing(format!("input `{name}`: the inputs of this task have more than {TASK_INPUT_BYTES_MAX} bytes"))
                    }
                }
            }
        }
    }

    fn end(&self) -> (Event, Record) {
        let r = &self.record;
        let (kind, status) = match &self.stop {
            None if self.failed > 0 => (EventType::ExecutionCompleted, Status::CompletedWithErrors),
            None => (EventType::ExecutionCompleted, Status::Completed),
            Some(Stop::TimedOut) => (EventType::ExecutionTimedOut, Status::TimedOut),
            Some(Stop::Failed { .. }) => (EventType::ExecutionFailed, Status::Failed),
            Some(Stop::Halted(_)) => (EventType::ExecutionHalted, Status::Halted),
            Some(Stop::Cancelled { .. }) => (EventType::ExecutionCancelled, Status::Cancelled),
        };
        let (results, omitted) = self.results();
        let times = (r.started_at, self.at);
        let mut event = terminal_event(kind, status, &r.correlation, times, self.events, (results.clone(), omitted));
        let mut record = r.clone();
        event.errors = self.errors.clone();
        record.status = status;
        record.nodes_completed = self.completed;
        record.nodes_failed = self.failed;
        record.nodes_skipped = self.skipped;
        record.errors = self.errors.clone();
        record.finished_at = Some(self.at);
        record.duration_ms = event.duration_ms;
        record.results = results;
        record.results_omitted = omitted;
        record.event_count = event.event_count;
        event.unknown_nodes = self.unknown_nodes();
        record.unknown_nodes = event.unknown_nodes.clone();
        match &self.stop {
            None => {}
            Some(Stop::Failed { node, error, error_type }) => {
                event.node_id = Some(node.clone());
                event.error = Some(error.clone());
                event.error_type = Some(error_type.clone());
                record.failed_node = Some(node.clone());
                record.error = Some(error.clone());
                record.error_type = Some(error_type.clone());
            }
            Some(Stop::Halted(flag)) => {
                event.reason = Some(flag.reason.clone());
                event.by = Some(flag.by.clone());
                event.error_type = Some("EmergencyHalted".into());
                event.halted = Some(flag.clone());
                record.reason = Some(flag.sentence());
                record.error_type = Some("EmergencyHalted".into());
            }
            Some(Stop::Cancelled { by, reason }) => {
                event.reason = Some(reason.clone());
                event.by = Some(by.clone());
                record.reason = Some(format!("cancelled by {by}: {reason}"));
            }
            Some(Stop::TimedOut) => {
                let error = deadline_passed(self.deadline());
                event.error = Some(error.clone());
                event.error_type = Some(DEADLINE_EXCEEDED.into());
                record.error = Some(error);
                record.error_type = Some(DEADLINE_EXCEEDED.into());
            }
        }
        (event, record)
    }

    /// The final record that goes with a terminal event that the log has already: what was told
    /// stands, whatever this state would say.
    pub(crate) fn end_as_told(&mut self, event: &Event) -> Record {
        self.ended = true;
        let status = match event.kind {
            EventType::ExecutionCompleted if event.status.as_deref() == Some(Status::CompletedWithErrors.as_str()) => {
                Status::CompletedWithErrors
            }
            EventType::ExecutionCompleted => Status::Completed,
            EventType::ExecutionHalted => Status::Halted,
            EventType::ExecutionCancelled => Status::Cancelled,
            EventType::ExecutionTimedOut => Status::TimedOut,
            _ => Status::Failed,
        };
        let failed = status == Status::Failed;
        let by = event.by.clone().unwrap_or_default();
        let reason = event.reason.clone().unwrap_or_default();
        Record {
            status,
            nodes_completed: self.completed,
            finished_at: Some(event.timestamp),
            duration_ms: event.duration_ms,
            results: event.results.clone().unwrap_or_default(),
            results_omitted: event.results_omitted,
            nodes_failed: self.failed,
            nodes_skipped: self.skipped,
            errors: event.errors.clone(),
            error: event.error.clone().filter(|_| failed || status == Status::TimedOut),
            error_type: event.error_type.clone(),
            failed_node: event.node_id.clone().filter(|_| failed),
            reason: match status {
                Status::Halted => event.halted.as_ref().map(haltline_types::control::Flag::sentence),
                Status::Cancelled => Some(format!("cancelled by {by}: {reason}")),
                _ => None,
            },
            event_count: event.event_count,
            unknown_nodes: event.unknown_nodes.clone(),
            ..self.record.clone()
        }
    }

    /// The terminal event that goes with a final record: what was recorded stands.
    pub(crate) fn end_as_recorded(&mut self, record: &Record) -> Event {
        self.ended = true;
        let kind = match record.status {
            Status::Completed | Status::CompletedWithErrors => EventType::ExecutionCompleted,
            Status::TimedOut => EventType::ExecutionTimedOut,
            Status::Halted => EventType::ExecutionHalted,
            Status::Cancelled => EventType::ExecutionCancelled,
            Status::Failed | Status::Running | Status::Waiting | Status::Unknown => EventType::ExecutionFailed,
        };
        let mut event = Event::new(kind, event_id::ended(self.id()), &record.correlation, record.finished_at.unwrap_or(self.at));
        event.duration_ms = record.duration_ms;
        event.status = Some(record.status.as_str().into());
        event.event_count = record.event_count;
        event.results = Some(record.results.clone());
        event.results_omitted = record.results_omitted;
        event.node_id = record.failed_node.clone();
        event.error = record.error.clone();
        event.error_type = record.error_type.clone();
        event.errors = record.errors.clone();
        event.reason = record.reason.clone();
        event.unknown_nodes = record.unknown_nodes.clone();
        match &self.stop {
            Some(Stop::Halted(flag)) if record.status == Status::Halted => {
                event.reason = Some(flag.reason.clone());
                event.by = Some(flag.by.clone());
                event.halted = Some(flag.clone());
            }
            Some(Stop::Cancelled { by, reason }) if record.status == Status::Cancelled => {
                event.reason = Some(reason.clone());
                event.by = Some(by.clone());
            }
            _ => {}
        }
        event
    }

    fn results(&self) -> (Results, bool) {
        // Beside them the record has to hold these.
        let beside = if self.unknown.is_empty() { 0 } else { json::size(&self.unknown_nodes()) };
        let done = self.nodes.iter().enumerate().filter_map(|(i, state)| match state {
            NodeState::Done(outputs) => Some((&self.plan.def(i as u32).id, outputs)),
            _ => None,
        });
        results_of(done, beside)
    }
}

/// Outputs by node, unless they and what is `beside` them are too large for one message.
pub(crate) fn results_of<'n>(done: impl Iterator<Item = (&'n SmolStr, &'n Outputs)> + Clone, beside: usize) -> (Results, bool) {
    // Of nearly all executions bounds tell that they fit, without writing anything.
    let bounds = done.clone().map(|(_, outputs)| json::bound(outputs) + ID_BYTES_MAX + 8);
    let fits = bounds.fold(beside, usize::saturating_add) <= RESULTS_BYTES_MAX;
    let mut bytes = beside;
    let mut results = BTreeMap::new();
    for (id, outputs) in done {
        if !fits {
            bytes += id.len() + 8 + json::size(outputs);
            if bytes > RESULTS_BYTES_MAX {
                return (Arc::default(), true);
            }
        }
        results.insert(id.clone(), outputs.clone());
    }
    (Arc::new(results), false)
}

/// The terminal event of an execution that has `before` events without it.
pub(crate) fn terminal_event(
    kind: EventType,
    status: Status,
    c: &Correlation,
    (started_at, at): (Timestamp, Timestamp),
    before: u32,
    (results, omitted): (Results, bool),
) -> Event {
    let mut event = Event::new(kind, event_id::ended(&c.execution_id), c, at);
    event.duration_ms = Some(at.millis_since(started_at) as f64);
    event.status = Some(status.as_str().into());
    event.event_count = Some(before + 1);
    event.results = Some(results);
    event.results_omitted = omitted;
    event
}

/// What is said of an execution whose time is over.
pub(crate) fn deadline_passed(deadline: Timestamp) -> String {
    format!("the execution's deadline {deadline} has passed")
}

/// An output by name, or by JSON pointer into all outputs. Of one that is kept by reference: a reference to that part.
pub(crate) fn look_up_output<'v>(outputs: &'v Map<String, Value>, path: &str) -> Option<Cow<'v, Value>> {
    let Some(pointer) = path.strip_prefix('/') else { return outputs.get(path).map(Cow::Borrowed) };
    let (first, rest) = pointer.split_once('/').map_or((pointer, None), |(f, r)| (f, Some(r)));
    let value = outputs.get(&first.replace("~1", "/").replace("~0", "~"))?;
    match rest {
        None => Some(Cow::Borrowed(value)),
        Some(rest) => {
            let rest = format!("/{rest}");
            match PayloadRef::of(value) {
                Some(payload) => Some(Cow::Owned(payload.at(&rest).to_value())),
                None => value.pointer(&rest).map(Cow::Borrowed),
            }
        }
    }
}

fn describe_missing(name: &str, input: &InputRef) -> String {
    match input {
        InputRef::Node(r) => format!("input `{name}`: node `{}` gave no output `{}`", r.node, r.output),
        InputRef::Input(r) => format!("input `{name}`: the execution's input has no `{}`", r.input),
        InputRef::Value(_) => format!("input `{name}` is missing"),
    }
}
