//! The executions that lists show, in a database file of this gateway: derived from the records'
//! stream, rebuilt by itself when it is missing, behind or of another stream, never the truth.
//!
//! redb and not SQLite: it builds without a C compiler and has no dependencies, and what lists need are
//! sorted sets, of which SQL would have to be talked into the right one for each combination of filters.

mod feed;
mod search;
mod store;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::stream::RawMessageErrorKind;
use haltline_client::{ApiError, Code};
use haltline_common::{
    Link, js,
    types::{Names, Timestamp, ids::digest, record::Status},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::cached::Cached;

pub(crate) use feed::start;
pub use store::Store;

/// What a list shows of an execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The execution.
    pub execution_id: String,
    /// Its workflow.
    pub workflow_id: String,
    /// Its bot, or empty.
    #[serde(default)]
    pub bot_id: String,
    /// Its strategy, or empty.
    #[serde(default)]
    pub strategy_id: String,
    /// Where it stands.
    pub status: Status,
    /// The pinned definition's version.
    pub workflow_version: String,
    /// How many nodes its workflow has.
    pub node_count: u32,
    /// Nodes completed, as of its record.
    pub nodes_completed: u32,
    /// Nodes that failed and whose `on_error` let it go on.
    #[serde(default)]
    pub nodes_failed: u32,
    /// Nodes skipped because of them.
    #[serde(default)]
    pub nodes_skipped: u32,
    /// When it was accepted.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Milliseconds from acceptance to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// What went wrong; the beginning, where it is long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The node that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_node: Option<String>,
    /// Why it was halted or cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a list is asked for: filters AND, values of one filter OR; an empty filter matches everything.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Workflow ids.
    pub workflows: Vec<String>,
    /// Bot ids.
    pub bots: Vec<String>,
    /// Strategy ids.
    pub strategies: Vec<String>,
    /// Statuses.
    pub statuses: Vec<Status>,
    /// Started at or after.
    pub since: Option<Timestamp>,
    /// Started before.
    pub until: Option<Timestamp>,
    /// The id begins with this; such a list is in the order of ids.
    pub id: Option<String>,
}

impl Wanted {
    /// Whether an execution is wanted.
    pub fn matches(&self, s: &Summary) -> bool {
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
pub enum Order {
    /// Started last first.
    Newest,
    /// Started first first.
    Oldest,
}

/// An execution's place in the order of time: the same in every gateway, and it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// When it was started, in milliseconds.
    pub started: i64,
    /// A digest of its id, to tell apart what was started at once.
    pub tie: u64,
}

impl Place {
    /// Of an execution.
    pub fn of(started: Timestamp, execution_id: &str) -> Self {
        Self { started: started.0, tie: u64::from_str_radix(&digest(execution_id.as_bytes()), 16).unwrap_or_default() }
    }

    /// As a number in the same order.
    const fn key(self) -> u128 {
        // Flipping the sign bit puts negative times before positive ones.
        ((self.started as u64 ^ (1 << 63)) as u128) << 64 | self.tie as u128
    }

    const fn from_key(key: u128) -> Self {
        Self { started: ((key >> 64) as u64 ^ (1 << 63)) as i64, tie: key as u64 }
    }
}

/// Where a page ended; it leads on in any gateway, also while executions come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// In the order of time.
    Place(Place),
    /// In the order of ids.
    Id(String),
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Place(p) => write!(f, "t.{}.{:016x}", p.started, p.tie),
            Self::Id(id) => write!(f, "i.{id}"),
        }
    }
}

impl std::str::FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (kind, rest) = text.split_once('.')?;
            if kind == "i" {
                return Some(Self::Id(rest.to_owned()));
            }
            let (started, tie) = rest.split_once('.').filter(|_| kind == "t")?;
            Some(Self::Place(Place { started: started.parse().ok()?, tie: u64::from_str_radix(tie, 16).ok()? }))
        };
        read().ok_or("is not the `next` of a page")
    }
}

/// Which page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Executions at most.
    pub limit: usize,
    /// In which order.
    pub order: Order,
    /// What comes after this.
    pub after: Option<Cursor>,
}

/// A page.
#[derive(Debug, Default)]
pub struct Found {
    /// The executions.
    pub rows: Vec<Summary>,
    /// Where the next page begins, if there may be one: a page can also end because much was looked at
    /// and little found.
    pub next: Option<Cursor>,
}

/// The index that requests and its feed share.
pub(crate) struct SharedIndex {
    store: Arc<Store>,
    ready: AtomicBool,
    len: AtomicU64,
    /// Up to where the records' stream was taken in.
    applied: watch::Sender<u64>,
    /// Where that stream ended when somebody last asked.
    end: Cached<u64>,
}

/// How long a reader waits for what was stored before it asked: the feed is milliseconds behind.
const BEHIND_MAX: Duration = Duration::from_secs(5);

impl SharedIndex {
    fn new(store: Store) -> Self {
        let len = AtomicU64::new(store.len().unwrap_or(0));
        let applied = watch::Sender::new(store.mark().map_or(0, |m| m.seq));
        Self { store: Arc::new(store), ready: AtomicBool::new(false), len, applied, end: Cached::new(Duration::ZERO) }
    }

    /// Waits until every record is in it that was stored before this was called.
    ///
    /// # Errors
    /// When it is too far behind, or the server does not answer.
    pub async fn caught_up(&self, link: &Link) -> Result<(), String> {
        let stream = Names::bucket_stream(&link.names.executions_bucket());
        let end = async || js::stream_info(link, &stream).await.map(|info| info.state.last_seq).map_err(|e| e.to_string());
        let end = self.end.since_now(end).await?;
        let mut applied = self.applied.subscribe();
        let taken = *applied.borrow_and_update();
        if taken >= end {
            return Ok(());
        }
        // The last records may have expired: then nothing more comes.
        let handle = link.js.get_stream_no_info(&stream).await.map_err(|e| e.to_string())?;
        match handle.get_first_raw_message_by_subject(">", taken + 1).await {
            Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => return Ok(()),
            _ => {}
        }
        match tokio::time::timeout(BEHIND_MAX, applied.wait_for(|seq| *seq >= end)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err("the list of executions is behind; repeat".into()),
        }
    }

    /// Whether everything stored at the start has been read.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// A page of what matches.
    pub async fn list(&self, wanted: Wanted, page: Page) -> Result<Found, ApiError> {
        self.look(move |store| store.list(&wanted, &page)).await
    }

    /// Up to `limit` of what `wanted` and `wants` want, started last first, and whether there may be more.
    pub async fn newest(
        &self,
        wanted: Wanted,
        wants: impl Fn(&Summary) -> bool + Send + 'static,
        limit: usize,
    ) -> Result<(Vec<Summary>, bool), ApiError> {
        self.look(move |store| store.newest(&wanted, wants, limit)).await
    }

    /// How many there are of each status.
    pub async fn counts(&self) -> Result<BTreeMap<&'static str, u64>, ApiError> {
        self.look(Store::counts).await
    }

    /// Reads off the loop: what is not in memory waits for the disk.
    async fn look<T: Send + 'static>(&self, read: impl FnOnce(&Store) -> Result<T, redb::Error> + Send + 'static) -> Result<T, ApiError> {
        let store = self.store.clone();
        let failed = |e: String| ApiError::new(Code::Internal, format!("the list of executions cannot be read: {e}"));
        tokio::task::spawn_blocking(move || read(&store)).await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
    }
}

#[cfg(test)]
mod tests;
