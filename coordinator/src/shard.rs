//! One shard: its engine, what it reads, its checkpoint, and how it is given up.

use std::time::{Duration, Instant};

use haltline_common::{
    Link, clock, metrics,
    planted::{Bug, planted},
    tail::{Item, Tail},
    types::{
        Names,
        event::{Event, EventType},
        json,
    },
};
use haltline_core::{Beside, Engine, Limits, LogMessage};
use tokio_util::sync::CancellationToken;

use crate::{checkpoint::Checkpoint, inputs};

/// How long a shard that is given up waits for answers to its writes.
const DRAIN: Duration = Duration::from_secs(2);
/// An owner writes its checkpoint at least this often (milliseconds), for those who watch over shards.
const CHECKPOINT_AT_LEAST_MS: u64 = 5_000;

/// Why a shard is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// For another coordinator to take, or at the end: a last checkpoint is written.
    Given,
    /// Another coordinator has it already.
    Lost,
}

/// A shard that this coordinator has.
pub struct Shard {
    pub number: u32,
    /// Tells this ownership from an earlier one of the same shard, for answers that come late.
    pub epoch: u64,
    pub engine: Engine,
    /// Its own consumer, if it does not read together with the others.
    pub inputs: Option<Tail>,
    /// Up to where everything of the log was taken in.
    reached: u64,
    /// All records from its checkpoint on were read; nothing may be forgotten before they were.
    pub swept: bool,
    /// Up to where it was given all records that are known, its own from its checkpoint on.
    known: u64,
    pub checkpoint: Checkpoint,
    pub revision: u64,
    pub checkpoint_in_flight: bool,
    /// Ends its subscriptions.
    pub requests: CancellationToken,
    leaving: Option<(Leaving, Instant)>,
}

impl Shard {
    /// A shard whose checkpoint was taken as `revision`.
    pub fn new(limits: Limits, number: u32, epoch: u64, checkpoint: Checkpoint, revision: u64) -> Self {
        Self {
            number,
            epoch,
            engine: Engine::new(limits, checkpoint.log, checkpoint.records),
            inputs: None,
            reached: checkpoint.log,
            swept: false,
            known: 0,
            checkpoint,
            revision,
            checkpoint_in_flight: false,
            requests: CancellationToken::new(),
            leaving: None,
        }
    }

    /// Reads by a consumer of its own, from where it is; it has everything up to `reached`.
    pub fn read_alone(&mut self, link: &Link, reached: u64) {
        self.reached = self.reached.max(reached);
        let (filter, reader) = (link.names.inputs_of_shard(self.number), format!("coordinator_inputs_{}", self.number));
        self.inputs = Some(inputs::tail(link, filter, self.reached + 1, reader));
    }

    /// The reading of its records has come to its end. One that is given up was not given all of them: whoever has it next
    /// has to read them again.
    pub fn read_all(&mut self) {
        self.swept |= !self.is_leaving();
    }

    /// Up to where everything of the log was taken in.
    pub fn reached(&self) -> u64 {
        self.reached
    }

    /// Takes in what the log has next.
    pub fn input(&mut self, item: Item) {
        match item {
            Item::Message(m) => {
                self.reached = m.seq;
                metrics::INPUT_LAG.set(m.pending);
                let mut beside = Beside::default();
                let message = if Names::is_command(&m.subject) {
                    serde_json::from_slice(&m.payload).map(LogMessage::Command)
                } else {
                    // The last one before the end: what was told in the same message before it changes nothing.
                    let mut lines = json::lines(&m.payload);
                    let mut last = lines.next_back().unwrap_or_default();
                    if Event::kind_of(last).is_some_and(EventType::is_terminal)
                        && let Some(before) = lines.next_back()
                    {
                        (last, beside.end) = (before, true);
                    }
                    let first = lines.next().unwrap_or(last);
                    beside.start = Event::kind_of(first) == Some(EventType::ExecutionStarted);
                    serde_json::from_slice::<Event>(last).map(|mut e| {
                        if planted(Bug::TokenUnchecked) {
                            e.token = None;
                        }
                        LogMessage::Event(Box::new(e))
                    })
                };
                match message {
                    Ok(message) => self.engine.log_message(m.seq, message, beside),
                    // Not written by us: it can change nothing.
                    Err(e) => tracing::error!(seq = m.seq, subject = %m.subject, error = %e, "malformed message in the log; ignored"),
                }
            }
            Item::Lost { reason, .. } => {
                tracing::warn!(shard = self.number, reason, "reading the log was interrupted; going on where it stopped");
            }
            Item::Reset { .. } => {
                self.reached = 0;
                tracing::error!("the events stream was recreated: executions without events in it start over their reading")
            }
            Item::CaughtUp { last_seq } => self.reached = self.reached.max(last_seq),
        }
    }

