//! The record of an attempt's side effects: each intent is stored before its effect is performed, each
//! outcome after it, so that whoever goes on with the node knows what may have happened.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::header;
use haltline_common::{
    clock, fault, history,
    outbox::{Write, WriteError},
    publisher::Receipt,
    types::{
        control::Flag,
        event::{Claims, CommandType, Event, EventType, event_id},
    },
};
use haltline_core::{Intent, Settled};
use tokio::sync::Notify;

use crate::{context::NodeError, flight::Flight};

/// Names the subject whose last sequence [`header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE`] is about.
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
/// How often an intent is tried while other tasks of its execution are being claimed.
const FENCED_MAX: usize = 20;

/// Where an intended effect stands.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Whether the log has it is not known yet.
    Storing,
    /// Not performed yet.
    Intended,
    /// Being performed, or given up in the middle.
    Performing,
    /// Its outcome is on its way to the log.
    Settled,
}

/// What an attempt did outside, and may have done before.
pub struct Effects {
    flight: Arc<Flight>,
    /// Number of the task in it.
    task: u64,
    subject: String,
    /// An `effect_intended` of this attempt, without id.
    intent: Event,
    /// Message ids end in it.
    suffix: String,
    /// How many effects this attempt had intended before this run of it.
    before: u32,
    state: Arc<Mutex<State>>,
    /// Woken whenever it is known of an intent whether it is stored.
    stored: Arc<Notify>,
}

#[derive(Default)]
struct State {
    intents: Vec<(Event, Phase)>,
    /// Everything published, for the count of events.
    events: Vec<Event>,
    answers: Vec<Receipt>,
    /// Of earlier attempts: still without an outcome.
    earlier: Vec<Intent>,
    lost: bool,
    /// An effect is settled as done.
    done: bool,
}

/// What an attempt left in the log.
pub struct Left {
    /// Intents and outcomes, in order.
    pub events: Vec<Event>,
    /// Answers to come.
    pub answers: Vec<Receipt>,
    /// An intent could not be stored: the connection is gone for good.
    pub lost: bool,
}

impl Effects {
    /// Of an attempt whose intents look like `intent`; `earlier` are in doubt.
    pub fn new(flight: Arc<Flight>, task: u64, intent: Event, suffix: String, before: u32, earlier: Vec<Intent>) -> Self {
        let subject = flight.link.names.note(&intent.execution_id);
        let state = Arc::new(Mutex::new(State { earlier, ..State::default() }));
        Self { flight, task, subject, intent, suffix, before, state, stored: Arc::default() }
    }

