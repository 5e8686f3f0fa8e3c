//! One execution's part of the log: which of its messages count, and whether they make sense.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{Findings, Workflow, is_end, text};

/// A message of the log that belongs to the execution.
#[derive(Debug)]
pub struct Entry {
    /// Its sequence.
    pub seq: u64,
    /// When it was stored, in milliseconds.
    pub time_ms: i64,
    /// Whether it is a command.
    pub command: bool,
    /// Its body.
    pub body: Value,
}

impl Entry {
    fn kind(&self) -> &str {
        text(&self.body, "type")
    }
    fn node(&self) -> &str {
        text(&self.body, "node_id")
    }
}

/// What the log says of an execution.
#[derive(Debug, Default)]
pub struct Story<'e> {
    /// Events that count, in order, each once.
    pub valid: Vec<&'e Entry>,
    /// Events that do not: below a claim, by a worker after the execution was abandoned, or after the end.
    pub void: Vec<&'e Entry>,
    /// The end.
    pub end: Option<&'e Entry>,
    /// Claims, in order.
    claims: Vec<&'e Entry>,
    /// The first command that stops it.
    stop: Option<&'e Entry>,
    /// Nodes for which an operator said what became of them.
    resolved: BTreeSet<&'e str>,
}

/// Whether two events with the same id tell the same: byte for byte, or the later one is the result
/// that ends a task and repeats what was told before.
fn same(a: &Value, b: &Value) -> bool {
    let ends = |v: &Value| !v["task_events"].is_null();
    let result = |v: &Value| (text(v, "type").to_owned(), v["outputs"].clone(), v["error"].clone());
    a == b || (ends(a) != ends(b) && text(a, "type") == "node_completed" && result(a) == result(b))
}

/// Reads the entries, in order, and tells which count.
pub fn read<'e>(id: &str, entries: &'e [Entry], found: &mut Findings) -> Story<'e> {
    let mut story = Story::default();
    // By node: the highest token of a claim, and the claim's sequence.
    let mut fences: HashMap<&str, (u64, u64)> = HashMap::new();
    let mut seen: HashMap<&str, &Entry> = HashMap::new();
    // It was ended without workers that did not answer: what they store later does not count.
    let mut abandoned = false;
    for entry in entries {
        if entry.command {
            let nodes = || entry.body["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
            match (entry.kind(), entry.body["token"].as_u64()) {
                ("claim", Some(token)) => {
                    story.claims.push(entry);
                    for node in nodes() {
                        let fence = fences.entry(node).or_default();
                        if token > fence.0 {
                            *fence = (token, entry.seq);
                        }
                    }
                }
                ("cancel" | "timeout", _) => drop(story.stop.get_or_insert(entry)),
                ("abandon", _) => abandoned = true,
                ("resolve", _) => story.resolved.extend(nodes()),
                _ => {}
            }
            continue;
        }
        let event_id = text(&entry.body, "id");
        let terminal = entry.kind().starts_with("execution_") && entry.kind() != "execution_started";
        if let Some(first) = seen.get(event_id) {
            if same(&first.body, &entry.body) {
                found.repeats += 1;
                continue;
            }
            if terminal {
                found.add("two_ends", id, format!("#{} and #{} both end it, with different content", first.seq, entry.seq));
                continue;
            }
        }
        let fenced = entry.body["token"].as_u64().zip(fences.get(entry.node())).is_some_and(|(token, fence)| token < fence.0);
        let late = abandoned && !entry.body["token"].is_null();
        if fenced || late || (story.end.is_some() && !terminal) {
            found.void += 1;
            story.void.push(entry);
            continue;
        }
        if let Some(end) = story.end {
            found.add("two_ends", id, format!("#{} ({}) and #{} ({}) both end it", end.seq, end.kind(), entry.seq, entry.kind()));
            continue;
        }
        if let Some(first) = seen.get(event_id) {
            found.add("two_contents", id, format!("#{} and #{} are both `{event_id}`, with different content", first.seq, entry.seq));
            continue;
        }
        seen.insert(event_id, entry);
        story.valid.push(entry);
        if terminal {
            story.end = Some(entry);
        }
    }
    story
}

