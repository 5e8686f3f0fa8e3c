//! The newest part of the log in memory.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use serde::Serialize;

use super::{Chunk, Filter, LogEvent};

/// Events kept: seconds to minutes of history, so that reconnects seldom read the stream.
const EVENTS_MAX: usize = 20_000;
/// Bytes kept.
const BYTES_MAX: usize = 16 << 20;

/// Why something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// The stream no longer has it.
    Retention,
    /// The stream is another one than before.
    Epoch,
}

/// A missing stretch: everything after `after` and before `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Last sequence before it.
    pub after: u64,
    /// First sequence behind it.
    pub next: u64,
    /// Why.
    pub reason: Reason,
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
            Self::Event(e) => e.seq,
            Self::Gap(g) => g.next - 1,
        }
    }
    fn bytes(&self) -> usize {
        match self {
            Self::Event(e) => e.bytes(),
            Self::Gap(_) => 64,
        }
    }
}

/// The ring.
#[derive(Default)]
pub(crate) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// Ids of the events in it, to drop those that were stored twice.
    ids: HashSet<Arc<str>>,
    bytes: usize,
    /// Everything after it, up to `head`, is in the ring or was left out on purpose.
    floor: u64,
    head: u64,
    epoch: u64,
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
    /// Which log.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Starts (over) after `seq`.
    pub fn begin(&mut self, seq: u64, new_epoch: bool) {
        self.entries.clear();
        self.ids.clear();
        self.bytes = 0;
        self.floor = seq;
        self.head = seq;
        self.epoch += u64::from(new_epoch);
    }

    /// Takes the message `seq`: an event, or something that is none. Declares a gap if messages
    /// before it are missing.
    pub fn push(&mut self, seq: u64, event: Option<LogEvent>) {
        if seq <= self.head {
            return;
        }
        if seq > self.head + 1 {
            self.keep(Entry::Gap(Gap { after: self.head, next: seq, reason: Reason::Retention }));
        }
        self.head = seq;
        if let Some(event) = event
            && self.ids.insert(event.id.clone())
        {
            self.keep(Entry::Event(event));
        }
    }

    fn keep(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.entries.len() > 1) {
            let Some(gone) = self.entries.pop_front() else { break };
            self.bytes -= gone.bytes();
            self.floor = gone.seq();
            if let Entry::Event(e) = &*gone {
                self.ids.remove(&e.id);
            }
        }
    }

    /// What follows `pos`; `None` if that is older than the ring.
    pub fn after(&self, pos: u64, max: usize, max_bytes: usize) -> Option<Chunk> {
        if pos < self.floor {
            return None;
        }
        let start = self.entries.partition_point(|e| e.seq() <= pos);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.range(start..) {
            if entries.len() >= max || bytes >= max_bytes {
                break;
            }
            bytes += entry.bytes();
            entries.push(entry.clone());
        }
        let all = start + entries.len() == self.entries.len();
        let upto = if all { self.head.max(pos) } else { entries.last().map_or(pos, |e| e.seq()) };
        Some(Chunk { epoch: self.epoch, entries, upto, stored: false })
    }

    /// The position before the `n`-th newest matching event; else how many there are.
    pub fn before_last(&self, n: usize, filter: &Filter) -> Result<u64, usize> {
        if n == 0 {
            return Ok(self.head);
        }
        let mut found = 0;
        for entry in self.entries.iter().rev() {
            if let Entry::Event(e) = &**entry
                && filter.matches(e)
            {
                found += 1;
                if found == n {
                    return Ok(e.seq - 1);
                }
            }
        }
        Err(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, id: &str, pad: usize) -> Option<LogEvent> {
        let json = format!(r#"{{"type":"node_started","id":"{id}","pad":"{}"}}"#, "x".repeat(pad));
        Some(LogEvent::read(seq, json.as_bytes()).expect("reads"))
    }
    fn seqs(chunk: &Chunk) -> Vec<u64> {
        chunk.entries.iter().map(|e| e.seq()).collect()
    }

    #[test]
    fn reads_in_order_in_chunks_and_skips_what_is_no_event() {
        let mut ring = Ring::default();
        ring.begin(10, false);
        ring.push(11, event(11, "a", 0));
        ring.push(12, None);
        ring.push(13, event(13, "a", 0)); // stored twice
        ring.push(14, event(14, "b", 0));
        ring.push(14, event(14, "c", 0)); // delivered twice
        ring.push(15, None);
        assert!(ring.after(9, 10, 1 << 20).is_none());
        let all = ring.after(10, 10, 1 << 20).expect("in memory");
        assert_eq!((seqs(&all), all.upto), (vec![11, 14], 15));
        let first = ring.after(10, 1, 1 << 20).expect("in memory");
        assert_eq!((seqs(&first), first.upto), (vec![11], 11));
        let rest = ring.after(first.upto, 1, 1 << 20).expect("in memory");
        assert_eq!((seqs(&rest), rest.upto), (vec![14], 15));
        assert_eq!(ring.after(99, 1, 1).map(|c| c.upto), Some(99));
    }

    #[test]
    fn holes_become_gaps() {
        let mut ring = Ring::default();
        ring.begin(0, false);
        ring.push(1, event(1, "a", 0));
        ring.push(5, event(5, "b", 0));
        let chunk = ring.after(1, 10, 1 << 20).expect("in memory");
        assert!(matches!(&*chunk.entries[0], Entry::Gap(Gap { after: 1, next: 5, reason: Reason::Retention })));
        assert_eq!(chunk.entries[1].seq(), 5);
    }

    #[test]
    fn bounded_in_number_and_bytes() {
        let mut ring = Ring::default();
        ring.begin(0, false);
        for seq in 1..=EVENTS_MAX as u64 + 5 {
            ring.push(seq, event(seq, &seq.to_string(), 0));
        }
        assert_eq!(ring.floor(), 5);
        assert_eq!(ring.ids.len(), EVENTS_MAX);
        assert!(ring.after(4, 1, 1).is_none());
        for seq in 30_000..30_040 {
            ring.push(seq, event(seq, &seq.to_string(), 1 << 20));
        }
        assert!(ring.bytes <= BYTES_MAX && ring.entries.len() <= 16);
        ring.begin(0, true);
        assert_eq!((ring.epoch(), ring.bytes, ring.entries.len(), ring.head()), (1, 0, 0, 0));
    }

    #[test]
    fn the_last_n_that_match() {
        let mut ring = Ring::default();
        ring.begin(0, false);
        for seq in 1..=9 {
            ring.push(seq, event(seq, &seq.to_string(), 0));
        }
        let all = Filter::default();
        assert_eq!(ring.before_last(3, &all), Ok(6));
        assert_eq!(ring.before_last(0, &all), Ok(9));
        assert_eq!(ring.before_last(20, &all), Err(9));
    }
}
