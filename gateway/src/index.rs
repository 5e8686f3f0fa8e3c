//! The executions that lists show: summaries of the newest records, in memory, so that a list with
//! filters costs the server nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use haltline_common::types::{Timestamp, record::Status};
use serde::{Deserialize, Serialize};

/// Summaries kept: about 15 MB; older executions stay readable by id. What is written least
/// recently leaves first.
pub(crate) const SUMMARIES_MAX: usize = 20_000;
/// Characters of error and reason kept in a summary; the record has all of it.
const TEXT_MAX: usize = 300;

/// What a list shows of an execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// What a list is asked for; `None` matches everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub workflow_id: Option<String>,
    pub bot_id: Option<String>,
    pub strategy_id: Option<String>,
    pub status: Option<Status>,
}

impl Wanted {
    fn matches(&self, s: &Summary) -> bool {
        let same = |want: &Option<String>, have: &str| want.as_deref().is_none_or(|w| w == have);
        same(&self.workflow_id, &s.workflow_id)
            && same(&self.bot_id, &s.bot_id)
            && same(&self.strategy_id, &s.strategy_id)
            && self.status.is_none_or(|w| w == s.status)
    }
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_seq.len()
    }

    /// The matching ones, most recently written first.
    pub fn list(&self, wanted: &Wanted, limit: usize) -> Vec<Summary> {
        self.by_seq.values().rev().filter(|s| wanted.matches(s)).take(limit).cloned().collect()
    }

    /// The most recently started execution of a workflow.
    pub fn latest(&self, workflow_id: &str) -> Option<String> {
        let of = self.by_seq.values().filter(|s| s.workflow_id == workflow_id);
        of.max_by_key(|s| s.started_at).map(|s| s.execution_id.clone())
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
        let top = index.list(&Wanted::default(), 2);
        assert_eq!(top[0].execution_id, "e100");
        assert_eq!(top[0].error.as_ref().map(|e| e.chars().count()), Some(TEXT_MAX + 1));
        let done = Wanted { status: Some(Status::Completed), ..Wanted::default() };
        assert_eq!(index.list(&done, 10).len(), 1);
        let wanted = Wanted { workflow_id: Some("w1".into()), ..Wanted::default() };
        assert!(index.list(&wanted, 500).iter().all(|s| s.workflow_id == "w1"));
        assert_eq!(index.latest("w1"), Some(format!("e{}", SUMMARIES_MAX + 9)));
        index.remove("e100");
        assert_eq!(index.len(), SUMMARIES_MAX - 1);
    }
}
