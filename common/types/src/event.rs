//! Events: the log's messages, one line of JSON each, in the shapes that dashboards know. A node's
//! result is the event that reports it. Every event has a deterministic id, the same when it is
//! published again after a crash, so readers and the server drop repeats.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::{
    Timestamp,
    control::{Flag, Scope},
    record::{FailedNode, Outputs, Results},
    risk::{Breach, Noted},
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// An execution was accepted and begins.
    ExecutionStarted,
    /// An attempt of a node begins.
    NodeStarted,
    /// A node succeeded.
    NodeCompleted,
    /// A node failed for good.
    NodeFailed,
    /// An attempt failed; another follows after `retry_in_ms`.
    NodeRetrying,
    /// A node was not started (or not repeated): the flag or a cancel refused it.
    NodeRefused,
    /// A node does not run, because a node it depends on failed and `on_error` says so.
    NodeSkipped,
    /// Whether a node's side effect happened cannot be told; an operator decides (`resolve`).
    NodeUnknown,
    /// A node was not run, or not repeated: an input is older than it allows. What that comes from is read again,
    /// then the node runs.
    NodeStale,
    /// A side effect is about to be performed: stored before it is.
    EffectIntended,
    /// What became of an intended side effect.
    EffectSettled,
    /// Terminal: every node completed.
    ExecutionCompleted,
    /// Terminal: a node failed.
    ExecutionFailed,
    /// Terminal: a halt stopped it.
    ExecutionHalted,
    /// Terminal: it was cancelled.
    ExecutionCancelled,
    /// Terminal: its deadline passed.
    ExecutionTimedOut,
    /// The control flag changed; belongs to no execution.
    EmergencyStateChanged,
    /// Nothing that a flag keeps from starting can start any more, and nothing of it is in flight; belongs to
    /// no execution.
    HaltConfirmed,
    /// A risk limit is near; belongs to no execution.
    RiskLimitWarning,
    /// A risk limit was reached, or refused an action; belongs to no execution.
    RiskLimitBreached,
}

impl EventType {
    /// Whether it ends an execution.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::ExecutionCompleted | Self::ExecutionFailed | Self::ExecutionHalted | Self::ExecutionCancelled | Self::ExecutionTimedOut
        )
    }
    /// Whether it can change what the coordinator decides. These travel on `input` subjects, whose first message may
    /// begin with the execution's start, and then end with its end.
    pub const fn is_input(self) -> bool {
        matches!(self, Self::NodeCompleted | Self::NodeFailed | Self::NodeRefused | Self::NodeUnknown | Self::NodeStale)
    }
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExecutionStarted => "execution_started",
            Self::NodeStarted => "node_started",
            Self::NodeCompleted => "node_completed",
            Self::NodeFailed => "node_failed",
            Self::NodeRetrying => "node_retrying",
            Self::NodeRefused => "node_refused",
            Self::NodeSkipped => "node_skipped",
            Self::NodeUnknown => "node_unknown",
            Self::NodeStale => "node_stale",
            Self::EffectIntended => "effect_intended",
            Self::EffectSettled => "effect_settled",
            Self::ExecutionCompleted => "execution_completed",
            Self::ExecutionFailed => "execution_failed",
            Self::ExecutionHalted => "execution_halted",
            Self::ExecutionCancelled => "execution_cancelled",
            Self::ExecutionTimedOut => "execution_timed_out",
            Self::EmergencyStateChanged => "emergency_state_changed",
            Self::HaltConfirmed => "halt_confirmed",
            Self::RiskLimitWarning => "risk_limit_warning",
            Self::RiskLimitBreached => "risk_limit_breached",
        }
    }
}

