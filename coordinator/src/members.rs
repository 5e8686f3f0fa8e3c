//! Which coordinators there are, and who has which shard. Each tells all others several times a
//! second; what follows from that is computed by everyone alike. It need not be exact: checkpoints are
//! the fence, this only keeps coordinators out of each other's way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// How often a coordinator tells that it lives.
pub const BEAT_EVERY: Duration = Duration::from_millis(250);
/// One that was not heard for so long is gone: several signs of life, since machines stall.
const GONE_AFTER: Duration = Duration::from_millis(1500);
/// Who does not even hear itself knows nothing about others.
const DEAF_AFTER: Duration = Duration::from_millis(750);
/// After a start others get the time to answer before shards are taken.
const LISTEN_FOR: Duration = Duration::from_millis(300);

/// A coordinator's sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who.
    pub coordinator_id: String,
    /// Its shards, each with the revision of the checkpoint by which it has it: the higher one is newer.
    pub shards: BTreeMap<u32, u64>,
    /// It takes no more shards and gives up those it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// It has just started: everyone else tells at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hello: bool,
}

/// The coordinators heard of.
pub struct Members {
    me: String,
    since: Instant,
    heard: BTreeMap<String, (Instant, Beat)>,
}

/// What a coordinator should do about shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Take these.
    pub take: Vec<u32>,
    /// Give these up, for others to take.
    pub give: Vec<u32>,
    /// Someone else has these by a newer checkpoint.
    pub lost: Vec<u32>,
}

impl Members {
    /// Nobody was heard yet.
    pub fn new(me: &str) -> Self {
        Self { me: me.to_owned(), since: Instant::now(), heard: BTreeMap::new() }
    }

    /// Takes in a sign of life, one's own as well.
    pub fn hear(&mut self, beat: Beat, now: Instant) {
        self.heard.insert(beat.coordinator_id.clone(), (now, beat));
    }

    /// Who has which shard, as far as known now.
    pub fn owners(&self, now: Instant) -> BTreeMap<u32, &str> {
        let alive = self.heard.values().filter(|(at, _)| now.duration_since(*at) < GONE_AFTER);
        alive.flat_map(|(_, b)| b.shards.keys().map(|s| (*s, b.coordinator_id.as_str()))).collect()
    }

    /// What to do, having `mine`, each with the revision of its checkpoint.
    pub fn moves(&mut self, mine: &BTreeMap<u32, u64>, shards: u32, now: Instant) -> Moves {
        self.heard.retain(|_, (at, _)| now.duration_since(*at) < GONE_AFTER);
        let hears = self.heard.get(&self.me).is_some_and(|(at, _)| now.duration_since(*at) < DEAF_AFTER);
        if !hears || now.duration_since(self.since) < LISTEN_FOR {
            return Moves::default();
        }
        let others: Vec<&Beat> = self.heard.values().map(|(_, b)| b).filter(|b| b.coordinator_id != self.me).collect();
        moves(&self.me, mine, &others, shards)
    }
}

/// The rule: nobody has more than its share, rounded up; a shard that nobody has goes to whoever has the
/// fewest, the smaller id first. Shards do not move otherwise.
fn moves(me: &str, mine: &BTreeMap<u32, u64>, others: &[&Beat], shards: u32) -> Moves {
    let newer = |shard: &u32, revision: &u64| others.iter().any(|b| b.shards.get(shard).is_some_and(|r| r > revision));
    let lost: Vec<u32> = mine.iter().filter(|(s, r)| newer(s, r)).map(|(s, _)| *s).collect();
    let kept: Vec<u32> = mine.keys().filter(|s| !lost.contains(s)).copied().collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::from([(me, kept.len())]);
    for b in others.iter().filter(|b| !b.leaving) {
        counts.insert(&b.coordinator_id, b.shards.len());
    }
    let share = (shards as usize).div_ceil(counts.len());
    let give: Vec<u32> = kept.iter().skip(share).copied().collect();
    let taken: BTreeSet<u32> = others.iter().flat_map(|b| b.shards.keys()).chain(&kept).copied().collect();
    let mut take = Vec::new();
    for shard in (0..shards).filter(|s| !taken.contains(s)) {
        let Some((who, count)) = counts.iter().map(|(id, n)| (*n, *id)).min().map(|(n, id)| (id, n)) else { break };
        if who == me {
            take.push(shard);
        }
        counts.insert(who, count + 1);
    }
    Moves { take, give, lost }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(id: &str, shards: &[u32]) -> Beat {
        Beat { coordinator_id: id.into(), shards: shards.iter().map(|s| (*s, 1)).collect(), ..Beat::default() }
    }
    fn own(shards: &[u32]) -> BTreeMap<u32, u64> {
        shards.iter().map(|s| (*s, 1)).collect()
    }

    #[test]
    fn one_takes_all_and_gives_half_to_a_second() {
        assert_eq!(moves("a", &own(&[]), &[], 8).take, [0, 1, 2, 3, 4, 5, 6, 7]);
        let b = beat("b", &[]);
        let m = moves("a", &own(&[0, 1, 2, 3, 4, 5, 6, 7]), &[&b], 8);
        assert_eq!((m.give, m.take), (vec![4, 5, 6, 7], vec![]));
        let a = beat("a", &[0, 1, 2, 3]);
        assert_eq!(moves("b", &own(&[]), &[&a], 8).take, [4, 5, 6, 7]);
    }

    /// From any state, with everyone seeing the same, every shard has one owner after two rounds.
    #[test]
    fn everyone_computes_the_same() {
        for n in 1..=12u32 {
            let ids: Vec<String> = (0..n).map(|i| format!("c{i:02}")).collect();
            let mut has: Vec<Vec<u32>> = (0..n).map(|i| if i == 0 { (0..8).collect() } else { Vec::new() }).collect();
            for _ in 0..2 {
                let beats: Vec<Beat> = ids.iter().zip(&has).map(|(id, s)| beat(id, s)).collect();
                for i in 0..n as usize {
                    let others: Vec<&Beat> = beats.iter().filter(|b| b.coordinator_id != ids[i]).collect();
                    let m = moves(&ids[i], &own(&has[i].clone()), &others, 8);
                    has[i].retain(|s| !m.give.contains(s));
                    has[i].extend(m.take);
                }
            }
            let mut all: Vec<u32> = has.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..8).collect::<Vec<_>>(), "{n}");
            assert!(has.iter().all(|s| s.len() <= 8usize.div_ceil(n as usize)), "{n}: {has:?}");
        }
    }

    #[test]
    fn the_newer_checkpoint_wins_and_the_leaving_take_nothing() {
        let mut b = beat("b", &[]);
        b.shards.insert(3, 9);
        assert_eq!(moves("a", &own(&[3, 4]), &[&b], 8).lost, [3]);
        let leaving = Beat { leaving: true, ..beat("b", &[0, 1]) };
        let m = moves("a", &own(&[2, 3, 4, 5, 6, 7]), &[&leaving], 8);
        assert_eq!(m, Moves::default());
    }

    #[test]
    fn who_does_not_hear_itself_takes_nothing() {
        let mut m = Members::new("a");
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(m.moves(&own(&[]), 8, later), Moves::default());
        m.hear(beat("a", &[]), later);
        assert_eq!(m.moves(&own(&[]), 8, later).take.len(), 8);
    }
}
