//! What a confirmed halt promises, against the market's ledger: from texts and times alone, with nothing
//! of what decides in the workers.

use std::collections::{BTreeMap, BTreeSet};

use haltline_common::types::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::super::check::Findings;

/// A halt as the halting side saw it; times in milliseconds of this machine's wall clock.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Halt {
    /// As `bot:b1`.
    pub scope: String,
    /// As `reducing`.
    pub level: String,
    /// Its revision.
    pub revision: u64,
    /// When it was known to be stored.
    pub stored_ms: i64,
    /// When it was known that nothing it covers starts, and nothing of it is in flight.
    pub confirmed_ms: Option<i64>,
    /// Whether that was known within the time that `halt` waits by itself.
    pub in_time: bool,
    /// Keys of effects that the confirmation named as in flight.
    pub declared: BTreeSet<String>,
    /// When the last fault around it was over.
    pub healed_ms: i64,
    /// When it was begun to be lowered.
    pub lowered_ms: i64,
}

/// What is known of an order by its node.
#[derive(Clone, Debug, Default)]
pub struct Kind {
    /// Its bot.
    pub bot: String,
    /// Its strategy.
    pub strategy: String,
    /// What it does, as definitions say it.
    pub effect: String,
    /// Runs while halted.
    pub allowed: bool,
}

/// Orders by workflow and node.
pub type Orders = BTreeMap<(String, String), Kind>;

/// Where all orders of these campaigns go, and what they are.
const VENUE: &str = "paper";
const NODE_TYPE: &str = "paper_order";
/// Characters of `_` and the number at the end of an execution's id.
const NUMBER: usize = 9;

/// Holds every arrival against every halt that stood confirmed at its time, and every halt against the time
/// in which it must be confirmed: `within_ms` after it was stored and the last fault was over.
pub fn judge(halts: &[Halt], orders: &Orders, ledger: &[Value], within_ms: i64) -> Findings {
    let mut found = Findings::default();
    for (i, line) in ledger.iter().enumerate() {
        let text = |field: &str| line[field].as_str().unwrap_or_default();
        let (key, id) = (text("key"), text("execution_id"));
        let Some(at) = Timestamp::parse(text("time")).ok().map(|t| t.0) else {
            found.add("ledger", id, format!("line {} of the ledger has no time", i + 1));
            continue;
        };
        let workflow = id.strip_prefix("exec_").and_then(|rest| rest.get(..rest.len().saturating_sub(NUMBER))).unwrap_or_default();
        let node = key.strip_prefix(id).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        let Some(kind) = orders.get(&(workflow.to_owned(), node.to_owned())) else {
            found.add("ledger", id, format!("line {} of the ledger is of an order that nobody defined: `{key}`", i + 1));
            continue;
        };
        found.effects += 1;
        for halt in halts {
            let stood = halt.confirmed_ms.is_some_and(|confirmed| confirmed < at && at < halt.lowered_ms);
            if stood && is_in(&halt.scope, workflow, kind) && is_kept_back(&halt.level, kind) && !halt.declared.contains(key) {
                let after = at - halt.confirmed_ms.unwrap_or(at);
                let what = format!(
                    "`{key}` ({}) arrived, line {} of the ledger, {after} ms after the {} of {} (revision {}) was confirmed",
                    kind.effect,
                    i + 1,
                    halt.level,
                    halt.scope,
                    halt.revision
                );
                found.add("after_confirmation", id, what);
            }
        }
    }
    for halt in halts {
        let due = halt.stored_ms.max(halt.healed_ms) + within_ms;
        let late = halt.confirmed_ms.is_none_or(|confirmed| confirmed > due);
        if late {
            let when = halt.confirmed_ms.map_or("never".to_owned(), |ms| format!("{} ms too late", ms - due));
            let what = format!("the {} of {} (revision {}) was confirmed {when}", halt.level, halt.scope, halt.revision);
            found.add("unconfirmed", "", what);
        }
    }
    found
}

/// Whether a scope has an order in it.
fn is_in(scope: &str, workflow: &str, kind: &Kind) -> bool {
    match scope.split_once(':') {
        None => scope == "global",
        Some(("bot", id)) => id == kind.bot,
        Some(("strategy", id)) => id == kind.strategy,
        Some(("workflow", id)) => id == workflow,
        Some(("venue", id)) => id == VENUE,
        Some(("node_type", id)) => id == NODE_TYPE,
        Some(_) => true,
    }
}

/// Whether a level keeps an order from starting, as the README promises it.
fn is_kept_back(level: &str, kind: &Kind) -> bool {
    match level {
        "normal" | "alert" => false,
        "reducing" => kind.effect == "opens_risk" && !kind.allowed,
        "halt" => !kind.allowed,
        // Hold and shutdown.
        _ => true,
    }
}