/// An event, flat. Fields that do not apply are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Deterministic id, also the message's `Nats-Msg-Id`; a result that ends its task has `/end` after it
    /// there, since it may repeat, with more, an event that only told it.
    pub id: String,
    /// The execution; empty for `emergency_state_changed`.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub execution_id: SmolStr,
    /// The workflow.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub workflow_id: SmolStr,
    /// The bot; on every event of an execution, empty if it has none.
    #[serde(default)]
    pub bot_id: SmolStr,
    /// The strategy; on every event of an execution, empty if it has none.
    #[serde(default)]
    pub strategy_id: SmolStr,
    /// When, by the clock of the process that caused it.
    pub timestamp: Timestamp,
    /// The node, on node events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<SmolStr>,
    /// The node's name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<SmolStr>,
    /// The node's category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_category: Option<SmolStr>,
    /// The attempt it is about, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Fencing token of the delivery that produced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The worker that produced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<SmolStr>,
    /// Milliseconds it took: of a node its last attempt, of an execution from acceptance to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// `success` on `node_completed`; the execution's status on terminal events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SmolStr>,
    /// What a node gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Outputs>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its kind, as `Timeout`, `Connection`, `MissingInput`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// On terminal events: the first nodes that failed and whose `on_error` let the execution go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FailedNode>,
    /// Milliseconds until the next attempt, on `node_retrying`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// How many nodes the workflow has, on `execution_started`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_count: Option<u32>,
    /// The pinned definition, on `execution_started`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_version: Option<SmolStr>,
    /// Outputs by node, on terminal events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Results>,
    /// True if `results` would have been too large; read them from the `node_completed` events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub results_omitted: bool,
    /// On terminal events: how many events, this one included, the execution has. A reader that has
    /// seen so many distinct ids has all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_count: Option<u32>,
    /// On a node's result: how many events its task produced in all, this one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_events: Option<u32>,
    /// On a result that leaves the rest of a segment to others: how many events the next node has already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_events: Option<u32>,
    /// On the result of a segment's last node: the results of the nodes before it in the same task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segment: Vec<SegmentResult>,
    /// On a node's result: the flag refused when the node was to start or had just ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Flag>,
    /// Why, on refusals, halts and cancels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Level before, on `emergency_state_changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_state: Option<String>,
    /// Level after, on `emergency_state_changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_state: Option<String>,
    /// What it covers, on `emergency_state_changed` and `halt_confirmed`; absent for everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// The flag's revision, on `emergency_state_changed` and `halt_confirmed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// On `halt_confirmed`: how many workers counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// On `halt_confirmed`: how many of them confirmed; of the others leases ran out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<u32>,
    /// Who, on `emergency_state_changed`, halts and cancels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// W3C trace context, on `execution_started`: that of all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The idempotency key that the side effect carries, on `effect_intended`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// On `effect_settled`: the id of the `effect_intended` that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// On a node's result: ids of the `effect_intended` whose outcome nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<String>,
    /// On `node_stale`: the nodes that its inputs come from and that can be read again, each behind those it
    /// depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_again: Vec<SmolStr>,
    /// On terminal events: nodes of whose side effects nobody knows whether they happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_nodes: Vec<UnknownNode>,
    /// On a node's result: what it says about risk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risk: Vec<Noted>,
    /// On `risk_limit_warning` and `risk_limit_breached`: rule, limit, what is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breach: Option<Box<Breach>>,
    /// On `risk_limit_breached`: the id of the event, or the time, that it followed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<String>,
}

/// A node of whose side effect nobody knows whether it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnknownNode {
    /// The node.
    pub node_id: SmolStr,
    /// The attempt that left it so.
    pub attempt: u32,
    /// Why nobody knows; the beginning, where it is long.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Ids of the `effect_intended` in question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<String>,
}

/// The result of a node that is not the last of its segment, carried by the last one's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentResult {
    /// The node.
    pub node_id: SmolStr,
    /// What it gave.
    pub outputs: Outputs,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The attempt that gave it; the first if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// What is the same on every event of an execution.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Correlation {
    /// The execution: the correlation id of every log line, event and key.
    pub execution_id: SmolStr,
    /// Its workflow.
    pub workflow_id: SmolStr,
    /// Its bot, or empty.
    #[serde(default)]
    pub bot_id: SmolStr,
    /// Its strategy, or empty.
    #[serde(default)]
    pub strategy_id: SmolStr,
}

impl Event {
    /// `execution_started`: the first event of an execution.
    pub fn started(c: &Correlation, at: Timestamp, node_count: u32, workflow_version: &SmolStr, traceparent: &str) -> Self {
        let mut event = Self::new(EventType::ExecutionStarted, event_id::started(&c.execution_id), c, at);
        event.node_count = Some(node_count);
        event.workflow_version = Some(workflow_version.clone());
        event.traceparent = Some(traceparent.to_owned());
        event
    }

