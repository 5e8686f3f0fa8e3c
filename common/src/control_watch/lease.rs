//! A worker's lease: while it holds one, effects may start.
//!
//! It renews by writing its own key into the control bucket. The lease counts from the moment of sending and
//! starts only when that very message comes back through the tail that carries the flags: whatever flag
//! was stored before it has been obeyed by then. A flag that is stored after it finds the lease at
//! an end after one lease at most, whoever was cut off. Nothing weaker is sound: a leader that was deposed
//! answers reads for seconds.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, connection::State as Connection};
use haltline_types::{
    Names,
    control::{GLOBAL_KEY, Lease, OpenEffect},
};
use tokio::sync::{Notify, watch};

use super::{COMING_WITHIN, Known};
use crate::{Link, clock, js, metrics, planted};

/// Open effects that a lease names; more are counted.
const OPEN_MAX: usize = 64;
/// A write that did not come back is sent again after this, and after twice as long each time up to
/// [`AGAIN_MAX`]: a server that is slow must not get more to do for it.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_millis(800);
/// What a flag forbids is refused at once, from when it was said to be raised; that it was seen is said so much later: when a
/// fleet's workers all hear of it in the same instant, what stops effects comes before what tells so.
const CONFIRM_AFTER: Duration = Duration::from_millis(5);
/// What has become of open effects is said this often at most, for as long as a flag stands.
const SAY_AGAIN: Duration = Duration::from_millis(20);
/// What was said is stored by the next renewal; where none comes, so long after one would have.
const STORE_AFTER: Duration = Duration::from_millis(100);
/// How often the log's position is asked for while effects may start: intents after it are looked for
/// if this worker falls silent.
const LOOK_AT_LOG: Duration = Duration::from_secs(3);
/// Writes that have not come back, remembered.
const PENDING_MAX: usize = 64;

/// How long leases hold and how often they are renewed.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// How long, from sending.
    pub hold: Duration,
    /// How often it is renewed while effects may start.
    pub renew: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self { hold: Duration::from_secs(1), renew: Duration::from_millis(300) }
    }
}

/// What a worker says with its lease's content.
#[derive(Clone, Copy, PartialEq)]
enum What {
    /// That it goes on.
    Renewal,
    /// What it has seen, stored.
    Seen,
    /// The same, not stored.
    Said,
    /// That it has left.
    Goodbye,
}

/// A worker's side of its lease.
pub struct Holder {
    link: Link,
    times: LeaseTimes,
    worker_id: String,
    instance: String,
    key: String,
    /// Until when effects may start, in nanoseconds of [`clock::boot`].
    until: AtomicU64,
    /// Who may start an effect right now.
    wanted: AtomicUsize,
    /// The last position of the log that is known to be before whatever is intended next.
    log: AtomicU64,
    state: Mutex<State>,
    wake: Notify,
    back: Notify,
}

#[derive(Default)]
struct State {
    /// The last write's number.
    n: u64,
    /// Renewals that have not come back: number, and when they were sent.
    pending: VecDeque<(u64, Duration)>,
    /// The highest revision that came back as seen.
    confirmed: u64,
    /// Effects intended and not settled; those whose outcome stays unknown only until their deadline.
    open: BTreeMap<u64, (OpenEffect, Option<Duration>)>,
    next_open: u64,
    /// The highest revision that was said to be seen, and how often `open` had changed then.
    said: (u64, u64),
    /// How often `open` has changed, and which of these changes came back.
    changes: u64,
    told: BTreeMap<u64, u64>,
    known: u64,
    goodbye: bool,
}

