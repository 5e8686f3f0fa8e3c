//! Who follows the log is told in turns that there is more.
//!
//! To wake a client and write to it costs about 16 µs, most of it in the kernel, and as much again where it reads. A thousand
//! that are told in one instant keep two cores busy for as long as that takes, and the last one waits for all the others. So
//! clients are in groups, each with its own turn, and what comes between two turns goes in one write.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::Head;

/// More of them would need shorter waits than timers can do.
const GROUPS: usize = 8;
/// A group's turn comes again after this times the number of all clients: writing takes two thirds of a core at most. Fewer
/// than 40 clients wait for nothing.
const PACE_OF_ONE: Duration = Duration::from_micros(25);
/// Below this a timer would wait for longer than it was asked to.
const PACE_MIN: Duration = Duration::from_millis(1);
/// Nobody waits for longer, however many there are.
const PACE_MAX: Duration = Duration::from_millis(100);

/// The groups.
pub(super) struct Groups([watch::Sender<Head>; GROUPS]);

impl Groups {
    /// Nobody is in any of them.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| watch::Sender::new(Head::default())))
    }

    /// Joins the smallest one.
    pub fn join(&self) -> watch::Receiver<Head> {
        let smallest = self.0.iter().min_by_key(|group| group.receiver_count()).unwrap_or(&self.0[0]);
        smallest.subscribe()
    }

    fn tell(&self, group: usize, head: Head) {
        self.0[group].send_if_modified(|old| std::mem::replace(old, head) != head);
    }

    /// How much time is between two turns.
    fn step(&self) -> Duration {
        let clients: usize = self.0.iter().map(watch::Sender::receiver_count).sum();
        let pace = (PACE_OF_ONE * u32::try_from(clients).unwrap_or(u32::MAX)).min(PACE_MAX);
        if pace < PACE_MIN { Duration::ZERO } else { pace / GROUPS as u32 }
    }
}

/// Whose turn it is.
pub(super) struct Turns {
    next: usize,
    /// When that is.
    at: Instant,
    /// Groups that have not been told of what came last.
    left: usize,
}

impl Turns {
    /// The first group's turn is now.
    pub fn new() -> Self {
        Self { next: 0, at: Instant::now(), left: 0 }
    }

    /// There is more. Of another stream everyone hears at once: who still goes by the one before finds nothing in it.
    pub fn more(&mut self, groups: &Groups, head: Head) {
        if groups.step().is_zero() || groups.0[0].borrow().generation != head.generation {
            self.left = 0;
            (0..GROUPS).for_each(|group| groups.tell(group, head));
        } else {
            self.left = GROUPS;
        }
    }

    /// Waits for the next turn of a group that is to be told. Cancel safe.
    pub async fn come(&self) {
        if self.left == 0 {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.at).await;
    }

    /// The group whose turn has come is told.
    pub fn take(&mut self, groups: &Groups, head: Head) {
        groups.tell(self.next, head);
        self.next = (self.next + 1) % GROUPS;
        self.left -= 1;
        let step = groups.step();
        // A timer that was late is made up for, a quiet time is not.
        self.at = self.at.max(Instant::now() - step) + step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(seq: u64) -> Head {
        Head { seq, ..Head::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn each_group_is_told_within_a_round_and_of_the_newest() {
        let (groups, mut turns) = (Groups::new(), Turns::new());
        let mut clients: Vec<_> = (0..800).map(|_| groups.join()).collect();
        let began = Instant::now();
        turns.more(&groups, head(1));
        let mut told_first = 0;
        for n in 0..GROUPS {
            if n == GROUPS / 2 {
                turns.more(&groups, head(2)); // another one in the middle of the round
            }
            turns.come().await;
            turns.take(&groups, head(if n < GROUPS / 2 { 1 } else { 2 }));
            told_first = told_first.max(clients.iter().filter(|c| c.has_changed().unwrap_or(false)).count());
        }
        assert_eq!(told_first, 800, "everyone is told within one round");
        assert!(began.elapsed() <= PACE_OF_ONE * 800, "{:?}", began.elapsed());
        while turns.left > 0 {
            turns.come().await;
            turns.take(&groups, head(2));
        }
        assert!(clients.iter_mut().all(|c| c.borrow_and_update().seq == 2));
        assert!(tokio::time::timeout(Duration::from_secs(9), turns.come()).await.is_err(), "nobody's turn comes when all know");
    }

    #[tokio::test(start_paused = true)]
    async fn groups_are_of_one_size_and_told_apart() {
        let (groups, mut turns) = (Groups::new(), Turns::new());
        let clients: Vec<_> = (0..80).map(|_| groups.join()).collect();
        turns.more(&groups, head(1));
        turns.come().await;
        turns.take(&groups, head(1));
        assert_eq!(clients.iter().filter(|c| c.has_changed().unwrap_or(false)).count(), 80 / GROUPS);
    }

    #[test]
    fn a_few_are_told_at_once() {
        let groups = Groups::new();
        let clients: Vec<_> = (0..39).map(|_| groups.join()).collect();
        let mut turns = Turns::new();
        turns.more(&groups, head(1));
        assert!(clients.iter().all(|c| c.has_changed().unwrap_or(false)) && turns.left == 0);
    }

    #[test]
    fn another_stream_is_told_at_once() {
        let groups = Groups::new();
        let mut clients: Vec<_> = (0..800).map(|_| groups.join()).collect();
        let mut turns = Turns::new();
        turns.more(&groups, Head { generation: 1, ..head(1) });
        assert!(clients.iter_mut().all(|c| c.borrow_and_update().generation == 1) && turns.left == 0);
    }
}
