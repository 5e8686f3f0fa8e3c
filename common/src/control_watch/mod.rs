//! A watched copy of the control flags, and the gates it makes: open only while the flags allow and the
//! watch is fresh; for side effects only with a lease besides.

mod lease;
pub(crate) mod raising;
mod reading;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use haltline_types::{
    Names,
    control::{Flag, Flags, GLOBAL_KEY, Gate, INSTALL_KEY, Place, Scope},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Link, clock, kv, metrics,
    tail::{self, Health, Item, Start, Tail},
};
pub use lease::{Holder, LeaseTimes, Opened, Wish};
use reading::Reading;

/// A copy of the flags that was not confirmed for longer than this is not trusted.
pub const STALE_AFTER: Duration = Duration::from_secs(2);
/// Four signs of life fit into [`STALE_AFTER`].
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How often it is looked whether the bucket has been emptied: of that no message tells.
const LOOK: Duration = Duration::from_secs(2);

/// How long a flag is awaited that was said to be raised: one that was refused never comes.
const COMING_WITHIN: Duration = Duration::from_millis(500);

/// What is known of the flags.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The flags that count; `None` before they have been read.
    flags: Option<Arc<Flags>>,
    /// Up to which revision they were read.
    revision: u64,
    /// The revision of the flag of everything.
    global: u64,
    /// One of them keeps something from starting.
    stops: bool,
    /// Until when, by [`clock::boot`], a flag is awaited that was said to be raised.
    coming: Option<Duration>,
    /// When the last one was said to be, by [`clock::boot`]; zero if none was.
    hinted: Duration,
}

/// The watched flags. Cheap to clone; the watch ends with the last clone.
#[derive(Clone)]
pub struct ControlWatch {
    seen: watch::Receiver<Known>,
    health: Arc<Health>,
    holder: Option<Arc<Holder>>,
    _tasks: Arc<[AbortOnDropHandle<()>]>,
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
    /// Starts watching. The gate is unsure until the flags have been read.
    pub fn start(link: &Link, reader: &str) -> Self {
        Self::begin(link, reader, None)
    }

    /// The same for a worker, which starts effects while it holds a lease, and confirms the flags it sees.
    pub fn start_holding(link: &Link, worker_id: &str, times: LeaseTimes) -> Self {
        Self::begin(link, "worker", Some(Holder::new(link, worker_id, times)))
    }