    /// What the event in a line of the log tells; none for what is no event.
    pub fn kind_of(line: &[u8]) -> Option<EventType> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            kind: EventType,
        }
        // As it is written here it begins with it; the rest need not be looked at.
        let word = line.strip_prefix(br#"{"type":"#).and_then(|rest| rest.get(..=1 + rest.iter().skip(1).position(|b| *b == b'"')?));
        match word.map(serde_json::from_slice::<EventType>) {
            Some(Ok(kind)) => Some(kind),
            _ => serde_json::from_slice::<Kind>(line).ok().map(|k| k.kind),
        }
    }

    /// An event of an execution with nothing but the common fields.
    pub fn new(kind: EventType, id: String, c: &Correlation, timestamp: Timestamp) -> Self {
        Self {
            kind,
            id,
            execution_id: c.execution_id.clone(),
            workflow_id: c.workflow_id.clone(),
            bot_id: c.bot_id.clone(),
            strategy_id: c.strategy_id.clone(),
            timestamp,
            node_id: None,
            node_name: None,
            node_category: None,
            attempt: None,
            token: None,
            worker_id: None,
            duration_ms: None,
            status: None,
            outputs: None,
            error: None,
            error_type: None,
            errors: Vec::new(),
            retry_in_ms: None,
            node_count: None,
            workflow_version: None,
            results: None,
            results_omitted: false,
            event_count: None,
            task_events: None,
            rest_events: None,
            segment: Vec::new(),
            halted: None,
            reason: None,
            scope: None,
            revision: None,
            workers: None,
            confirmed: None,
            previous_state: None,
            new_state: None,
            by: None,
            traceparent: None,
            key: None,
            intent: None,
            unsettled: Vec::new(),
            read_again: Vec::new(),
            unknown_nodes: Vec::new(),
            risk: Vec::new(),
            breach: None,
            caused_by: None,
        }
    }
}

/// Ids of events: the same again after a crash.
pub mod event_id {
    /// Of `execution_started`.
    pub fn started(execution_id: &str) -> String {
        [execution_id, "/started"].concat()
    }
    /// Of the one terminal event.
    pub fn ended(execution_id: &str) -> String {
        [execution_id, "/ended"].concat()
    }
    /// Of `node_started` of an attempt.
    pub fn node_started(execution_id: &str, node_id: &str, attempt: u32) -> String {
        format!("{execution_id}/{node_id}/{attempt}/started")
    }
    /// Of `node_retrying` after an attempt.
    pub fn node_retrying(execution_id: &str, node_id: &str, attempt: u32) -> String {
        format!("{execution_id}/{node_id}/{attempt}/retrying")
    }
    /// Of the n-th `effect_intended` of an attempt, from 1. An attempt that another worker goes on with
    /// goes on counting.
    pub fn effect_intended(execution_id: &str, node_id: &str, attempt: u32, n: u32) -> String {
        let first = format!("{execution_id}/{node_id}/{attempt}/intended");
        if n <= 1 { first } else { format!("{first}/{n}") }
    }
    /// Of the `effect_settled` that is about an `effect_intended`.
    pub fn effect_settled(intent: &str) -> String {
        match intent.rsplit_once("/intended") {
            Some((attempt, n)) => format!("{attempt}/settled{n}"),
            None => format!("{intent}/settled"),
        }
    }
    /// Of `node_unknown` after an attempt: not the node's result, which is still to come.
    pub fn node_unknown(execution_id: &str, node_id: &str, attempt: u32) -> String {
        format!("{execution_id}/{node_id}/{attempt}/unknown")
    }
    /// Of `node_stale` after an attempt: not the node's result, which is still to come.
    pub fn node_stale(execution_id: &str, node_id: &str, attempt: u32) -> String {
        format!("{execution_id}/{node_id}/{attempt}/stale")
    }
    /// Of a node's one result: completed, failed or refused.
    pub fn node_result(execution_id: &str, node_id: &str) -> String {
        [execution_id, "/", node_id, "/result"].concat()
    }
    /// Of the result of a node that was read again `readings` times: one for each reading.
    pub fn node_reading(execution_id: &str, node_id: &str, readings: u32) -> String {
        let first = node_result(execution_id, node_id);
        if readings == 0 { first } else { format!("{first}/{}", readings + 1) }
    }
    /// Of `node_skipped`.
    pub fn node_skipped(execution_id: &str, node_id: &str) -> String {
        format!("{execution_id}/{node_id}/skipped")
    }
    /// Of `halt_confirmed` for a revision of a control key.
    pub fn confirmed(key: &str, revision: u64) -> String {
        format!("control/{key}/{revision}/confirmed")
    }
    /// Of `risk_limit_warning` (`word` is `warning`) or `risk_limit_breached` of a rule, by its key and what it followed from.
    pub fn risk(rule_key: &str, by: &str, word: &str) -> String {
        format!("{rule_key}/{by}/{word}")
    }
    /// Of `emergency_state_changed` for a revision of a control key.
    pub fn control(key: &str, revision: u64) -> String {
        format!("control/{key}/{revision}")
    }
}

/// A request that became part of the log before anything was decided on it. Not an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// What is asked.
    #[serde(rename = "type")]
    pub kind: CommandType,
    /// Of which execution.
    pub execution_id: SmolStr,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// When, by the asker's clock.
    pub timestamp: Timestamp,
    /// The flag, on `halt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Flag>,
    /// The nodes of the task, on `claim`; the node, on `resolve`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<SmolStr>,
    /// The fencing token, on `claim`: from here on a lower one is void on these nodes. On `resolve`
    /// the first token of the attempt that it is about: it says nothing about a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// What an operator found out, on `resolve`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// What the node gave, on `resolve` as `done`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Outputs>,
}

