//! An execution's state and its one mutator, used live and in recovery alike.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::Arc,
};

use haltline_types::{
    Millis, SmolStr, Timestamp,
    control::Flag,
    definition::OnError,
    event::{Claims, Command, CommandType, Event, EventType, UnknownNode},
    limits::{ERROR_BRIEF_BYTES_MAX, ERRORS_MAX, EXECUTION_MS_MAX},
    record::{FailedNode, Outputs, Record},
    task::round,
};

use crate::{plan::Plan, readings::Readings};

/// Error type of what is refused because the execution's deadline has passed.
pub(crate) const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// Where a node stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeState {
    /// Waits for this many dependencies.
    Waiting(u32),
    /// In the ready queue.
    Ready,
    /// In the task that begins at this node.
    InTask(u32),
    /// Completed, with its outputs.
    Done(Outputs),
    /// Whether its side effect happened is unknown: an operator has to say.
    Unknown,
    /// Failed, and its `on_error` let the execution go on.
    Failed,
    /// Does not run: a node it depends on failed under `on_error: skip`.
    Skipped,
    /// Refused, or failed and stopped the execution by that.
    Ended,
}

impl NodeState {
    /// Nothing changes it any more.
    pub(crate) const fn is_settled(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed | Self::Skipped | Self::Ended)
    }
}

/// Why no further node starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stop {
    Failed { node: SmolStr, error: String, error_type: String },
    Halted(Flag),
    Cancelled { by: String, reason: String },
    TimedOut,
}

/// What can change an execution.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The result that ends a task.
    Result(Box<Event>),
    /// A command.
    Command(Box<Command>),
    /// The command that ends a stopped execution without the tasks that nobody answers for, and how many
    /// events of workers the log has before it. What they store after it is void.
    Abandoned(Timestamp, u32),
}

/// Which events of an execution the log has, as it is read in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    ids: HashSet<String>,
    by_workers: u32,
    claims: Claims,
}

impl Told {
    /// Takes in an event. Whether it counts: it may be void.
    pub(crate) fn event(&mut self, event: &Event) -> bool {
        let counts = !self.claims.is_void(event);
        if counts && self.ids.insert(event.id.clone()) {
            self.by_workers += u32::from(event.token.is_some());
        }
        counts
    }
    /// Takes in a command.
    pub(crate) fn command(&mut self, command: &Command) {
        self.claims.take_in(command);
    }
    /// Events so far that workers told: what a coordinator tells may be on its way still.
    pub(crate) fn by_workers(&self) -> u32 {
        self.by_workers
    }
    /// The ids of all of them.
    pub(crate) fn into_ids(self) -> HashSet<String> {
        self.ids
    }
}

/// What an input did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The state changed.
    Changed,
    /// It was known already, came too late, or is about something else: nothing changed.
    Ignored,
}

/// An execution that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    pub(crate) record: Record,
    pub(crate) plan: Arc<Plan>,
    pub(crate) nodes: Vec<NodeState>,
    /// Nodes to dispatch, in the order they became ready.
    pub(crate) ready: VecDeque<u32>,
    pub(crate) outstanding: u32,
    pub(crate) completed: u32,
    /// Nodes that failed and let the execution go on; the first of them by name.
    pub(crate) failed: u32,
    pub(crate) errors: Vec<FailedNode>,
    pub(crate) skipped: u32,
    /// Events stored so far, as far as inputs tell: `execution_started`, those of ended tasks, and
    /// `node_skipped`.
    pub(crate) events: u32,
    /// How many of these are of the task that began at a node with an attempt: a task that two workers
    /// ran at once can end twice, at different nodes, and is not to be counted twice.
    pub(crate) counted: BTreeMap<(u32, u32), u32>,
    /// Nodes of whose side effects nobody knows whether they happened.
    pub(crate) unknown: BTreeMap<u32, UnknownNode>,
    /// Those that the record names already.
    pub(crate) told: Vec<UnknownNode>,
    /// First attempt of the task that begins at a node, where it was repeated.
    pub(crate) rounds: BTreeMap<u32, u32>,
    /// Events that no worker tells, to be emitted.
    pub(crate) notes: Vec<Event>,
    pub(crate) claims: Claims,
    /// Tasks, by their first node, whose walk ended before a node that another walk has claimed.
    taken_over: BTreeSet<u32>,
    pub(crate) stop: Option<Stop>,
    pub(crate) ended: bool,
    /// When each node that is done ended.
    pub(crate) done_at: Vec<Timestamp>,
    /// What was read again, and for whom.
    pub(crate) readings: Readings,
    /// The time of the last input: time comes in with inputs only.
    pub(crate) at: Timestamp,
}

