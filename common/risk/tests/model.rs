//! Reservations in every order that two workers and a coordinator can have: read, swap, act, settle, die at any point,
//! come back. In no state has more been done than the limit allows; and where nothing can happen any more,
//! nothing stays reserved. Each planted bug is found.

use std::collections::BTreeSet;

use haltline_risk::{Action, Book, Kind, Open, Rule};
use haltline_types::{
    Millis, Timestamp,
    control::Scope,
    risk::{Fill, Order, Side},
};

/// A bug that a person could make.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// The record is put over what others stored since it was read.
    Put,
    /// What is wanted is compared with the limit and reserved after the action.
    ActFirst,
    /// Whoever goes on with what a worker left behind gives its reservation back without asking.
    ReleaseInDoubt,
    /// What is settled is not counted any more.
    SettledIsFree,
    /// An outcome that is told twice counts twice.
    KeyPerTry,
}

/// Where a worker is with its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Begin,
    /// It has read the record at that revision.
    Read(usize),
    Reserved,
    /// It has acted and read the record.
    Acted,
    Settling(usize),
    /// It is over, done or refused.
    Over,
    /// It died; somebody else is to find out.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Worker {
    at: At,
    /// How often it may still die.
    deaths: u8,
    /// The venue took its order.
    filled: bool,
}

#[derive(Clone, Debug)]
struct State {
    workers: Vec<Worker>,
    /// Every record that was stored, the last one counts.
    stored: Vec<Book>,
}

/// What tells states apart: records, by their text.
type Seen = (Vec<Worker>, Vec<String>);

fn rule() -> Rule {
    Rule { window: Some(Millis::secs(60)), ..Rule::new(Scope::Global, Kind::NotionalPerWindow, 100.into(), Action::Refuse) }
}

/// Sizes of the orders: not all fit.
const SIZES: [i64; 3] = [60, 40, 30];

fn order(i: usize) -> Order {
    Order { symbol: "IBM".into(), side: Side::Buy, quantity: SIZES[i].into(), price: Some(1.into()) }
}

impl State {
    fn begin(workers: usize, deaths: u8) -> Self {
        let worker = Worker { at: At::Begin, deaths, filled: false };
        Self { workers: vec![worker; workers], stored: vec![Book::default()] }
    }

    fn seen(&self) -> Seen {
        // Only the latest record, and those that somebody has read, can have an effect.
        let used =
            |n: usize| n + 1 == self.stored.len() || self.workers.iter().any(|w| matches!(w.at, At::Read(r) | At::Settling(r) if r == n));
        let texts = self.stored.iter().enumerate().filter(|(n, _)| used(*n));
        (self.workers.clone(), texts.map(|(n, book)| format!("{n} {}", serde_json::to_string(book).expect("json"))).collect())
    }

    fn key(&self, i: usize, bug: Bug) -> String {
        // A retry has the key of what it repeats.
        if bug == Bug::KeyPerTry { format!("o{i}/{}", self.workers[i].deaths) } else { format!("o{i}") }
    }

    fn latest(&self) -> usize {
        self.stored.len() - 1
    }

    /// Stores a record by compare-and-swap. Whether it was.
    fn swap(&mut self, read: usize, book: Book, bug: Bug) -> bool {
        let fits = read == self.latest() || bug == Bug::Put;
        if fits && self.stored.last() != Some(&book) {
            self.stored.push(book);
        }
        fits
    }

    fn settle(&self, i: usize, book: &mut Book, bug: Bug) {
        let (key, order) = (self.key(i, bug), order(i));
        if bug == Bug::SettledIsFree {
            book.release(&key);
            return;
        }
        let price = order.price.unwrap_or_default();
        let fill = Fill { id: key.clone(), venue: String::new(), symbol: order.symbol, side: order.side, quantity: order.quantity, price };
        book.settle(&key, Some(&fill), Timestamp(1));
    }

