//! Up to where everything is taken care of: the position at which a successor starts reading.

use std::collections::VecDeque;

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

#[cfg(test)]
mod tests {
    use super::*;

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
