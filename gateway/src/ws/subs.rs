//! A client's subscriptions: where each stands in the log and how much it was given.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{SUBS_MAX, frames};
use crate::hub::{Chunk, Entry, Filter, Gap, Reason};

/// Hashes of ids kept while reading the stream, to leave out what was stored twice.
const SEEN_MAX: usize = 20_000;

/// A place in the log.
#[derive(Default)]
pub(super) struct Cursor {
    /// Everything up to here was looked at.
    pub pos: u64,
    seen: HashSet<u64>,
}

impl Cursor {
    /// At a place.
    pub fn at(pos: u64) -> Self {
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
    id: String,
    filter: Filter,
    /// Nothing up to here is wanted.
    after: u64,
    /// Events given.
    count: u64,
    /// Its own place while it is behind the others.
    behind: Option<Cursor>,
}

/// The subscriptions of one client.
#[derive(Default)]
pub(super) struct Subs {
    list: Vec<Sub>,
    /// Where those that are not behind stand.
    pub live: Cursor,
    pub epoch: u64,
}

impl Subs {
    /// Adds one that wants what follows `after`.
    pub fn add(&mut self, id: String, filter: Filter, after: u64) -> Result<(), (&'static str, String)> {
        if self.list.len() >= SUBS_MAX {
            return Err(("too_many_subs", format!("a connection has at most {SUBS_MAX} subscriptions")));
        }
        if self.list.iter().any(|s| s.id == id) {
            return Err(("duplicate_sub", format!("there is a subscription `{id}` already")));
        }
        let behind = (after < self.live.pos).then(|| Cursor::at(after));
        self.list.push(Sub { id, filter, after, count: 0, behind });
        Ok(())
    }

    /// Removes one; `false` if there is none.
    pub fn remove(&mut self, id: &str) -> bool {
        let before = self.list.len();
        self.list.retain(|s| s.id != id);
        self.list.len() < before
    }

    /// Whether anyone follows the live end.
    pub fn any_live(&self) -> bool {
        self.list.iter().any(|s| s.behind.is_none())
    }

    /// One that is behind, and where.
    pub fn behind(&self) -> Vec<(String, u64)> {
        self.list.iter().filter_map(|s| s.behind.as_ref().map(|c| (s.id.clone(), c.pos))).collect()
    }

    /// The frames of a run of the log for all that are live.
    pub fn take_live(&mut self, chunk: &Chunk, frames: &mut Vec<String>) {
        for entry in &chunk.entries {
            match &**entry {
                Entry::Event(e) => {
                    if self.live.repeats(chunk.stored, &e.id) {
                        continue;
                    }
                    let mut matched: Vec<(&str, u64)> = Vec::new();
                    for sub in self.list.iter_mut().filter(|s| s.behind.is_none() && e.seq > s.after && s.filter.matches(e)) {
                        sub.count += 1;
                        matched.push((&sub.id, sub.count));
                    }
                    if !matched.is_empty() {
                        frames.push(frames::ev(e, matched.into_iter()));
                    }
                }
                Entry::Gap(g) => frames.extend(self.list.iter().filter(|s| s.behind.is_none()).map(|s| frames::gap(&s.id, g))),
            }
        }
        self.live.pos = self.live.pos.max(chunk.upto);
    }

    /// The frames of a run of the log for one that is behind, up to where the others stand. `true`
    /// if it has caught up with them.
    pub fn take_behind(&mut self, id: &str, chunk: &Chunk, frames: &mut Vec<String>) -> bool {
        let limit = self.live.pos;
        let Some(sub) = self.list.iter_mut().find(|s| s.id == id) else { return false };
        let Some(cursor) = &mut sub.behind else { return false };
        for entry in &chunk.entries {
            if entry.seq() > limit {
                break;
            }
            match &**entry {
                Entry::Event(e) if !cursor.repeats(chunk.stored, &e.id) && sub.filter.matches(e) => {
                    sub.count += 1;
                    frames.push(frames::ev(e, std::iter::once((sub.id.as_str(), sub.count))));
                }
                Entry::Event(_) => {}
                Entry::Gap(g) => frames.push(frames::gap(&sub.id, g)),
            }
        }
        cursor.pos = chunk.upto.min(limit);
        if cursor.pos < limit {
            return false;
        }
        sub.behind = None;
        true
    }

