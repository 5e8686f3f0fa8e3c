//! The executions that lists show: summaries of the newest records, in memory, so that a list with
//! filters costs the server nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use haltline_client::ApiError;
use haltline_common::types::{Timestamp, record::Status};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Summaries kept: about 15 MB; older executions stay readable by id. What is written least
/// recently leaves first.
pub(crate) const SUMMARIES_MAX: usize = 20_000;
/// Characters of error and reason kept in a summary; the record has all of it.
const TEXT_MAX: usize = 300;

/// What a list shows of an execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Summary {
    pub execution_id: String,
    pub workflow_id: String,
    #[serde(default)]
    pub bot_id: String,
    #[serde(default)]
    pub strategy_id: String,
    pub status: Status,
    pub workflow_version: String,
    pub node_count: u32,
    pub nodes_completed: u32,
    #[serde(default)]
    pub nodes_failed: u32,
    #[serde(default)]
    pub nodes_skipped: u32,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a list is asked for: filters AND, values of one filter OR; an empty filter matches everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub workflows: Vec<String>,
    pub bots: Vec<String>,
    pub strategies: Vec<String>,
    pub statuses: Vec<Status>,
    /// Started at or after.
    pub since: Option<Timestamp>,
    /// Started before.
    pub until: Option<Timestamp>,
    /// The id begins with this.
    pub id: Option<String>,
}

impl Wanted {
    fn matches(&self, s: &Summary) -> bool {
        let one = |wanted: &[String], have: &str| wanted.is_empty() || wanted.iter().any(|w| w == have);
        one(&self.workflows, &s.workflow_id)
            && one(&self.bots, &s.bot_id)
            && one(&self.strategies, &s.strategy_id)
            && (self.statuses.is_empty() || self.statuses.contains(&s.status))
            && self.since.is_none_or(|t| s.started_at >= t)
            && self.until.is_none_or(|t| s.started_at < t)
            && self.id.as_deref().is_none_or(|id| s.execution_id.starts_with(id))
    }
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Started last first.
    Newest,
    /// Started first first.
    Oldest,
}

/// Where a page ended: the same in every gateway, and it does not move while executions come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// When the last one was started, in milliseconds.
    pub started: i64,
    /// A digest of its id, to tell apart what was started at once.
    pub tie: u64,
}

impl Position {
    /// Of an execution.
    pub fn of(s: &Summary) -> Self {
        let digest = haltline_common::types::ids::digest(s.execution_id.as_bytes());
        Self { started: s.started_at.0, tie: u64::from_str_radix(&digest, 16).unwrap_or_default() }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:016x}", self.started, self.tie)
    }
}

impl std::str::FromStr for Position {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (started, tie) = text.split_once('.')?;
            Some(Self { started: started.parse().ok()?, tie: u64::from_str_radix(tie, 16).ok()? })
        };
        read().ok_or("is not the `next` of a page")
    }
}

/// Which page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub limit: usize,
    pub order: Order,
    pub after: Option<Position>,
}

/// A page.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub rows: Vec<Summary>,
    /// Where the next page begins, if there may be one.
    pub next: Option<Position>,
}

/// Summaries by the sequence of their record.
#[derive(Default)]
pub(crate) struct Index {
    by_seq: BTreeMap<u64, Summary>,
    seq_of: HashMap<String, u64>,
}

impl Index {
    /// Takes a record's newest state.
    pub fn put(&mut self, seq: u64, mut summary: Summary) {
        for text in [&mut summary.error, &mut summary.reason].into_iter().flatten() {
            if let Some((at, _)) = text.char_indices().nth(TEXT_MAX) {
                text.truncate(at);
                text.push('…');
            }
        }
        if let Some(old) = self.seq_of.insert(summary.execution_id.clone(), seq) {
            self.by_seq.remove(&old);
        }
        self.by_seq.insert(seq, summary);
        while self.by_seq.len() > SUMMARIES_MAX {
            if let Some((_, gone)) = self.by_seq.pop_first() {
                self.seq_of.remove(&gone.execution_id);
            }
        }
    }

