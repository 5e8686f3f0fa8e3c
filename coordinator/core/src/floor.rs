//! Up to where everything is taken care of: the position at which a successor starts reading.

use std::collections::{BTreeSet, VecDeque};

/// Positions in the order they were opened; the floor is the highest position below which all are
/// closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    open: VecDeque<(u64, Option<u64>, bool)>,
    next: u64,
    floor: u64,
}

impl Floor {
    /// A floor that starts at `floor`.
    pub fn new(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }
    /// Opens the next entry; its position may become known later.
    pub fn open(&mut self, position: Option<u64>) -> u64 {
        self.next += 1;
        self.open.push_back((self.next, position, false));
        self.next
    }
    /// Tells an entry's position.
    pub fn place(&mut self, entry: u64, position: u64) {
        if let Some(e) = self.find(entry) {
            e.1 = Some(position);
        }
    }
    /// Closes an entry: everything it caused is stored, or it caused nothing.
    pub fn close(&mut self, entry: u64) {
        if let Some(e) = self.find(entry) {
            e.2 = true;
        }
        while let Some((_, position, true)) = self.open.front().copied() {
            self.floor = self.floor.max(position.unwrap_or(0));
            self.open.pop_front();
        }
    }
    fn find(&mut self, entry: u64) -> Option<&mut (u64, Option<u64>, bool)> {
        let first = self.open.front()?.0;
        self.open.get_mut(usize::try_from(entry.checked_sub(first)?).ok()?)
    }
    /// The floor.
    pub fn get(&self) -> u64 {
        self.floor
    }
    /// Entries not closed, and those behind them.
    pub fn held(&self) -> usize {
        self.open.len()
    }
}

/// Which sequences of a stream are known: all up to a point, and some beyond it. What is missing in
/// between was written by someone else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    up_to: u64,
    head: u64,
    beyond: BTreeSet<u64>,
}

impl Known {
    /// Everything up to `up_to` is known.
    pub fn new(up_to: u64) -> Self {
        Self { up_to, head: up_to, beyond: BTreeSet::new() }
    }
    /// One more is known.
    pub fn add(&mut self, seq: u64) {
        if seq > self.up_to {
            self.beyond.insert(seq);
            self.close_up();
        }
    }
    /// Everything up to `seq` is known.
    pub fn add_up_to(&mut self, seq: u64) {
        self.up_to = self.up_to.max(seq);
        self.beyond = self.beyond.split_off(&(self.up_to + 1));
        self.close_up();
    }
    fn close_up(&mut self) {
        while self.beyond.first() == Some(&(self.up_to + 1)) {
            self.beyond.pop_first();
            self.up_to += 1;
        }
    }
    /// Everything up to here is known.
    pub fn up_to(&self) -> u64 {
        self.up_to
    }
    /// The stream reaches up to `seq`.
    pub fn reaches(&mut self, seq: u64) {
        self.head = self.head.max(seq);
    }
    /// Whether the stream has something that is not known.
    pub fn has_gap(&self) -> bool {
        !self.beyond.is_empty() || self.head > self.up_to
    }
    /// From where on something is not known, if anything is.
    pub fn unknown_from(&self) -> Option<u64> {
        self.has_gap().then_some(self.up_to + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_seen_and_closed() {
        let mut k = Known::new(4);
        k.add(5);
        k.add(8);
        assert_eq!((k.up_to(), k.has_gap()), (5, true));
        k.add_up_to(7);
        assert_eq!((k.up_to(), k.has_gap()), (8, false));
        k.reaches(9);
        assert!(k.has_gap());
    }

    #[test]
    fn the_floor_waits_for_the_oldest() {
        let mut f = Floor::new(3);
        let (a, b, c) = (f.open(Some(5)), f.open(None), f.open(Some(9)));
        f.close(c);
        f.close(a);
        assert_eq!(f.get(), 5);
        f.place(b, 7);
        f.close(b);
        assert_eq!((f.get(), f.held()), (9, 0));
        f.close(a);
        assert_eq!(f.get(), 9);
    }
}
