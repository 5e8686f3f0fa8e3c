//! What a task has to tell: its events, in order. Those that are ready in the same instant travel as one
//! message of the log, a line each: a chain of nodes that only compute costs one message, not two a node. Where the
//! task is the whole execution, its start travels with the first of them, and its end where that is the last one, too.

use std::time::{Duration, Instant};

use async_nats::connection::State;
use bytes::Bytes;
use haltline_common::{
    fault,
    outbox::{Write, WriteError},
    publisher::Receipt,
    topology::DUPLICATE_WINDOW,
    types::{Names, event::Event, json},
};

use crate::flight::Flight;

/// Held events leave once there are so many bytes of them: large outputs do not wait for each other.
const HELD_BYTES_MAX: usize = 64 << 10;
/// What most tasks have to tell at once: written without growing.
const HELD_BYTES: usize = 4096;
/// Nothing is held for longer while the nodes go on: who watches sees them live.
const HELD_FOR: Duration = Duration::from_millis(5);
/// A write that was not answered within this time may be lost, with its connection or its leader.
const ANSWERED_WITHIN: Duration = Duration::from_millis(50);

/// An event could not be stored.
#[derive(Debug)]
pub struct NotStored;

/// Events that are held or on their way.
pub struct Telling {
    /// Subject of what only tells.
    note: String,
    /// Subject of what decides.
    input: String,
    /// The execution's first event, which is to be told before any other.
    start: Option<Event>,
    lines: Vec<u8>,
    /// Bytes of the start at the beginning of what is held, with its line break.
    opens: Option<usize>,
    /// Where in what is held the end begins, with the line break before it.
    ends: Option<usize>,
    /// Message id of the last held event of a node, which is that of the message.
    id: String,
    held_since: Option<Instant>,
    answers: Vec<Receipt>,
    /// When the first of what is on its way left.
    sent: Option<Instant>,
}

impl Telling {
    /// Nothing to tell of an execution yet.
    pub fn new(names: &Names, execution_id: &str) -> Self {
        Self {
            note: names.note(execution_id),
            input: names.input(execution_id),
            start: None,
            lines: Vec::new(),
            opens: None,
            ends: None,
            id: String::new(),
            held_since: None,
            answers: Vec::new(),
            sent: None,
        }
    }

    /// Tells the execution's first event before any other, in one message with what is held then.
    pub fn begin_with(&mut self, start: Option<Event>) {
        self.start = start;
    }

    /// Holds an event, whose message id would be `id`, until [`Telling::leave`].
    ///
    /// # Errors
    /// When what came before it could not be stored.
    pub async fn hold(&mut self, flight: &Flight, event: &Event, id: String) -> Result<(), NotStored> {
        if self.held_since.is_some_and(|since| since.elapsed() > HELD_FOR) {
            self.leave(flight).await?;
        }
        if self.lines.is_empty() {
            self.lines.reserve(HELD_BYTES);
        }
        if let Some(start) = self.start.take() {
            json::append(&mut self.lines, &start);
            self.opens = Some(self.lines.len() + 1);
            self.id = start.id;
        }
        let before = self.lines.len();
        if before > 0 {
            self.lines.push(b'\n');
        }
        json::append(&mut self.lines, event);
        if before > 0 && self.lines.len() > HELD_BYTES_MAX {
            let last = self.lines.split_off(before + 1);
            self.lines.truncate(before);
            self.leave(flight).await?;
            self.lines = last;
        }
        self.id = id;
        self.held_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Whether what is held begins with the execution's first event.
    pub fn opens(&self) -> bool {
        self.opens.is_some()
    }

    /// Holds the end of the execution behind all that is held, if that begins with its start; one that is too long is
    /// left to the coordinator.
    pub fn hold_end(&mut self, end: &Event) {
        let before = self.lines.len();
        self.lines.push(b'\n');
        json::append(&mut self.lines, end);
        if self.opens() && self.lines.len() <= HELD_BYTES_MAX {
            self.ends = Some(before);
        } else {
            self.lines.truncate(before);
        }
    }

    /// Sends what is held as something that only tells; does not wait for the answer, unless it has the start.
    ///
    /// # Errors
    /// When it, or what came before it, could not be stored.
    pub async fn leave(&mut self, flight: &Flight) -> Result<(), NotStored> {
        self.send(flight, false).await
    }

    /// The same, as something that decides.
    ///
    /// # Errors
    /// When it, or what came before it, could not be stored.
    pub async fn decide(&mut self, flight: &Flight) -> Result<(), NotStored> {
        self.send(flight, true).await
    }

    async fn send(&mut self, flight: &Flight, decides: bool) -> Result<(), NotStored> {
        self.held_since = None;
        if self.lines.is_empty() {
            return Ok(());
        }
        if self.must_confirm(flight) {
            self.confirm().await?;
        }
        let (id, mut lines) = (std::mem::take(&mut self.id), Bytes::from(std::mem::take(&mut self.lines)));
        let rest = self.opens.take().unwrap_or(0).min(lines.len())..self.ends.take().unwrap_or(lines.len());
        if rest.len() < lines.len() {
            if self.open(flight, &id, &lines).await? {
                return Ok(());
            }
            lines = lines.slice(rest);
        }
        if lines.is_empty() {
            return Ok(());
        }
        let subject = if decides { &self.input } else { &self.note };
        let write = Write::with_id(subject.clone(), id, lines);
        self.sent.get_or_insert_with(Instant::now);
        self.answers.push(flight.publisher.send(write).await);
        Ok(())
    }

    /// Stores a message that has the start, and perhaps the end. `false` if the start was told before: by the
    /// coordinator, or by this message, whose id is still known then.
    async fn open(&self, flight: &Flight, id: &str, lines: &Bytes) -> Result<bool, NotStored> {
        fault::point("worker.opening");
        let began = Instant::now();
        match flight.publisher.write(Write::first(self.input.clone(), id, lines.clone())).await {
            Ok(_) => Ok(true),
            Err(WriteError::Conflict(_)) if began.elapsed() < DUPLICATE_WINDOW / 2 => Ok(false),
            Err(e) => {
                tracing::error!(error = %e, "the start of an execution could not be stored");
                Err(NotStored)
            }
        }
    }

    /// Takes in answers to what others sent for this task, in order.
    pub fn extend(&mut self, answers: Vec<Receipt>) {
        if !answers.is_empty() {
            self.sent.get_or_insert_with(Instant::now);
            self.answers.extend(answers);
        }
    }

    /// Whether what left must be stored before more leaves. On a healthy connection to a single server
    /// order is kept anyway.
    fn must_confirm(&self, flight: &Flight) -> bool {
        flight.arrivals.is_replicated()
            || self.sent.is_some_and(|sent| sent.elapsed() > ANSWERED_WITHIN)
            || flight.link.client.connection_state() != State::Connected
    }

    /// Waits until all that left is stored.
    ///
    /// # Errors
    /// When some of it was not.
    pub async fn confirm(&mut self) -> Result<(), NotStored> {
        self.sent = None;
        let mut all = Ok(());
        for answer in self.answers.drain(..) {
            if let Err(e) = answer.await {
                tracing::error!(error = %e, "an event could not be stored");
                all = Err(NotStored);
            }
        }
        all
    }
}
