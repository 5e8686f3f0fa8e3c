//! Reading executions and workers.

use std::collections::HashMap;

use haltline_common::{
    history, kv,
    tail::Start,
    types::{Names, Timestamp, control::Lease, event::Event, worker::Presence},
};

use crate::{ApiError, Client, Code, Record, scan, unavailable};

/// Workers listed at most; their bucket holds what renewed itself within the last ten seconds.
const WORKERS_MAX: usize = 10_000;

/// That there is no such execution.
pub(crate) fn unknown_execution(execution_id: &str) -> ApiError {
    ApiError::new(Code::UnknownExecution, format!("there is no execution `{execution_id}`"))
}

impl Client {
    /// An execution's record.
    ///
    /// # Errors
    /// `UnknownExecution`, `Unavailable`.
    pub async fn record(&self, execution_id: &str) -> Result<Record, ApiError> {
        let found = kv::record(&self.shared.link, execution_id).await?;
        found.map(|(record, _)| record).ok_or_else(|| unknown_execution(execution_id))
    }

    /// An execution's events in order, each with its sequence in the log; none if there is no such
    /// execution.
    ///
    /// # Errors
    /// `Unavailable`; `Internal` if a stored event cannot be read.
    pub async fn events(&self, execution_id: &str) -> Result<Vec<(u64, Event)>, ApiError> {
        history::events(&self.shared.link, execution_id).await.map_err(|e| match e {
            history::HistoryError::Silent(_) => unavailable(e),
            history::HistoryError::Malformed { .. } => ApiError::new(Code::Internal, e.to_string()),
        })
    }

    /// Whether a coordinator answers and every shard has one.
    pub async fn is_coordinated(&self) -> bool {
        let link = &self.shared.link;
        let answer = link.client.request(link.names.coordinator(), "".into()).await;
        let body = answer.ok().and_then(|m| serde_json::from_slice::<serde_json::Value>(&m.payload).ok());
        body.is_some_and(|b| b["shards_without_owner"] == 0)
    }

    /// What workers last wrote about their leases, each with when the server stored it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn leases(&self) -> Result<Vec<(Lease, Timestamp)>, ApiError> {
        let link = &self.shared.link;
        let (stream, filter) = (Names::bucket_stream(&link.names.control_bucket()), link.names.leases());
        // A life writes under two keys.
        let mut lives: HashMap<(String, String), (Lease, Timestamp)> = HashMap::new();
        scan::messages(link, stream, filter, Start::LastPerSubject, false, |m| {
            match serde_json::from_slice::<Lease>(&m.payload) {
                Ok(lease) => {
                    let id = (lease.worker_id.clone(), lease.instance.clone());
                    let known = lives.remove(&id);
                    lives.insert(id, (known.map_or(lease.clone(), |(known, _)| known.with(lease)), m.stored_at));
                }
                Err(e) => tracing::warn!(error = %e, subject = %m.subject, "a lease is malformed; left out"),
            }
            lives.len() < WORKERS_MAX
        })
        .await?;
        Ok(lives.into_values().collect())
    }

    /// Workers that showed a sign of life within the last ten seconds, by id.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn workers(&self) -> Result<Vec<Presence>, ApiError> {
        let bucket = self.shared.link.names.workers_bucket();
        let mut list: Vec<Presence> = Vec::new();
        // The server wants a filter where it is to give the last message of each subject.
        let filter = Names::kv_subject(&bucket, ">");
        scan::values(&self.shared.link, Names::bucket_stream(&bucket), filter, Start::LastPerSubject, |_, value| {
            match serde_json::from_slice(value) {
                Ok(presence) => list.push(presence),
                Err(e) => tracing::warn!(error = %e, "a worker's presence is malformed; left out"),
            }
            list.len() < WORKERS_MAX
        })
        .await?;
        list.sort_by(|a, b| a.worker_id.cmp(&b.worker_id));
        list.dedup_by(|a, b| a.worker_id == b.worker_id);
        Ok(list)
    }
}