    /// The log is another one: everyone is told and starts with its first message.
    pub fn replaced(&mut self, epoch: u64, frames: &mut Vec<String>) {
        for sub in &mut self.list {
            let after = sub.behind.as_ref().map_or(self.live.pos, |c| c.pos);
            frames.push(frames::gap(&sub.id, &Gap { after, next: 1, reason: Reason::Epoch }));
            sub.behind = None;
            sub.after = 0;
        }
        self.live = Cursor::default();
        self.epoch = epoch;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::LogEvent;
    use serde_json::Value;

    fn chunk(seqs: &[u64], upto: u64, stored: bool) -> Chunk {
        let event = |seq: u64| {
            let json = format!(r#"{{"type":"t","id":"{seq}","bot_id":"b{}"}}"#, seq % 2);
            Arc::new(Entry::Event(LogEvent::read(seq, json.as_bytes()).expect("reads")))
        };
        Chunk { epoch: 0, entries: seqs.iter().map(|s| event(*s)).collect(), upto, stored }
    }
    fn filter(json: &str) -> Filter {
        serde_json::from_str(json).expect("parses")
    }
    fn of(frames: &[String], id: &str) -> Vec<(u64, u64)> {
        let parsed = frames.iter().map(|f| serde_json::from_str::<Value>(f).expect("json"));
        parsed.filter_map(|f| Some((f["s"].get(id)?.as_u64()?, f["c"].as_str()?.parse().ok()?))).collect()
    }

    #[test]
    fn counters_are_contiguous_and_a_shared_event_is_sent_once() {
        let mut subs = Subs { live: Cursor::at(10), ..Subs::default() };
        subs.add("all".into(), Filter::default(), 10).expect("added");
        subs.add("odd".into(), filter(r#"{"bot":["b1"]}"#), 10).expect("added");
        assert!(subs.add("all".into(), Filter::default(), 10).is_err());
        let mut out = Vec::new();
        subs.take_live(&chunk(&[11, 12, 13], 13, false), &mut out);
        assert_eq!(out.len(), 3);
        assert_eq!(of(&out, "all"), [(1, 11), (2, 12), (3, 13)]);
        assert_eq!(of(&out, "odd"), [(1, 11), (2, 13)]);
    }

    #[test]
    fn replay_joins_live_without_holes_or_repeats() {
        let mut subs = Subs { live: Cursor::at(10), ..Subs::default() };
        subs.add("old".into(), Filter::default(), 5).expect("added");
        let mut out = Vec::new();
        assert!(!subs.take_behind("old", &chunk(&[6, 7], 7, true), &mut out));
        // Meanwhile the others go on.
        subs.take_live(&chunk(&[11], 11, false), &mut out);
        assert!(!subs.take_behind("old", &chunk(&[8, 9], 9, true), &mut out));
        // What lies beyond the others is left to them.
        assert!(subs.take_behind("old", &chunk(&[10, 11, 12], 12, false), &mut out));
        subs.take_live(&chunk(&[12], 12, false), &mut out);
        let seqs: Vec<u64> = of(&out, "old").iter().map(|p| p.1).collect();
        assert_eq!(seqs, [6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(of(&out, "old").last(), Some(&(7, 12)));
    }

    #[test]
    fn a_start_ahead_of_the_others_gets_nothing_older() {
        let mut subs = Subs { live: Cursor::at(10), ..Subs::default() };
        subs.add("ahead".into(), Filter::default(), 12).expect("added");
        let mut out = Vec::new();
        subs.take_live(&chunk(&[11, 12, 13], 13, false), &mut out);
        assert_eq!(of(&out, "ahead"), [(1, 13)]);
    }

    #[test]
    fn what_was_stored_twice_is_given_once() {
        let mut subs = Subs { live: Cursor::at(10), ..Subs::default() };
        subs.add("old".into(), Filter::default(), 5).expect("added");
        let mut run = chunk(&[6, 7], 8, true);
        run.entries.push(run.entries[0].clone());
        let mut out = Vec::new();
        subs.take_behind("old", &run, &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn another_log_is_told_to_everyone() {
        let mut subs = Subs { live: Cursor::at(10), ..Subs::default() };
        subs.add("a".into(), Filter::default(), 5).expect("added");
        subs.add("b".into(), Filter::default(), 10).expect("added");
        let mut out = Vec::new();
        subs.replaced(1, &mut out);
        assert_eq!(out.len(), 2);
        assert!(out.iter().all(|f| f.contains("epoch")));
        assert_eq!((subs.live.pos, subs.epoch, subs.behind().len()), (0, 1, 0));
    }
}
