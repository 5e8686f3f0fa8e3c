//! The market's ledger against the log: what was done to the world outside.

use std::collections::{BTreeMap, HashMap};

use haltline_common::types::Timestamp;
use serde_json::Value;

use super::{Findings, Workflow, execution::Story, text};

/// Accepted orders by key.
pub type Fills<'l> = BTreeMap<&'l str, Vec<(usize, &'l Value)>>;

/// Reads the ledger: each key is filled at most once.
pub fn fills<'l>(ledger: &'l [Value], found: &mut Findings) -> Fills<'l> {
    let mut fills = Fills::new();
    for (i, line) in ledger.iter().enumerate().filter(|(_, l)| text(l, "outcome") == "accepted") {
        fills.entry(text(line, "key")).or_default().push((i + 1, line));
        found.effects += 1;
    }
    for (key, lines) in fills.iter().filter(|(_, lines)| lines.len() > 1) {
        let numbers: Vec<String> = lines.iter().map(|(n, _)| n.to_string()).collect();
        found.add(
            "filled_twice",
            text(lines[0].1, "execution_id"),
            format!("`{key}` was filled by lines {} of the ledger", numbers.join(" and ")),
        );
    }
    fills
}

/// Every completed order has its fill, with the same content.
pub fn orders(id: &str, story: &Story<'_>, workflow: &Workflow, fills: &Fills<'_>, found: &mut Findings) {
    for node in workflow.nodes_of_type("paper_order") {
        let Some(result) = story.completed(node).filter(|e| text(&e.body["outputs"], "status") != "skipped") else { continue };
        let Some((line, fill)) = fills.get(format!("{id}/{node}").as_str()).and_then(|lines| lines.first()) else {
            found.add("no_fill", id, format!("`{node}` completed at #{}, the ledger has no fill", result.seq));
            continue;
        };
        if result.body["outputs"]["order_id"] != fill["order_id"] {
            found.add("no_fill", id, format!("`{node}` completed at #{} with another order than line {line} of the ledger", result.seq));
        }
    }
}

/// Every fill belongs to a node that completed, or that was about to act when it was lost.
pub fn causes(fills: &Fills<'_>, stories: &HashMap<&str, Story<'_>>, found: &mut Findings) {
    // Engines that store intents must have one; those that do not, a start.
    let intents = stories.values().any(|s| s.valid.iter().chain(&s.void).any(|e| text(&e.body, "type") == "effect_intended"));
    let cause = if intents { "effect_intended" } else { "node_started" };
    for (key, lines) in fills {
        for (line, fill) in lines {
            let id = text(fill, "execution_id");
            let node = key.strip_prefix(id).and_then(|k| k.strip_prefix('/')).unwrap_or_default();
            match stories.get(id) {
                None => found.add("stray_fill", id, format!("line {line} of the ledger is of an execution that the log does not know")),
                Some(story) if story.completed(node).is_some() || story.mentions(cause, node) => {}
                Some(_) => found.add(
                    "stray_fill",
                    id,
                    format!("line {line} of the ledger: `{node}` was filled; the log has neither its result nor {cause}"),
                ),
            }
        }
    }
}

/// Whoever finds an effect in doubt asks before repeating it: an order that came again was placed before
/// only if it was on its way when that was asked.
pub fn asked(ledger: &[Value], fills: &Fills<'_>, stories: &HashMap<&str, Story<'_>>, found: &mut Findings) {
    for (i, line) in ledger.iter().enumerate().filter(|(_, l)| text(l, "outcome") == "duplicate") {
        let (key, id) = (text(line, "key"), text(line, "execution_id"));
        let node = key.strip_prefix(id).and_then(|k| k.strip_prefix('/')).unwrap_or_default();
        let Some((first, placed)) = fills.get(key).and_then(|lines| lines.first()) else { continue };
        let (Some(placed_ms), Some(token)) = (millis(placed), line["token"].as_u64()) else { continue };
        // What a claim has made void, nobody sees.
        let Some(story) = stories.get(id).filter(|s| s.intends(node, placed["token"].as_u64())) else { continue };
        let Some(began) = story.try_began_ms(node, token) else { continue };
        if placed_ms + ASKED_AFTER_MS < began && millis(line).is_some_and(|ms| ms > began) {
            let what = format!("`{key}`, placed by line {first} of the ledger, came again in line {}: nobody had asked", i + 1);
            found.add("not_asked", id, what);
        }
    }
}

/// Clocks of the market and the server are the same one; rounding is not.
const ASKED_AFTER_MS: i64 = 50;

fn millis(line: &Value) -> Option<i64> {
    Timestamp::parse(text(line, "time")).ok().map(|t| t.0)
}
