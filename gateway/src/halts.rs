//! Control flags for those who look on: every change that is stored, in order, none left out; and
//! whether what is shown is certain now.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use haltline_common::{
    Link, clock,
    confirmation::{Confirming, Standing},
    control_watch::STALE_AFTER,
    kv,
    tail::{self, Item, Start, Tail},
    types::{
        Names,
        control::{Flag, Level, Scope},
        feed::{Confirmed, HaltState},
    },
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::auth::Principal;

/// How often certainty is looked at: it fades without any message.
const LOOK: Duration = Duration::from_millis(250);
/// Changes kept for clients that are slow to take them; who missed more gets all flags as they are.
const RECENT_MAX: usize = 256;

/// How long it is followed who confirms a flag; then it is told as it was.
const CONFIRM_MAX: Duration = Duration::from_secs(600);
/// Workers that are named as silent.
const SILENT_MAX: usize = 32;
/// How often that is looked at.
const CONFIRM_LOOK: Duration = Duration::from_millis(100);

/// The flags, and how they came to be so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Halts {
    /// Counts changes.
    version: u64,
    recent: VecDeque<(u64, HaltState)>,
    current: BTreeMap<Scope, Flag>,
    /// Who has confirmed them, of which revision.
    confirmed: BTreeMap<Scope, (u64, Confirmed)>,
    sure: bool,
}

impl Halts {
    /// Counts changes: what a client has seen.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The flag over everything.
    pub fn global(&self) -> HaltState {
        match self.current.get(&Scope::Global) {
            Some(flag) => self.shown(flag),
            None => HaltState {
                scope: "global".into(),
                state: "unknown".into(),
                rev: None,
                by: String::new(),
                reason: "the control flag has not been read yet".into(),
                ts: None,
                sure: false,
                workers: None,
            },
        }
    }

    /// Flags over parts that are not normal.
    pub fn scoped(&self) -> Vec<HaltState> {
        let parts = self.current.values().filter(|f| !f.scope.is_global() && f.state != Level::Normal);
        parts.map(|f| self.shown(f)).collect()
    }

    /// What someone who has seen `version` has not.
    pub fn since(&self, version: u64) -> Vec<HaltState> {
        let missed = self.recent.front().is_some_and(|(first, _)| *first > version + 1);
        if missed {
            // `global` sorts first.
            return self.current.values().map(|f| self.shown(f)).collect();
        }
        self.recent.iter().filter(|(n, _)| *n > version).map(|(_, h)| h.clone()).collect()
    }

    fn shown(&self, f: &Flag) -> HaltState {
        let confirmed = self.confirmed.get(&f.scope).filter(|(revision, _)| *revision == f.revision);
        HaltState {
            scope: f.scope.to_string(),
            state: f.state.as_str().to_owned(),
            rev: Some(f.revision),
            by: f.by.clone(),
            reason: f.reason.clone(),
            ts: f.at,
            sure: self.sure,
            workers: confirmed.map(|(_, c)| c.clone()),
        }
    }

    /// Takes what is known of who has confirmed a flag; told if it is news.
    fn confirm(&mut self, scope: &Scope, revision: u64, confirmed: Confirmed) {
        let known = self.confirmed.insert(scope.clone(), (revision, confirmed.clone()));
        let news = known.is_none_or(|(r, c)| r != revision || c != confirmed);
        if let Some(flag) = self.current.get(scope).filter(|f| news && f.revision == revision) {
            self.tell(self.shown(flag));
        }
    }

