//! Appending to the audit.

use std::collections::HashSet;

use async_nats::HeaderMap;
use haltline_common::{
    Link, audit,
    types::{
        control::{AuditEntry, GENESIS, Happened, Scope, digest},
        error::ApiError,
    },
};

/// The audit's end, as this process has read it.
pub struct Chain {
    link: Link,
    by: String,
    /// The stream's last sequence.
    seq: u64,
    n: u64,
    head: String,
    /// The last change that is in it: of which stream, and its revision.
    last: Option<(String, u64)>,
    /// Confirmations that are in it.
    confirmed: HashSet<(String, Scope, u64)>,
}

/// Someone else has written since, or nobody answers: begin again.
#[derive(Debug, thiserror::Error)]
#[error("the audit could not be written: {0}")]
pub struct Lost(String);

impl Chain {
    /// Reads it to its end.
    pub async fn open(link: &Link, by: &str) -> Result<Self, ApiError> {
        let mut chain =
            Self { link: link.clone(), by: by.to_owned(), seq: 0, n: 0, head: GENESIS.into(), last: None, confirmed: HashSet::new() };
        for stored in audit::read(link).await? {
            chain.seq = stored.seq;
            chain.n += 1;
            chain.head = digest(&stored.body);
            match serde_json::from_slice::<AuditEntry>(&stored.body) {
                Ok(entry) => chain.learn(&entry),
                Err(e) => tracing::error!(seq = stored.seq, error = %e, "an entry of the audit is malformed"),
            }
        }
        Ok(chain)
    }

    fn learn(&mut self, entry: &AuditEntry) {
        match entry.happened {
            Happened::Changed { .. } => self.last = Some((entry.stream.clone(), entry.revision)),
            Happened::Confirmed { .. } => {
                self.confirmed.insert((entry.stream.clone(), entry.scope.clone(), entry.revision));
            }
        }
    }

    /// From which revision on changes of that stream are not in it yet.
    pub fn from(&self, stream: &str) -> u64 {
        self.last.as_ref().filter(|(s, _)| s == stream).map_or(1, |(_, revision)| revision + 1)
    }

    /// Whether a flag's confirmation is in it.
    pub fn is_confirmed(&self, stream: &str, scope: &Scope, revision: u64) -> bool {
        self.confirmed.contains(&(stream.to_owned(), scope.clone(), revision))
    }

    /// Appends an entry: stored behind the one that was read last, or not at all.
    pub async fn append(
        &mut self,
        happened: Happened,
        scope: Scope,
        revision: u64,
        stream: &str,
        at: haltline_common::types::Timestamp,
    ) -> Result<(), Lost> {
        let entry = AuditEntry {
            n: self.n + 1,
            prev: self.head.clone(),
            happened,
            scope,
            revision,
            stream: stream.to_owned(),
            at,
            written_by: self.by.clone(),
        };
        let body = serde_json::to_vec(&entry).map_err(|e| Lost(e.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", self.seq.to_string());
        let subject = self.link.names.audit();
        let sent = self.link.js.publish_with_headers(subject, headers, body.clone().into()).await.map_err(|e| Lost(e.to_string()))?;
        let stored = sent.await.map_err(|e| Lost(e.to_string()))?;
        self.seq = stored.sequence;
        self.n += 1;
        self.head = digest(&body);
        self.learn(&entry);
        Ok(())
    }
}
