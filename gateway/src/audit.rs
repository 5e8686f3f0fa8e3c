//! What is on record about access: every refusal and every change that was asked for, in a stream that
//! is only appended to. The control flags have a record of their own in their bucket; here is who asked.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use haltline_common::{
    Link, clock, metrics,
    types::{
        access::{AccessEntry, Role},
        limits::TEXT_BYTES_MAX,
    },
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::auth::Principal;

/// Entries waiting to be stored; more wait with the request that made them.
const QUEUE: usize = 1024;
/// How long one entry may take to be stored before it is tried again.
const STORED_WITHIN: Duration = Duration::from_secs(3);
/// How long a request waits for room in the queue: the change was made already.
const ROOM_WITHIN: Duration = Duration::from_secs(2);
/// Refusals of one address put on record within a second; the others are counted.
const REFUSALS_PER_S: u64 = 5;
/// Addresses counted.
const ADDRESSES_MAX: usize = 10_000;

/// Writes entries.
pub(crate) struct Audit {
    queue: Mutex<Option<mpsc::Sender<AccessEntry>>>,
    refusals: Mutex<HashMap<IpAddr, Refusals>>,
    gateway: Arc<str>,
}

struct Refusals {
    since: Instant,
    told: u64,
    more: u64,
}

/// What is known of who asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asker {
    pub by: String,
    pub verified: bool,
    pub role: Option<Role>,
    pub address: Option<IpAddr>,
    pub origin: String,
}

impl Asker {
    /// From whoever was let in.
    pub fn of(principal: &Principal, address: Option<IpAddr>, origin: &str) -> Self {
        Self {
            by: principal.name.clone(),
            verified: principal.credential.is_some(),
            role: Some(principal.role),
            address,
            origin: brief(origin),
        }
    }
}

/// What a handler adds to the entry about its request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Noted {
    pub reason: String,
    pub before: Option<serde_json::Value>,
    pub after: Option<serde_json::Value>,
}

impl Audit {
    /// Starts the writer; it ends when it has stored everything after [`Audit::close`].
    pub fn start(link: &Link) -> (Self, JoinHandle<()>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        let gateway: Arc<str> = format!("{}/{}", hostname(), std::process::id()).into();
        let task = tokio::spawn(write(link.clone(), rx));
        (Self { queue: Mutex::new(Some(tx)), refusals: Mutex::default(), gateway }, task)
    }

    /// Takes no more.
    pub fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// A change that was asked for, with what became of it.
    pub async fn change(&self, asker: &Asker, action: &str, target: &str, status: u16, noted: Noted) {
        let outcome = if status < 400 { "done" } else { "failed" };
        self.put(self.entry(asker, action, target, status, outcome, noted)).await;
    }

    /// A refusal. Of many from one address only some are put on record one by one.
    pub async fn refusal(&self, asker: &Asker, action: &str, target: &str, status: u16, reason: &str) {
        metrics::ACCESS_REFUSED.inc();
        let more = match asker.address {
            Some(address) => match self.told(address) {
                Some(more) => more,
                None => return,
            },
            None => 0,
        };
        let noted = Noted { reason: reason.to_owned(), ..Noted::default() };
        let entry = AccessEntry { more, ..self.entry(asker, action, target, status, "refused", noted) };
        self.put(entry).await;
    }

    /// How many were left out since the last one that was told; `None` if this one is left out, too.
    fn told(&self, address: IpAddr) -> Option<u64> {
        let mut all = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ADDRESSES_MAX && !all.contains_key(&address) {
            all.clear();
        }
        let now = Instant::now();
        let r = all.entry(address).or_insert(Refusals { since: now, told: 0, more: 0 });
        if now.duration_since(r.since) >= Duration::from_secs(1) {
            (r.since, r.told) = (now, 0);
        }
        if r.told >= REFUSALS_PER_S {
            r.more += 1;
            return None;
        }
        r.told += 1;
        Some(std::mem::take(&mut r.more))
    }

    fn entry(&self, asker: &Asker, action: &str, target: &str, status: u16, outcome: &str, noted: Noted) -> AccessEntry {
        AccessEntry {
            at: clock::now(),
            action: action.to_owned(),
            outcome: outcome.to_owned(),
            status,
            by: asker.by.clone(),
            verified: asker.verified,
            role: asker.role,
            address: asker.address.map(|a| a.to_string()).unwrap_or_default(),
            origin: asker.origin.clone(),
            target: brief(target),
            reason: brief(&noted.reason),
            before: noted.before,
            after: noted.after,
            more: 0,
            gateway: self.gateway.to_string(),
        }
    }

    async fn put(&self, entry: AccessEntry) {
        tracing::info!(
            action = entry.action,
            outcome = entry.outcome,
            status = entry.status,
            by = entry.by,
            address = entry.address,
            target_path = entry.target,
            reason = entry.reason,
            "access"
        );
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let room = match &queue {
            Some(queue) => tokio::time::timeout(ROOM_WITHIN, queue.send(entry)).await.is_ok_and(|sent| sent.is_ok()),
            None => false,
        };
        if !room {
            metrics::ACCESS_UNRECORDED.inc();
            tracing::error!("an entry about access could not be stored: the log line above is all there is of it");
        }
    }
}

fn brief(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|h| h.trim().to_owned()).unwrap_or_else(|_| "gateway".into())
}

/// Stores entry after entry; each is tried until it is stored, with an id that makes a repeat one.
async fn write(link: Link, mut queue: mpsc::Receiver<AccessEntry>) {
    while let Some(entry) = queue.recv().await {
        let subject = link.names.access(&entry.outcome);
        let Ok(body) = serde_json::to_vec(&entry) else { continue };
        let (body, id) = (Bytes::from(body), uuid::Uuid::new_v4().to_string());
        loop {
            let store = async {
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Nats-Msg-Id", id.as_str());
                link.js.publish_with_headers(subject.clone(), headers, body.clone()).await?.await
            };
            match tokio::time::timeout(STORED_WITHIN, store).await {
                Ok(Ok(_)) => break,
                Ok(Err(error)) => tracing::warn!(%error, "an entry about access is not stored yet"),
                Err(_) => tracing::warn!("an entry about access is not stored yet: no answer"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
