//! What a task has to tell: its events, in order. Those that are ready in the same instant travel as one
//! message of the log, a line each: a chain of nodes that only compute costs one message, not two a node.

use std::time::{Duration, Instant};

use async_nats::connection::State;
use haltline_common::{
    outbox::Write,
    publisher::Receipt,
    types::{event::Event, json},
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
#[derive(Default)]
pub struct Telling {
    lines: Vec<u8>,
    /// Message id of the last held event, which is that of the message.
    id: String,
    held_since: Option<Instant>,
    answers: Vec<Receipt>,
    /// When the first of what is on its way left.
    sent: Option<Instant>,
}

impl Telling {
    /// Holds an event, whose message id would be `id`, until [`Telling::leave`].
    ///
    /// # Errors
    /// When what came before it could not be stored.
    pub async fn hold(&mut self, flight: &Flight, subject: &str, event: &Event, id: String) -> Result<(), NotStored> {
        if self.held_since.is_some_and(|since| since.elapsed() > HELD_FOR) {
            self.leave(flight, subject).await?;
        }
        let before = self.lines.len();
        if before == 0 {
            self.lines.reserve(HELD_BYTES);
        } else {
            self.lines.push(b'\n');
        }
        json::append(&mut self.lines, event);
        if before > 0 && self.lines.len() > HELD_BYTES_MAX {
            let last = self.lines.split_off(before + 1);
            self.lines.truncate(before);
            self.leave(flight, subject).await?;
            self.lines = last;
        }
        self.id = id;
        self.held_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Sends what is held, as a message on `subject`; does not wait for the answer.
    ///
    /// # Errors
    /// When what came before it could not be stored.
    pub async fn leave(&mut self, flight: &Flight, subject: &str) -> Result<(), NotStored> {
        self.held_since = None;
        if self.lines.is_empty() {
            return Ok(());
        }
        if self.must_confirm(flight) {
            self.confirm().await?;
        }
        let write = Write::with_id(subject.to_owned(), std::mem::take(&mut self.id), std::mem::take(&mut self.lines));
        self.sent.get_or_insert_with(Instant::now);
        self.answers.push(flight.publisher.send(write).await);
        Ok(())
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