    /// Forgets an execution.
    pub fn remove(&mut self, execution_id: &str) {
        if let Some(seq) = self.seq_of.remove(execution_id) {
            self.by_seq.remove(&seq);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.by_seq.clear();
        self.seq_of.clear();
    }

    /// Up to `limit` that `wants` wants, most recently written first, and whether there are more.
    pub fn newest(&self, wants: impl Fn(&Summary) -> bool, limit: usize) -> (Vec<Summary>, bool) {
        let mut found = self.by_seq.values().rev().filter(|s| wants(s));
        let list = found.by_ref().take(limit).cloned().collect();
        (list, found.next().is_some())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_seq.len()
    }

    /// A page of the matching ones.
    pub fn list(&self, wanted: &Wanted, page: Page) -> Found {
        let mut all: Vec<(Position, &Summary)> = self.by_seq.values().filter(|s| wanted.matches(s)).map(|s| (Position::of(s), s)).collect();
        all.sort_by_key(|(p, _)| *p);
        if page.order == Order::Newest {
            all.reverse();
        }
        let later = |p: Position| page.after.is_none_or(|a| if page.order == Order::Newest { p < a } else { p > a });
        let mut rest = all.into_iter().filter(|(p, _)| later(*p));
        let rows: Vec<(Position, &Summary)> = rest.by_ref().take(page.limit).collect();
        let next = rest.next().and(rows.last().map(|(p, _)| *p));
        Found { rows: rows.into_iter().map(|(_, s)| s.clone()).collect(), next }
    }
}

/// The index that requests and its tail share.
#[derive(Default)]
pub(crate) struct SharedIndex {
    /// The summaries.
    pub inner: RwLock<Index>,
    ready: AtomicBool,
}

impl SharedIndex {
    /// Whether everything stored at the start has been read.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
    /// Says so.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
    /// A page of what matches.
    pub async fn list(&self, wanted: Wanted, page: Page) -> Result<Found, ApiError> {
        Ok(self.read().list(&wanted, page))
    }
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.read().len() as u64
    }
    /// How many there are of each status.
    pub async fn counts(&self) -> Result<HashMap<Status, u64>, ApiError> {
        let mut counts = HashMap::new();
        self.read().by_seq.values().for_each(|s| *counts.entry(s.status).or_default() += 1);
        Ok(counts)
    }
    /// Reads; a panic elsewhere leaves every map whole, so poisoning means nothing.
    pub fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Writes.
    pub fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(n: usize, status: Status) -> Summary {
        Summary {
            execution_id: format!("e{n}"),
            workflow_id: format!("w{}", n % 2),
            bot_id: "b".into(),
            strategy_id: String::new(),
            status,
            workflow_version: "1".into(),
            node_count: 1,
            nodes_completed: 0,
            nodes_failed: 0,
            nodes_skipped: 0,
            started_at: Timestamp(n as i64),
            finished_at: None,
            duration_ms: None,
            error: Some("x".repeat(1000)),
            error_type: None,
            failed_node: None,
            reason: None,
        }
    }

    #[test]
    fn newest_first_updated_and_bounded() {
        let mut index = Index::default();
        for n in 0..SUMMARIES_MAX + 10 {
            index.put(n as u64 + 1, summary(n, Status::Running));
        }
        assert_eq!(index.len(), SUMMARIES_MAX);
        index.put(1_000_000, summary(100, Status::Completed));
        assert_eq!(index.len(), SUMMARIES_MAX);
        let page = |limit| Page { limit, order: Order::Newest, after: None };
        let done = Wanted { statuses: vec![Status::Completed], ..Wanted::default() };
        let found = index.list(&done, page(10)).rows;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].error.as_ref().map(|e| e.chars().count()), Some(TEXT_MAX + 1));
        let wanted = Wanted { workflows: vec!["w1".into()], ..Wanted::default() };
        assert!(index.list(&wanted, page(500)).rows.iter().all(|s| s.workflow_id == "w1"));
        index.remove("e100");
        assert_eq!(index.len(), SUMMARIES_MAX - 1);
    }
}
