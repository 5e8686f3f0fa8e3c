//! An execution's history in a file, and stepping through it as a coordinator does: the same plan, the
//! same mutator, the same decisions, without a server.

use std::{collections::BTreeMap, mem::discriminant, sync::Arc};

use haltline_types::{
    Names, SmolStr, Timestamp,
    catalog::NodeType,
    definition::Definition,
    event::{Command, CommandType, Event, EventType, event_id},
    record::Record,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    engine::as_accepted,
    execution::{Applied, Execution, Input, NodeState, Told},
    outputs::Output,
    plan::Plan,
};

/// Version of the file's form.
pub const HISTORY_VERSION: u32 = 1;

/// A line of a history file, which is JSON; the lines come in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    History {
        /// [`HISTORY_VERSION`].
        v: u32,
        /// Whose history it is.
        execution_id: String,
        /// Version of Haltline that wrote the file.
        haltline: String,
        /// When it was written.
        at: Timestamp,
    },
    /// The record as it was then.
    Record {
        /// Its revision.
        revision: u64,
        /// The record.
        record: Box<Record>,
    },
    /// The pinned definition.
    Definition {
        /// The definition.
        definition: Box<Definition>,
        /// Node types that were known.
        types: Vec<NodeType>,
    },
    /// A message of the log.
    Log {
        /// Its sequence.
        seq: u64,
        /// Its subject.
        subject: String,
        /// The event or command, as stored.
        message: Value,
    },
}

/// A history that was read.
#[derive(Clone, Debug)]
pub struct History {
    /// The record.
    pub record: Record,
    plan: Arc<Plan>,
    log: Vec<(u64, Entry)>,
}

#[derive(Clone, Debug)]
enum Entry {
    Event(Box<Event>),
    Command(Box<Command>),
}

impl History {
    /// Reads a file's text.
    ///
    /// # Errors
    /// In words, with the line: not such a file, cut, of a newer version, or about something that
    /// cannot be compiled.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim().is_empty());
        let mut next = |what: &str| {
            let (n, line) = lines.next().ok_or_else(|| format!("the file ends before its {what}"))?;
            serde_json::from_str::<Line>(line).map(|l| (n, l)).map_err(|e| format!("line {n}: {e}"))
        };
        match next("head")?.1 {
            Line::History { v: HISTORY_VERSION, .. } => {}
            Line::History { v, haltline, .. } => {
                return Err(format!("the file has form {v}, written by Haltline {haltline}; this version reads form {HISTORY_VERSION}"));
            }
            _ => return Err("line 1: not the head of a history".into()),
        }
        let (_, Line::Record { record, .. }) = next("record")? else { return Err("line 2: not a record".into()) };
        let (_, Line::Definition { definition, types }) = next("definition")? else { return Err("line 3: not a definition".into()) };
        let plan = Plan::compile(&definition, &types).map_err(|p| {
            p.first().map_or_else(|| "the definition is not valid".into(), |p| format!("the definition: {}: {}", p.field, p.message))
        })?;
        let mut log: Vec<(u64, Entry)> = Vec::new();
        for (n, line) in lines {
            let wrong = |e: String| format!("line {n}: {e}");
            let Line::Log { seq, subject, message } = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))? else {
                return Err(wrong("not a message of the log".into()));
            };
            // Events of one message share its sequence.
            if log.last().is_some_and(|(before, _)| *before > seq) {
                return Err(wrong(format!("sequence {seq} does not rise")));
            }
            let entry = if Names::is_command(&subject) {
                serde_json::from_value(message).map(Entry::Command)
            } else {
                serde_json::from_value(message).map(Entry::Event)
            };
            log.push((seq, entry.map_err(|e| wrong(e.to_string()))?));
        }
        Ok(Self { record: *record, plan: Arc::new(plan), log })
    }

    /// The terminal event of the log.
    fn recorded(&self) -> Option<(u64, &Event)> {
        let id = event_id::ended(&self.record.correlation.execution_id);
        self.log.iter().find_map(|(seq, entry)| match entry {
            Entry::Event(e) if e.id == id => Some((*seq, &**e)),
            _ => None,
        })
    }
}

/// What a message of the log is to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Not a message: the acceptance.
    Accepted,
    /// An input that changed the state.
    Changed,
    /// An input that changed nothing: a repeat, void, or too late.
    Ignored,
    /// It only tells.
    Told,
    /// Stored after the end: void.
    AfterEnd,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Sequence of the message; 0 for the acceptance.
    pub seq: u64,
    /// The event or command.
    pub message: String,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<SmolStr>,
    /// What it is to the core.
    pub effect: Effect,
    /// What was decided then: tasks by their ids, or the end.
    pub decided: Vec<String>,
    /// Nodes whose state changed, with the state after it.
    pub nodes: BTreeMap<SmolStr, String>,
    /// Tasks out after it.
    pub outstanding: u32,
    /// Nodes completed after it.
    pub completed: u32,
    /// Whether the end is decided.
    pub ended: bool,
}

/// How the recorded end and the core's compare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Status that the log tells; none while it runs.
    pub recorded: Option<SmolStr>,
    /// Status that the core finds.
    pub decided: Option<SmolStr>,
    /// What differs, in words; empty if nothing does.
    pub differences: Vec<String>,
}

/// A history being stepped through.
pub struct Replay {
    history: History,
    execution: Execution,
    segments: bool,
    told: Told,
    /// Messages taken; the acceptance is a step of its own.
    at: Option<usize>,
    before: Vec<NodeState>,
    end: Option<Box<Event>>,
}

impl Replay {
    /// At the beginning. `segments`: whether linear chains were dispatched as one task.
    pub fn new(history: History, segments: bool) -> Self {
        let execution = Execution::accept(as_accepted(&history.record), Arc::clone(&history.plan));
        Self { history, execution, segments, told: Told::default(), at: None, before: Vec::new(), end: None }
    }