    /// The checkpoint to be written now, if any is due. `known`: see [`Engine::floors`].
    pub fn checkpoint_due(&mut self, known: u64, coordinator_id: &str) -> Option<Checkpoint> {
        let lost = matches!(self.leaving, Some((Leaving::Lost, _)));
        // Before everything was swept the records' floor would skip what was not read yet.
        if !self.swept || self.checkpoint_in_flight || lost {
            return None;
        }
        // What is read while it is given up, it is not given.
        if self.leaving.is_none() {
            self.known = known;
        }
        let (log, records) = self.engine.floors(self.known);
        let oldest = self.engine.oldest(self.known).unwrap_or(self.checkpoint.oldest);
        let given = matches!(self.leaving, Some((Leaving::Given, _)));
        let coordinator_id = if given { String::new() } else { coordinator_id.to_owned() };
        let next = Checkpoint { log, records, oldest, coordinator_id, at: clock::now() };
        let moved = Checkpoint { at: self.checkpoint.at, ..next.clone() } != self.checkpoint;
        if !moved && next.at.millis_since(self.checkpoint.at) < CHECKPOINT_AT_LEAST_MS {
            return None;
        }
        self.checkpoint = next.clone();
        self.checkpoint_in_flight = true;
        Some(next)
    }

    /// Takes no more requests and inputs; what was begun is finished.
    pub fn leave(&mut self, why: Leaving) {
        self.requests.cancel();
        match &mut self.leaving {
            Some((was, _)) if why == Leaving::Lost => *was = why,
            Some(_) => {}
            None => self.leaving = Some((why, Instant::now())),
        }
    }

    /// Whether it is being given up.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether it can be let go of: everything begun is stored, or took too long.
    pub fn has_left(&self) -> bool {
        let Some((why, since)) = self.leaving else { return false };
        let stored = self.engine.unanswered() == 0 && !self.checkpoint_in_flight;
        let told = why == Leaving::Lost || self.checkpoint.coordinator_id.is_empty() || !self.swept;
        (stored && told) || since.elapsed() > DRAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard() -> Shard {
        let limits =
            Limits { executions_max: 10, segments: true, shards: 8, abandon_after_ms: 4_000, start_within_ms: 1_000, one_by_one: false };
        Shard::new(limits, 3, 1, Checkpoint { log: 5, records: 5, oldest: 2, ..Checkpoint::default() }, 1)
    }

    #[test]
    fn who_gives_a_shard_up_before_its_records_were_read_forgets_none() {
        let mut shard = shard();
        shard.leave(Leaving::Given);
        // The records went by.
        shard.read_all();
        assert_eq!(shard.checkpoint_due(90, "c"), None);
        assert!(shard.has_left());
    }

    #[test]
    fn what_is_read_while_a_shard_is_given_up_is_left_to_its_successor() {
        let mut shard = shard();
        shard.read_all();
        let floors = |c: Checkpoint| (c.records, c.oldest);
        assert_eq!(shard.checkpoint_due(40, "c").map(floors), Some((40, 41)));
        shard.checkpoint_in_flight = false;
        shard.leave(Leaving::Given);
        // Another one's records were read meanwhile.
        let last = shard.checkpoint_due(90, "c").expect("a last one");
        assert_eq!((last.coordinator_id.as_str(), floors(last.clone())), ("", (40, 41)));
    }
}