impl Story<'_> {
    /// Milliseconds from its first event to its end.
    pub fn duration_ms(&self) -> Option<f64> {
        let (first, end) = (self.valid.first()?, self.end?);
        Some((end.time_ms - first.time_ms) as f64)
    }

    /// The result that a node completed with.
    pub fn completed(&self, node: &str) -> Option<&Entry> {
        self.valid.iter().find(|e| e.kind() == "node_completed" && e.node() == node).copied()
    }

    /// Whether a task that begins at a node has a result that does not count.
    pub fn has_void_result(&self, node: &str) -> bool {
        let head = |e: &Entry| text(e.body["segment"].get(0).unwrap_or(&e.body), "node_id") == node;
        self.void.iter().any(|e| !e.body["task_events"].is_null() && head(e))
    }

    /// Whether any event of such a kind about a node was stored, also one that does not count.
    pub fn mentions(&self, kind: &str, node: &str) -> bool {
        self.valid.iter().chain(&self.void).any(|e| e.kind() == kind && e.node() == node)
    }

    /// Checks the order of what counts.
    pub fn order(&self, id: &str, workflow: Option<&Workflow>, found: &mut Findings) {
        let mut bad = |what: String| found.add("order", id, what);
        match self.valid.first() {
            None => bad("nothing in the log counts".into()),
            Some(first) if first.kind() != "execution_started" => {
                bad(format!("it begins with {} (#{}), not with execution_started", first.kind(), first.seq));
            }
            Some(_) => {}
        }
        let dependencies = workflow.map(Workflow::dependencies).unwrap_or_default();
        let mut started: HashMap<&str, u64> = HashMap::new();
        let mut retried: HashMap<&str, u64> = HashMap::new();
        let mut unknown: BTreeSet<&str> = BTreeSet::new();
        let mut ended: HashMap<&str, u64> = HashMap::new();
        for e in &self.valid {
            let (node, seq) = (e.node(), e.seq);
            match e.kind() {
                "node_started" => {
                    if let Some(end) = ended.get(node) {
                        bad(format!("`{node}` started at #{seq}, after its result #{end}"));
                    }
                    for d in dependencies.get(node).into_iter().flatten().filter(|d| !ended.contains_key(*d)) {
                        bad(format!("`{node}` started at #{seq}, before `{d}`, which it depends on, ended"));
                    }
                    let attempt = e.body["attempt"].as_u64().unwrap_or(0);
                    let expected = retried.get(node).map_or(1, |n| n + 1);
                    if attempt != expected && !unknown.contains(node) && !self.resolved.contains(node) {
                        bad(format!("attempt {attempt} of `{node}` started at #{seq}, {expected} was next"));
                    }
                    started.insert(node, seq);
                }
                "node_retrying" => {
                    if !started.contains_key(node) {
                        bad(format!("`{node}` is repeated at #{seq} and never started"));
                    }
                    retried.insert(node, e.body["attempt"].as_u64().unwrap_or(0));
                }
                "node_unknown" => drop(unknown.insert(node)),
                "node_completed" | "node_failed" => {
                    if !started.contains_key(node) && !self.resolved.contains(node) {
                        bad(format!("`{node}` has a result at #{seq} and never started"));
                    }
                    ended.insert(node, seq);
                }
                "node_refused" | "node_skipped" => drop(ended.insert(node, seq)),
                _ => {}
            }
            for part in e.body["segment"].as_array().into_iter().flatten() {
                let node = text(part, "node_id");
                match self.completed(node) {
                    Some(own) if own.seq <= seq && own.body["outputs"] == part["outputs"] => {}
                    Some(own) => bad(format!("#{seq} carries another result of `{node}` than #{}", own.seq)),
                    None => bad(format!("#{seq} carries a result of `{node}` that nothing in the log told before")),
                }
            }
        }
    }

    /// Whether an intent of a node with this token counts.
    pub fn intends(&self, node: &str, token: Option<u64>) -> bool {
        self.valid.iter().any(|e| e.kind() == "effect_intended" && e.node() == node && e.body["token"].as_u64() == token)
    }

    /// When the try of a node began that intended an effect with `token` last, as far as the log shows: before
    /// that it cannot have asked what became of an earlier one.
    pub fn try_began_ms(&self, node: &str, token: u64) -> Option<i64> {
        let of_node = |kind: &str| self.valid.iter().chain(&self.void).filter(|e| e.kind() == kind && e.node() == node).collect::<Vec<_>>();
        let intended = of_node("effect_intended").into_iter().filter(|e| e.body["token"] == token).map(|e| e.seq).max()?;
        let claims = self.claims.iter().filter(|c| c.body["token"] == token);
        let retries = of_node("node_retrying").into_iter().filter(|e| e.seq < intended && e.body["token"] == token);
        claims.copied().chain(retries.copied()).map(|e| e.time_ms).max()
    }

    /// Checks the end against the record and against what counts.
    pub fn ending(&self, id: &str, record: &Value, found: &mut Findings) {
        let status = text(record, "status");
        let began = self.valid.iter().find(|e| e.kind() == "execution_started");
        if let Some(began) = began.filter(|e| e.body["timestamp"] != record["started_at"]) {
            let (told, recorded) = (text(&began.body, "timestamp"), text(record, "started_at"));
            found.add("disagree", id, format!("its record says that it began at {recorded}, #{} says at {told}", began.seq));
        }
        let Some(end) = self.end else {
            if is_end(status) {
                found.add("no_end", id, format!("its record says {status}; the log has no terminal event"));
            }
            return;
        };
        let told = text(&end.body, "status");
        if is_end(status) && told != status {
            found.add("disagree", id, format!("its record says {status}, the terminal event #{} says {told}", end.seq));
        }
        // Results that come after a cancel do not undo it.
        let last = self.valid.iter().filter(|e| !e.body["task_events"].is_null()).map(|e| e.seq).max().unwrap_or(0);
        if let Some(stop) = self.stop.filter(|s| s.seq < last && status.starts_with("completed")) {
            found.add("not_stopped", id, format!("it completed with the result #{last} after the {} #{}", stop.kind(), stop.seq));
        }
        let word = end.kind().trim_start_matches("execution_");
        if word != told && !(word == "completed" && told == "completed_with_errors") {
            found.add("disagree", id, format!("the terminal event #{} is {} with status {told}", end.seq, end.kind()));
        }
        let count = self.valid.len() as u64;
        for (who, counted) in [("the terminal event", &end.body["event_count"]), ("the record", &record["event_count"])] {
            if counted.as_u64() != Some(count) && (is_end(status) || who != "the record") {
                found.add("incomplete", id, format!("{who} (end #{}) counts {counted} events, the log has {count} that count", end.seq));
            }
        }
        let none = Value::Object(serde_json::Map::new());
        let results = |v: &Value| if v["results"].is_null() { none.clone() } else { v["results"].clone() };
        if is_end(status) && results(record) != results(&end.body) {
            found.add("disagree", id, format!("record and terminal event #{} have different results", end.seq));
        }
        for (node, outputs) in results(&end.body).as_object().into_iter().flatten() {
            self.result(id, end.seq, node, outputs, found);
        }
    }

    /// Checks a node's result as the end tells it.
    fn result(&self, id: &str, end: u64, node: &str, outputs: &Value, found: &mut Findings) {
        if self.completed(node).is_some_and(|e| e.body["outputs"] == *outputs) {
            return;
        }
        let other_word = ["node_failed", "node_skipped", "node_unknown"].iter().any(|kind| self.mentions(kind, node));
        if self.resolved.contains(node) || (self.completed(node).is_none() && other_word) {
            return; // what an operator or `on_error` said
        }
        let late = self.void.iter().find(|e| e.kind() == "node_completed" && e.node() == node && e.body["outputs"] == *outputs);
        match (late, self.completed(node)) {
            (Some(late), _) => {
                let token = &late.body["token"];
                found.add(
                    "fenced",
                    id,
                    format!("the end #{end} took the result #{} of `{node}` with token {token}, which was void", late.seq),
                );
            }
            (None, Some(own)) => {
                found.add("disagree", id, format!("the end #{end} has another result of `{node}` than #{}", own.seq));
            }
            (None, None) => found.add("disagree", id, format!("the end #{end} has a result of `{node}`, the log has none")),
        }
    }

    /// Checks what came of it against what had to.
    pub fn expectation(&self, id: &str, record: &Value, workflow: &Workflow, found: &mut Findings) {
        let status = text(record, "status");
        if !is_end(status) {
            return; // told as stuck
        }
        let expected = &workflow.expected;
        if !expected.statuses.iter().any(|s| s == status) {
            let why = record["error"].as_str().or(record["reason"].as_str()).unwrap_or("no reason given");
            found.add("unexpected", id, format!("it ended {status} ({why}); expected: {}", expected.statuses.join(" or ")));
            return;
        }
        if status != "completed" {
            return;
        }
        for node in workflow.dependencies().keys() {
            if self.completed(node).is_none() {
                found.add("unexpected", id, format!("it completed without a result of `{node}`"));
            }
        }
        let wanted: BTreeMap<&str, &Value> =
            expected.outputs.as_object().into_iter().flatten().map(|(node, outputs)| (node.as_str(), outputs)).collect();
        for (node, outputs) in wanted {
            for (name, want) in outputs.as_object().into_iter().flatten() {
                let have = self.completed(node).map_or(&Value::Null, |e| &e.body["outputs"][name]);
                if have != want {
                    found.add("unexpected", id, format!("`{node}` gave {name} = {have}; expected: {want}"));
                }
            }
        }
    }
}
