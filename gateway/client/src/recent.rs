//! The most recent executions, from the end of the records' stream: it keeps one message an
//! execution, in the order they were last written.

use std::collections::VecDeque;

use haltline_common::{js, tail::Start, types::Names};

use crate::{ApiError, Client, Record, Status, scan, unavailable};

/// Executions listed at most: what one answer can carry.
pub const EXECUTIONS_MAX: usize = 1000;
/// Bytes of records held at most while listing; the older ones are left out first. Results make
/// records large.
const BYTES_MAX: usize = 64 << 20;
/// Sequences looked at in the first try; grows eightfold while too few are found, since each
/// execution leaves holes where its earlier records were.
const WINDOW: u64 = 4096;
/// Sequences looked at in all: seconds of reading.
const WINDOW_MAX: u64 = 400_000;

impl Client {
    /// Up to `limit` (at most 1000) executions, most recently written first.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn executions(&self, limit: usize) -> Result<Vec<Record>, ApiError> {
        let limit = limit.min(EXECUTIONS_MAX);
        self.recent(limit, limit, |_| true).await
    }

    /// The same of those with one of these statuses.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn executions_with(&self, limit: usize, statuses: &[Status]) -> Result<Vec<Record>, ApiError> {
        let limit = limit.min(EXECUTIONS_MAX);
        self.recent(limit, limit, |r| statuses.contains(&r.status)).await
    }

    /// The most recently started execution of a workflow, if there is one among the recent ones.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn latest(&self, workflow_id: &str) -> Result<Option<Record>, ApiError> {
        let found = self.recent(EXECUTIONS_MAX, 1, |r| r.correlation.workflow_id == workflow_id).await?;
        Ok(found.into_iter().max_by_key(|r| r.started_at))
    }

    /// Up to `limit` matching ones; looks further back while there are fewer than `enough`.
    async fn recent(&self, limit: usize, enough: usize, matches: impl Fn(&Record) -> bool) -> Result<Vec<Record>, ApiError> {
        let link = &self.shared.link;
        let stream = Names::bucket_stream(&link.names.executions_bucket());
        let state = js::stream_info(link, &stream).await.map_err(unavailable)?.state;
        let mut window = WINDOW;
        loop {
            let from = state.last_seq.saturating_sub(window - 1).max(1);
            let mut kept: VecDeque<(u64, usize, Record)> = VecDeque::new();
            let mut bytes = 0;
            if state.messages > 0 && limit > 0 {
                scan::values(link, stream.clone(), String::new(), Start::Seq(from), |seq, value| {
                    match serde_json::from_slice::<Record>(value) {
                        Ok(record) if matches(&record) => {
                            bytes += value.len();
                            kept.push_back((seq, value.len(), record));
                        }
                        Ok(_) => {}
                        Err(e) => tracing::warn!(seq, error = %e, "a record is malformed; left out"),
                    }
                    while kept.len() > limit || (bytes > BYTES_MAX && kept.len() > 1) {
                        bytes -= kept.pop_front().map_or(0, |(_, size, _)| size);
                    }
                    true
                })
                .await?;
            }
            if kept.len() >= enough || from <= state.first_seq.max(1) || window >= WINDOW_MAX || bytes > BYTES_MAX / 2 {
                return Ok(newest_first(kept));
            }
            window = (window * 8).min(WINDOW_MAX);
        }
    }
}

/// One entry an execution: one that was written while it was read is there twice.
fn newest_first(kept: VecDeque<(u64, usize, Record)>) -> Vec<Record> {
    let mut seen = std::collections::HashSet::new();
    kept.into_iter().rev().map(|(_, _, r)| r).filter(|r| seen.insert(r.correlation.execution_id.clone())).collect()
}