    /// Everything that can happen next.
    fn next(&self, bug: Bug) -> Vec<Self> {
        let mut all = Vec::new();
        for (i, worker) in self.workers.iter().enumerate() {
            let mut to = |change: &mut dyn FnMut(&mut Self)| {
                let mut next = self.clone();
                change(&mut next);
                all.push(next);
            };
            match worker.at {
                At::Begin => to(&mut |s| s.workers[i].at = At::Read(s.latest())),
                At::Read(read) => to(&mut |s| {
                    let mut book = s.stored[read].clone();
                    let wanted = Open { at: Timestamp(0), execution_id: "e".into(), node_id: "n".into(), order: Some(order(i)) };
                    let key = s.key(i, bug);
                    let allowed = book.reserve(&[&rule()], &key, wanted, true).is_ok();
                    let stored = match (allowed, bug) {
                        (true, Bug::ActFirst) => true,
                        (true, _) => s.swap(read, book, bug),
                        // A copy that refuses is read anew first.
                        (false, _) => read == s.latest(),
                    };
                    s.workers[i].at = match (stored, allowed) {
                        (true, true) => At::Reserved,
                        (true, false) => At::Over,
                        (false, _) => At::Begin,
                    };
                }),
                At::Reserved => to(&mut |s| {
                    // The venue knows the order by its key: it is taken once.
                    s.workers[i].filled = true;
                    s.workers[i].at = At::Acted;
                }),
                At::Acted => to(&mut |s| s.workers[i].at = At::Settling(s.latest())),
                At::Settling(read) => to(&mut |s| {
                    let mut book = s.stored[read].clone();
                    s.settle(i, &mut book, bug);
                    s.workers[i].at = if s.swap(read, book, bug) { At::Over } else { At::Acted };
                }),
                At::Over => {}
                At::Dead => {
                    // Its task is delivered again: the venue is asked, and it goes on with the same key.
                    to(&mut |s| {
                        if bug == Bug::ReleaseInDoubt {
                            let (mut book, key) = (s.stored[s.latest()].clone(), s.key(i, bug));
                            book.release(&key);
                            s.swap(s.latest(), book, bug);
                            s.workers[i].at = At::Over;
                            return;
                        }
                        s.workers[i].at = if s.workers[i].filled { At::Acted } else { At::Begin };
                    });
                }
            }
            if worker.deaths > 0 && !matches!(worker.at, At::Over | At::Dead) {
                let mut next = self.clone();
                next.workers[i].deaths -= 1;
                next.workers[i].at = At::Dead;
                all.push(next);
            }
        }
        all
    }

    /// What is wrong here.
    fn wrong(&self, last: bool) -> Option<String> {
        let done: i64 = self.workers.iter().enumerate().filter(|(_, w)| w.filled).map(|(i, _)| SIZES[i]).sum();
        if done > 100 {
            return Some(format!("{done} of 100 was done"));
        }
        let book = self.stored.last()?;
        if last && !book.open.is_empty() {
            return Some(format!("stays reserved: {:?}", book.open.keys()));
        }
        let counted: i64 =
            book.spent.iter().filter_map(|s| i64::try_from(s.notional.mantissa()).ok().map(|m| m / 10i64.pow(s.notional.scale()))).sum();
        (last && counted != done).then(|| format!("{counted} is counted, {done} was done"))
    }
}

/// Looks at every state; how many there are, or what is wrong.
fn look(workers: usize, deaths: u8, bug: Bug) -> Result<usize, String> {
    let (mut seen, mut open) = (BTreeSet::<Seen>::new(), vec![State::begin(workers, deaths)]);
    while let Some(state) = open.pop() {
        if !seen.insert(state.seen()) {
            continue;
        }
        let next = state.next(bug);
        if let Some(why) = state.wrong(next.is_empty()) {
            return Err(format!("{why}: {state:?}"));
        }
        open.extend(next);
    }
    Ok(seen.len())
}

#[test]
fn no_order_of_steps_passes_the_limit() {
    for (workers, deaths) in [(2, 0), (2, 1), (2, 2), (3, 0), (3, 1)] {
        let states = look(workers, deaths, Bug::None).expect("holds");
        println!("{workers} workers that die {deaths} times each: {states} states");
        assert!(states > 30, "{states}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::Put, Bug::ActFirst, Bug::ReleaseInDoubt, Bug::SettledIsFree, Bug::KeyPerTry] {
        let found = look(3, 1, bug).expect_err(&format!("{bug:?} was not found"));
        println!("{bug:?}: {}", found.split(": State").next().unwrap_or_default());
    }
}
