//! The newest part of the log in memory.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use haltline_common::types::feed::{Cursor, Epoch, Reason, Tag};

use super::{Chunk, LogEvent};

/// Events kept: seconds to minutes of history, so that reconnects seldom read the stream.
const EVENTS_MAX: usize = 20_000;
/// Bytes kept.
const BYTES_MAX: usize = 16 << 20;
/// Tags kept, of events and of everything else: 16 bytes each.
const TAGS_MAX: usize = 4 * EVENTS_MAX;

/// A missing stretch: everything after `after` and before `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Last place before it.
    pub after: Cursor,
    /// First sequence behind it.
    pub next: Cursor,
    /// Why.
    pub reason: Reason,
}

impl Gap {
    /// Within one stream.
    pub fn within(epoch: Epoch, after: u64, next: u64, reason: Reason) -> Self {
        Self { after: Cursor::bare(epoch, after), next: Cursor::bare(epoch, next), reason }
    }

    /// What of it lies behind a place of the same stream: what came before was told, or is not wanted.
    pub fn behind(self, pos: u64) -> Self {
        if pos > self.after.seq { Self { after: Cursor::bare(self.next.epoch, pos), ..self } } else { self }
    }

    /// How many messages are missing, where that can be known.
    pub fn lost(&self) -> Option<u64> {
        (self.reason != Reason::Epoch).then(|| self.next.seq.saturating_sub(self.after.seq + 1))
    }
}

/// Where the newest events that somebody wants begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Before their first message.
    pub pos: u64,
    /// So many wanted events of that message come before them.
    pub extra: usize,
}

/// One place of the log.
#[derive(Debug)]
pub(crate) enum Entry {
    /// An event.
    Event(LogEvent),
    /// Messages that are not there.
    Gap(Gap),
}

impl Entry {
    /// The last sequence it covers.
    pub fn seq(&self) -> u64 {
        match self {
            Self::Event(e) => e.seq(),
            Self::Gap(g) => g.next.seq - 1,
        }
    }
    /// Bytes it holds, roughly.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Event(e) => e.bytes(),
            Self::Gap(_) => 128,
        }
    }
}

/// The ring.
#[derive(Default)]
pub(crate) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// Ids of the events in it, to drop those that were stored twice.
    ids: HashSet<Arc<str>>,
    /// Tags by sequence, in order: what cursors are checked against.
    tags: VecDeque<(u64, Tag)>,
    bytes: usize,
    /// Everything after it, up to `head`, is in the ring or was left out on purpose.
    floor: u64,
    head: u64,
    epoch: Epoch,
    generation: u64,
}

impl Ring {
    /// Before the first sequence in memory.
    pub fn floor(&self) -> u64 {
        self.floor
    }
    /// The last sequence seen.
    pub fn head(&self) -> u64 {
        self.head
    }
    /// Which stream.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// Counts the streams: a stream that comes back counts again.
    pub fn generation(&self) -> u64 {
        self.generation
    }
    /// The cursor of a place, with its tag if that is in memory.
    pub fn cursor(&self, seq: u64) -> Cursor {
        let tag = self.tags.binary_search_by_key(&seq, |(s, _)| *s).ok().map(|i| self.tags[i].1);
        Cursor { epoch: self.epoch, seq, tag }
    }

    /// Starts (over) after `seq` of a stream.
    pub fn begin(&mut self, seq: u64, epoch: Epoch) {
        self.entries.clear();
        self.ids.clear();
        self.tags.clear();
        self.bytes = 0;
        self.floor = seq;
        self.head = seq;
        self.epoch = epoch;
        self.generation += 1;
    }

    /// Takes the message `seq`: its events, none if it is something else.
    pub fn push(&mut self, seq: u64, tag: Tag, events: Vec<LogEvent>) {
        if seq <= self.head {
            return;
        }
        if seq > self.head + 1 {
            // The tail tells holes itself; one that it did not tell must not be passed over.
            self.hole(seq, Reason::Purged);
        }
        self.head = seq;
        self.tags.push_back((seq, tag));
        if self.tags.len() > TAGS_MAX {
            self.tags.pop_front();
        }
        for event in events {
            if self.ids.insert(event.id.clone()) {
                self.keep(Entry::Event(event));
            }
        }
        self.forget();
    }

    /// Nothing is there between the head and `next`.
    pub fn hole(&mut self, next: u64, reason: Reason) {
        if next > self.head + 1 {
            self.keep(Entry::Gap(Gap::within(self.epoch, self.head, next, reason)));
            self.head = next - 1;
            self.forget();
        }
    }

