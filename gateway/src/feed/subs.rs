//! A client's subscriptions: where each stands in the log and how much it was given. Pure: what goes
//! in are runs of the log, what comes out is what to send.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use haltline_common::types::feed::{CONTROL_EVENT, Code, Cursor, Epoch, Filter, Mode, Reason, SUBS_MAX, SubError};

use crate::{
    auth::Principal,
    hub::{Chunk, Entry, Gap, LogEvent},
};

/// Hashes of ids kept while reading the stream, to leave out what was stored twice.
const SEEN_MAX: usize = 20_000;

/// What to send.
#[derive(Clone, Debug)]
pub(crate) enum Out {
    /// An event, to these subscriptions, each with its counter.
    Event(Arc<Entry>, Vec<(Arc<str>, u64)>),
    /// A subscription will not get something.
    Gap(Arc<str>, Gap),
    /// A subscription has everything that was there.
    Live(Arc<str>, u64),
}

/// A place in the log.
#[derive(Default)]
struct Reader {
    /// Everything up to here was looked at.
    pos: u64,
    seen: HashSet<u64>,
}

impl Reader {
    fn at(pos: u64) -> Self {
        Self { pos, seen: HashSet::new() }
    }

    /// Whether an event read from the stream was given already. The ring drops such repeats itself.
    fn repeats(&mut self, stored: bool, id: &str) -> bool {
        if !stored {
            self.seen = HashSet::new();
            return false;
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        !self.seen.insert(hasher.finish())
    }
}

struct Sub {
    id: Arc<str>,
    filter: Filter,
    conflate: bool,
    /// Nothing up to here is wanted.
    after: u64,
    /// Nor are so many matching events of the message behind it.
    leave_out: usize,
    /// Events that it wanted so far.
    count: u64,
    /// Its own place while it is behind the others.
    behind: Option<Reader>,
}

impl Sub {
    /// Whether a wanted event comes before what was asked for.
    fn leaves_out(&mut self, seq: u64) -> bool {
        let leaves = self.leave_out > 0 && seq == self.after + 1;
        self.leave_out = if leaves { self.leave_out - 1 } else { 0 };
        leaves
    }
}

/// Whether this principal may see this event with this filter.
pub(crate) fn wants(principal: &Principal, filter: &Filter, e: &LogEvent) -> bool {
    // A change of the control flag concerns everyone.
    let sees = &*e.kind == CONTROL_EVENT || principal.sees(&e.workflow, &e.bot, &e.strategy);
    sees && filter.matches(&e.subject())
}

/// The subscriptions of one client.
pub(crate) struct Subs {
    list: Vec<Sub>,
    /// Where those that are not behind stand.
    live: Reader,
    /// Counts the streams.
    generation: u64,
    epoch: Epoch,
    principal: Arc<Principal>,
}

impl Subs {
    /// None yet, of who may see what `principal` may, at a place.
    pub fn new(principal: Arc<Principal>, generation: u64, epoch: Epoch, pos: u64) -> Self {
        Self { list: Vec::new(), live: Reader::at(pos), generation, epoch, principal }
    }

    /// Goes by other rights from here on.
    pub fn set_principal(&mut self, principal: Arc<Principal>) {
        self.principal = principal;
    }

