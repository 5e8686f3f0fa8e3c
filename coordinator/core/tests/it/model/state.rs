//! The model's state: what the server holds, what processes have in their hands, what the venue saw.

use super::{Bounds, Bug};

/// Nodes, in sequence.
pub const NODES: usize = 2;

/// A message of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// `execution_started`.
    Started,
    /// A walk takes a node over.
    Claim { node: u8, token: u8, walk: u8 },
    /// A node's result.
    Result { node: u8, token: u8, walk: u8 },
    /// The terminal event.
    End(Outcome),
}

/// What an end says: who accepted the execution (its record's content), and whose results count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub creator: u8,
    pub walks: [u8; NODES],
}

/// The execution's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub creator: u8,
    pub end: Option<Outcome>,
}

/// What a task's message id is made of: the node, and where the log stood if it was emitted again.
pub type TaskId = (u8, Option<u8>);

/// A task in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// Tells it from all others.
    pub seq: u8,
    pub node: u8,
    /// Emitted by a coordinator that had read the execution back, or found the task lost.
    pub recovered: bool,
    /// Sent more than once.
    pub again: bool,
    /// The era of what caused it.
    pub era: u8,
    pub deliveries: u8,
    /// To whom it was given last.
    pub holder: Option<u8>,
}

/// What a worker does with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Is to read the log.
    Learn,
    /// Is to store a claim.
    Claim,
    /// Is to read whether its claim stands.
    LearnAgain,
    /// Is to perform the effect.
    Ready,
    /// Has the result in its hands.
    HasResult,
    /// The result is stored, or was there: is to acknowledge.
    Acknowledge,
}

/// A worker's walk through a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Walk {
    /// Tells it from all others: the task's and which delivery of it this is.
    pub id: u8,
    pub task: u8,
    pub node: u8,
    pub token: u8,
    pub contested: bool,
    pub phase: Phase,
}

/// Outputs of a coordinator, in the order in which they are written; as bits.
pub const STARTED: u8 = 1;
/// The first task; the second is the next bit.
pub const TASK: u8 = 2;
/// The terminal event.
pub const END: u8 = TASK << NODES;
/// The final record.
pub const FINAL: u8 = END << 1;

/// The execution in a coordinator's memory. Its state is what the log up to where the coordinator has
/// read makes of it, so it is not kept here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Live {
    /// Read back, not accepted by this coordinator.
    pub recovered: bool,
    /// Whom it holds for the creator: what the record said.
    pub creator: u8,
    /// Nobody has written the record since: its revision is the one that is known here.
    pub current: bool,
    /// Outputs known to be stored.
    pub done: u8,
    /// Tasks that were sent without an answer.
    pub tried: u8,
    /// The end that was in the log when it was read back.
    pub told: Option<Outcome>,
    /// How long the log was when a lost task was emitted again.
    pub repaired: u8,
}

/// An active coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    /// Messages of the log read.
    pub read: u8,
    /// The record's creation is taken care of.
    pub records: bool,
    /// The checkpoint as it read or wrote it last,
    pub checkpoint: Checkpoint,
    /// and whether nobody has written it since.
    pub current: bool,
    pub live: Option<Live>,
}

/// The stored checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    pub log: u8,
    pub records: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub record: Option<Record>,
    pub log: Vec<Entry>,
    pub queue: Vec<Task>,
    pub checkpoint: Checkpoint,
    /// The server remembers ids of log messages from this one on,
    pub window: u8,
    /// and of these tasks.
    pub window_tasks: Vec<TaskId>,
    /// How often its memory of ids has run out: minutes lie between two eras.
    pub era: u8,
    pub coordinators: [Option<Coordinator>; 2],
    pub workers: [Option<Walk>; 2],
    /// The highest token that the venue has performed an effect for, and whose it was.
    pub venue: [Option<(u8, u8)>; NODES],
    /// The client was told that the execution is accepted.
    pub acknowledged: bool,
    /// Tasks stored so far, by node.
    pub tasks: [u8; NODES],
    /// What may still go wrong.
    pub left: Bounds,
    /// What must not be and was seen in the step that led here.
    pub wrong: Option<&'static str>,
}

