//! Everything that is left against everything that was asked.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::{
    Asked, Findings, Message, Remains, effects,
    execution::{self, Entry, Story},
    is_acknowledged, is_end, text,
};

/// Tokens of a command's subject; events have one less.
const COMMAND_TOKENS: usize = 6;

/// Says what does not hold.
pub fn judge(asked: &Asked, remains: &Remains) -> Findings {
    let mut found = Findings::default();
    let records = records(&remains.records, &mut found);
    let log = log(&remains.log, &mut found);
    if let Some(starts) = &remains.server_starts {
        stored_twice(&remains.log, starts, &mut found);
    }
    let mut stories: HashMap<&str, Story<'_>> = HashMap::new();
    for (id, entries) in &log {
        stories.insert(id, execution::read(id, entries, &mut found));
    }
    let fills = effects::fills(&remains.ledger, &mut found);
    submissions(asked, &records, &mut found);

    let empty = Value::Null;
    for (id, story) in sorted(&stories) {
        let record = records.get(id).unwrap_or(&empty);
        if record.is_null() {
            let seq = story.valid.iter().chain(&story.void).map(|e| e.seq).min().unwrap_or(0);
            found.add("no_record", id, format!("the log has events of it from #{seq} on; there is no record"));
        }
        let workflow = asked.workflows.get(text(record, "workflow_id"));
        story.order(id, workflow, &mut found);
        story.ending(id, record, &mut found);
        if let Some(workflow) = workflow {
            story.expectation(id, record, workflow, &mut found);
            effects::orders(id, story, workflow, &fills, &mut found);
        }
    }
    for (id, record) in &records {
        let status = text(record, "status");
        if !is_end(status) {
            found.add("stuck", id, format!("its record still says {status}"));
        } else {
            *found.statuses.entry(status.to_owned()).or_default() += 1;
            found.durations.extend(stories.get(id.as_str()).and_then(Story::duration_ms).map(|ms| (id.clone(), ms)));
        }
        if !stories.contains_key(id.as_str()) {
            found.add("no_events", id, format!("its record says {status}; the log has nothing of it"));
        }
    }
    effects::causes(&fills, &stories, &mut found);
    effects::asked(&remains.ledger, &fills, &stories, &mut found);
    for task in &remains.lost_tasks {
        // `<execution>/<node>/<attempt>`; ids have no slashes.
        let parts: Vec<&str> = task.split('/').collect();
        let [id, node, _] = parts[..] else { continue };
        // Whoever stored a result that another worker's claim made void may have acknowledged that one's task.
        if !stories.get(id).is_some_and(|s| s.has_void_result(node)) {
            found.add("lost_task", id, format!("task `{task}` left the queue, and nobody had stored a result of it"));
        }
    }
    for task in &remains.tasks {
        let body: Value = serde_json::from_slice(&task.body).unwrap_or_default();
        let id = text(&body, "execution_id");
        let ended = records.get(id).is_some_and(|r| is_end(text(r, "status")));
        if ended && is_acknowledged(task, &remains.floors) {
            found.orphans += 1;
        } else {
            found.add("leftover_task", id, format!("task #{} `{}` is still there", task.seq, text(&body, "task_id")));
        }
    }
    found
}

fn sorted<'a, 'e>(stories: &'a HashMap<&'e str, Story<'e>>) -> BTreeMap<&'e str, &'a Story<'e>> {
    stories.iter().map(|(id, story)| (*id, story)).collect()
}

/// The server drops a message whose id it has had within this; a little less, for what is on its way.
const REMEMBERS_MS: i64 = 110_000;
/// So long before the server was started again it may have been in trouble: stopped, or its disk full.
const TROUBLE_MS: i64 = 20_000;

/// The same message twice, although the server still knew its id: the one that came first had none.
fn stored_twice(messages: &[Message], starts: &[i64], found: &mut Findings) {
    let mut seen: HashMap<(&str, &[u8]), &Message> = HashMap::new();
    for m in messages {
        let Some(first) = seen.insert((&m.subject, &m.body), m) else { continue };
        let forgot = starts.iter().any(|s| first.time_ms - 1_000 < *s && *s < m.time_ms + TROUBLE_MS);
        if m.time_ms - first.time_ms < REMEMBERS_MS && !forgot {
            let body: Value = lines(m).first().and_then(|(_, line, _)| serde_json::from_slice(line).ok()).unwrap_or_default();
            found.add(
                "stored_twice",
                text(&body, "execution_id"),
                format!("#{} and #{} are the same, {} ms apart", first.seq, m.seq, m.time_ms - first.time_ms),
            );
        }
    }
}

/// The newest record of each execution.
fn records(messages: &[Message], found: &mut Findings) -> BTreeMap<String, Value> {
    let mut records = BTreeMap::new();
    for m in messages {
        match serde_json::from_slice::<Value>(&m.body) {
            Ok(record) if !text(&record, "execution_id").is_empty() => {
                records.insert(text(&record, "execution_id").to_owned(), record);
            }
            _ => found.add("unreadable", "", format!("record #{} `{}` cannot be read", m.seq, m.subject)),
        }
    }
    records
}

/// Events of a message are a line each: the message, a line, and whether the message has its id. That is the last
/// one, or the one before the end that is told with it: told again without the end, it must be a repeat.
fn lines(m: &Message) -> Vec<(&Message, &[u8], bool)> {
    let mut lines: Vec<_> = m.body.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|line| (m, line, false)).collect();
    let is_end = |line: &[u8]| serde_json::from_slice::<Value>(line).is_ok_and(|e| !e["event_count"].is_null());
    let with_end = lines.len() > 1 && lines.last().is_some_and(|(_, line, _)| is_end(line));
    let names = lines.len().saturating_sub(1 + usize::from(with_end));
    match lines.get_mut(names) {
        Some(line) => line.2 = true,
        // Nothing in it is as bad as something that cannot be read.
        None => lines.push((m, &m.body, true)),
    }
    lines
}