impl State {
    /// Write number `n` is in the bucket.
    fn is_stored(&mut self, n: u64, seen: u64) {
        self.confirmed = self.confirmed.max(seen);
        if let Some(changes) = self.told.remove(&n) {
            self.known = self.known.max(changes);
        }
        self.told.retain(|other, _| *other > n);
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Holder {
    pub(super) fn new(link: &Link, worker_id: &str, times: LeaseTimes) -> Arc<Self> {
        let instance = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        Arc::new(Self {
            link: link.clone(),
            times,
            worker_id: worker_id.to_owned(),
            key: Names::lease_key(worker_id, &instance),
            instance,
            until: AtomicU64::new(0),
            wanted: AtomicUsize::new(0),
            log: AtomicU64::new(0),
            state: Mutex::default(),
            wake: Notify::new(),
            back: Notify::new(),
        })
    }

    /// The life that the lease is of.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The key of its lease.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The lock is never held across anything that can panic or wait.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether effects may start at this moment, as far as the lease goes.
    pub fn is_held(&self) -> bool {
        nanos(clock::boot()) < self.until.load(Ordering::Acquire)
    }

    /// How much longer it holds.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::Acquire)).saturating_sub(clock::boot())
    }

    /// Effects may start as long as what it gives lives: the lease is kept fresh until then.
    pub fn wish(self: &Arc<Self>) -> Wish {
        if self.wanted.fetch_add(1, Ordering::AcqRel) == 0 {
            self.wake.notify_one();
        }
        Wish(self.clone())
    }

    /// Waits for a lease, up to `limit`; whether there is one. Needs a [`Wish`].
    pub async fn held_within(&self, limit: Duration) -> bool {
        let waiting = async {
            loop {
                let back = self.back.notified();
                if self.is_held() {
                    return;
                }
                let _ = tokio::time::timeout(AGAIN, back).await;
            }
        };
        self.is_held() || tokio::time::timeout(limit, waiting).await.is_ok()
    }

    /// An effect is about to be intended: from here on confirmations name it.
    pub fn open(self: &Arc<Self>, effect: OpenEffect) -> Opened {
        let mut state = self.state();
        state.next_open += 1;
        let id = state.next_open;
        state.open.insert(id, (effect, None));
        state.changes += 1;
        Opened { holder: self.clone(), id, deadline: None }
    }

    /// The log has everything up to this position.
    pub fn log_is_at(&self, seq: u64) {
        self.log.fetch_max(seq, Ordering::AcqRel);
    }

    /// Asks for the log's position.
    pub async fn look_at_log(&self) {
        if let Ok(info) = js::stream_info(&self.link, &self.link.names.events_stream()).await {
            self.log_is_at(info.state.last_seq);
        }
    }

    /// A message of its own key came back.
    pub(super) fn returned(&self, payload: &[u8]) {
        let Ok(lease) = serde_json::from_slice::<Lease>(payload) else { return };
        if lease.instance != self.instance {
            return;
        }
        let mut state = self.state();
        state.is_stored(lease.n, lease.seen);
        while let Some((n, sent)) = state.pending.front().copied().filter(|(n, _)| *n <= lease.n) {
            state.pending.pop_front();
            if n == lease.n {
                let hold = if planted::planted(planted::Bug::EndlessLease) { Duration::from_secs(86_400) } else { self.times.hold };
                self.until.fetch_max(nanos(sent + hold), Ordering::AcqRel);
            }
        }
        drop(state);
        self.back.notify_waiters();
    }

    pub(super) fn flags_changed(&self) {
        self.wake.notify_one();
    }

    /// Keeps the lease fresh while effects may start, and confirms what was seen.
    pub(super) async fn keep(self: Arc<Self>, seen: watch::Receiver<Known>) {
        self.look_at_log().await;
        let (mut renewed, mut confirmed, mut looked) = (Duration::ZERO, Duration::ZERO, clock::boot());
        let (mut gap, mut due_since, mut said_at) = (AGAIN, None, Duration::ZERO);
        loop {
            let now = clock::boot();
            let (revision, global, stops, hinted) = {
                let known = seen.borrow();
                (known.revision, known.global, known.stops, known.hinted)
            };
            let wanted = self.wanted.load(Ordering::Acquire) > 0;
            let (news, unsaid, behind, changed) = {
                let mut state = self.state();
                let before = state.open.len();
                state.open.retain(|_, (_, deadline)| deadline.is_none_or(|d| now < d));
                state.changes += u64::from(state.open.len() != before);
                (
                    stops && revision != state.said.0,
                    stops && state.changes != state.said.1,
                    // A flag that stops nothing is confirmed along with the next renewal, where there is one.
                    revision > state.confirmed && (stops || !wanted),
                    stops && (state.changes > state.known || state.open.values().any(|(_, d)| d.is_some())),
                )
            };
            let says = news || (unsaid && now.saturating_sub(said_at) >= SAY_AGAIN);
            if says {
                let since = Some(now.saturating_sub(hinted)).filter(|since| *since < COMING_WITHIN);
                let wait = CONFIRM_AFTER.saturating_sub(since.unwrap_or_default());
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                said_at = clock::boot();
                let revision = seen.borrow().revision;
                self.say(revision).await;
            }
            if behind || changed {
                due_since.get_or_insert(now);
            } else {
                due_since = None;
            }
            metrics::LEASE_LEFT.set("", self.left().as_secs_f64());
            if wanted && now.saturating_sub(looked) > LOOK_AT_LOG {
                looked = now;
                let holder = self.clone();
                tokio::spawn(async move { holder.look_at_log().await });
            }
            let again = now.saturating_sub(renewed.max(confirmed)) >= gap;
            let waited = due_since.is_some_and(|since| now.saturating_sub(since) >= self.times.renew + STORE_AFTER);
            if wanted && (now.saturating_sub(renewed) >= self.times.renew || (!self.is_held() && again)) {
                renewed = now;
                gap = self.next_gap(gap);
                self.send(revision, Some(global)).await;
            } else if waited && again {
                confirmed = now;
                gap = self.next_gap(gap);
                self.send(revision, None).await;
            }
            let next = if unsaid && !says {
                SAY_AGAIN
            } else if behind || changed || (wanted && !self.is_held()) {
                gap
            } else {
                self.times.renew
            };
            let idle = !wanted && !behind && !changed && !unsaid;
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(next.saturating_sub(clock::boot().saturating_sub(now))), if !idle => {}
                () = tokio::time::sleep(Duration::from_secs(1)), if idle => {}
            }
        }
    }

