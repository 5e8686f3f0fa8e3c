//! Nodes of whose side effects nobody knows whether they happened, and what an operator says about them.

use haltline_types::{
    event::{Command, Event, EventType, Resolution, UnknownNode, event_id},
    limits::{UNKNOWN_NODES_MAX, UNKNOWN_TEXT_BYTES_MAX},
    record::{Record, Status},
    task::round,
};

use crate::execution::{Applied, Execution, NodeState, Stop};

/// Kind of the failure of a node that an operator gave up.
const RESOLVED_AS_FAILED: &str = "ResolvedAsFailed";

impl Execution {
    /// Remembers what a result says about a node that is in doubt.
    pub(crate) fn note_unknown(&mut self, i: u32, event: &Event) {
        let mut error = event.error.clone().or_else(|| event.reason.clone()).unwrap_or_default();
        error.truncate(error.floor_char_boundary(UNKNOWN_TEXT_BYTES_MAX / 2));
        let mut left = UNKNOWN_TEXT_BYTES_MAX / 2;
        let fits = |id: &&String| {
            left.checked_sub(id.len()).is_some_and(|l| {
                left = l;
                true
            })
        };
        let node = UnknownNode {
            node_id: self.plan.def(i).id.clone(),
            attempt: event.attempt.unwrap_or(1),
            error,
            unsettled: event.unsettled.iter().take_while(fits).cloned().collect(),
        };
        self.unknown.insert(i, node);
    }

    /// Whether an event is of a task that was repeated since.
    pub(crate) fn is_outdated(&self, head: u32, event: &Event) -> bool {
        let now = self.rounds.get(&head).copied().unwrap_or(1);
        event.token.is_some_and(|token| round(token) < now)
    }

    /// The nodes in doubt, as a record tells them.
    pub(crate) fn unknown_nodes(&self) -> Vec<UnknownNode> {
        self.unknown.values().take(UNKNOWN_NODES_MAX).cloned().collect()
    }

    /// The record of an execution that has not ended, if it says something else than `told`.
    pub(crate) fn standing(&self, told: &[UnknownNode]) -> Option<Record> {
        (!self.ended && self.unknown_nodes() != told).then(|| self.open_record(Status::Running))
    }

    /// The record of an execution that has not ended: `status`, unless a node is in doubt.
    pub(crate) fn open_record(&self, status: Status) -> Record {
        let unknown_nodes = self.unknown_nodes();
        let status = if unknown_nodes.is_empty() { status } else { Status::Unknown };
        Record { status, nodes_completed: self.completed, unknown_nodes, ..self.record.clone() }
    }

    /// An operator says what became of a node. About any other node it says nothing.
    pub(crate) fn apply_resolve(&mut self, command: &Command) -> Applied {
        let node = command.nodes.first().and_then(|id| self.plan.find(id));
        let Some((i, resolution)) = node.zip(command.resolution) else { return Applied::Ignored };
        let Some(unknown) = self.unknown.get(&i).filter(|_| self.nodes[i as usize] == NodeState::Unknown) else {
            return Applied::Ignored;
        };
        let attempt = unknown.attempt;
        if command.token.is_some_and(|token| round(token) != attempt) {
            return Applied::Ignored;
        }
        self.at = self.at.max(command.timestamp);
        match resolution {
            Resolution::Done => {
                let mut event = self.resolved_event(EventType::NodeCompleted, i, command);
                let outputs = command.outputs.clone().unwrap_or_default();
                event.outputs = Some(outputs.clone());
                event.status = Some("success".into());
                self.notes.push(event);
                self.complete(i, outputs, command.timestamp);
            }
            Resolution::Repeat => {
                self.rounds.insert(i, attempt + 1);
                self.settle(i, NodeState::Ready);
                self.ready.push_back(i);
            }
            Resolution::Fail => {
                let error = if command.reason.is_empty() { "an operator gave it up".to_owned() } else { command.reason.clone() };
                let mut event = self.resolved_event(EventType::NodeFailed, i, command);
                event.error = Some(error.clone());
                event.error_type = Some(RESOLVED_AS_FAILED.into());
                if self.plan.def(i).on_error.is_default() {
                    let node = self.plan.def(i).id.clone();
                    self.settle(i, NodeState::Ended);
                    self.stop_with(Stop::Failed { node, error, error_type: RESOLVED_AS_FAILED.into() });
                } else {
                    self.fail(i, &event);
                }
                self.notes.push(event);
            }
        }
        Applied::Changed
    }

    /// The node's result, which no worker tells.
    fn resolved_event(&mut self, kind: EventType, i: u32, command: &Command) -> Event {
        self.events += 1;
        let def = self.plan.def(i);
        let id = event_id::node_result(self.id(), &def.id);
        let mut event = Event::new(kind, id, &self.record.correlation, command.timestamp);
        event.node_id = Some(def.id.clone());
        event.node_name = Some(def.title().clone());
        event.node_category = Some(def.category.clone());
        event.attempt = self.unknown.get(&i).map(|u| u.attempt);
        event.by = Some(command.by.clone()).filter(|by| !by.is_empty());
        event.reason = Some(command.reason.clone()).filter(|reason| !reason.is_empty());
        event
    }
}