impl Execution {
    /// The state at acceptance.
    pub fn accept(record: Record, plan: Arc<Plan>) -> Self {
        let mut nodes = Vec::with_capacity(plan.len());
        let mut ready = VecDeque::new();
        for i in 0..plan.len() as u32 {
            let deps = plan.node(i).deps.len() as u32;
            if deps == 0 {
                ready.push_back(i);
                nodes.push(NodeState::Ready);
            } else {
                nodes.push(NodeState::Waiting(deps));
            }
        }
        let at = record.started_at;
        Self {
            done_at: vec![at; nodes.len()],
            readings: Readings::default(),
            record,
            plan,
            nodes,
            ready,
            outstanding: 0,
            completed: 0,
            failed: 0,
            errors: Vec::new(),
            skipped: 0,
            events: 1,
            counted: BTreeMap::new(),
            unknown: BTreeMap::new(),
            told: Vec::new(),
            rounds: BTreeMap::new(),
            notes: Vec::new(),
            claims: Claims::default(),
            taken_over: BTreeSet::new(),
            stop: None,
            ended: false,
            at,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.record.correlation.execution_id
    }
    /// Its record as of acceptance.
    pub fn record(&self) -> &Record {
        &self.record
    }
    /// Nodes completed.
    pub fn completed(&self) -> u32 {
        self.completed
    }
    /// Tasks dispatched whose result has not come.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }
    /// Whether a task that begins at this node was dispatched and has not ended.
    pub(crate) fn awaits(&self, head: &str) -> bool {
        self.plan.find(head).is_some_and(|i| self.nodes[i as usize] == NodeState::InTask(i))
    }
    /// Whether no task of it is out.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.outstanding == 0 && !self.ended
    }
    /// Whether no further node is to start.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_some()
    }
    /// When its time is over.
    pub fn deadline(&self) -> Timestamp {
        let limit = self.plan.definition().timeout.map_or(EXECUTION_MS_MAX, |Millis(ms)| ms);
        Timestamp(self.record.started_at.0.saturating_add(i64::try_from(limit).unwrap_or(i64::MAX)))
    }
    /// Whether its end was decided.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The one mutator.
    pub fn apply(&mut self, input: &Input) -> Applied {
        if self.ended {
            return Applied::Ignored;
        }
        match input {
            Input::Result(event) => self.apply_result(event),
            Input::Command(command) => self.apply_command(command),
            Input::Abandoned(at, events) => self.abandon(*at, *events),
        }
    }

    fn apply_result(&mut self, event: &Event) -> Applied {
        let Some(i) = event.node_id.as_deref().and_then(|id| self.plan.find(id)) else { return Applied::Ignored };
        // Only results are inputs, and the first one by log order stands.
        let of_no_use = self.nodes[i as usize].is_settled() || self.claims.is_void(event) || self.is_of_earlier_reading(i, event);
        if !event.kind.is_input() || of_no_use {
            return Applied::Ignored;
        }
        let head = event.segment.first().and_then(|s| self.plan.find(&s.node_id)).unwrap_or(i);
        // That it is unknown is no news; of a task that was repeated since, only what it did counts.
        let is_unknown = self.nodes[i as usize] == NodeState::Unknown;
        let no_news = event.kind == EventType::NodeUnknown && is_unknown;
        if no_news || (event.kind != EventType::NodeCompleted && self.is_outdated(head, event)) {
            return Applied::Ignored;
        }
        self.at = self.at.max(event.timestamp);
        let taken_over = self.is_taken_over(i, event);
        if let NodeState::InTask(head) = self.nodes[i as usize]
            && taken_over
        {
            self.taken_over.insert(head);
        }
        let told = event.task_events.unwrap_or(1);
        let counted = self.counted.entry((head, self.round_of(head, event))).or_default();
        self.events += told.saturating_sub(*counted);
        *counted = told.max(*counted);
        // Some of what it told of a rest that was claimed since is void: whoever has the rest read what counts.
        if let Some(rest) = event.rest_events.filter(|_| !self.is_rest_claimed(i, event)) {
            // The task that goes on tells these again, or this one does, by a walk that claimed it.
            self.events += rest;
            *self.counted.entry((head, self.round_of(head, event))).or_default() += rest;
            if let Some(next) = self.plan.node(i).chain_next {
                let first = self.rounds.get(&next).copied().unwrap_or(1);
                *self.counted.entry((next, first)).or_default() += rest;
            }
        }
        // Whatever task has one of these nodes is over: its own result would come too late to count.
        for n in event.segment.iter().filter_map(|s| self.plan.find(&s.node_id)).chain([i]).collect::<Vec<_>>() {
            if let NodeState::InTask(head) = self.nodes[n as usize]
                && !taken_over
            {
                self.leave_task(head);
            }
        }
        // First the stop: what becomes ready by the same input does not start any more.
        let admitted = event.kind == EventType::NodeFailed && !self.plan.def(i).on_error.is_default();
        match event.kind {
            EventType::NodeFailed if !admitted => self.stop_with(Stop::Failed {
                node: event.node_id.clone().unwrap_or_default(),
                error: event.error.clone().unwrap_or_default(),
                error_type: event.error_type.clone().unwrap_or_default(),
            }),
            // A refusal is no failure: `on_error` has no say in it.
            EventType::NodeRefused if event.halted.is_none() && event.error_type.as_deref() == Some(DEADLINE_EXCEEDED) => {
                self.stop_with(Stop::TimedOut);
            }
            EventType::NodeRefused if event.halted.is_none() => self
                .stop_with(Stop::Cancelled { by: event.by.clone().unwrap_or_default(), reason: event.reason.clone().unwrap_or_default() }),
            _ => {}
        }
        if let Some(flag) = &event.halted {
            self.stop_with(Stop::Halted(flag.clone()));
        }
        let round = event.token.map_or(1, round);
        for done in &event.segment {
            if let Some(n) = self.plan.find(&done.node_id) {
                self.readings.ended(n, round.max(done.attempt.unwrap_or(1)));
                // Of one that does not say, it is as old as can be.
                self.complete(n, done.outputs.clone(), done.at.unwrap_or(self.record.started_at));
            }
        }
        self.readings.ended(i, round.max(event.attempt.unwrap_or(1)));
        if event.kind == EventType::NodeCompleted {
            self.complete(i, event.outputs.clone().unwrap_or_default(), event.timestamp);
        } else if admitted {
            self.fail(i, event);
        } else if event.kind == EventType::NodeStale && self.stop.is_none() {
            self.read_again(i, event);
        } else {
            let unknown = event.kind == EventType::NodeUnknown;
            self.settle(i, if unknown { NodeState::Unknown } else { NodeState::Ended });
            // Also a refusal can leave an effect behind that was on its way.
            if unknown || !event.unsettled.is_empty() {
                self.note_unknown(i, event);
            }
        }
        Applied::Changed
    }

    /// Whether this ends a task of a stopped execution before a node that another walk of the same task has
    /// claimed: that one goes on, and ends it.
    ///
    /// Any other execution dispatches what is left anew, and the claim is met there.
    fn is_taken_over(&self, i: u32, event: &Event) -> bool {
        let Some(next) = self.plan.node(i).chain_next else { return false };
        let same_task = matches!(self.nodes[i as usize], NodeState::InTask(_)) && self.nodes[i as usize] == self.nodes[next as usize];
        same_task && self.is_rest_claimed(i, event) && event.kind == EventType::NodeCompleted && self.stop.is_some()
    }

    /// Whether another walk than the one that tells `event` has claimed what comes after it.
    fn is_rest_claimed(&self, i: u32, event: &Event) -> bool {
        let (Some(token), Some(next)) = (event.token, self.plan.node(i).chain_next) else { return false };
        self.claims.standing(&self.plan.def(next).id).is_some_and(|(claimed, _)| token < claimed)
    }

    /// The round of the task at `head` that an event is of: that of its token, which a claim may have raised.
    fn round_of(&self, head: u32, event: &Event) -> u32 {
        let now = self.rounds.get(&head).copied().unwrap_or(1);
        event.token.map_or(1, round).min(now)
    }

    fn abandon(&mut self, at: Timestamp, by_workers: u32) -> Applied {
        // Of a halt and a failure, tasks that run go on to their end, as far as the queue has them.
        if !self.can_be_abandoned() {
            return Applied::Ignored;
        }
        self.at = self.at.max(at);
        self.outstanding = 0;
        // With the first event and those of skipped nodes, which are told if the log lacks them.
        self.events = 1 + self.skipped + by_workers;
        for state in &mut self.nodes {
            if matches!(state, NodeState::InTask(_)) {
                *state = NodeState::Ended;
            }
        }
        Applied::Changed
    }

    /// The flag that halted it, while tasks of it are out.
    pub(crate) fn halt_with_tasks_out(&self) -> Option<&Flag> {
        match &self.stop {
            Some(Stop::Halted(flag)) if self.outstanding > 0 => Some(flag),
            _ => None,
        }
    }

    /// Whether it was stopped in a way that running nodes are to obey at once, and some have not; or waits for a walk
    /// whose task is not in the queue any more, so that nobody would go on with it.
    pub(crate) fn can_be_abandoned(&self) -> bool {
        let obeyed = matches!(self.stop, Some(Stop::Cancelled { .. } | Stop::TimedOut));
        !self.ended && self.outstanding > 0 && (obeyed || !self.taken_over.is_empty())
    }

    fn apply_command(&mut self, command: &Command) -> Applied {
        self.claims.take_in(command);
        if self.stop.is_some() {
            return Applied::Ignored;
        }
        if command.kind == CommandType::Resolve {
            return self.apply_resolve(command);
        }
        self.at = self.at.max(command.timestamp);
        match command.kind {
            CommandType::Cancel => self.stop_with(Stop::Cancelled { by: command.by.clone(), reason: command.reason.clone() }),
            CommandType::Halt => {
                let flag = command.halted.clone();
                self.stop_with(Stop::Halted(flag.unwrap_or_else(|| Flag::unreadable(command.reason.clone(), 0, None))));
            }
            CommandType::Timeout => self.stop_with(Stop::TimedOut),
            CommandType::Claim | CommandType::Resolve | CommandType::Abandon => return Applied::Ignored,
        }
        Applied::Changed
    }

    pub(crate) fn stop_with(&mut self, stop: Stop) {
        // The first reason by log order stands.
        if self.stop.is_none() {
            self.stop = Some(stop);
        }
    }

    /// The task that began at `head` is over: its nodes wait again, until results say otherwise.
    fn leave_task(&mut self, head: u32) {
        self.outstanding -= 1;
        self.taken_over.remove(&head);
        let mut at = Some(head);
        while let Some(i) = at {
            at = self.plan.node(i).chain_next;
            match self.nodes[i as usize] {
                NodeState::InTask(of) if of == head => {}
                // Told by a walk that another one took the task over from.
                NodeState::Done(_) => continue,
                _ => break,
            }
            let left = self.plan.node(i).deps.iter().filter(|d| !self.lets_on(**d)).count();
            self.nodes[i as usize] = NodeState::Waiting(left as u32);
        }
    }

    /// Whether a node that depends on this one need not wait for it any more.
    pub(crate) fn lets_on(&self, i: u32) -> bool {
        match self.nodes[i as usize] {
            NodeState::Done(_) => true,
            NodeState::Failed => !matches!(self.plan.def(i).on_error, OnError::Skip),
            _ => false,
        }
    }

    /// What a node gives to those that depend on it.
    pub(crate) fn outputs_of(&self, i: u32) -> Option<&Outputs> {
        match (&self.nodes[i as usize], &self.plan.def(i).on_error) {
            (NodeState::Done(outputs), _) | (NodeState::Failed, OnError::Use(outputs)) => Some(outputs),
            // What was ready before it was read again goes by what it had given.
            (NodeState::Waiting(_) | NodeState::Ready | NodeState::InTask(_), _) => self.readings.given(i),
            _ => None,
        }
    }

    pub(crate) fn settle(&mut self, i: u32, state: NodeState) {
        if self.nodes[i as usize] == NodeState::Ready {
            // Dispatched by someone else, while our gate was closed.
            self.ready.retain(|r| *r != i);
        }
        self.unknown.remove(&i);
        self.nodes[i as usize] = state;
    }

    pub(crate) fn complete(&mut self, i: u32, outputs: Outputs, at: Timestamp) {
        if self.nodes[i as usize].is_settled() {
            return;
        }
        self.done_at[i as usize] = at;
        self.settle(i, NodeState::Done(outputs));
        self.completed += 1;
        self.release(i);
    }

    /// A node failed and its `on_error` says how the execution goes on.
    pub(crate) fn fail(&mut self, i: u32, event: &Event) {
        self.settle(i, NodeState::Failed);
        self.failed += 1;
        let plan = self.plan.clone();
        let def = plan.def(i);
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(FailedNode {
                node_id: def.id.clone(),
                error_type: event.error_type.clone().unwrap_or_default(),
                error: brief(event.error.as_deref().unwrap_or_default()),
                on_error: def.on_error.as_str().to_owned(),
            });
        }
        match &def.on_error {
            OnError::Skip => self.skip_behind(i),
            OnError::Continue | OnError::Use(_) => self.release(i),
            OnError::Fail => {}
        }
    }

    /// Skips what depends on a failed node, directly or not. In an execution that was stopped nothing
    /// would have started anyway: nobody is told.
    fn skip_behind(&mut self, failed: u32) {
        if self.stop.is_some() {
            return;
        }
        let plan = self.plan.clone();
        let mut reached = VecDeque::from([failed]);
        while let Some(i) = reached.pop_front() {
            for next in &plan.node(i).dependents {
                // Others run by now, or ran: a worker that came late had told another outcome.
                if matches!(self.nodes[*next as usize], NodeState::Waiting(_)) {
                    self.nodes[*next as usize] = NodeState::Skipped;
                    self.skipped += 1;
                    self.events += 1;
                    self.notes.push(self.skipped_event(*next, failed));
                    reached.push_back(*next);
                }
            }
        }
    }

    /// What waits for this node waits for one less.
    fn release(&mut self, i: u32) {
        let plan = self.plan.clone();
        for next in &plan.node(i).dependents {
            if let NodeState::Waiting(left) = &mut self.nodes[*next as usize] {
                *left = left.saturating_sub(1);
                if *left == 0 && self.stop.is_none() {
                    self.nodes[*next as usize] = NodeState::Ready;
                    self.ready.push_back(*next);
                }
            }
        }
    }
}

/// The beginning of an error's text, if it is long.
fn brief(text: &str) -> String {
    if text.len() <= ERROR_BRIEF_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(ERROR_BRIEF_BYTES_MAX)])
}