impl State {
    /// Nothing has happened; the first coordinator is active.
    pub fn new(bounds: Bounds) -> Self {
        let fresh = Coordinator { read: 0, records: false, checkpoint: Checkpoint::default(), current: true, live: None };
        Self {
            record: None,
            log: Vec::new(),
            queue: Vec::new(),
            checkpoint: Checkpoint::default(),
            window: 0,
            window_tasks: Vec::new(),
            era: 0,
            coordinators: [Some(fresh), None],
            workers: [None, None],
            venue: [None; NODES],
            acknowledged: false,
            tasks: [0; NODES],
            left: bounds,
            wrong: None,
        }
    }

    /// The length of the log.
    pub fn end(&self) -> u8 {
        self.log.len() as u8
    }

    /// The end that the log tells first.
    pub fn told(&self) -> Option<Outcome> {
        self.log.iter().find_map(|e| if let Entry::End(outcome) = e { Some(*outcome) } else { None })
    }

    /// What must not be in any state; the terminal ones also must be [`State::finished`].
    pub fn violation(&self) -> Option<&'static str> {
        if self.wrong.is_some() {
            return self.wrong;
        }
        for (at, entry) in self.log.iter().enumerate() {
            let Entry::End(outcome) = entry else { continue };
            let accepted = accepted(&self.log[..at]);
            if accepted.iter().zip(outcome.walks).take(self.left.nodes()).any(|(node, walk)| node.is_none_or(|(_, w)| w != walk)) {
                return Some("an end tells other results than a reader of the log accepts");
            }
            if self.record.is_none_or(|r| r.creator != outcome.creator) {
                return Some("an end is about another submission than the record");
            }
        }
        match (self.record.and_then(|r| r.end), self.told()) {
            (Some(_), None) => Some("the record is final before the log tells the end"),
            (Some(record), Some(log)) if record != log => Some("record and log tell different ends"),
            _ => None,
        }
    }

    /// The end is stored: whoever reads the execution back has nothing to do.
    pub fn is_over(&self) -> bool {
        self.acknowledged && self.record.is_some_and(|r| r.end.is_some()) && self.told().is_some() && self.log.contains(&Entry::Started)
    }

    /// The same state with the workers in one order: which of two does something makes no difference.
    pub fn in_order(mut self) -> Self {
        let [first, second] = &self.workers;
        if first.map(|w| w.id) > second.map(|w| w.id) {
            self.workers.swap(0, 1);
            for task in &mut self.queue {
                task.holder = task.holder.map(|w| 1 - w);
            }
        }
        self
    }

    /// Everything that was acknowledged has ended, and nothing is left over.
    pub fn finished(&self) -> bool {
        self.is_over() && self.queue.is_empty()
    }
}

/// Whose results a reader accepts, by node, with their tokens: the first that no claim before it made void.
///
/// Said as the contract says it, not as a fold: what coordinators and workers do is checked against it.
pub fn accepted(log: &[Entry]) -> [Option<(u8, u8)>; NODES] {
    std::array::from_fn(|wanted| {
        log.iter().enumerate().find_map(|(at, entry)| match *entry {
            Entry::Result { node, token, walk } if node as usize == wanted => {
                let void = log[..at].iter().any(|e| matches!(*e, Entry::Claim { node: n, token: t, .. } if n == node && t > token));
                (!void).then_some((token, walk))
            }
            _ => None,
        })
    })
}

/// What a coordinator makes of the log as it reads it, message by message.
pub fn folded(log: &[Entry], bug: Bug) -> [Option<u8>; NODES] {
    let (mut claims, mut done) = ([0; NODES], [None; NODES]);
    for entry in log {
        match *entry {
            Entry::Claim { node, token, .. } => claims[node as usize] = claims[node as usize].max(token),
            Entry::Result { node, token, walk } => {
                let node = node as usize;
                if done[node].is_none() && (token >= claims[node] || bug == Bug::NoTokenCheck) {
                    done[node] = Some(walk);
                }
            }
            Entry::Started | Entry::End(_) => {}
        }
    }
    done
}
