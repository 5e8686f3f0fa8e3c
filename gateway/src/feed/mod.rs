//! What one client is to be sent: its subscriptions on the hub, pulled at its own pace. WebSocket,
//! event stream and Socket.IO are three ways to write it down.

mod snapshot;
mod subs;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use haltline_common::types::feed::{Code, Cursor, Filter, From, IfGap, Sub, SubError};
use tokio::sync::watch;

pub(crate) use snapshot::{SNAPSHOT_MAX, Snapshots, State};
pub(crate) use subs::{Out, wants};

use crate::{
    auth::Principal,
    hub::{Entry, Gap, Head, Hub, LogEvent},
};
use subs::Subs;

/// A client for which nothing matches learns this often how far it is.
const MARK_EVERY: Duration = Duration::from_secs(10);

/// A subscription that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Whether a place before was asked for.
    pub was_recovering: bool,
    /// What is missing before it.
    pub gap: Option<Gap>,
    /// It begins behind this place.
    pub from: Cursor,
    /// Where the others stand.
    pub until: Cursor,
    /// It is there already: nothing is replayed.
    pub live: bool,
    /// The state at `until`, if that was asked for.
    pub snapshot: Option<State>,
}

/// Why a subscription did not begin.
#[derive(Debug)]
pub(crate) struct Refused {
    pub code: Code,
    pub why: String,
    pub retry: bool,
    pub gap: Option<Gap>,
}

impl std::convert::From<SubError> for Refused {
    fn from((code, why): SubError) -> Self {
        Self { code, why, retry: false, gap: None }
    }
}

fn unavailable(why: String) -> Refused {
    Refused { code: Code::Unavailable, why, retry: true, gap: None }
}

/// One client's view of the log.
pub(crate) struct Feed {
    hub: Arc<Hub>,
    head: watch::Receiver<Head>,
    subs: Subs,
    principal: Arc<Principal>,
    /// The place that the client was told last.
    told: u64,
    mark_at: Instant,
}

impl Feed {
    /// For `principal`, at the end of the log.
    pub fn new(hub: Arc<Hub>, principal: Arc<Principal>) -> Self {
        let mut head = hub.in_turn();
        let at = *head.borrow_and_update();
        let subs = Subs::new(principal.clone(), at.generation, at.epoch, at.seq);
        Self { hub, head, subs, principal, told: at.seq, mark_at: Instant::now() + MARK_EVERY }
    }

    /// Who sees it.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// Goes by other rights from here on.
    pub fn set_principal(&mut self, principal: Arc<Principal>) {
        self.subs.set_principal(principal.clone());
        self.principal = principal;
    }

    /// Begins a subscription. What `out` gets goes before its own frames.
    ///
    /// # Errors
    /// Why it cannot begin; then nothing has changed.
    pub async fn subscribe(&mut self, sub: Sub, snapshots: &impl Snapshots, out: &mut Vec<Out>) -> Result<Begun, Refused> {
        sub.check()?;
        self.subs.fits(&sub.id)?;
        let (place, stood) = loop {
            self.follow(out);
            let stood = self.subs.live_pos();
            let wanted = |e: &LogEvent| wants(&self.principal, &sub.filter, e);
            let place = self.hub.place(&sub.from, stood, &wanted).await.map_err(unavailable)?;
            self.follow(out);
            if place.generation == self.subs.generation() {
                break (place, stood);
            }
        };
        let live = self.subs.live_pos();
        // What came while the last ones were looked for follows them.
        let until = if matches!(sub.from, From::Last(_)) { stood } else { live };
        let from_now = matches!(sub.from, From::Live(_) | From::Snapshot(_));
        let (mut pos, gap) = (if from_now { live } else { place.pos }, place.gap);
        let instead = gap.is_some() && sub.if_gap == IfGap::Snapshot;
        if gap.is_some() && sub.if_gap == IfGap::Reject {
            return Err(Refused { code: Code::Gap, why: "the place is gone".into(), retry: false, gap });
        }
        let snapshot = if instead || matches!(sub.from, From::Snapshot(_)) {
            pos = live;
            Some(snapshots.state(&sub.filter, &self.principal, live).await.map_err(unavailable)?)
        } else {
            None
        };
        // What a snapshot stands for is not missing; only what the client thinks of the past is.
        let gap = gap.map(|g| if instead { Gap { next: self.hub.cursor(live + 1), ..g } } else { g });
        let behind = self.subs.add(&sub.id, sub.filter, sub.mode, pos);
        self.subs.leave_out(&sub.id, place.extra);
        Ok(Begun {
            was_recovering: sub.from.recovers(),
            gap,
            from: self.hub.cursor(pos),
            until: self.hub.cursor(until.max(pos)),
            live: !behind,
            snapshot,
        })
    }

