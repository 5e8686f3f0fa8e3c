//! Which writes leave together where the server syncs every write: all that wait for the same stream,
//! as one atomic batch, one at a time. The server syncs a batch once.
//!
//! A batch is stored as a whole or not at all, and one message that the server refuses (a conflict, an
//! id it has already) refuses all of it. Its messages then leave again in smaller batches, at last one
//! by one, so that each gets an answer of its own. Pure: [`crate::outbox`] sends and receives.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

/// So few writes leave one by one: a batch has costs of its own, about those of so many syncs.
pub const FEW: usize = 6;
/// Messages of a batch; nats-server takes 1,000 and holds the stream while it stores them.
const GROUP_MAX: usize = 500;
/// Bytes of a batch, which the server stages and copies.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// A refused batch is split into so many.
const SPLIT: usize = 4;

/// A write that waits or is part of a batch.
#[derive(Clone, Copy, Debug)]
struct Item {
    n: u64,
    bytes: usize,
    /// Of the largest batch it may leave in.
    most: usize,
    /// It may have been stored already.
    doubted: bool,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Item>,
    /// Sent one by one and not answered.
    singles: usize,
    /// The batch in flight.
    group: Option<u64>,
    /// The stream does not take batches.
    refuses: bool,
}

#[derive(Debug)]
struct Group {
    lane: usize,
    items: Vec<Item>,
    sent: Instant,
}

/// Why a batch was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// One of its messages.
    Message,
    /// The server takes no more batches now.
    Busy,
    /// The stream takes none at all.
    Never,
}

/// A message to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Which write.
    pub n: u64,
    /// Its place in a batch.
    pub place: Option<Place>,
}

/// A place in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The batch.
    pub group: u64,
    /// From 1.
    pub index: usize,
    /// It ends the batch, which is then stored.
    pub last: bool,
}

/// The lanes of an outbox, one for each stream it writes to.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Vec<Lane>,
    by_stream: HashMap<String, usize>,
    groups: BTreeMap<u64, Group>,
    next_group: u64,
    waiting: usize,
}

impl Lanes {
    /// A write joins its stream's lane, whose number is given.
    pub fn join(&mut self, stream: &str, n: u64, bytes: usize) -> usize {
        let lane = self.by_stream.get(stream).copied().unwrap_or_else(|| {
            self.lanes.push(Lane::default());
            self.by_stream.insert(stream.to_owned(), self.lanes.len() - 1);
            self.lanes.len() - 1
        });
        self.lanes[lane].waiting.push_back(Item { n, bytes, most: GROUP_MAX, doubted: false });
        self.waiting += 1;
        lane
    }

