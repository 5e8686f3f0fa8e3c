//! Writes repeated until they are answered, in order: after a broken connection nothing new goes out
//! before what may have been lost.

use std::{collections::BTreeMap, rc::Rc};

use super::{Time, server::Write};

/// A write is sent again after this long.
pub const RESEND_AFTER: Time = 200;

/// Unanswered writes.
pub struct Outbox<T> {
    next: u64,
    /// With when it was sent last, and whether more than once.
    pub pending: BTreeMap<u64, (T, Rc<Write>, Time, bool)>,
}

impl<T> Outbox<T> {
    pub fn new() -> Self {
        Self { next: 0, pending: BTreeMap::new() }
    }
    pub fn add(&mut self, tag: T, write: Write, now: Time) -> (u64, Rc<Write>) {
        self.next += 1;
        let write = Rc::new(write);
        self.pending.insert(self.next, (tag, write.clone(), now, false));
        (self.next, write)
    }
    /// An answered write's tag, and whether it was sent more than once.
    pub fn take(&mut self, n: u64) -> Option<(T, bool)> {
        self.pending.remove(&n).map(|(tag, _, _, again)| (tag, again))
    }
    /// What is to be sent again: everything, or what is unanswered for long.
    pub fn due(&mut self, all: bool, now: Time) -> Vec<(u64, Rc<Write>)> {
        let mut due = Vec::new();
        for (n, (_, write, sent, again)) in &mut self.pending {
            if all || now.saturating_sub(*sent) >= RESEND_AFTER {
                (*sent, *again) = (now, true);
                due.push((*n, write.clone()));
            }
        }
        due
    }
}
