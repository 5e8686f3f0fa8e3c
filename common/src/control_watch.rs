//! A watched copy of the control flag, and the gate it makes: open only while the flag allows and
//! the watch is fresh.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use haltline_types::{
    Names,
    control::{Flag, GLOBAL_KEY, Gate, Level, Scope},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Link, kv,
    tail::{self, Health, Item, Start, Tail},
};

/// A copy of the flag that was not confirmed for longer than this is not trusted.
pub const STALE_AFTER: Duration = Duration::from_secs(2);
/// Four signs of life fit into [`STALE_AFTER`].
const HEARTBEAT: Duration = Duration::from_millis(500);

/// The watched flag. Cheap to clone; the watch ends with the last clone.
#[derive(Clone)]
pub struct ControlWatch {
    seen: watch::Receiver<Option<Flag>>,
    health: Arc<Health>,
    _task: Arc<AbortOnDropHandle<()>>,
}

/// The watches of this process, for its metrics: one for each service in it.
static WATCHES: Mutex<Vec<Weak<Health>>> = Mutex::new(Vec::new());

/// How long ago the copy that was confirmed longest ago, of those that this process has, was
/// confirmed; `None` if it has none.
pub fn silence() -> Option<Duration> {
    let all = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter_map(Weak::upgrade).map(|h| h.silence()).max()
}

impl ControlWatch {
    /// Starts watching. The gate is unsure until the flag has been read.
    pub fn start(link: &Link, reader: &str) -> Self {
        let bucket = link.names.control_bucket();
        let tail = Tail::start(
            link,
            tail::Options {
                stream: Names::bucket_stream(&bucket),
                filter: Names::kv_subject(&bucket, GLOBAL_KEY),
                start: Start::LastPerSubject,
                heartbeat: HEARTBEAT,
                buffer: 64,
                reader: format!("{reader}_control"),
                headers_only: false,
            },
        );
        let health = tail.health();
        let mut all = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|h| h.strong_count() > 0);
        all.push(Arc::downgrade(&health));
        drop(all);
        let (tx, seen) = watch::channel(None);
        let task = AbortOnDropHandle::new(tokio::spawn(follow(tail, tx)));
        Self { seen, health, _task: Arc::new(task) }
    }

    /// What a guard is to do now. Two loads and a comparison; no I/O.
    pub fn gate(&self) -> Gate {
        match &*self.seen.borrow() {
            // Neither a hold nor a halt needs a fresh watch to be obeyed.
            Some(flag) if flag.state == Level::Hold => return Gate::Unsure(flag.sentence()),
            Some(flag) if !flag.state.runs() => return Gate::Halted(flag.clone()),
            None => return Gate::Unsure("the control flag has not been read yet".into()),
            Some(_) => {}
        }
        match self.health.age() {
            None => Gate::Unsure("the watch on the control flag is interrupted".into()),
            Some(age) if age > STALE_AFTER => Gate::Unsure(format!("the control flag was last confirmed {age:?} ago")),
            Some(_) => Gate::Open,
        }
    }

    /// The flag as last read.
    pub fn flag(&self) -> Option<Flag> {
        self.seen.borrow().clone()
    }

    /// Waits for the flag to be read anew. Cancel safe.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the flag has been read once, up to `limit`.
    pub async fn ready(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.seen.wait_for(Option::is_some)).await.is_ok_and(|r| r.is_ok())
    }

    /// Waits while the gate is unsure, looking again often enough to go on at once.
    pub async fn sure(&self) -> Gate {
        loop {
            match self.gate() {
                Gate::Unsure(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                gate => return gate,
            }
        }
    }
}

async fn follow(mut tail: Tail, tx: watch::Sender<Option<Flag>>) {
    // Whether the key was delivered since the tail last (re)started.
    let mut delivered = false;
    while let Some(item) = tail.next().await {
        match item {
            Item::Message(m) => {
                delivered = true;
                let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
                let value = if gone { None } else { Some(&m.payload[..]) };
                let flag = Flag::read(&Scope::Global, value, m.seq, Some(m.stored_at), None);
                let before = tx.borrow().as_ref().map(|f| f.state);
                if before != Some(flag.state) {
                    tracing::info!(
                        state = flag.state.as_str(),
                        revision = flag.revision,
                        by = flag.by,
                        reason = flag.reason,
                        "control flag"
                    );
                }
                tx.send_replace(Some(flag));
            }
            Item::CaughtUp { .. } if !delivered => {
                tracing::error!("the key halt.global is missing: everything counts as halted");
                tx.send_replace(Some(Flag::unreadable("the key halt.global is missing", 0, None)));
            }
            Item::CaughtUp { .. } => {}
            Item::Lost { reason, missing } => {
                delivered = false;
                if missing {
                    tracing::error!(reason, "the control bucket is missing: everything counts as halted");
                    tx.send_replace(Some(Flag::unreadable(format!("the control bucket is missing: {reason}"), 0, None)));
                } else {
                    tracing::warn!(reason, "watch on the control flag interrupted: nodes wait");
                }
            }
            Item::Reset { .. } => {
                tx.send_replace(Some(Flag::unreadable("the control bucket was recreated", 0, None)));
            }
        }
    }
}
