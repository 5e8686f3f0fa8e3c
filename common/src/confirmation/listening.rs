//! What is heard of workers' leases: what is stored, in its order, and what workers say at once.

use std::{collections::BTreeMap, time::Duration};

use async_nats::Subscriber;
use futures_util::{FutureExt, StreamExt};
use haltline_types::{
    Names, Timestamp,
    control::{Lease, OpenEffect, Scope},
    error::ApiError,
    worker::Presence,
};

use tokio_util::task::AbortOnDropHandle;

use crate::{
    Link, clock, kv,
    tail::{self, Item, Start, Tail},
};

/// How often it is looked who is present.
const LOOK: Duration = Duration::from_millis(250);
/// Leases are read within this time, or it is begun anew; then twice as long is waited. Not more: what was begun before a cluster
/// had a leader again is to be begun anew within the 2 s in which a halt must be confirmed after that.
const READ_WITHIN: Duration = Duration::from_secs(1);
const READ_WITHIN_MAX: Duration = Duration::from_secs(2);

/// One life of a worker.
pub(super) struct Life {
    pub lease: Lease,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// When it was heard here, by [`clock::boot`].
    pub heard: Duration,
    /// What the log says is open, once it was asked.
    pub asked: Option<Result<Vec<OpenEffect>, String>>,
}

/// Hears what workers say about flags. One that was begun before a flag is stored misses nothing that is said of it
/// at once; any other one hears what was missed with the next lease that is stored.
pub struct Listening {
    pub(super) link: Link,
    /// Once it is known of which flag.
    tail: Option<Tail>,
    /// When it was begun, by [`clock::boot`], and how long it may take to get to a flag.
    pub(super) began: Duration,
    patience: Duration,
    said: Option<Subscriber>,
    /// What subjects of leases begin with.
    prefix: String,
    /// All that was stored where the consumer is has been read.
    is_read: bool,
    /// Up to which revision of the bucket.
    at: u64,
    /// By worker and life.
    pub(super) lives: BTreeMap<(String, String), Life>,
    /// Who shows signs of life.
    pub(super) present: BTreeMap<String, Presence>,
    /// Whether that is known. A look that was begun before the flag was stored will do: who comes later has to get a lease behind it.
    pub(super) looked: bool,
    /// When it was looked last, by [`clock::boot`].
    looked_at: Option<Duration>,
    looking: Option<AbortOnDropHandle<Result<Vec<Presence>, ApiError>>>,
}

impl Listening {
    /// Listens to what workers say, from now on.
    pub async fn start(link: &Link) -> Self {
        let mut listening = Self::new(link);
        listening.listen().await;
        listening
    }

    /// Listens from the first look on.
    pub(super) fn new(link: &Link) -> Self {
        Self {
            link: link.clone(),
            tail: None,
            began: clock::boot(),
            patience: READ_WITHIN,
            said: None,
            prefix: Names::kv_subject(&link.names.control_bucket(), "lease."),
            is_read: false,
            at: 0,
            lives: BTreeMap::new(),
            present: BTreeMap::new(),
            looked: false,
            looked_at: None,
            looking: None,
        }
    }

    /// Begins to read what is stored of leases, behind which the flag of that scope has to come.
    pub(super) fn read(&mut self, scope: &Scope) {
        self.began = clock::boot();
        let bucket = self.link.names.control_bucket();
        let options = tail::Options {
            stream: Names::bucket_stream(&bucket),
            // The flag as well: that it came says that every lease before it came.
            filter: [self.link.names.leases(), Names::kv_subject(&bucket, &scope.key())].join(" "),
            // There is one lease of a life. From the last of each key on, nats-server stops for up to a heartbeat wherever
            // one was written anew before it was delivered.
            start: Start::Seq(1),
            heartbeat: Duration::from_millis(500),
            buffer: 1024,
            reader: "confirming".into(),
            headers_only: false,
        };
        self.tail = Some(Tail::start(&self.link, options));
    }

    /// Begins to read anew where it takes too long: a consumer may be on a server of a cluster that was cut off and lags, and
    /// the next one may not be.
    pub(super) fn hurry(&mut self, scope: &Scope, now: Duration) {
        if now.saturating_sub(self.began) >= self.patience {
            self.patience = (self.patience * 2).min(READ_WITHIN_MAX);
            (self.is_read, self.at) = (false, 0);
            self.read(scope);
        }
    }

    async fn listen(&mut self) {
        if self.said.is_none() {
            self.said = self.link.client.subscribe(self.link.names.seen_all()).await.ok();
        }
    }

    /// Whether every lease that was stored before this revision has been heard.
    pub(super) fn has_read(&self, revision: u64) -> bool {
        self.is_read && self.at >= revision
    }