    /// Takes the next message; `None` after the last one.
    pub fn step(&mut self) -> Option<Step> {
        let Some(at) = self.at else {
            self.at = Some(0);
            let decided = self.decide();
            return Some(self.told(0, "accepted".into(), None, Effect::Accepted, decided));
        };
        let (seq, entry) = self.history.log.get(at)?.clone();
        self.at = Some(at + 1);
        let (message, node) = match &entry {
            Entry::Event(e) => (e.kind.as_str().to_owned(), e.node_id.clone()),
            Entry::Command(c) => (c.kind.as_str().to_owned(), c.nodes.first().cloned()),
        };
        match &entry {
            Entry::Event(e) => {
                self.told.event(e);
            }
            Entry::Command(c) => self.told.command(c),
        }
        let over = self.history.recorded().is_some_and(|(end, _)| seq > end);
        let input = match entry {
            // Only what ends a task decides; middle results of a segment come with it.
            Entry::Event(e) if e.kind.is_input() && e.task_events.is_some() => Some(Input::Result(e)),
            Entry::Event(_) => None,
            Entry::Command(c) if c.kind == CommandType::Abandon => Some(Input::Abandoned(c.timestamp, self.told.by_workers())),
            Entry::Command(c) => Some(Input::Command(c)),
        };
        let Some(input) = input.filter(|_| !over) else {
            let effect = if over { Effect::AfterEnd } else { Effect::Told };
            return Some(self.told(seq, message, node, effect, Vec::new()));
        };
        let effect = match self.execution.apply(&input) {
            Applied::Changed => Effect::Changed,
            Applied::Ignored => Effect::Ignored,
        };
        let decided = self.decide();
        Some(self.told(seq, message, node, effect, decided))
    }

    fn decide(&mut self) -> Vec<String> {
        let mut decided = Vec::new();
        for output in self.execution.decide_all(self.segments) {
            decided.push(match output {
                Output::Task(task) => {
                    let nodes: Vec<&str> = task.nodes.iter().map(|n| n.id.as_str()).collect();
                    format!("task {} of {}", task.task_id, nodes.join(", "))
                }
                Output::Note(event) if event.kind == EventType::NodeSkipped => {
                    format!("skip {}", event.node_id.as_deref().unwrap_or_default())
                }
                Output::Note(event) => format!("tell {} {}", event.kind.as_str(), event.node_id.as_deref().unwrap_or_default()),
                Output::Standing(record) => format!("record {}", record.status.as_str()),
                Output::End(event, _) => {
                    let told = format!("end {}", event.status.as_deref().unwrap_or_default());
                    self.end = Some(event);
                    told
                }
            });
        }
        decided
    }

    fn told(&mut self, seq: u64, message: String, node: Option<SmolStr>, effect: Effect, decided: Vec<String>) -> Step {
        let mut nodes = BTreeMap::new();
        if effect != Effect::Told && effect != Effect::AfterEnd {
            for (i, state) in self.execution.nodes.iter().enumerate() {
                if self.before.get(i).is_none_or(|b| discriminant(b) != discriminant(state)) {
                    nodes.insert(self.history.plan.def(i as u32).id.clone(), in_words(state));
                }
            }
            // Without what nodes gave: only which state it was is compared.
            self.before = self.execution.nodes.iter().map(without_outputs).collect();
        }
        Step {
            seq,
            message,
            node,
            effect,
            decided,
            nodes,
            outstanding: self.execution.outstanding(),
            completed: self.execution.completed(),
            ended: self.execution.has_ended(),
        }
    }

    /// How it ended, once all steps were taken.
    pub fn verdict(&self) -> Verdict {
        let recorded = self.history.recorded().map(|(_, e)| e);
        let status = |e: &Event| e.status.clone().unwrap_or_default();
        let mut differences = Vec::new();
        match (recorded, self.end.as_deref()) {
            (Some(told), Some(found)) => differences = compare(told, found),
            (Some(told), None) => differences.push(format!("the log tells {}, the core finds no end", status(told))),
            (None, Some(found)) => differences.push(format!("the log tells no end, the core finds {}", status(found))),
            (None, None) => {}
        }
        let record = &self.history.record;
        if let Some(told) = recorded
            && record.status.is_terminal()
            && status(told) != record.status.as_str()
        {
            differences.push(format!("the log tells {}, the record {}", status(told), record.status.as_str()));
        }
        Verdict { recorded: recorded.map(status), decided: self.end.as_deref().map(status), differences }
    }
}

/// Fields in which two events differ.
fn compare(told: &Event, found: &Event) -> Vec<String> {
    let value = |e: &Event| serde_json::to_value(e).unwrap_or_default();
    let (told, found) = (value(told), value(found));
    let keys = |v: &Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let all: std::collections::BTreeSet<String> = keys(&told).into_iter().chain(keys(&found)).collect();
    all.into_iter()
        .filter(|key| told.get(key) != found.get(key))
        .map(|key| {
            let text = |v: &Value| v.get(&key).map_or_else(|| "nothing".to_owned(), Value::to_string);
            format!("{key}: the log tells {}, the core finds {}", text(&told), text(&found))
        })
        .collect()
}

fn without_outputs(state: &NodeState) -> NodeState {
    match state {
        NodeState::Done(_) => NodeState::Done(Arc::default()),
        other => other.clone(),
    }
}

/// A state's name, as `in task`.
fn in_words(state: &NodeState) -> String {
    let debug = format!("{:?}", without_outputs(state));
    let name: String = debug.chars().take_while(char::is_ascii_alphanumeric).collect();
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