/// Kinds of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandType {
    /// End it as cancelled.
    Cancel,
    /// The coordinator saw the flag refuse a dispatch: end it as halted.
    Halt,
    /// A worker takes over a task that another one may be running: what carries a lower token on
    /// these nodes and is stored after this is void. `by` is the worker, `/` and the number of its walk.
    Claim,
    /// An operator says what became of a node whose outcome is unknown.
    Resolve,
    /// The deadline passed: end it as timed out.
    Timeout,
    /// Nobody answers for the tasks of a stopped execution: end it without them.
    Abandon,
}

/// What an operator found out about a side effect whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It happened: the node completes with the outputs given.
    Done,
    /// It did not happen: the node runs again.
    Repeat,
    /// Whatever happened, the node counts as failed.
    Fail,
}

impl CommandType {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Halt => "halt",
            Self::Claim => "claim",
            Self::Resolve => "resolve",
            Self::Timeout => "timeout",
            Self::Abandon => "abandon",
        }
    }
}

impl Command {
    /// A command with nothing but the common fields.
    pub fn new(kind: CommandType, execution_id: &str, timestamp: Timestamp) -> Self {
        Self {
            kind,
            execution_id: execution_id.into(),
            reason: String::new(),
            by: String::new(),
            timestamp,
            halted: None,
            nodes: Vec::new(),
            token: None,
            resolution: None,
            outputs: None,
        }
    }

    /// Its message id: asking for the same twice is once.
    pub fn message_id(&self) -> String {
        let (id, kind) = (&self.execution_id, self.kind.as_str());
        match self.kind {
            CommandType::Cancel | CommandType::Halt | CommandType::Timeout | CommandType::Abandon => format!("{id}/{kind}"),
            CommandType::Claim => {
                let head = self.nodes.first().map_or("", SmolStr::as_str);
                format!("{id}/{head}/{kind}/{}/{}", self.token.unwrap_or_default(), self.by)
            }
            // One for each time that it became unknown: of two that say different things one is stored.
            CommandType::Resolve => {
                let about = self.token.map_or_else(|| self.timestamp.to_string(), |token| token.to_string());
                format!("{id}/{}/{kind}/{about}", self.nodes.first().map_or("", SmolStr::as_str))
            }
        }
    }
}

/// Which claims stand, by node, as the log is read in its order: tells events that a claim made void.
///
/// A claim stands from its position in the log on; one whose token is not above the highest so far
/// does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    by_node: BTreeMap<SmolStr, (u64, String)>,
    abandoned: bool,
}

impl Claims {
    /// Takes in a command of the log.
    pub fn take_in(&mut self, command: &Command) {
        self.abandoned |= command.kind == CommandType::Abandon;
        if command.kind != CommandType::Claim {
            return;
        }
        let token = command.token.unwrap_or(0);
        for node in &command.nodes {
            let standing = self.by_node.entry(node.clone()).or_default();
            if token > standing.0 {
                *standing = (token, command.by.clone());
            }
        }
    }

    /// Whether an event is void: it has a lower token than a claim of one of its nodes that the log has
    /// before it, or a worker stored it after the execution was abandoned.
    pub fn is_void(&self, event: &Event) -> bool {
        if self.abandoned && event.token.is_some() {
            return true;
        }
        if self.by_node.is_empty() {
            return false;
        }
        let token = event.token.unwrap_or(0);
        let nodes = event.segment.iter().map(|s| s.node_id.as_str()).chain(event.node_id.as_deref());
        event.token.is_some() && nodes.into_iter().any(|n| self.by_node.get(n).is_some_and(|(claimed, _)| token < *claimed))
    }

    /// The claim that stands for a node: its token and who made it.
    pub fn standing(&self, node_id: &str) -> Option<(u64, &str)> {
        self.by_node.get(node_id).map(|(token, by)| (*token, by.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_tells_is_found_wherever_it_says_so() {
        let started = Event::new(EventType::ExecutionStarted, "e/started".into(), &Correlation::default(), Timestamp(0));
        let line = serde_json::to_vec(&started).expect("serializes");
        assert_eq!(Event::kind_of(&line), Some(EventType::ExecutionStarted));
        assert_eq!(Event::kind_of(br#"{"id":"e","type":"node_failed"}"#), Some(EventType::NodeFailed));
        for none in [&b""[..], b"{}", br#"{"type":"#, br#"{"type":""#, br#"{"type":"unheard_of"}"#, b"[]"] {
            assert_eq!(Event::kind_of(none), None, "{}", String::from_utf8_lossy(none));
        }
    }
}
