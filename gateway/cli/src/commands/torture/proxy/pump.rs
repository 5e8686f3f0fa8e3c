//! One direction of one connection.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::watch,
};

use super::{
    frames::{self, Found},
    gate::{Mode, State},
};
use crate::commands::torture::rng::Rng;

/// Bytes kept back for one direction; then the sender is not read, as with a full socket.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// Bytes that pass a slow way at once.
const PACKET_BYTES: usize = 1460;
/// Repeats kept for later; more are not made.
const LATER_MAX: usize = 2000;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What travels.
#[derive(Clone, Debug)]
pub enum Traffic {
    /// Any bytes.
    Bytes,
    /// NATS, with the beginnings of the subjects of events and tasks.
    Nats {
        /// Of events.
        events: String,
        /// Of tasks.
        tasks: String,
    },
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The side that sends closed it, and all of it was delivered.
    Eof,
    /// The side that receives is gone.
    Gone,
    /// The gate closed it.
    Closed,
}

/// A direction.
pub struct Pump {
    pub way: Way,
    pub traffic: Traffic,
    pub state: watch::Receiver<State>,
    pub rng: Rng,
    /// Resets when the connection was made.
    pub resets: u64,
    /// In order.
    pub queue: VecDeque<(Instant, Vec<u8>)>,
    /// Whole frames that may overtake and be overtaken.
    pub later: Vec<(Instant, Vec<u8>)>,
    pub unread: Vec<u8>,
    /// What travels was not understood: bytes from here on.
    pub strange: bool,
}

impl Pump {
    /// Runs until an end.
    pub async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> End {
        let end = self.pass(&mut from, &mut to).await;
        if end == End::Closed {
            // Both sides are told by a reset, not by an orderly end. Fails only on a closed socket.
            let _ = (from.as_ref().set_zero_linger(), to.as_ref().set_zero_linger());
        }
        end
    }

    async fn pass(&mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let mut eof = false;
        let mut last = Mode::Open;
        loop {
            let now = Instant::now();
            let state = *self.state.borrow_and_update();
            if self.closed(&state) {
                return End::Closed;
            }
            if last != state.mode && state.mode == Mode::Open {
                self.queue.iter_mut().for_each(|(due, _)| *due = now);
            }
            last = state.mode;
            let holds = state.mode == Mode::Hold;
            let due = if holds { Vec::new() } else { self.due(now) };
            if !due.is_empty() {
                match self.write(to, &due).await {
                    None => continue,
                    Some(end) => return end,
                }
            }
            if eof && self.queue.is_empty() {
                return End::Eof;
            }
            let held: usize = self.unread.len() + self.queue.iter().map(|(_, b)| b.len()).sum::<usize>();
            let reads = !eof && held < HELD_BYTES_MAX && !(holds && self.way == Way::Down);
            let next = self.queue.front().map(|(due, _)| *due).into_iter().chain(self.later.iter().map(|(due, _)| *due)).min();
            let mut buffer = Vec::new();
            tokio::select! {
                // What is read after the gate was set goes by what it was set to.
                biased;
                changed = self.state.changed() => {
                    if changed.is_err() {
                        return End::Closed;
                    }
                }
                read = async { buffer.reserve(READ_BYTES); from.read_buf(&mut buffer).await }, if reads => match read {
                    Ok(0) | Err(_) => eof = true,
                    Ok(_) if state.mode == Mode::LoseReplies && self.way == Way::Down => return End::Closed,
                    Ok(_) => self.take(&buffer, state.mode),
                },
                () = tokio::time::sleep_until(next.unwrap_or(now).into()), if next.is_some() && !holds => {}
            }
        }
    }

    fn closed(&self, state: &State) -> bool {
        state.mode == Mode::Cut || state.resets != self.resets
    }

    /// What is due by now, whole frames only.
    fn due(&mut self, now: Instant) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.queue.front().is_some_and(|(due, _)| *due <= now) {
            bytes.extend(self.queue.pop_front().unwrap_or((now, Vec::new())).1);
        }
        let mut i = 0;
        while i < self.later.len() {
            if self.later[i].0 <= now {
                bytes.extend(self.later.swap_remove(i).1);
            } else {
                i += 1;
            }
        }
        bytes
    }

    /// Writes, unless the gate closes while the receiver does not read.
    async fn write(&mut self, to: &mut OwnedWriteHalf, bytes: &[u8]) -> Option<End> {
        let writing = to.write_all(bytes);
        tokio::pin!(writing);
        loop {
            tokio::select! {
                written = &mut writing => return written.is_err().then_some(End::Gone),
                changed = self.state.changed() => {
                    let state = *self.state.borrow();
                    if changed.is_err() || self.closed(&state) {
                        return Some(End::Closed);
                    }
                }
            }
        }
    }

    /// Takes in bytes that arrived.
    fn take(&mut self, bytes: &[u8], mode: Mode) {
        if self.strange || matches!(self.traffic, Traffic::Bytes) {
            return self.push(bytes.to_vec(), mode);
        }
        self.unread.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let (len, kind) = match frames::first(&self.unread[at..]) {
                Found::Frame { len, subject } => (len, self.kind(subject)),
                Found::Part => break,
                Found::Strange => {
                    self.strange = true;
                    (self.unread.len() - at, Message::Other)
                }
            };
            if len == 0 {
                break;
            }
            let frame = self.unread[at..at + len].to_vec();
            at += len;
            self.frame(frame, kind, mode);
        }
        self.unread.drain(..at);
    }

    fn kind(&self, subject: Option<&str>) -> Message {
        let Traffic::Nats { events, tasks } = &self.traffic else { return Message::Other };
        match subject {
            Some(s) if s.starts_with(tasks) => Message::Task,
            Some(s) if s.starts_with(events) => Message::Event,
            _ => Message::Other,
        }
    }

    fn frame(&mut self, frame: Vec<u8>, kind: Message, mode: Mode) {
        // A publish may arrive twice: its sender repeats it after a lost connection. A delivery may come
        // late and beside others. What the log delivers to its readers is in order, always.
        let repeatable = match self.way {
            Way::Up => kind != Message::Other,
            Way::Down => kind == Message::Task,
        };
        if repeatable && self.later.len() < LATER_MAX {
            let now = Instant::now();
            if mode == Mode::Duplicate && self.rng.chance(300) {
                // Most within the server's window for duplicates, some beyond it.
                let wait = if self.rng.chance(50) { self.rng.millis(121_000, 140_000) } else { self.rng.millis(0, 3000) };
                self.later.push((now + wait, frame.clone()));
            }
            if mode == Mode::Late && self.way == Way::Down && self.rng.chance(500) {
                let wait = self.rng.millis(50, 6000);
                self.later.push((now + wait, frame));
                return;
            }
        }
        self.push(frame, mode);
    }

    /// Queues bytes, in order.
    fn push(&mut self, bytes: Vec<u8>, mode: Mode) {
        let now = Instant::now();
        let after = self.queue.back().map_or(now, |(due, _)| (*due).max(now));
        let due = match mode {
            Mode::Delay(ms) => after.max(now + Duration::from_millis(ms)),
            Mode::Throttle(rate) => {
                // A slow way passes one packet after the other.
                let mut due = after;
                for packet in bytes.chunks(PACKET_BYTES) {
                    due += Duration::from_secs_f64(packet.len() as f64 / rate.max(1) as f64);
                    self.queue.push_back((due, packet.to_vec()));
                }
                return;
            }
            _ => after,
        };
        self.queue.push_back((due, bytes));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Event,
    Task,
    Other,
}