    /// Whether no write waits to leave.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// What leaves now, in order. `unanswered` tells whether a write still needs to; with `grouping` off
    /// everything that waits leaves, one by one.
    pub fn leave(&mut self, grouping: bool, now: Instant, unanswered: impl Fn(u64) -> bool) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        if self.waiting == 0 {
            return leaving;
        }
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let before = lane.waiting.len();
            while lane.group.is_none()
                && let Some(first) = lane.waiting.front()
            {
                if !unanswered(first.n) {
                    lane.waiting.pop_front(); // a late answer came after it was given up
                    continue;
                }
                let alone = !grouping || lane.refuses || first.most <= 1 || lane.waiting.len() + lane.singles <= FEW;
                if alone {
                    leaving.push(Leaving { n: first.n, place: None });
                    lane.waiting.pop_front();
                    lane.singles += 1;
                    continue;
                }
                if lane.singles > 0 {
                    break; // the rest leaves together once these are answered
                }
                let items = take_group(&mut lane.waiting, &unanswered);
                if let [item] = items[..] {
                    leaving.push(Leaving { n: item.n, place: None });
                    lane.singles += 1;
                    continue;
                }
                self.next_group += 1;
                let (group, last) = (self.next_group, items.len());
                leaving.extend(
                    items
                        .iter()
                        .enumerate()
                        .map(|(i, item)| Leaving { n: item.n, place: Some(Place { group, index: i + 1, last: i + 1 == last }) }),
                );
                lane.group = Some(group);
                self.groups.insert(group, Group { lane: number, items, sent: now });
            }
            self.waiting -= before - lane.waiting.len();
        }
        leaving
    }

    /// A write that was sent one by one was answered.
    pub fn single_answered(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.singles = lane.singles.saturating_sub(1);
        }
    }

    /// A batch was stored, its last message at `last` and `count` messages in all: which write is
    /// where. `None` if that is not what was sent; its writes then leave one by one.
    pub fn stored(&mut self, group: u64, last: u64, count: u64) -> Option<Vec<(u64, u64)>> {
        let known = self.groups.get(&group)?;
        if known.items.len() as u64 != count || last < count {
            self.refused(group, Refusal::Busy);
            return None;
        }
        let (ended, _) = self.end(group)?;
        // Nothing comes between a batch's messages: the server stores them under one lock.
        Some(ended.items.iter().zip(last - count + 1..).map(|(item, seq)| (item.n, seq)).collect())
    }

    /// A batch was not stored: its writes leave again, before what waits.
    pub fn refused(&mut self, group: u64, why: Refusal) {
        // If it was given up, its writes wait or left already.
        let Some((ended, true)) = self.end(group) else { return };
        let Some(lane) = self.lanes.get_mut(ended.lane) else { return };
        lane.refuses |= why == Refusal::Never;
        let count = ended.items.len();
        for mut item in ended.items.into_iter().rev() {
            // If it was stored before, all of it was: each is then told as a repeat and costs no sync.
            item.most = if why == Refusal::Message && !item.doubted { (count / SPLIT).max(1) } else { 1 };
            lane.waiting.push_front(item);
            self.waiting += 1;
        }
    }

    /// Batches without an answer for `patience`, or all of them after a reconnect, leave again. An
    /// answer that comes late still counts. How many messages that are.
    pub fn give_up(&mut self, patience: Duration, now: Instant, unanswered: impl Fn(u64) -> bool) -> usize {
        let mut again = 0;
        for (number, group) in &self.groups {
            let Some(lane) = self.lanes.get_mut(group.lane).filter(|l| l.group == Some(*number)) else { continue };
            if now.duration_since(group.sent) < patience {
                continue;
            }
            lane.group = None;
            for item in group.items.iter().rev().filter(|i| unanswered(i.n)) {
                lane.waiting.push_front(Item { doubted: true, ..*item });
                again += 1;
            }
        }
        self.waiting += again;
        self.groups.retain(|_, group| group.items.iter().any(|i| unanswered(i.n)));
        again
    }

    /// Forgets a batch; tells also whether it was still waited for.
    fn end(&mut self, group: u64) -> Option<(Group, bool)> {
        let ended = self.groups.remove(&group)?;
        let lane = self.lanes.get_mut(ended.lane)?;
        let waited_for = lane.group == Some(group);
        if waited_for {
            lane.group = None;
        }
        Some((ended, waited_for))
    }
}