    fn begin(link: &Link, reader: &str, holder: Option<Arc<Holder>>) -> Self {
        let bucket = link.names.control_bucket();
        let mut filters = vec![link.names.flags(), Names::kv_subject(&bucket, INSTALL_KEY)];
        filters.extend(holder.as_ref().map(|h| Names::kv_subject(&bucket, h.key())));
        let tail = Tail::start(
            link,
            tail::Options {
                stream: Names::bucket_stream(&bucket),
                // Together: that a lease came back says that every flag before it came as well.
                filter: filters.join(" "),
                // All that is kept of each key: a value counts only if it replaces the one before it.
                start: Start::Seq(1),
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
        let (tx, seen) = watch::channel(Known::default());
        let follower = Follower { link: link.clone(), reading: Reading::new(&bucket), health: health.clone(), holder: holder.clone(), tx };
        let mut tasks = vec![AbortOnDropHandle::new(tokio::spawn(follower.follow(tail)))];
        tasks.extend(holder.clone().map(|h| AbortOnDropHandle::new(tokio::spawn(h.keep(seen.clone())))));
        Self { seen, health, holder, _tasks: tasks.into() }
    }

    /// Whether anything at all may start now: what opens risk and belongs to no scope.
    pub fn gate(&self) -> Gate {
        self.gate_at(&Place::default())
    }

    /// Whether something may start at `place` now, as far as the flags go. A few look-ups; no I/O.
    pub fn gate_at(&self, place: &Place) -> Gate {
        let gate = match &self.seen.borrow().flags {
            Some(flags) => flags.gate(place),
            None => return Gate::Unsure("the control flags have not been read yet".into()),
        };
        // Neither a hold nor a halt needs a fresh watch to be obeyed.
        match (gate, self.doubt()) {
            (Gate::Open, Some(doubt)) => Gate::Unsure(doubt),
            (gate, _) => gate,
        }
    }

    /// Whether a side effect may start at `place` at this moment: the flags allow it, and this worker
    /// holds a lease. Some comparisons; no I/O.
    pub fn guard(&self, place: &Place) -> Gate {
        let (gate, coming) = {
            let known = self.seen.borrow();
            match &known.flags {
                Some(flags) => (flags.gate(place), known.coming),
                None => return Gate::Unsure("the control flags have not been read yet".into()),
            }
        };
        match gate {
            Gate::Open if coming.is_some_and(is_awaited) => {
                Gate::Unsure("a control flag is on its way that may keep this from starting".into())
            }
            Gate::Open if self.holder.as_ref().is_some_and(|h| !h.is_held()) => {
                Gate::Unsure("this worker holds no lease: its renewal has not come back from nats-server".into())
            }
            gate => gate,
        }
    }

    /// Counts a refusal by its reason: `gate` is what was answered just now.
    pub fn count(&self, gate: &Gate) {
        let reason = match gate {
            Gate::Open => return,
            Gate::Halted(flag) => flag.state.as_str(),
            Gate::Unsure(_) if self.doubt().is_some() || self.seen.borrow().flags.is_none() => "watch",
            Gate::Unsure(_) if self.holder.as_ref().is_some_and(|h| !h.is_held()) => "lease",
            Gate::Unsure(_) => "hold",
        };
        metrics::GUARD_REFUSED.count(reason);
    }

    /// Why the copy of the flags cannot be trusted now, if it cannot.
    pub fn doubt(&self) -> Option<String> {
        match self.health.age() {
            None => Some("the watch on the control flags is interrupted".into()),
            Some(age) if age > STALE_AFTER => Some(format!("the control flags were last confirmed {age:?} ago")),
            Some(_) => None,
        }
    }

    /// The lease, of a worker.
    pub fn holder(&self) -> Option<&Arc<Holder>> {
        self.holder.as_ref()
    }

    /// The flag of everything as last read.
    pub fn flag(&self) -> Option<Flag> {
        self.seen.borrow().flags.as_ref().and_then(|f| f.get(&Scope::Global).cloned())
    }

    /// All flags as last read; `None` before that.
    pub fn flags(&self) -> Option<Arc<Flags>> {
        self.seen.borrow().flags.clone()
    }

    /// Up to which revision the flags were read.
    pub fn revision(&self) -> u64 {
        self.seen.borrow().revision
    }

    /// Whether a flag is on its way for which side effects wait.
    pub fn is_flag_coming(&self) -> bool {
        self.seen.borrow().coming.is_some_and(is_awaited)
    }

    /// Waits until no flag is on its way any more, or none comes. Cancel safe.
    pub async fn arrived(&self) {
        if self.is_flag_coming() {
            let mut seen = self.seen.clone();
            let _ = tokio::time::timeout(COMING_WITHIN, seen.wait_for(|known| known.coming.is_none())).await;
        }
    }

    /// Waits for the flags to be read anew. Cancel safe.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the flags have been read once, up to `limit`.
    pub async fn ready(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.seen.wait_for(|known| known.flags.is_some())).await.is_ok_and(|r| r.is_ok())
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

/// Makes refusals of all kinds visible, before the first of them.
pub fn prepare_metrics() {
    for reason in ["reducing", "hold", "halt", "shutdown", "lease", "watch"] {
        metrics::GUARD_REFUSED.set(reason, 0.0);
    }
}

fn tell(flag: &Flag) {
    tracing::info!(
        scope = %flag.scope,
        state = flag.state.as_str(),
        revision = flag.revision,
        by = flag.by,
        reason = flag.reason,
        "control flag"
    );
}

type Look = Pin<Box<dyn Future<Output = bool> + Send>>;

struct Follower {
    link: Link,
    reading: Reading,
    health: Arc<Health>,
    holder: Option<Arc<Holder>>,
    tx: watch::Sender<Known>,
}

impl Follower {
    async fn follow(mut self, mut tail: Tail) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looking: Option<Look> = None;
        let mut hints = match self.holder {
            Some(_) => raising::listen(&self.link).await,
            None => None,
        };
        loop {
            tokio::select! {
                () = raising::next(&mut hints) => {
                    self.tx.send_if_modified(|known| {
                        let now = clock::boot();
                        known.hinted = now;
                        let before = known.coming.replace(now + COMING_WITHIN);
                        // Whoever waits already goes on waiting.
                        !before.is_some_and(is_awaited)
                    });
                }
                item = tail.next() => match item {
                    Some(item) => self.item(item),
                    None => return,
                },
                emptied = looked(&mut looking) => {
                    looking = None;
                    if emptied && self.reading.has_global() {
                        tracing::error!("the control bucket was emptied: everything counts as halted");
                        self.reading.forget();
                        self.reading.complete();
                        self.publish();
                    }
                }
                _ = look.tick(), if looking.is_none() && self.reading.has_global() => {
                    looking = Some(Box::pin(is_emptied(self.link.clone())));
                }
            }
        }
    }

    fn item(&mut self, item: Item) {
        match item {
            Item::Message(m) if self.reading.key(&m.subject).starts_with("lease.") => {
                // What came before it has been published.
                if let Some(holder) = &self.holder {
                    holder.returned(&m.payload);
                }
                return;
            }
            Item::Message(m) => {
                if let Some(flag) = self.reading.take_in(&m).filter(|_| self.reading.is_complete()) {
                    tell(&flag);
                }
            }
            Item::CaughtUp { .. } => {
                // What was set and lifted before is the bucket's history, and not this process's.
                if !self.reading.is_complete() {
                    self.reading.raised().for_each(tell);
                }
                self.reading.complete();
            }
            Item::Lost { reason, missing: true } => {
                tracing::error!(reason, "the control bucket is missing: everything counts as halted");
                self.reading.missing(reason);
            }
            Item::Lost { reason, .. } => {
                tracing::warn!(reason, "watch on the control flags interrupted: nodes wait");
                return;
            }
            Item::Reset { .. } => {
                self.reading.forget();
                self.reading.missing("it was made again".into());
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let Some(flags) = self.reading.flags(&self.health.created()) else { return };
        let global = flags.get(&Scope::Global);
        if let Some(flag) = global.filter(|f| f.by == "haltline" && !f.state.runs())
            && self.tx.borrow().flags.as_ref().and_then(|f| f.get(&Scope::Global)) != Some(flag)
        {
            tracing::error!(reason = flag.reason, "everything counts as halted");
        }
        let known = Known {
            revision: self.reading.revision(),
            global: global.map_or(0, |f| f.revision),
            stops: flags.stops(),
            flags: Some(Arc::new(flags)),
            coming: None,
            hinted: self.tx.borrow().hinted,
        };
        self.tx.send_replace(known);
        if let Some(holder) = &self.holder {
            holder.flags_changed();
        }
    }
}

/// Whether a flag that was said to be raised is awaited still.
fn is_awaited(until: Duration) -> bool {
    clock::boot() < until
}

async fn looked(look: &mut Option<Look>) -> bool {
    match look {
        Some(look) => look.await,
        None => std::future::pending().await,
    }
}

/// Whether the leader says that there is no flag of everything.
async fn is_emptied(link: Link) -> bool {
    matches!(kv::get(&link, &link.names.control_bucket(), GLOBAL_KEY).await, Ok(None))
}