/// The log by execution, in order.
fn log(messages: &[Message], found: &mut Findings) -> BTreeMap<String, Vec<Entry>> {
    let mut log: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for (m, line, names) in messages.iter().flat_map(lines) {
        let Ok(body) = serde_json::from_slice::<Value>(line) else {
            found.add("unreadable", "", format!("#{} `{}` cannot be read", m.seq, m.subject));
            continue;
        };
        // Of flags and risk limits: of no execution.
        if m.subject.split('.').nth(2) == Some("control") {
            continue;
        }
        let id = text(&body, "execution_id").to_owned();
        let tokens: Vec<&str> = m.subject.split('.').collect();
        if id.is_empty() || tokens.get(4) != Some(&id.as_str()) {
            found.add("misplaced", &id, format!("#{} is stored as `{}`", m.seq, m.subject));
        }
        if names && !m.id.as_deref().is_some_and(|told| is_message_id(told, &body)) {
            found.add(
                "message_id",
                &id,
                format!("#{} `{}` has the message id {:?}", m.seq, text(&body, "id"), m.id.as_deref().unwrap_or_default()),
            );
        }
        log.entry(id).or_default().push(Entry { seq: m.seq, time_ms: m.time_ms, command: tokens.len() == COMMAND_TOKENS, body });
    }
    log
}

/// Whether a message id is what it should be, so that the server recognises a repeat: the event's id,
/// `/end` if it ends a task, `@` and the token if it was produced under a claim. Any, of a command.
fn is_message_id(told: &str, body: &Value) -> bool {
    let Some(event) = body["id"].as_str() else { return !told.is_empty() };
    let Some(rest) = told.strip_prefix(event) else { return false };
    let claimed = if body["task_events"].is_null() { rest } else { rest.strip_prefix("/end").unwrap_or("?") };
    claimed.is_empty() || claimed.strip_prefix('@').and_then(|t| t.parse().ok()) == body["token"].as_u64().or(Some(u64::MAX))
}

/// What clients were told against what there is.
fn submissions(asked: &Asked, records: &BTreeMap<String, Value>, found: &mut Findings) {
    let mut by_key: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (id, record) in records {
        by_key.entry((text(record, "workflow_id"), text(record, "key"))).or_default().push(id);
    }
    for ((_, key), ids) in by_key.iter().filter(|(_, ids)| ids.len() > 1) {
        found.add("two_executions", ids[0], format!("`{key}` has the executions {}", ids.join(" and ")));
    }
    let mut known = HashSet::new();
    for s in &asked.submissions {
        known.insert((s.workflow.as_str(), s.key.as_str()));
        let told: Vec<&str> = s.told.iter().map(String::as_str).collect();
        if told.len() > 1 {
            found.add("two_executions", told[0], format!("the client of `{}` was told {}", s.key, told.join(" and ")));
        }
        for id in &told {
            match records.get(*id) {
                None => found.add("lost", id, format!("`{}` was acknowledged; there is no record", s.key)),
                Some(record) if text(record, "key") != s.key => {
                    found.add("lost", id, format!("`{}` was acknowledged; the record is of `{}`", s.key, text(record, "key")));
                }
                Some(_) => {}
            }
        }
        let runs = by_key.get(&(s.workflow.as_str(), s.key.as_str())).and_then(|ids| ids.first());
        if let (Some(why), Some(id), true) = (&s.refused, runs, told.is_empty()) {
            found.add("refused_but_runs", id, format!("`{}` was refused ({why}), and there is an execution", s.key));
        }
    }
    for ((_, key), ids) in by_key.iter().filter(|(k, _)| !known.contains(*k)) {
        found.add("uninvited", ids[0], format!("nobody submitted `{key}`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_id_of_its_last_event_or_of_the_one_before_the_end() {
        let named = |body: &str| {
            let m = Message { seq: 1, subject: String::new(), id: None, time_ms: 0, body: body.as_bytes().to_vec() };
            lines(&m).iter().position(|(_, _, names)| *names)
        };
        let (event, end) = (r#"{"id":"e"}"#, r#"{"id":"ended","event_count":8}"#);
        assert_eq!(named(event), Some(0));
        assert_eq!(named(end), Some(0));
        assert_eq!(named(&format!("{event}\n{event}")), Some(1));
        assert_eq!(named(&format!("{event}\n{event}\n{end}")), Some(1));
        assert_eq!(named(""), Some(0));
    }
}