fn take_group(waiting: &mut VecDeque<Item>, unanswered: impl Fn(u64) -> bool) -> Vec<Item> {
    let (mut items, mut bytes, mut most) = (Vec::new(), 0, GROUP_MAX);
    while let Some(item) = waiting.front() {
        most = most.min(item.most);
        bytes += item.bytes;
        if !items.is_empty() && (items.len() >= most || bytes > GROUP_BYTES_MAX) {
            break;
        }
        items.extend(waiting.pop_front().filter(|i| unanswered(i.n)));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(n: u64) -> Lanes {
        let mut lanes = Lanes::default();
        (1..=n).for_each(|i| assert_eq!(lanes.join("s", i, 100), 0));
        lanes
    }
    fn leave(lanes: &mut Lanes) -> (Vec<u64>, Option<u64>) {
        let leaving = lanes.leave(true, Instant::now(), |_| true);
        assert!(leaving.iter().all(|l| l.place.is_some()) || leaving.iter().all(|l| l.place.is_none()), "{leaving:?}");
        if let Some(place) = leaving.last().and_then(|l| l.place) {
            assert!(place.last && place.index == leaving.len() && leaving.iter().filter(|l| l.place.is_some_and(|p| p.last)).count() == 1);
        }
        (leaving.iter().map(|l| l.n).collect(), leaving.last().and_then(|l| l.place).map(|p| p.group))
    }
    fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        range.collect()
    }

    #[test]
    fn few_leave_one_by_one_and_many_together() {
        let mut lanes = filled(FEW as u64);
        assert_eq!(leave(&mut lanes), (numbers(1..=6), None));
        (7..=20).for_each(|n| _ = lanes.join("s", n, 100));
        assert_eq!(leave(&mut lanes), (vec![], None), "they wait for those in flight");
        (1..=6).for_each(|_| lanes.single_answered(0));
        assert_eq!(leave(&mut lanes), (numbers(7..=20), Some(1)));
        lanes.join("s", 21, 100);
        assert_eq!(leave(&mut lanes), (vec![], None), "one batch in flight");
        lanes.join("other", 22, 100);
        assert_eq!(leave(&mut lanes), (vec![22], None), "of each stream");
        let stored = lanes.stored(1, 114, 14).expect("as sent");
        assert_eq!((stored.len(), stored[0], stored[13]), (14, (7, 101), (20, 114)));
        assert_eq!(leave(&mut lanes), (vec![21], None));
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_refused_batch_leaves_again_in_order_and_smaller() {
        let mut lanes = filled(20);
        assert_eq!(leave(&mut lanes), (numbers(1..=20), Some(1)));
        (21..=24).for_each(|n| _ = lanes.join("s", n, 100));
        lanes.refused(1, Refusal::Message);
        assert_eq!(leave(&mut lanes), (numbers(1..=5), Some(2)), "a quarter");
        lanes.refused(2, Refusal::Message);
        assert_eq!(leave(&mut lanes), (vec![1, 2, 3, 4, 5], None), "one by one at last");
        (1..=5).for_each(|_| lanes.single_answered(0));
        assert_eq!(leave(&mut lanes), (numbers(6..=10), Some(3)));
        assert_eq!(lanes.stored(3, 10, 5).map(|s| s[0]), Some((6, 6)));
        lanes.join("s", 25, 100);
        let (left, group) = leave(&mut lanes);
        assert_eq!((left, group), (numbers(11..=15), Some(4)));
        lanes.refused(4, Refusal::Never);
        assert_eq!(leave(&mut lanes), (numbers(11..=25), None), "a stream that takes no batches gets none");
    }

    #[test]
    fn what_may_be_stored_already_is_asked_once_more_as_a_batch() {
        let mut lanes = filled(20);
        assert_eq!(leave(&mut lanes).1, Some(1));
        assert_eq!(lanes.give_up(Duration::from_secs(60), Instant::now(), |_| true), 0);
        assert_eq!(lanes.give_up(Duration::ZERO, Instant::now(), |_| true), 20);
        assert_eq!(leave(&mut lanes), (numbers(1..=20), Some(2)));
        lanes.refused(2, Refusal::Message);
        assert_eq!(leave(&mut lanes), (numbers(1..=20), None));
    }

    #[test]
    fn a_late_answer_counts() {
        let mut lanes = filled(20);
        assert_eq!(leave(&mut lanes).1, Some(1));
        lanes.give_up(Duration::ZERO, Instant::now(), |_| true);
        lanes.join("s", 21, 100);
        assert_eq!(lanes.stored(1, 20, 20).map(|s| s.len()), Some(20));
        assert_eq!(lanes.leave(true, Instant::now(), |n| n == 21), [Leaving { n: 21, place: None }]);
        assert!(lanes.is_empty() && lanes.groups.is_empty());
    }

    #[test]
    fn bytes_bound_a_batch_and_a_wrong_count_is_no_answer() {
        let mut lanes = Lanes::default();
        (1..=20).for_each(|n| _ = lanes.join("s", n, GROUP_BYTES_MAX / 10));
        let (left, group) = leave(&mut lanes);
        assert_eq!((left, group), (numbers(1..=10), Some(1)));
        assert_eq!(lanes.stored(1, 100, 9), None);
        assert_eq!(leave(&mut lanes).0, numbers(1..=10));
    }
}