    /// Everything up to here was looked at for those that are not behind.
    pub fn live_pos(&self) -> u64 {
        self.live.pos
    }
    /// Counts the streams.
    pub fn generation(&self) -> u64 {
        self.generation
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether another one with this id fits.
    ///
    /// # Errors
    /// Why not.
    pub fn fits(&self, id: &str) -> Result<(), SubError> {
        if self.list.len() >= SUBS_MAX {
            return Err((Code::TooManySubs, format!("a connection has at most {SUBS_MAX} subscriptions")));
        }
        if self.list.iter().any(|s| *s.id == *id) {
            return Err((Code::DuplicateSub, format!("there is a subscription `{id}` already")));
        }
        Ok(())
    }

    /// Adds one that wants what follows `after`. Whether it has to catch up.
    pub fn add(&mut self, id: &str, filter: Filter, mode: Mode, after: u64) -> bool {
        let behind = (after < self.live.pos).then(|| Reader::at(after));
        let catches_up = behind.is_some();
        self.list.push(Sub { id: id.into(), filter, conflate: mode == Mode::Conflate, after, leave_out: 0, count: 0, behind });
        catches_up
    }

    /// The first `n` events that a new one wants of the message behind its place are not for it.
    pub fn leave_out(&mut self, id: &str, n: usize) {
        if let Some(sub) = self.list.iter_mut().find(|s| *s.id == *id) {
            sub.leave_out = n;
        }
    }

    /// Removes one; `false` if there is none.
    pub fn remove(&mut self, id: &str) -> bool {
        let before = self.list.len();
        self.list.retain(|s| *s.id != *id);
        self.list.len() < before
    }

    /// Whether anyone follows the live end.
    pub fn any_live(&self) -> bool {
        self.list.iter().any(|s| s.behind.is_none())
    }

    /// Those that are behind, and where.
    pub fn behind(&self) -> impl Iterator<Item = (&Arc<str>, u64, bool)> {
        self.list.iter().filter_map(|s| s.behind.as_ref().map(|r| (&s.id, r.pos, s.conflate)))
    }

    /// Whether all that are live take only the newest of what waits.
    pub fn all_conflate(&self) -> bool {
        self.list.iter().filter(|s| s.behind.is_none()).all(|s| s.conflate)
    }

    /// Nobody is live: what comes is passed over.
    pub fn skip_to(&mut self, pos: u64) {
        self.live.pos = pos;
    }

    /// What a run of the log is for all that are live.
    pub fn take_live(&mut self, chunk: &Chunk, out: &mut Vec<Out>) {
        let newest = self.newest(chunk);
        for (at, entry) in chunk.entries.iter().enumerate() {
            match &**entry {
                Entry::Event(e) => {
                    if self.live.repeats(chunk.stored, &e.id) {
                        continue;
                    }
                    let mut to = Vec::new();
                    for sub in self.list.iter_mut().filter(|s| s.behind.is_none() && e.seq() > s.after) {
                        if !wants(&self.principal, &sub.filter, e) || sub.leaves_out(e.seq()) {
                            continue;
                        }
                        sub.count += 1;
                        if !sub.conflate || newest.as_ref().is_none_or(|n| n.contains(&at)) {
                            to.push((sub.id.clone(), sub.count));
                        }
                    }
                    if !to.is_empty() {
                        out.push(Out::Event(entry.clone(), to));
                    }
                }
                Entry::Gap(g) => {
                    let told = self.list.iter().filter(|s| s.behind.is_none() && g.next.seq > s.after + 1);
                    out.extend(told.map(|s| Out::Gap(s.id.clone(), g.behind(s.after))));
                }
            }
        }
        self.live.pos = self.live.pos.max(chunk.upto);
    }

    /// What a run of the log is for one that is behind, up to where the others stand.
    pub fn take_behind(&mut self, id: &str, chunk: &Chunk, out: &mut Vec<Out>) {
        let limit = self.live.pos;
        let newest = self.newest(chunk);
        let Some(sub) = self.list.iter_mut().find(|s| *s.id == *id) else { return };
        let Some(mut reader) = sub.behind.take() else { return };
        for (at, entry) in chunk.entries.iter().enumerate() {
            if entry.seq() > limit {
                break;
            }
            match &**entry {
                Entry::Event(e) if !reader.repeats(chunk.stored, &e.id) && wants(&self.principal, &sub.filter, e) => {
                    if sub.leaves_out(e.seq()) {
                        continue;
                    }
                    sub.count += 1;
                    if !sub.conflate || newest.as_ref().is_none_or(|n| n.contains(&at)) {
                        out.push(Out::Event(entry.clone(), vec![(sub.id.clone(), sub.count)]));
                    }
                }
                Entry::Event(_) => {}
                Entry::Gap(g) if g.next.seq > sub.after + 1 => out.push(Out::Gap(sub.id.clone(), g.behind(sub.after))),
                Entry::Gap(_) => {}
            }
        }
        reader.pos = chunk.upto.min(limit);
        if reader.pos >= limit {
            out.push(Out::Live(sub.id.clone(), limit));
        } else {
            sub.behind = Some(reader);
        }
    }

    /// Where in a run the newest event of each node and each execution is, if anyone wants only these.
    fn newest(&self, chunk: &Chunk) -> Option<HashSet<usize>> {
        if !self.list.iter().any(|s| s.conflate) {
            return None;
        }
        let mut newest: HashMap<(&str, &str), usize> = HashMap::new();
        let mut keep = HashSet::new();
        for (at, entry) in chunk.entries.iter().enumerate() {
            if let Entry::Event(e) = &**entry {
                if e.execution.is_empty() {
                    keep.insert(at); // belongs to no execution: nothing stands for it
                } else {
                    newest.insert((&e.execution, &e.node), at);
                }
            }
        }
        keep.extend(newest.into_values());
        Some(keep)
    }

    /// The log is another one: everyone is told and starts with its first message.
    pub fn replaced(&mut self, generation: u64, epoch: Epoch, out: &mut Vec<Out>) {
        for sub in &mut self.list {
            let after = sub.behind.as_ref().map_or(self.live.pos.max(sub.after), |r| r.pos);
            let gap = Gap { after: Cursor::bare(self.epoch, after), next: Cursor::bare(epoch, 1), reason: Reason::Epoch };
            out.push(Out::Gap(sub.id.clone(), gap));
            sub.behind = None;
            (sub.after, sub.leave_out) = (0, 0);
        }
        self.live = Reader::default();
        self.generation = generation;
        self.epoch = epoch;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(3);

    fn chunk(seqs: &[u64], upto: u64, stored: bool) -> Chunk {
        let event = |seq: u64| {
            let json = format!(
                r#"{{"type":"t","id":"{seq}","execution_id":"e","node_id":"n{}","bot_id":"b{}","workflow_id":"w"}}"#,
                seq % 3,
                seq % 2
            );
            Arc::new(Entry::Event(LogEvent::read(EPOCH, seq, json.as_bytes()).remove(0).expect("reads")))
        };
        Chunk { generation: 0, entries: seqs.iter().map(|s| event(*s)).collect(), upto, stored }
    }
    fn filter(json: &str) -> Filter {
        serde_json::from_str(json).expect("parses")
    }
    fn subs(pos: u64) -> Subs {
        Subs::new(Arc::new(Principal::developer()), 0, EPOCH, pos)
    }
    fn of(out: &[Out], id: &str) -> Vec<(u64, u64)> {
        let one = |o: &Out| match o {
            Out::Event(e, to) => to.iter().find(|(i, _)| **i == *id).map(|(_, n)| (*n, e.seq())),
            _ => None,
        };
        out.iter().filter_map(one).collect()
    }

    #[test]
    fn counters_are_contiguous_and_a_shared_event_is_sent_once() {
        let mut subs = subs(10);
        assert!(!subs.add("all", Filter::default(), Mode::Lossless, 10));
        subs.add("odd", filter(r#"{"bot":["b1"]}"#), Mode::Lossless, 10);
        assert!(subs.fits("all").is_err() && subs.fits("other").is_ok());
        let mut out = Vec::new();
        subs.take_live(&chunk(&[11, 12, 13], 13, false), &mut out);
        assert_eq!(out.len(), 3);
        assert_eq!(of(&out, "all"), [(1, 11), (2, 12), (3, 13)]);
        assert_eq!(of(&out, "odd"), [(1, 11), (2, 13)]);
    }

    #[test]
    fn replay_joins_live_without_holes_or_repeats() {
        let mut subs = subs(10);
        assert!(subs.add("old", Filter::default(), Mode::Lossless, 5));
        let mut out = Vec::new();
        subs.take_behind("old", &chunk(&[6, 7], 7, true), &mut out);
        // Meanwhile the others go on.
        subs.take_live(&chunk(&[11], 11, false), &mut out);
        subs.take_behind("old", &chunk(&[8, 9], 9, true), &mut out);
        assert!(!subs.any_live());
        // What lies beyond the others is left to them.
        subs.take_behind("old", &chunk(&[10, 11, 12], 12, false), &mut out);
        assert!(subs.any_live() && matches!(out.last(), Some(Out::Live(_, 11))));
        subs.take_live(&chunk(&[12], 12, false), &mut out);
        let seqs: Vec<u64> = of(&out, "old").iter().map(|p| p.1).collect();
        assert_eq!(seqs, [6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(of(&out, "old").last(), Some(&(7, 12)));
    }

    #[test]
    fn a_start_ahead_of_the_others_gets_nothing_older() {
        let mut subs = subs(10);
        subs.add("ahead", Filter::default(), Mode::Lossless, 12);
        let mut out = Vec::new();
        subs.take_live(&chunk(&[11, 12, 13], 13, false), &mut out);
        assert_eq!(of(&out, "ahead"), [(1, 13)]);
    }

    #[test]
    fn what_was_stored_twice_is_given_once() {
        let mut subs = subs(10);
        subs.add("old", Filter::default(), Mode::Lossless, 5);
        let mut run = chunk(&[6, 7], 8, true);
        run.entries.push(run.entries[0].clone());
        let mut out = Vec::new();
        subs.take_behind("old", &run, &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn another_log_is_told_to_everyone() {
        let mut subs = subs(10);
        subs.add("a", Filter::default(), Mode::Lossless, 5);
        subs.add("b", Filter::default(), Mode::Lossless, 10);
        let mut out = Vec::new();
        subs.replaced(1, Epoch(4), &mut out);
        let after: Vec<u64> = out.iter().filter_map(|o| if let Out::Gap(_, g) = o { Some(g.after.seq) } else { None }).collect();
        assert_eq!(after, [5, 10]);
        assert_eq!((subs.live_pos(), subs.generation(), subs.behind().count()), (0, 1, 0));
    }

    #[test]
    fn a_conflating_client_gets_the_newest_of_each_node_and_knows_how_many_it_did_not() {
        let mut subs = subs(10);
        subs.add("all", filter(r#"{"bot":["b1"]}"#), Mode::Lossless, 10);
        subs.add("new", Filter::default(), Mode::Conflate, 10);
        let mut out = Vec::new();
        subs.take_live(&chunk(&[11, 12, 13, 14, 15], 15, false), &mut out);
        // Nodes by sequence: 2 0 1 2 0.
        assert_eq!(of(&out, "new"), [(3, 13), (4, 14), (5, 15)]);
        assert_eq!(of(&out, "all"), [(1, 11), (2, 13), (3, 15)]);
    }

    #[test]
    fn scopes_are_intersected_with_every_filter() {
        let mut subs = subs(10);
        let scopes = haltline_common::types::access::Scopes { bots: vec!["b0".into()], ..Default::default() };
        subs.set_principal(Arc::new(Principal { scopes, ..Principal::developer() }));
        subs.add("all", Filter::default(), Mode::Lossless, 5);
        subs.add("theirs", filter(r#"{"bot":["b1"]}"#), Mode::Lossless, 10);
        let mut out = Vec::new();
        subs.take_behind("all", &chunk(&[6, 7, 8, 9, 10], 10, true), &mut out);
        subs.take_live(&chunk(&[11, 12, 13], 13, false), &mut out);
        assert_eq!(of(&out, "all"), [(1, 6), (2, 8), (3, 10), (4, 12)]);
        assert_eq!(of(&out, "theirs"), []);
        let control = br#"{"type":"emergency_state_changed","id":"c","bot_id":""}"#;
        let control = Arc::new(Entry::Event(LogEvent::read(EPOCH, 14, control).remove(0).expect("reads")));
        subs.take_live(&Chunk { generation: 0, entries: vec![control], upto: 14, stored: false }, &mut out);
        assert_eq!(of(&out, "all").last(), Some(&(5, 14)));
    }
}