    /// Whether no other worker can have the task by now.
    pub fn is_held(&self) -> bool {
        self.flight.is_held(self.task)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn write(&self, event: &Event) -> Write {
        let body = serde_json::to_vec(event).unwrap_or_default();
        Write::with_id(self.subject.clone(), format!("{}{}", event.id, self.suffix), body)
    }

    /// Stores the next intent; its index. Returns when it is stored.
    ///
    /// The server stores it only if the log has no command of this execution that this worker does not
    /// know: after a claim, a cancel or a halt of it none is stored, however late this worker is. One that stalls
    /// between the answer and sending is stopped by its own look at task and flag, not by the log; and in a
    /// cluster a command still in flight on another subject is not compared.
    pub async fn intend(&self, key: String) -> Result<usize, NodeError> {
        let (index, event) = {
            let mut state = self.state();
            let mut event = self.intent.clone();
            let node = event.node_id.clone().unwrap_or_default();
            let n = self.before + state.intents.len() as u32 + 1;
            event.id = event_id::effect_intended(&event.execution_id, &node, event.attempt.unwrap_or(1), n);
            event.timestamp = clock::now();
            event.key = Some(key);
            state.events.push(event.clone());
            state.intents.push((event.clone(), Phase::Storing));
            (state.intents.len() - 1, event)
        };
        fault::point("worker.intended");
        let (flight, write, state, stored) = (self.flight.clone(), self.write(&event), self.state.clone(), self.stored.clone());
        // An attempt may be given up meanwhile: whether the log has its intent, and counts it, must be known all the same.
        let storing = tokio::spawn(async move {
            let outcome = store(&flight, &write, &event).await;
            let mut state = locked(&state);
            state.intents[index].1 = if outcome.is_ok() { Phase::Intended } else { Phase::Settled };
            if outcome.is_err() {
                // It is not in the log: nothing to be settled or counted.
                state.events.retain(|e| e.id != event.id);
            }
            state.lost |= matches!(outcome, Err(NotStored::Lost(_)));
            stored.notify_waiters();
            outcome
        });
        match storing.await {
            Ok(Ok(())) => Ok(index),
            Ok(Err(NotStored::Lost(refusal) | NotStored::Refused(refusal))) => Err(refusal),
            Err(e) => Err(NodeError::retryable("NotStored", format!("the intent of the side effect: {e}")).not_done()),
        }
    }

    /// Waits until it is known of every intent whether the log has it.
    async fn all_known(&self) {
        loop {
            let stored = self.stored.notified();
            if self.state().intents.iter().all(|(_, phase)| *phase != Phase::Storing) {
                return;
            }
            stored.await;
        }
    }

    /// From here on nobody knows, until it is settled.
    pub fn performing(&self, index: usize) {
        if let Some((_, phase)) = self.state().intents.get_mut(index) {
            *phase = Phase::Performing;
        }
    }

    /// An outcome is certain. It is queued before whatever follows from it, and not awaited.
    pub async fn settle(&self, index: usize, settled: Settled) {
        let found = self.state().intents.get_mut(index).map(|(event, phase)| {
            *phase = Phase::Settled;
            event.id.clone()
        });
        if let Some(id) = found {
            self.publish(&id, settled).await;
        }
        if settled == Settled::Done {
            self.state().done = true;
            // The same key again: what came before it was the same effect.
            self.settle_earlier(settled).await;
        }
    }

    /// Someone was asked what became of the earlier ones.
    pub async fn settle_earlier(&self, settled: Settled) {
        let earlier = std::mem::take(&mut self.state().earlier);
        for intent in earlier.into_iter().filter(|i| !i.done) {
            self.publish(&intent.id, settled).await;
        }
    }

    async fn publish(&self, intent: &str, settled: Settled) {
        let mut event = self.intent.clone();
        event.kind = EventType::EffectSettled;
        event.id = event_id::effect_settled(intent);
        event.timestamp = clock::now();
        event.intent = Some(intent.to_owned());
        event.status = Some(settled.as_str().into());
        fault::point("worker.settled");
        let answer = self.flight.publisher.send(self.write(&event)).await;
        let mut state = self.state();
        state.events.push(event);
        state.answers.push(answer);
    }

    /// Whether something was given up in the middle.
    pub fn is_unsettled(&self) -> bool {
        let state = self.state();
        state.intents.iter().any(|(_, phase)| *phase == Phase::Performing) || state.earlier.iter().any(|i| !i.done)
    }

    /// Whether something certainly happened.
    pub fn is_done(&self) -> bool {
        self.state().done
    }

    /// The one to ask about.
    pub fn last_unsettled(&self) -> Option<Intent> {
        let state = self.state();
        let own = state.intents.iter().rev().find(|(_, phase)| *phase == Phase::Performing).map(|(e, _)| Intent {
            id: e.id.clone(),
            key: e.key.clone().unwrap_or_default(),
            attempt: e.attempt.unwrap_or(1),
            token: e.token.unwrap_or(0),
            at: e.timestamp,
            done: false,
        });
        own.or_else(|| state.earlier.iter().rev().find(|i| !i.done).cloned())
    }

    /// Someone was asked about everything that is open.
    pub async fn settle_all(&self, settled: Settled) {
        let open: Vec<usize> = {
            let state = self.state();
            (0..state.intents.len()).filter(|i| state.intents[*i].1 == Phase::Performing).collect()
        };
        for index in open {
            self.settle(index, settled).await;
        }
        self.settle_earlier(settled).await;
    }

    /// The attempt is over: what was intended and not begun certainly did not happen.
    pub async fn leave(&self) -> Left {
        self.all_known().await;
        let idle: Vec<usize> = {
            let state = self.state();
            (0..state.intents.len()).filter(|i| state.intents[*i].1 == Phase::Intended).collect()
        };
        for index in idle {
            self.settle(index, Settled::NotDone).await;
        }
        let mut state = self.state();
        Left { events: std::mem::take(&mut state.events), answers: std::mem::take(&mut state.answers), lost: state.lost }
    }
}

/// The lock is never held across anything that can panic or wait.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why an intent is not in the log.
enum NotStored {
    /// It may not be.
    Refused(NodeError),
    /// The connection is gone for good.
    Lost(NodeError),
}

async fn store(flight: &Flight, write: &Write, intent: &Event) -> Result<(), NotStored> {
    let mut known = 0;
    for _ in 0..FENCED_MAX {
        let mut write = write.clone();
        write.headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, known.to_string());
        write.headers.insert(EXPECTED_SUBJECT, flight.link.names.command(&intent.execution_id));
        match flight.publisher.write(write).await {
            Ok(stored) => {
                if let Some(holder) = flight.control.holder() {
                    holder.log_is_at(stored.seq);
                }
                return Ok(());
            }
            Err(WriteError::Conflict(_)) => known = look(flight, intent).await.map_err(NotStored::Refused)?,
            Err(e) => {
                let message = format!("the intent of the side effect could not be stored: {e}");
                return Err(NotStored::Lost(NodeError::retryable("NotStored", message).not_done()));
            }
        }
    }
    let message = "commands about this execution came faster than its intent could be stored";
    Err(NotStored::Refused(NodeError::retryable("NotStored", message).not_done()))
}

/// What the commands of the execution say: the sequence of the last one if this attempt may go on.
async fn look(flight: &Flight, intent: &Event) -> Result<u64, NodeError> {
    fault::point("worker.looking");
    let execution_id = &intent.execution_id;
    let commands = history::commands(&flight.link, execution_id).await;
    let commands = commands.map_err(|e| NodeError::Unsure(format!("commands about the execution cannot be read: {e}")))?;
    let (mut claims, mut last) = (Claims::default(), 0);
    for (seq, command) in commands {
        last = seq;
        claims.take_in(&command);
        match command.kind {
            CommandType::Claim | CommandType::Resolve => {}
            CommandType::Halt => {
                let unnamed = || Flag::unreadable(command.reason.clone(), 0, None);
                return Err(NodeError::Halted(command.halted.clone().unwrap_or_else(unnamed)));
            }
            CommandType::Cancel | CommandType::Timeout | CommandType::Abandon => {
                flight.hear_stop(command);
                return Err(NodeError::Cancelled);
            }
        }
    }
    if claims.is_void(intent) {
        return Err(NodeError::fatal("StaleToken", "another worker has claimed this task").not_done());
    }
    Ok(last)
}