    /// How long a write is waited for that is sent now, when the one before it was waited for for `gap`.
    fn next_gap(&self, gap: Duration) -> Duration {
        // Where there is no connection, nothing is sent, and it is looked often whether there is one.
        let connected = self.link.client.connection_state() == Connection::Connected;
        if connected && !self.state().told.is_empty() { (gap * 2).min(AGAIN_MAX) } else { AGAIN }
    }

    /// Says what was seen to who waits for it, at once and unstored: a hundred writes of a fleet that hears of a flag in one
    /// instant take longer than anybody wants to wait for a halt.
    async fn say(&self, seen: u64) {
        if self.link.client.connection_state() != Connection::Connected {
            return;
        }
        let lease = self.next(seen, What::Said);
        if let Ok(body) = serde_json::to_vec(&lease)
            && let Err(e) = self.link.client.publish(self.link.names.seen(&self.worker_id), body.into()).await
        {
            tracing::debug!(error = %e, "what was seen could not be said; it is stored");
        }
    }

    /// Writes its key: as a renewal where the revision of the flag of everything is given, else only to
    /// confirm.
    async fn send(self: &Arc<Self>, seen: u64, global: Option<u64>) {
        if self.link.client.connection_state() != Connection::Connected {
            return;
        }
        let lease = self.next(seen, if global.is_some() { What::Renewal } else { What::Seen });
        let mut headers = HeaderMap::new();
        if let Some(revision) = global {
            // The server itself refuses a renewal where the flag of everything is not the one this worker has
            // seen, as after the bucket was emptied.
            let bucket = self.link.names.control_bucket();
            headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
            headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", Names::kv_subject(&bucket, GLOBAL_KEY));
        }
        self.write(lease, headers).await;
    }