    /// Waits for the next thing that is heard and takes it in. Cancel safe.
    pub(super) async fn next(&mut self) {
        let said = async {
            match &mut self.said {
                Some(said) => said.next().await,
                None => std::future::pending().await,
            }
        };
        let looking = async {
            match &mut self.looking {
                Some(looking) => looking.await,
                None => std::future::pending().await,
            }
        };
        let item = async {
            match &mut self.tail {
                Some(tail) => tail.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            present = looking => self.present(present.unwrap_or_else(|e| Err(kv::unavailable(e)))),
            item = item => match item {
                Some(item) => self.item(item),
                None => std::future::pending().await,
            },
            said = said => match said {
                Some(m) => self.said(&m.payload),
                None => self.said = None,
            }
        }
    }

    /// Takes in what is there, without waiting.
    pub(super) fn all_there_is(&mut self) {
        while self.next().now_or_never().is_some() {}
    }

    /// Has it looked who is present, and does not wait for that: a server that answers late must not hold up the rest.
    pub(super) async fn look(&mut self, now: Duration) {
        self.listen().await;
        if self.looking.is_none() && self.looked_at.is_none_or(|at| now.saturating_sub(at) >= LOOK) {
            self.looked_at = Some(now);
            let link = self.link.clone();
            self.looking = Some(AbortOnDropHandle::new(tokio::spawn(async move { presence(&link).await })));
        }
    }

    fn present(&mut self, present: Result<Vec<Presence>, ApiError>) {
        self.looking = None;
        match present {
            Ok(present) => {
                self.present = present.into_iter().map(|p| (p.worker_id.clone(), p)).collect();
                self.looked = true;
            }
            Err(e) => tracing::debug!(error = %e, "cannot ask who is present"),
        }
    }

    fn item(&mut self, item: Item) {
        match item {
            Item::Message(m) => {
                self.at = self.at.max(m.seq);
                let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
                if m.subject.starts_with(&self.prefix)
                    && !gone
                    && let Ok(lease) = serde_json::from_slice(&m.payload)
                {
                    self.lease(lease, Some(m.stored_at));
                }
            }
            // How far that was is told by messages alone: the consumer may be where less is known than the stream's leader knows.
            Item::CaughtUp { .. } => self.is_read = true,
            Item::Lost { .. } | Item::Reset { .. } => {}
        }
    }

    /// What a worker says without storing it. It means the same as if it were stored.
    fn said(&mut self, payload: &[u8]) {
        if let Ok(lease) = serde_json::from_slice(payload) {
            self.lease(lease, None);
        }
    }

    fn lease(&mut self, lease: Lease, stored_at: Option<Timestamp>) {
        let id = (lease.worker_id.clone(), lease.instance.clone());
        if lease.goodbye {
            self.lives.remove(&id);
            self.present.remove(&lease.worker_id);
            return;
        }
        // What a life writes and says may come in any order.
        match self.lives.get_mut(&id) {
            Some(known) if known.lease.n > lease.n => {
                known.lease = known.lease.clone().with(lease);
                known.stored_at = stored_at.map_or(known.stored_at, |at| at.max(known.stored_at));
            }
            known => {
                let stored_at = stored_at.or(known.as_ref().map(|known| known.stored_at)).unwrap_or_else(clock::now);
                let lease = known.map_or(lease.clone(), |known| lease.with(known.lease.clone()));
                self.lives.insert(id, Life { lease, stored_at, heard: clock::boot(), asked: None });
            }
        }
    }
}

/// Who shows signs of life.
pub(super) async fn presence(link: &Link) -> Result<Vec<Presence>, ApiError> {
    let filter = Names::kv_subject(&link.names.workers_bucket(), ">");
    let mut tail = Tail::start(
        link,
        tail::Options {
            stream: Names::bucket_stream(&link.names.workers_bucket()),
            filter,
            start: Start::Seq(1),
            heartbeat: Duration::from_secs(1),
            buffer: 1024,
            reader: "present".into(),
            headers_only: false,
        },
    );
    let mut present = Vec::new();
    let reading = async {
        while let Some(item) = tail.next().await {
            match item {
                Item::Message(m) if !m.headers.as_ref().is_some_and(kv::is_deletion) => present.extend(serde_json::from_slice(&m.payload)),
                Item::Message(_) | Item::Reset { .. } => {}
                Item::CaughtUp { .. } => return Ok(()),
                Item::Lost { reason, .. } => return Err(kv::unavailable(reason)),
            }
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(2), reading).await.map_err(kv::unavailable)??;
    Ok(present)
}
