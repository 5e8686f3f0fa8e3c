//! Connections: order is kept within one, not between two; what is on its way when an end dies may
//! or may not arrive, always as a prefix.

use std::rc::Rc;

use haltline_core::{Beside, LogMessage};
use haltline_types::{
    SmolStr,
    control::Flag,
    event::Command,
    record::{Outcome, Record},
    submit::{Cancel, Reply, Submit},
    task::Task,
};

use super::{
    Pid, Time,
    server::{Checkpoint, PubAck, Write},
};

/// A connection's number.
pub type ConnId = usize;

/// A connection.
pub struct Conn {
    pub pid: Pid,
    /// The process has it still.
    pub open: bool,
    /// What arrives at the server after this is lost.
    pub cut: Time,
    pub last_up: Time,
    pub last_down: Time,
}

/// From a process to the server.
#[derive(Clone, Debug)]
pub enum Up {
    Publish {
        n: u64,
        write: Rc<Write>,
        /// Sent before.
        again: bool,
    },
    /// Reads inputs after a position, for ever.
    SubInputs(u64),
    /// Reads records after a position, until caught up.
    Sweep(u64),
    SubFlag,
    SubSubmits,
    ReadCheckpoint,
    Ping,
    Submit {
        from: Pid,
        request: u64,
        submit: Box<Submit>,
    },
    Cancel {
        from: Pid,
        request: u64,
        cancel: Cancel,
    },
    Reply {
        to: Pid,
        request: u64,
        reply: Reply,
        point: &'static str,
    },
    Notify {
        subject: String,
        outcome: Box<Outcome>,
    },
    Stop(Command),
    ReadRecord {
        token: u64,
        id: SmolStr,
        point: &'static str,
    },
    ReadLog {
        token: u64,
        id: SmolStr,
        commands: bool,
    },
    /// The tasks of an execution that are in the queue.
    ReadTasks {
        token: u64,
        id: SmolStr,
    },
    Pull(u64),
    Ack {
        seq: u64,
        deliveries: u64,
    },
    Progress {
        seq: u64,
        deliveries: u64,
    },
}

impl Up {
    /// The fault point at which it was sent.
    pub fn point(&self) -> &'static str {
        match self {
            Up::Publish { write, .. } => write.point,
            Up::Submit { .. } => "client.submit",
            Up::Reply { point, .. } | Up::ReadRecord { point, .. } => point,
            Up::Notify { .. } => "coordinator.notify",
            Up::Ack { .. } => "worker.ack",
            _ => "",
        }
    }
}

/// From the server to a process.
#[derive(Clone, Debug)]
pub enum Down {
    PubAck {
        n: u64,
        answer: PubAck,
    },
    Input {
        seq: u64,
        message: Box<LogMessage>,
        beside: Beside,
    },
    Swept {
        id: SmolStr,
        revision: u64,
        terminal: bool,
    },
    CaughtUp(u64),
    Flag(Flag),
    Checkpoint {
        revision: u64,
        value: Checkpoint,
    },
    Pong(bool),
    Submit {
        from: Pid,
        request: u64,
        submit: Box<Submit>,
    },
    Cancel {
        from: Pid,
        request: u64,
        cancel: Cancel,
    },
    /// `None`: nobody listens.
    Reply {
        request: u64,
        reply: Option<Reply>,
    },
    Notify(Box<Outcome>),
    Stop(Command),
    Record {
        token: u64,
        record: Option<(u64, Box<Record>)>,
    },
    Tasks {
        token: u64,
        ids: Vec<String>,
    },
    Log {
        token: u64,
        entries: Vec<(u64, LogMessage)>,
    },
    Task {
        seq: u64,
        deliveries: u64,
        task: Rc<Task>,
        /// Stored from a write that was sent before.
        again: bool,
    },
}
