//! What a way through a proxy is like right now.

use std::sync::Arc;

use tokio::sync::watch;

/// How bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once.
    Open,
    /// Not: connections are closed, new ones too.
    Cut,
    /// Not, and nobody is told.
    Hold,
    /// So many milliseconds late, in order.
    Delay(u64),
    /// So many a second.
    Throttle(u64),
    /// Only towards the server: the first bytes back end the connection.
    LoseReplies,
    /// With some publishes and deliveries repeated.
    Duplicate,
    /// With deliveries of tasks late and out of order.
    Late,
}

/// The present state of a way.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// How bytes pass.
    pub mode: Mode,
    /// Counts resets: a connection made before the last one ends.
    pub resets: u64,
    /// Counts changes, so that the end of an old fault does not end a newer one.
    change: u64,
}

/// A way, to be changed by who injects faults and followed by the connections on it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<State>>);

impl Gate {
    /// An open one.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State { mode: Mode::Open, resets: 0, change: 0 })))
    }

    /// Sets the mode; the number to end exactly this by.
    pub fn set(&self, mode: Mode) -> u64 {
        self.0.send_modify(|s| {
            s.mode = mode;
            s.change += 1;
        });
        self.0.borrow().change
    }

    /// Opens it, unless it was changed since `change`.
    pub fn end(&self, change: u64) {
        self.0.send_if_modified(|s| {
            let ours = s.change == change;
            if ours {
                s.mode = Mode::Open;
            }
            ours
        });
    }

    /// Ends all connections once.
    pub fn reset(&self) {
        self.0.send_modify(|s| s.resets += 1);
    }

    /// Follows it.
    pub fn follow(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }
}