    fn keep(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(Arc::new(entry));
    }

    /// Lets the oldest go above the limits; events of one message go together.
    fn forget(&mut self) {
        while let Some(first) = self.entries.front() {
            let over = self.entries.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.entries.len() > 1);
            if !over && first.seq() > self.floor {
                break;
            }
            self.bytes -= first.bytes();
            self.floor = first.seq();
            if let Entry::Event(e) = &**first {
                self.ids.remove(&e.id);
            }
            self.entries.pop_front();
        }
        while self.tags.front().is_some_and(|(seq, _)| *seq < self.floor) {
            self.tags.pop_front();
        }
    }

    /// What follows `pos`, whole messages; `None` if that is older than the ring.
    pub fn after(&self, pos: u64, max: usize, max_bytes: usize) -> Option<Chunk> {
        if pos < self.floor {
            return None;
        }
        let start = self.entries.partition_point(|e| e.seq() <= pos);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.range(start..) {
            let same = entries.last().is_some_and(|e: &Arc<Entry>| e.seq() == entry.seq());
            if !same && (entries.len() >= max || bytes >= max_bytes) {
                break;
            }
            bytes += entry.bytes();
            entries.push(entry.clone());
        }
        let all = start + entries.len() == self.entries.len();
        let upto = if all { self.head.max(pos) } else { entries.last().map_or(pos, |e| e.seq()) };
        Some(Chunk { generation: self.generation, entries, upto, stored: false })
    }

    /// What is in memory, in order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }

    /// Where the `n` newest wanted events up to `upto` begin; else how many there are.
    pub fn before_last(&self, n: usize, upto: u64, wants: &dyn Fn(&LogEvent) -> bool) -> Result<Start, usize> {
        if n == 0 {
            return Ok(Start { pos: upto.min(self.head), extra: 0 });
        }
        let there = self.entries.partition_point(|e| e.seq() <= upto);
        let there = self.entries.range(..there).rev();
        let mut wanted = there.filter(|e| matches!(&***e, Entry::Event(e) if wants(e))).map(|e| e.seq());
        let mut found = 0;
        for seq in wanted.by_ref() {
            found += 1;
            if found == n {
                return Ok(Start { pos: seq - 1, extra: wanted.take_while(|s| *s == seq).count() });
            }
        }
        Err(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(5);

    fn line(id: &str, pad: usize) -> String {
        format!(r#"{{"type":"node_started","id":"{id}","pad":"{}"}}"#, "x".repeat(pad))
    }
    fn event(seq: u64, id: &str, pad: usize) -> Vec<LogEvent> {
        LogEvent::read(EPOCH, seq, line(id, pad).as_bytes()).into_iter().map(|e| e.expect("reads")).collect()
    }
    fn push(ring: &mut Ring, seq: u64, events: Vec<LogEvent>) {
        ring.push(seq, Tag::of(&seq.to_be_bytes()), events);
    }
    fn seqs(chunk: &Chunk) -> Vec<u64> {
        chunk.entries.iter().map(|e| e.seq()).collect()
    }

    #[test]
    fn reads_in_order_in_chunks_and_skips_what_is_no_event() {
        let mut ring = Ring::default();
        ring.begin(10, EPOCH);
        push(&mut ring, 11, event(11, "a", 0));
        push(&mut ring, 12, vec![]);
        push(&mut ring, 13, event(13, "a", 0)); // stored twice
        push(&mut ring, 14, event(14, "b", 0));
        push(&mut ring, 14, event(14, "c", 0)); // delivered twice
        push(&mut ring, 15, vec![]);
        assert!(ring.after(9, 10, 1 << 20).is_none());
        let all = ring.after(10, 10, 1 << 20).expect("in memory");
        assert_eq!((seqs(&all), all.upto), (vec![11, 14], 15));
        let first = ring.after(10, 1, 1 << 20).expect("in memory");
        assert_eq!((seqs(&first), first.upto), (vec![11], 11));
        let rest = ring.after(first.upto, 1, 1 << 20).expect("in memory");
        assert_eq!((seqs(&rest), rest.upto), (vec![14], 15));
        assert_eq!(ring.after(99, 1, 1).map(|c| c.upto), Some(99));
        assert_eq!(ring.cursor(12).tag, Some(Tag::of(&12u64.to_be_bytes())));
        assert_eq!(ring.cursor(10), Cursor::bare(EPOCH, 10));
    }

    #[test]
    fn events_of_a_message_stay_together() {
        let mut ring = Ring::default();
        ring.begin(0, EPOCH);
        let three = |seq: u64| {
            let body = [0, 1, 2].map(|n| line(&format!("{seq}/{n}"), 0)).join("\n");
            LogEvent::read(EPOCH, seq, body.as_bytes()).into_iter().map(|e| e.expect("reads")).collect()
        };
        (1..=9).for_each(|seq| push(&mut ring, seq, three(seq)));
        let chunk = ring.after(0, 4, 1 << 20).expect("in memory");
        assert_eq!((seqs(&chunk), chunk.upto), (vec![1, 1, 1, 2, 2, 2], 2));
        assert_eq!(ring.before_last(2, u64::MAX, &|_| true), Ok(Start { pos: 8, extra: 1 }));
        assert_eq!(ring.before_last(4, u64::MAX, &|e| !e.id.ends_with("/1")), Ok(Start { pos: 7, extra: 0 }));
        (10..=EVENTS_MAX as u64).for_each(|seq| push(&mut ring, seq, three(seq)));
        let first = ring.after(ring.floor(), 1, 1 << 20).expect("in memory");
        assert_eq!(seqs(&first), [ring.floor() + 1; 3]);
        assert!(ring.entries.len() <= EVENTS_MAX && ring.entries.len() % 3 == 0 && ring.ids.len() == ring.entries.len());
    }

    #[test]
    fn holes_become_gaps() {
        let mut ring = Ring::default();
        ring.begin(0, EPOCH);
        push(&mut ring, 1, event(1, "a", 0));
        ring.hole(5, Reason::Retention);
        push(&mut ring, 5, event(5, "b", 0));
        push(&mut ring, 8, event(8, "c", 0));
        let chunk = ring.after(1, 10, 1 << 20).expect("in memory");
        let gap = |at: usize| {
            if let Entry::Gap(g) = &*chunk.entries[at] { (g.after.seq, g.next.seq, g.reason, g.lost()) } else { panic!("a gap") }
        };
        assert_eq!(gap(0), (1, 5, Reason::Retention, Some(3)));
        assert_eq!(gap(2), (5, 8, Reason::Purged, Some(2)));
        assert_eq!(seqs(&chunk), [4, 5, 7, 8]);
    }

    #[test]
    fn bounded_in_number_and_bytes() {
        let mut ring = Ring::default();
        ring.begin(0, EPOCH);
        for seq in 1..=EVENTS_MAX as u64 + 5 {
            push(&mut ring, seq, event(seq, &seq.to_string(), 0));
        }
        assert_eq!(ring.floor(), 5);
        assert_eq!(ring.ids.len(), EVENTS_MAX);
        assert!(ring.after(4, 1, 1).is_none() && ring.cursor(5).tag.is_some());
        for seq in 30_000..30_040 {
            push(&mut ring, seq, event(seq, &seq.to_string(), 1 << 20));
        }
        assert!(ring.bytes <= BYTES_MAX && ring.entries.len() <= 16);
        for seq in 30_040..30_040 + 2 * TAGS_MAX as u64 {
            push(&mut ring, seq, vec![]);
        }
        assert_eq!(ring.tags.len(), TAGS_MAX);
        ring.begin(0, EPOCH);
        assert_eq!((ring.generation(), ring.bytes, ring.entries.len(), ring.head(), ring.tags.len()), (2, 0, 0, 0, 0));
    }

    #[test]
    fn the_last_n_that_match() {
        let mut ring = Ring::default();
        ring.begin(0, EPOCH);
        for seq in 1..=9 {
            push(&mut ring, seq, event(seq, &seq.to_string(), 0));
        }
        assert_eq!(ring.before_last(3, u64::MAX, &|_| true), Ok(Start { pos: 6, extra: 0 }));
        assert_eq!(ring.before_last(0, u64::MAX, &|_| true), Ok(Start { pos: 9, extra: 0 }));
        assert_eq!(ring.before_last(20, u64::MAX, &|_| true), Err(9));
        assert_eq!(ring.before_last(2, 7, &|_| true), Ok(Start { pos: 5, extra: 0 }), "what came since is not looked at");
        assert_eq!(ring.before_last(0, 7, &|_| true), Ok(Start { pos: 7, extra: 0 }));
        assert_eq!(ring.before_last(1, u64::MAX, &|e| e.seq() < 4), Ok(Start { pos: 2, extra: 0 }));
    }
}