    /// Whether there is a subscription with this id.
    pub fn has(&self, id: &str) -> bool {
        self.subs.fits(id).is_err_and(|(code, _)| code == Code::DuplicateSub)
    }

    /// The last `n` events that a filter wants, and the place behind which to go on.
    ///
    /// # Errors
    /// When the log cannot be read now.
    pub async fn recent(&self, filter: &Filter, n: usize) -> Result<(Vec<Arc<Entry>>, Cursor), String> {
        let wanted = |e: &LogEvent| wants(&self.principal, filter, e);
        let head = *self.hub.head().borrow();
        let mut pos = self.hub.before_last(n, head.seq, &wanted).await?.pos;
        let mut found = Vec::new();
        while pos < head.seq {
            let chunk = self.hub.after(pos, false).await?;
            let fresh = chunk.entries.into_iter().filter(|e| e.seq() <= head.seq);
            found.extend(fresh.filter(|e| matches!(&**e, Entry::Event(e) if wanted(e))));
            if chunk.upto <= pos {
                break;
            }
            pos = chunk.upto;
        }
        found.drain(..found.len().saturating_sub(n));
        Ok((found, Cursor::bare(head.epoch, pos.min(head.seq))))
    }

    /// Ends a subscription; `false` if there is none.
    pub fn unsubscribe(&mut self, id: &str) -> bool {
        self.subs.remove(id)
    }

    /// Notices that the log was replaced.
    fn follow(&mut self, out: &mut Vec<Out>) -> Head {
        let head = *self.head.borrow_and_update();
        if head.generation != self.subs.generation() {
            self.subs.replaced(head.generation, head.epoch, out);
            self.told = 0;
        }
        head
    }

    /// A piece of what the subscriptions want; whether there is more at once.
    ///
    /// # Errors
    /// When the log cannot be read now; what is in `out` counts.
    pub async fn step(&mut self, out: &mut Vec<Out>) -> Result<bool, String> {
        let head = self.follow(out);
        let mut failed = None;
        let next = self.subs.behind().next().map(|(id, pos, conflate)| (id.clone(), pos, conflate));
        if let Some((id, pos, wide)) = next {
            match self.hub.after(pos, wide).await {
                Ok(chunk) if chunk.generation == self.subs.generation() => self.subs.take_behind(&id, &chunk, out),
                Ok(_) => {} // replaced meanwhile: noticed in the next step
                Err(error) => failed = Some(error),
            }
        }
        if !self.subs.any_live() {
            if self.subs.is_empty() {
                self.subs.skip_to(head.seq);
            }
        } else if self.subs.live_pos() < head.seq {
            match self.hub.after(self.subs.live_pos(), self.subs.all_conflate()).await {
                Ok(chunk) if chunk.generation == self.subs.generation() => self.subs.take_live(&chunk, out),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        if out.iter().any(|o| matches!(o, Out::Event(..) | Out::Live(..))) {
            self.told = self.told.max(self.subs.live_pos());
            self.mark_at = Instant::now() + MARK_EVERY;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(self.subs.behind().next().is_some() || (self.subs.any_live() && self.subs.live_pos() < self.head.borrow().seq)),
        }
    }

    /// The place to tell a client that has not been told anything for a while.
    pub fn mark(&mut self) -> Option<Cursor> {
        if Instant::now() < self.mark_at {
            return None;
        }
        self.mark_at = Instant::now() + MARK_EVERY;
        let pos = self.subs.live_pos();
        // A place is told only where nobody is behind it.
        let fresh = pos > self.told && !self.subs.is_empty() && self.subs.behind().next().is_none();
        fresh.then(|| {
            self.told = pos;
            self.hub.cursor(pos)
        })
    }

    /// When [`Feed::mark`] may have something.
    pub fn mark_at(&self) -> Instant {
        self.mark_at
    }

    /// Waits until there may be something to do. Cancel safe.
    pub async fn changed(&mut self) {
        if self.head.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