    fn next(&self, seen: u64, what: What) -> Lease {
        let (renews, goodbye) = (what == What::Renewal, what == What::Goodbye);
        let log = self.log.load(Ordering::Acquire);
        let mut state = self.state();
        state.n += 1;
        let (n, now) = (state.n, clock::boot());
        state.open.retain(|_, (_, deadline)| deadline.is_none_or(|d| now < d));
        if renews {
            if state.pending.len() >= PENDING_MAX {
                state.pending.pop_front();
            }
            state.pending.push_back((n, now));
        }
        let changes = state.changes;
        if what == What::Said {
            state.said = (seen, changes);
        } else {
            state.told.insert(n, changes);
            while state.told.len() > PENDING_MAX {
                state.told.pop_first();
            }
        }
        state.goodbye |= goodbye;
        Lease {
            worker_id: self.worker_id.clone(),
            instance: self.instance.clone(),
            n,
            lease_ms: if renews { u64::try_from(self.times.hold.as_millis()).unwrap_or(u64::MAX) } else { 0 },
            seen,
            log,
            open: state.open.values().take(OPEN_MAX).map(|(effect, _)| effect.clone()).collect(),
            more: state.open.len().saturating_sub(OPEN_MAX) as u64,
            goodbye: goodbye && state.open.is_empty(),
        }
    }

    async fn write(self: &Arc<Self>, lease: Lease, mut headers: HeaderMap) {
        // Only the last one counts; the history of flags must not be pushed out by leases.
        headers.insert("Nats-Rollup", "sub");
        // A renewal has to come back behind the flags. Of the rest the server's answer says enough.
        let key = if lease.lease_ms > 0 { self.key.clone() } else { Names::seen_key(&self.key) };
        let subject = Names::kv_subject(&self.link.names.control_bucket(), &key);
        let Ok(body) = serde_json::to_vec(&lease) else { return };
        match self.link.js.publish_with_headers(subject, headers, body.into()).await {
            Ok(answer) => {
                let holder = self.clone();
                tokio::spawn(async move {
                    match tokio::time::timeout(Duration::from_secs(2), answer.into_future()).await {
                        Ok(Ok(_)) if lease.lease_ms == 0 => {
                            holder.state().is_stored(lease.n, lease.seen);
                            holder.wake.notify_one();
                        }
                        Ok(Err(e)) => tracing::debug!(error = %e, "a lease was not stored"),
                        Ok(Ok(_)) | Err(_) => {}
                    }
                });
            }
            Err(e) => tracing::debug!(error = %e, "a lease could not be sent"),
        }
    }

    /// Says goodbye: nothing starts here any more. What is still open stays on record.
    pub async fn leave(self: &Arc<Self>, seen: u64) {
        self.until.store(0, Ordering::Release);
        let lease = self.next(seen, What::Goodbye);
        if lease.n > 1 || !lease.open.is_empty() {
            self.write(lease, HeaderMap::new()).await;
        }
    }
}

/// Effects may start as long as it lives.
pub struct Wish(Arc<Holder>);

impl Drop for Wish {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An effect that confirmations name until its outcome is certain, or cannot come about any more.
pub struct Opened {
    holder: Arc<Holder>,
    id: u64,
    deadline: Option<Duration>,
}

impl Opened {
    /// It is performed now; whoever receives it refuses it after so long. What is dropped from here on
    /// without being [`Opened::settled`] stays open until then.
    pub fn performing(&mut self, for_at_most: Duration) {
        self.deadline = Some(clock::boot() + for_at_most);
    }
    /// Its outcome is certain.
    pub fn settled(mut self) {
        self.deadline = None;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut state = self.holder.state();
        match self.deadline {
            Some(deadline) => {
                if let Some((_, until)) = state.open.get_mut(&self.id) {
                    *until = Some(deadline);
                }
            }
            None => {
                state.open.remove(&self.id);
            }
        }
        state.changes += 1;
        drop(state);
        self.holder.wake.notify_one();
    }
}