    fn tell(&mut self, state: HaltState) {
        self.version += 1;
        self.recent.push_back((self.version, state));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    /// Takes a flag; nothing is told twice.
    fn put(&mut self, flag: Flag) {
        if self.current.get(&flag.scope) == Some(&flag) {
            return;
        }
        self.tell(self.shown(&flag));
        self.current.insert(flag.scope.clone(), flag);
    }

    /// Certainty changes for all flags at once: told by the one over everything.
    fn set_sure(&mut self, sure: bool) -> bool {
        if self.sure == sure {
            return false;
        }
        self.sure = sure;
        let global = self.global();
        self.tell(global);
        true
    }
}

/// Those of them that somebody may know of: see [`Scopes::concerned`].
pub(crate) fn known_to(principal: &Principal, flags: impl IntoIterator<Item = HaltState>) -> impl Iterator<Item = HaltState> {
    flags.into_iter().filter(|f| f.scope.parse::<Scope>().is_ok_and(|scope| principal.scopes.concerned(&scope)))
}

/// Follows the control bucket; the task ends when its handle is dropped.
pub(crate) fn watch(link: &Link) -> (watch::Receiver<Arc<Halts>>, AbortOnDropHandle<()>) {
    let (tx, rx) = watch::channel(Arc::new(Halts::default()));
    let bucket = link.names.control_bucket();
    let options = tail::Options {
        stream: Names::bucket_stream(&bucket),
        filter: link.names.flags(), // leases are beside them
        start: Start::LastPerSubject,
        heartbeat: Duration::from_millis(500),
        buffer: 256,
        reader: "gateway_flags".into(),
        headers_only: false,
    };
    let tail = Tail::start(link, options);
    let prefix = Names::kv_subject(&bucket, "");
    (rx, AbortOnDropHandle::new(tokio::spawn(follow(link.clone(), tail, prefix, tx))))
}

/// Who confirms each flag, followed in tasks that end with the flag.
struct Confirmings {
    link: Link,
    tx: mpsc::Sender<(Scope, u64, Confirmed)>,
    running: BTreeMap<Scope, (u64, AbortOnDropHandle<()>)>,
}

impl Confirmings {
    /// Follows exactly the flags that stop something.
    fn follow(&mut self, flags: &BTreeMap<Scope, Flag>) {
        let stops = |f: &Flag| !f.state.runs() && f.revision > 0;
        self.running.retain(|scope, (revision, _)| flags.get(scope).is_some_and(|f| stops(f) && f.revision == *revision));
        for (scope, flag) in flags.iter().filter(|(_, f)| stops(f)) {
            if !self.running.contains_key(scope) {
                let task = confirming(self.link.clone(), flag.clone(), self.tx.clone());
                self.running.insert(scope.clone(), (flag.revision, AbortOnDropHandle::new(tokio::spawn(task))));
            }
        }
    }
}

async fn confirming(link: Link, flag: Flag, tx: mpsc::Sender<(Scope, u64, Confirmed)>) {
    let until = clock::boot() + CONFIRM_MAX;
    let mut confirming = Confirming::start(&link, flag.scope.clone(), flag.state, flag.revision, clock::boot());
    while clock::boot() < until {
        let report = confirming.next(CONFIRM_LOOK).await;
        let silent = report.each.iter().filter(|w| w.standing == Standing::Silent).map(|w| w.worker_id.clone()).take(SILENT_MAX).collect();
        let known = Confirmed {
            confirmed: report.confirmed,
            total: report.workers,
            complete: report.complete,
            silent,
            open: report.each.iter().map(|w| w.open.len()).sum(),
        };
        if tx.send((flag.scope.clone(), flag.revision, known)).await.is_err() || report.complete {
            return;
        }
    }
}

async fn follow(link: Link, mut tail: Tail, prefix: String, tx: watch::Sender<Arc<Halts>>) {
    let (told, mut confirmed) = mpsc::channel(16);
    let mut confirmings = Confirmings { link, tx: told, running: BTreeMap::new() };
    let health = tail.health();
    // Whether the flag over everything was delivered since the tail last (re)started, and whether all were.
    let (mut delivered, mut caught_up) = (false, false);
    loop {
        let item = tokio::select! {
            item = tokio::time::timeout(LOOK, tail.next()) => item,
            Some((scope, revision, known)) = confirmed.recv() => {
                tx.send_if_modified(|halts| {
                    let before = halts.version;
                    let halts = Arc::make_mut(halts);
                    halts.confirm(&scope, revision, known);
                    halts.version != before
                });
                continue;
            }
        };
        let sure = health.age().is_some_and(|age| age < STALE_AFTER);
        tx.send_if_modified(|halts| {
            let before = halts.version;
            let halts = Arc::make_mut(halts);
            match item {
                Ok(Some(Item::Message(m))) => {
                    let scope = m.subject.strip_prefix(prefix.as_str()).and_then(Scope::from_key);
                    let Some(scope) = scope else { return false };
                    delivered |= scope.is_global();
                    let value = if m.headers.as_ref().is_some_and(kv::is_deletion) { None } else { Some(&m.payload[..]) };
                    let replaced = caught_up.then(|| halts.current.get(&scope).map_or(0, |f| f.revision));
                    halts.put(Flag::read(&scope, value, m.seq, Some(m.stored_at), replaced));
                }
                Ok(Some(Item::CaughtUp { .. })) => {
                    caught_up = true;
                    if !delivered {
                        halts.put(Flag::unwritten(&Scope::Global));
                    }
                }
                Ok(Some(Item::Lost { reason, missing })) => {
                    (delivered, caught_up) = (false, false);
                    if missing {
                        halts.put(Flag::unreadable(format!("the control bucket is missing: {reason}"), 0, None));
                    }
                }
                Ok(Some(Item::Reset { .. })) => {
                    halts.current.retain(|scope, _| scope.is_global());
                    halts.put(Flag::unreadable("the control bucket was recreated", 0, None));
                }
                Ok(None) | Err(_) => {}
            }
            // Certainty without a value would be none.
            halts.set_sure(sure && halts.current.contains_key(&Scope::Global)) || halts.version != before
        });
        confirmings.follow(&tx.borrow().current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(scope: Scope, state: Level, revision: u64) -> Flag {
        Flag { state, reason: "r".into(), by: "b".into(), revision, scope, ..Flag::default() }
    }

    #[test]
    fn every_change_is_told_once_and_in_order() {
        let mut halts = Halts::default();
        assert_eq!(halts.global().state, "unknown");
        halts.put(flag(Scope::Global, Level::Normal, 1));
        assert!(halts.set_sure(true) && !halts.set_sure(true));
        let seen = halts.version();
        halts.put(flag(Scope::Global, Level::Halt, 2));
        halts.put(flag(Scope::Global, Level::Halt, 2));
        halts.put(flag(Scope::Global, Level::Normal, 3));
        halts.put(flag(Scope::Bot("b1".into()), Level::Halt, 4));
        let told: Vec<(String, u64)> = halts.since(seen).into_iter().map(|h| (h.state, h.rev.expect("stored"))).collect();
        assert_eq!(told, [("halt".into(), 2), ("normal".into(), 3), ("halt".into(), 4)]);
        assert!(halts.since(halts.version()).is_empty());
        assert_eq!(halts.scoped().len(), 1);
    }

    #[test]
    fn who_confirmed_is_told_with_the_flag_it_is_about() {
        let mut halts = Halts::default();
        halts.put(flag(Scope::Global, Level::Halt, 5));
        let known = Confirmed { confirmed: 1, total: 2, complete: false, silent: vec!["w2".into()], open: 0 };
        let seen = halts.version();
        halts.confirm(&Scope::Global, 4, known.clone());
        assert!(halts.since(seen).is_empty(), "of an earlier one");
        halts.confirm(&Scope::Global, 5, known.clone());
        halts.confirm(&Scope::Global, 5, known.clone());
        let told = halts.since(seen);
        assert_eq!((told.len(), told[0].workers.as_ref()), (1, Some(&known)));
        halts.put(flag(Scope::Global, Level::Normal, 6));
        assert_eq!(halts.global().workers, None);
    }

    #[test]
    fn who_missed_too_much_gets_all_flags_as_they_are() {
        let mut halts = Halts::default();
        halts.put(flag(Scope::Bot("b1".into()), Level::Halt, 1));
        for n in 0..RECENT_MAX as u64 + 9 {
            halts.put(flag(Scope::Global, Level::Halt, n + 2));
        }
        let told = halts.since(0);
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].rev, Some(RECENT_MAX as u64 + 10));
    }
}
