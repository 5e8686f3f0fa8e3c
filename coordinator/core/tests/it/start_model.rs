//! Who tells start and end of an execution that is one task, as a model looked at in every state it can reach.
//!
//! Two coordinators that may both believe to own its shard; a worker that has its task, and one that is given it as
//! well; a cancel at any moment. The server stores a message that has the start only while there is no input, and
//! drops a repeat of an id. Each takes one step at a time in any order: who stalls takes none for a while.

use crate::model::search::{Found, Model, Name, search};

/// A message of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    /// The start alone.
    Start,
    /// The first walk's message with the start, perhaps with its result and the end.
    Opening {
        ends: bool,
    },
    /// A walk's result without either.
    Result(u8),
    /// The second walk has claimed the task.
    Claim,
    Cancel,
    /// The end as a coordinator told it.
    End {
        cancelled: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Coordinator {
    Away,
    Here(Live),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Live {
    /// How much of the log it has read.
    read: usize,
    /// It knows that the log has the start.
    started: bool,
    /// A cancel waits for the start.
    asked: bool,
    cancelled: bool,
    claimed: bool,
    /// The end, and whether it is in the log.
    end: Option<(bool, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Walk {
    Waits,
    Has,
    /// Its message with the start may have been stored.
    Unsure {
        ends: bool,
    },
    /// It was refused: the start is there.
    Refused {
        ends: bool,
    },
    /// The start is told, the result is not.
    Begun,
    /// It has claimed the task.
    Claimed,
    Over,
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    log: Vec<Entry>,
    /// The first walk's message is known by its id.
    stored: bool,
    coordinators: [Coordinator; 2],
    walks: [Walk; 2],
    cancels: u8,
    deaths: u8,
    rivals: u8,
    lost: u8,
    redeliveries: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A coordinator tells the start also where there is an input.
    StartUnfenced,
    /// So does a worker.
    OpeningUnfenced,
    /// A cancel does not wait for the start.
    CancelFirst,
    /// What was refused is told again under another id.
    OtherId,
    /// The end stands also in what is told again.
    EndAgain,
    /// A second worker does not look for the start.
    NoBegin,
}

/// A small installation, with or without a mistake.
struct Protocol {
    cancels: u8,
    deaths: u8,
    rivals: u8,
    lost: u8,
    redeliveries: u8,
    bug: Bug,
}

const ALL: Protocol = Protocol { cancels: 1, deaths: 1, rivals: 1, lost: 1, redeliveries: 1, bug: Bug::None };

fn has_input(log: &[Entry]) -> bool {
    log.iter().any(|e| matches!(e, Entry::Start | Entry::Opening { .. } | Entry::Result(_)))
}

fn has_start(log: &[Entry]) -> bool {
    log.iter().any(|e| matches!(e, Entry::Start | Entry::Opening { .. }))
}

impl Live {
    /// The one mutator: what a coordinator makes of a message.
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Start => self.started = true,
            Entry::Opening { ends } => {
                self.started = true;
                if ends && self.end.is_none() {
                    self.end = Some((false, true));
                }
            }
            Entry::Claim => self.claimed = true,
            Entry::Cancel => self.cancelled = true,
            Entry::Result(walk) if walk == 0 && self.claimed => {}
            Entry::Result(_) => {
                if self.end.is_none() {
                    self.end = Some((self.cancelled, false));
                }
            }
            Entry::End { cancelled } => self.end = Some((cancelled, true)),
        }
    }
}

impl Protocol {
    fn coordinator(&self, s: &State, c: usize, out: &mut Vec<(Name, State)>) {
        let mut step = |what, f: &dyn Fn(&mut State)| {
            let mut next = s.clone();
            f(&mut next);
            out.push((("coordinator", c, what), next));
        };
        let other = s.coordinators[1 - c];
        let Coordinator::Here(live) = s.coordinators[c] else {
            let rival = other != Coordinator::Away;
            if !rival || s.rivals > 0 {
                step("takes over", &|n| {
                    n.rivals -= u8::from(rival);
                    let mut live = Live { read: n.log.len(), ..Live::default() };
                    n.log.iter().for_each(|e| live.apply(*e));
                    n.coordinators[c] = Coordinator::Here(live);
                });
            }
            return;
        };
        let set = |n: &mut State, live| n.coordinators[c] = Coordinator::Here(live);
        if s.deaths > 0 {
            step("dies", &|n| {
                n.deaths -= 1;
                // Who asked it to cancel asks again.
                n.cancels += u8::from(live.asked);
                n.coordinators[c] = Coordinator::Away;
            });
        }
        if let Some(entry) = s.log.get(live.read) {
            step("reads", &|n| {
                let mut live = Live { read: live.read + 1, ..live };
                live.apply(*entry);
                set(n, live);
            });
        }
        if !live.started {
            step("tells the start", &|n| {
                if !has_input(&n.log) || self.bug == Bug::StartUnfenced {
                    n.log.push(Entry::Start);
                }
                set(n, Live { started: true, ..live });
            });
        }
        if s.cancels > 0 && live.end.is_none() {
            step("is asked to cancel", &|n| {
                n.cancels -= 1;
                set(n, Live { asked: true, ..live });
            });
        }
        if live.asked && (live.started || self.bug == Bug::CancelFirst) {
            step("stores the cancel", &|n| {
                n.log.push(Entry::Cancel);
                set(n, Live { asked: false, ..live });
            });
        }
        if let Some((cancelled, false)) = live.end {
            step("tells the end", &|n| {
                if !n.log.iter().any(|e| matches!(e, Entry::End { .. })) {
                    n.log.push(Entry::End { cancelled });
                }
                set(n, Live { end: Some((cancelled, true)), ..live });
            });
        }
    }

    fn first_walk(&self, s: &State, out: &mut Vec<(Name, State)>) {
        let mut step = |what, f: &dyn Fn(&mut State)| {
            let mut next = s.clone();
            f(&mut next);
            out.push((("worker", 0, what), next));
        };
        let open = |n: &mut State, ends: bool| {
            if has_input(&n.log) && self.bug != Bug::OpeningUnfenced {
                n.walks[0] = Walk::Refused { ends };
                return;
            }
            n.log.push(Entry::Opening { ends });
            n.stored = true;
            n.walks[0] = if ends { Walk::Over } else { Walk::Begun };
        };
        let result = |n: &mut State| {
            n.log.push(Entry::Result(0));
            n.walks[0] = Walk::Over;
        };
        let now = s.walks[0];
        if s.deaths > 0 && !matches!(now, Walk::Over | Walk::Dead) {
            step("dies", &|n| {
                n.deaths -= 1;
                n.walks[0] = Walk::Dead;
            });
        }
        match now {
            Walk::Waits => step("is given the task", &|n| n.walks[0] = Walk::Has),
            Walk::Has => {
                for ends in [true, false] {
                    step(if ends { "tells all" } else { "tells the start and more" }, &|n| open(n, ends));
                    if s.lost > 0 {
                        step("tells it and hears nothing", &|n| {
                            open(n, ends);
                            n.lost -= 1;
                            n.walks[0] = Walk::Unsure { ends };
                        });
                    }
                }
            }
            Walk::Unsure { ends } => step("tells it again", &|n| open(n, ends)),
            // What only told is a note then, and the result follows.
            Walk::Refused { ends: false } => step("goes on", &|n| n.walks[0] = Walk::Begun),
            Walk::Refused { ends: true } => step("tells the rest", &|n| {
                if !n.stored || self.bug == Bug::OtherId {
                    n.log.push(if self.bug == Bug::EndAgain { Entry::Opening { ends: true } } else { Entry::Result(0) });
                }
                n.walks[0] = Walk::Over;
            }),
            Walk::Begun => step("tells its result", &result),
            Walk::Claimed | Walk::Over | Walk::Dead => {}
        }
    }

    /// The walk of a worker that is given the task after, or beside, the first one.
    fn second_walk(&self, s: &State, out: &mut Vec<(Name, State)>) {
        let mut step = |what, f: &dyn Fn(&mut State)| {
            let mut next = s.clone();
            f(&mut next);
            out.push((("worker", 1, what), next));
        };
        let until_claimed = s.log.iter().take_while(|e| **e != Entry::Claim);
        let done = until_claimed.into_iter().any(|e| matches!(e, Entry::Result(0) | Entry::Opening { ends: true }))
            || s.log.iter().any(|e| matches!(e, Entry::Result(1) | Entry::End { .. }));
        match s.walks[1] {
            Walk::Waits if s.walks[0] == Walk::Dead => step("is given the task", &|n| n.walks[1] = Walk::Has),
            Walk::Waits if s.redeliveries > 0 && !matches!(s.walks[0], Walk::Waits | Walk::Over) => {
                step("is given the task as well", &|n| {
                    n.redeliveries -= 1;
                    n.walks[1] = Walk::Has;
                })
            }
            Walk::Has if done => step("finds it done", &|n| n.walks[1] = Walk::Over),
            Walk::Has if !has_start(&s.log) && self.bug != Bug::NoBegin => step("tells the start", &|n| n.log.push(Entry::Start)),
            Walk::Has => step("claims the task", &|n| {
                n.log.push(Entry::Claim);
                n.walks[1] = Walk::Claimed;
            }),
            Walk::Claimed if done => step("finds it done", &|n| n.walks[1] = Walk::Over),
            Walk::Claimed => step("tells its result", &|n| {
                n.log.push(Entry::Result(1));
                n.walks[1] = Walk::Over;
            }),
            _ => {}
        }
    }
}

impl Model for Protocol {
    type State = State;

    fn first(&self) -> State {
        State {
            log: Vec::new(),
            stored: false,
            coordinators: [Coordinator::Here(Live::default()), Coordinator::Away],
            walks: [Walk::Waits; 2],
            cancels: self.cancels,
            deaths: self.deaths,
            rivals: self.rivals,
            lost: self.lost,
            redeliveries: self.redeliveries,
        }
    }

    fn successors(&self, s: &State) -> Vec<(Name, State)> {
        let mut out = Vec::new();
        for c in 0..2 {
            self.coordinator(s, c, &mut out);
        }
        self.first_walk(s, &mut out);
        self.second_walk(s, &mut out);
        out
    }

    fn violation(&self, s: &State) -> Option<&'static str> {
        let starts = s.log.iter().filter(|e| matches!(e, Entry::Start | Entry::Opening { .. })).count();
        let results =
            |walk| s.log.iter().filter(|e| **e == Entry::Result(walk) || walk == 0 && **e == Entry::Opening { ends: true }).count();
        let told = s.log.iter().position(|e| *e == Entry::Opening { ends: true });
        let ends = usize::from(told.is_some()) + s.log.iter().filter(|e| matches!(e, Entry::End { .. })).count();
        let first = s.log.iter().find(|e| **e != Entry::Cancel);
        if starts > 1 {
            Some("two starts")
        } else if first.is_some_and(|e| !matches!(e, Entry::Start | Entry::Opening { .. })) {
            Some("something is told before the start")
        } else if results(0) > 1 {
            Some("a result is stored twice")
        } else if told.is_some_and(|at| s.log[..at].contains(&Entry::Cancel)) {
            Some("a worker tells the end after a cancel")
        } else if ends > 1 {
            Some("two ends")
        } else {
            None
        }
    }

    fn finished(&self, s: &State) -> bool {
        let knows = |c: &Coordinator| matches!(c, Coordinator::Here(live) if live.end.is_some_and(|(_, told)| told));
        s.coordinators.iter().any(knows)
    }
}

fn look(what: &str, protocol: &Protocol) -> Found {
    let found = search(protocol);
    println!("{what}: {} states, {} steps, {} ends", found.states, found.steps, found.ends);
    found
}

#[test]
fn one_start_and_one_end_whoever_tells_them() {
    for (what, protocol) in [
        ("everything once", ALL),
        ("two deaths", Protocol { deaths: 2, ..ALL }),
        ("two cancels, no redelivery", Protocol { cancels: 2, redeliveries: 0, ..ALL }),
    ] {
        if let Some(wrong) = look(what, &protocol).wrong {
            panic!("{what}: {wrong}");
        }
    }
}

#[test]
fn planted_bugs_are_found() {
    for (bug, words) in [
        (Bug::StartUnfenced, "two starts"),
        (Bug::OpeningUnfenced, "two starts"),
        (Bug::CancelFirst, "a worker tells the end after a cancel"),
        (Bug::OtherId, "a result is stored twice"),
        (Bug::EndAgain, "two starts"),
        (Bug::NoBegin, "something is told before the start"),
    ] {
        let wrong = look(&format!("{bug:?}"), &Protocol { bug, ..ALL }).wrong.unwrap_or_default();
        assert!(wrong.starts_with(words), "{bug:?}: found {wrong:?}");
    }
}
